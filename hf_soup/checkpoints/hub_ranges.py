"""Ranges of bytes of files on the Hub. The commit and ETag of each answer are checked, so that contents cannot mix.

A large file is redirected to another server. Its address is kept for a while, so that the Hub is not asked each time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from .hub import hub_path, sizes_at
from .hub_answers import BadAnswerError, normal_etag
from .hub_errors import our_errors, patiently, status_of
from .hub_headers import commits_in, open_range
from .remote_files import ByteRange


if TYPE_CHECKING:
    import httpx2

KEPT = 300.0  # seconds that the address of a redirect is used; those of the Hub are valid for an hour


class _Address(NamedTuple):
    """Where a redirect of the Hub led, and until when that is used."""

    url: str
    until: float


class HubRanges:
    """Reads ranges of the weight files of one repository at one commit.

    Args:
        source (`str`):
            Id of the repository, perhaps with a folder in it.
        commit (`str`):
            The commit.
        digests (`Mapping[str, str]`):
            File -> its digest as the Hub reports it.
    """

    def __init__(self, source: str, commit: str, digests: Mapping[str, str]):
        self._source, self._commit, self._digests = source, commit, digests
        path = hub_path(source)
        self._repo_id = path.repo_id
        sizes = sizes_at(path.repo_id, commit, [path.file(file) for file in digests])
        self._urls = dict(zip(digests, sizes, strict=True))
        self.sizes = dict(zip(digests, sizes.values(), strict=True))
        self._redirects: dict[str, _Address] = {}
        self._etags: dict[str, str] = {}  # address of a redirect without its signature -> ETag there

    def __call__(self, wanted: ByteRange, into: memoryview) -> None:
        """Fill memory with the bytes of a range; after a lost connection, it goes on where it was.

        Raises:
            [`IngredientError`]: if the Hub does not give them, or gives another file.
        """
        received = 0

        def go_on() -> None:
            nonlocal received
            rest = wanted._replace(start=wanted.start + received)
            for chunk in self._chunks(rest):
                into[received : received + len(chunk)] = chunk
                received += len(chunk)

        with our_errors(self._source, self._commit):
            patiently(go_on)

    def _chunks(self, wanted: ByteRange) -> Any:
        """The bytes of a range as they arrive."""
        from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # re-exported

        file, start, stop = wanted
        redirect = self._redirects.get(file)
        asks_hub = redirect is None or time.monotonic() >= redirect.until
        url = self._urls[file] if redirect is None or asks_hub else redirect.url
        with open_range(url, start, stop, asks_hub=asks_hub) as response:
            try:
                hf_raise_for_status(response)
            except Exception as error:
                if not asks_hub and status_of(error) in (401, 403, 404, 410):  # the address has expired
                    self._redirects.pop(file, None)
                    yield from self._chunks(wanted)
                    return
                raise
            self._refuse_other_file(response, wanted, asked_hub=asks_hub)
            left = stop - start
            for chunk in response.iter_bytes():
                left -= len(chunk)
                if left < 0:
                    raise BadAnswerError(f"{stop - start:,} bytes of {file} were asked for, and more came")
                yield chunk
            if left:
                raise _cut_short(response, left)

    def _refuse_other_file(self, response: httpx2.Response, wanted: ByteRange, *, asked_hub: bool) -> None:
        """Refuse an answer that is not about these bytes of the file as it was pinned."""
        file, start, stop = wanted
        expected = f"bytes {start}-{stop - 1}/{self.sizes[file]}"
        if response.status_code != HTTPStatus.PARTIAL_CONTENT:
            raise BadAnswerError(
                f"{response.url.host} does not send parts of files, which streaming needs: download with stream=False"
            )
        if response.headers.get("Content-Range") != expected:
            found = response.headers.get("Content-Range")
            raise BadAnswerError(f"{expected} of {file} was asked for, and {found} came")
        if asked_hub:
            self._refuse_other_content(response, file)
        if response.history or not asked_hub:
            self._refuse_other_etag(response, file)
        if response.history:
            self._redirects[file] = _Address(str(response.url), time.monotonic() + KEPT)

    def _refuse_other_content(self, response: httpx2.Response, file: str) -> None:
        """Refuse answers about another commit or digest; a repository with a new name is redirected without them."""
        commits = commits_in(response)
        if commits != {self._commit}:
            found = ", ".join(sorted(commits)) or "no commit"
            raise BadAnswerError(f"{file} was asked for at commit {self._commit}, and came from {found}")
        headers = next(answer.headers for answer in (*response.history, response) if "X-Repo-Commit" in answer.headers)
        etag = normal_etag(headers.get("X-Linked-ETag") or headers.get("ETag") or "")
        if etag != self._digests[file].partition(":")[2]:
            raise BadAnswerError(f"{file} has changed: its ETag is {etag} instead of {self._digests[file]}")

    def _refuse_other_etag(self, response: httpx2.Response, file: str) -> None:
        """Refuse bytes from a storage server that has replaced the file between two requests."""
        etag = response.headers.get("ETag")
        place = str(response.url).partition("?")[0]  # another server may have another form of ETag
        if etag is not None and self._etags.setdefault(place, etag) != etag:
            raise BadAnswerError(f"{file} has changed on {response.url.host} while it was read")


def _cut_short(response: httpx2.Response, left: int) -> Exception:
    """The error of an answer that ended too early, which is worth another attempt."""
    from httpx2 import RemoteProtocolError

    return RemoteProtocolError(f"the answer ended {left:,} bytes too early", request=response.request)
