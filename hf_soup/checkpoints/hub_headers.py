"""Requests for ranges of bytes of files on the Hub; headers are read by them without downloading the rest."""

from __future__ import annotations

from contextlib import AbstractContextManager
from http import HTTPStatus
from typing import TYPE_CHECKING

from ..version import __version__
from .hub_answers import BadAnswerError
from .hub_errors import LIBRARY, patiently


if TYPE_CHECKING:
    import httpx2

PART = 100_000  # bytes that are read at once
SECONDS = 30  # seconds to wait for a connection or for bytes


def read_part(repo_id: str, path: str, commit: str, start: int, stop: int) -> bytes:
    """Read some bytes of a file; fewer if the file is shorter.

    Args:
        repo_id (`str`), path (`str`), commit (`str`):
            The file in its repository.
        start (`int`), stop (`int`):
            Position of the first byte, and behind the last one.

    Raises:
        [`Exception`]: of the client; callers convert it with [`our_errors`].
    """
    from huggingface_hub import hf_hub_url

    address = hf_hub_url(repo_id, path, revision=commit)
    return patiently(lambda: _read_range(address, start, stop, commit))


def _read_range(address: str, start: int, stop: int, commit: str) -> bytes:
    """Read a range of bytes of a file at a commit; fewer if the file is shorter."""
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # re-exported

    with open_range(address, start, stop) as response:
        hf_raise_for_status(response)
        for found in commits_in(response) - {commit}:
            raise BadAnswerError(f"a header was asked for at commit {commit}, and came from {found}")
        # A server without range support sends the file from its beginning; only the needed part is read.
        is_range = response.status_code == HTTPStatus.PARTIAL_CONTENT
        skipped = 0 if is_range else start
        end = skipped + stop - start
        content = b""
        for chunk in response.iter_bytes(PART):
            content += chunk
            if len(content) >= end:
                break
    return content[skipped:end]


def open_range(
    address: str, start: int, stop: int, *, asks_hub: bool = True
) -> AbstractContextManager[httpx2.Response]:
    """Request a range of bytes; the answer may be any, and its body is read in the block.

    Args:
        address (`str`):
            The file on the Hub, or on the server to which that has redirected.
        start (`int`), stop (`int`):
            Position of the first byte, and behind the last one.
        asks_hub (`bool`, *optional*, defaults to `True`):
            Whether it is the Hub, which gets the token.
    """
    # ignored: huggingface_hub re-exports these without saying so to type checkers
    from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined]

    headers = {"User-Agent": f"{LIBRARY}/{__version__}"}
    if asks_hub:
        headers = build_hf_headers(library_name=LIBRARY, library_version=__version__)
    headers |= {"Accept-Encoding": "identity", "Range": f"bytes={start}-{stop - 1}"}
    return get_session().stream("GET", address, headers=headers, timeout=SECONDS, follow_redirects=True)


def commits_in(response: httpx2.Response) -> set[str]:
    """The commits that an answer and the redirects to it are about."""
    answers = (*response.history, response)
    return {answer.headers["X-Repo-Commit"] for answer in answers if "X-Repo-Commit" in answer.headers}
