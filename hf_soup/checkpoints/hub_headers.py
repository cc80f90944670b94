"""The beginning of a file on the Hub, read by range requests without downloading the rest."""

from __future__ import annotations

from http import HTTPStatus

from ..version import __version__
from .hub_answers import BadAnswerError
from .hub_errors import LIBRARY, patiently


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
    # ignored: huggingface_hub re-exports these without saying so to type checkers
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    headers = build_hf_headers(library_name=LIBRARY, library_version=__version__)
    headers |= {"Accept-Encoding": "identity", "range": f"bytes={start}-{stop - 1}"}
    with get_session().stream("GET", address, headers=headers, timeout=SECONDS) as response:
        hf_raise_for_status(response)
        for answer in (*response.history, response):
            found = answer.headers.get("X-Repo-Commit", commit)
            if found != commit:
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
