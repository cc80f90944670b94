"""The header of a safetensors file on the Hub, read by range requests without downloading the weights."""

from __future__ import annotations

from http import HTTPStatus

from ..version import __version__
from .hub_errors import LIBRARY, patiently
from .reader import LENGTH, TensorSpec, check_length, parse_header


FIRST = 100_000  # bytes of the first request, enough for nearly all headers
SECONDS = 30  # seconds to wait for a connection or for bytes


def read_header(repo_id: str, path: str, commit: str, *, file: str, size: int, where: str) -> dict[str, TensorSpec]:
    """The tensors of one safetensors file; its header is checked like that of a local file.

    Args:
        repo_id (`str`), path (`str`), commit (`str`):
            The file in its repository.
        file (`str`):
            The file's name in its checkpoint.
        size (`int`):
            Size of the whole file in bytes, according to the listing.
        where (`str`):
            Name of the file in errors.

    Raises:
        [`IngredientError`]: if the header is none, or its tensors do not fill the file exactly.
    """
    from huggingface_hub import hf_hub_url

    address = hf_hub_url(repo_id, path, revision=commit)
    beginning = patiently(lambda: _read_range(address, 0, FIRST))
    length = int.from_bytes(beginning[:LENGTH], "little")
    check_length(length, size, where)
    end = LENGTH + length
    header = beginning[LENGTH:end]
    if end > FIRST:
        header += patiently(lambda: _read_range(address, FIRST, end))
    return parse_header(header, size, file, where)


def _read_range(address: str, start: int, stop: int) -> bytes:
    """Read a range of bytes of a file; fewer if the file is shorter."""
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
        # A server without range support sends the file from its beginning; only the needed part is read.
        is_range = response.status_code == HTTPStatus.PARTIAL_CONTENT
        skipped = 0 if is_range else start
        end = skipped + stop - start
        content = b""
        for chunk in response.iter_bytes(FIRST):
            content += chunk
            if len(content) >= end:
                break
    return content[skipped:end]
