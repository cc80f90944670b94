"""Bodies of the Hub's answers: decompressed, limited in size and time, and no web pages in place of files."""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ..threads import INTERRUPTED
from ..untrusted import one_line
from .hub_answers import BadAnswerError


if TYPE_CHECKING:
    import httpx2

PATIENCE = 20.0  # seconds of an answer before its speed is checked
SLOWEST = 2_000  # bytes a second
LONGEST = 120.0  # seconds for an answer that is read into memory
LONGEST_TEXT = 1000  # bytes of an error that is not JSON
PIECE = 2**20  # bytes that are decompressed at once
ANY_HEADER = 32  # zlib's flag for both gzip and deflate
WEB_PAGE = "answered with a web page instead of JSON or a file: is a proxy or a login page in between?"


def refuse_after_interrupt() -> None:
    """Stop a thread whose call was interrupted.

    Raises:
        [`BadAnswerError`]: if it was.
    """
    if INTERRUPTED.is_set() and threading.current_thread() is not threading.main_thread():
        raise BadAnswerError("the call was interrupted")


def bound(response: httpx2.Response, most: int, *, at_once: bool) -> None:
    """Replace the body by one that is decompressed and that raises an error if it is too large or too slow.

    Args:
        response (`httpx2.Response`):
            Response of which nothing has been read yet.
        most (`int`):
            Largest number of bytes that it may have, unpacked.
        at_once (`bool`):
            Whether the response is read into memory: such an answer has to arrive within [`LONGEST`] seconds. A
            download may take any time while it is faster than [`SLOWEST`], and continues after a lost connection.

    Raises:
        [`BadAnswerError`]: if it is packed as was not asked for, and from the body, for the rest.
    """
    from httpx2 import SyncByteStream

    encoding = response.headers.get("Content-Encoding", "identity").strip().lower() or "identity"
    if response.request.method == "HEAD":
        return
    if encoding not in ("identity", "gzip", "deflate"):
        raise BadAnswerError(f"the answer is packed as {one_line(encoding, 40)}, which was not asked for")
    body, host = body_of(response), response.request.url.host

    class BoundedBody(SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            chunks = _in_time(body, host, at_once=at_once)
            return _within(most, _unpacked(chunks, encoding), host)

        def close(self) -> None:
            body.close()

    response.stream = BoundedBody()
    if encoding != "identity":  # otherwise the client would decompress it again
        del response.headers["Content-Encoding"]
        response.headers.pop("Content-Length", None)


def body_of(response: httpx2.Response) -> httpx2.SyncByteStream:
    """The body of an answer to a synchronous client, such as that of huggingface_hub."""
    from httpx2 import SyncByteStream

    if not isinstance(response.stream, SyncByteStream):
        raise TypeError(f"the body of an answer is {type(response.stream).__name__}")
    return response.stream


def read_body(response: httpx2.Response) -> bytes:
    """Read all of a body, which has to be replaced afterwards."""
    body = body_of(response)
    content = b"".join(body)
    body.close()
    return content


def _in_time(body: Iterable[bytes], host: str, *, at_once: bool) -> Iterator[bytes]:
    """The chunks of a body as they arrive; raises an error if they arrive too slowly."""
    from httpx2 import ReadTimeout

    waited, received = 0.0, 0  # excluding the time that the reader takes between two chunks
    chunks = iter(body)
    while True:
        begin = time.monotonic()
        try:
            chunk = next(chunks, None)
        except ReadTimeout:
            if at_once:
                raise BadAnswerError(f"{host} stopped in the middle of an answer") from None
            raise  # the client resumes a download
        if chunk is None:
            return
        refuse_after_interrupt()
        waited += time.monotonic() - begin
        received += len(chunk)
        is_too_slow = received < (waited - PATIENCE) * SLOWEST
        if is_too_slow or (at_once and waited > LONGEST):
            raise BadAnswerError(f"{host} is too slow: {received:,} bytes came in {waited:.0f} seconds")
        yield chunk


def _within(most: int, chunks: Iterable[bytes], host: str) -> Iterator[bytes]:
    """The same chunks; raises an error if they exceed `most` bytes."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > most:
            raise BadAnswerError(f"{host} sends more than the {most:,} bytes that are expected")
        yield chunk


def _unpacked(chunks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """The decompressed chunks, in pieces, so that a small chunk cannot fill the memory."""
    if encoding == "identity":
        yield from chunks
        return
    decompressor = zlib.decompressobj(zlib.MAX_WBITS | ANY_HEADER)
    try:
        for chunk in chunks:
            packed = chunk
            while packed:
                yield decompressor.decompress(packed, PIECE)
                packed = decompressor.unconsumed_tail
    except zlib.error as error:
        raise BadAnswerError(f"the answer cannot be unpacked: {one_line(error)}") from None


def refuse_web_page(response: httpx2.Response, is_file: bool) -> None:
    """Refuse an HTML page that a proxy returns in place of the Hub's answer.

    Raises:
        [`BadAnswerError`]: if it is one.
    """
    is_page = "html" in response.headers.get("Content-Type", "").lower()
    if is_page and response.status_code == 200 and not is_file:
        raise BadAnswerError(f"{response.request.url.host} {WEB_PAGE}")


def clean_refusal(response: httpx2.Response) -> None:
    """Replace the body of an error by its messages, in the form that the client reads, each on one line."""
    from httpx2 import ByteStream

    for name in ("X-Error-Message", "X-Request-Id", "X-Amzn-Trace-Id", "X-Amz-Cf-Id"):
        if name in response.headers:
            response.headers[name] = one_line(response.headers[name]).encode("ascii", "replace").decode()
    if response.request.method == "HEAD":
        return
    content = read_body(response)
    response.stream = ByteStream(json.dumps(_messages(_error_of(content))).encode())


def _error_of(content: bytes) -> Any:
    """The content of an error body: JSON or text; nothing if it is a web page."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        if content.lstrip()[:1] == b"<":
            return {}
        return content[:LONGEST_TEXT].decode(errors="replace")


def _messages(value: Any) -> dict[str, Any]:
    """The messages in the JSON of an error, in the fields that the client reads."""
    messages: dict[str, Any] = {}
    if not isinstance(value, dict):
        if value:
            messages["error"] = one_line(value)
        return messages
    for key in ("error", "error_description", "url"):  # the last is the address of an existing repository
        if isinstance(value.get(key), (str, list)):
            messages[key] = one_line(value[key])
    for key in ("errors", "warnings"):
        messages[key] = []
        items = value.get(key)
        if not isinstance(items, list):
            continue
        for item in items:
            if isinstance(item, dict):
                messages[key].append({"message": one_line(item.get("message"))})
    return messages
