"""The body of an answer of a Hub: unpacked, bounded in bytes and time, and no web page where a file is expected."""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..threads import INTERRUPTED
from ..untrusted import one_line
from .hub_answers import BadAnswerError


if TYPE_CHECKING:
    import httpx2

PATIENCE = 20.0  # seconds that an answer may take before its speed counts
SLOWEST = 2_000  # bytes a second
LONGEST = 120.0  # seconds for an answer that is read into memory
WEB_PAGE = "answered with a web page instead of JSON or a file: is a proxy or a login page in between?"


def refuse_after_interrupt() -> None:
    """End a thread of a call that was interrupted.

    Raises:
        [`BadAnswerError`]: if it was.
    """
    if INTERRUPTED.is_set() and threading.current_thread() is not threading.main_thread():
        raise BadAnswerError("the call was interrupted")


def bound(response: httpx2.Response, most: int, *, at_once: bool) -> None:
    """Replace the body by one that is unpacked, and ends with an error where it is too large or too slow.

    Args:
        response (`httpx2.Response`):
            Of which nothing has been read.
        most (`int`):
            Number of bytes that it may have, unpacked.
        at_once (`bool`):
            Whether it is read into memory: such an answer has [`LONGEST`] seconds. A download may take as long as it
            likes above [`SLOWEST`], and goes on where a connection was lost.

    Raises:
        [`BadAnswerError`]: if it is packed as was not asked for, and from the body, for the rest.
    """
    from httpx2 import ReadTimeout, SyncByteStream

    encoding = response.headers.get("Content-Encoding", "identity").strip().lower() or "identity"
    if response.request.method == "HEAD":
        return
    if encoding not in ("identity", "gzip", "deflate"):
        raise BadAnswerError(f"the answer is packed as {one_line(encoding, 40)}, which was not asked for")
    body, host = response.stream, response.request.url.host

    class Bounded(SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            waited, came, size = 0.0, 0, 0  # the time that whoever reads takes does not count
            chunks, unpack = iter(body), _unpacker(encoding)
            while True:
                begin = time.monotonic()
                try:
                    chunk = next(chunks, None)
                except ReadTimeout:
                    if at_once:
                        raise BadAnswerError(f"{host} stopped in the middle of an answer") from None
                    raise
                if chunk is None:
                    return
                refuse_after_interrupt()
                waited += time.monotonic() - begin
                came += len(chunk)
                if came < (waited - PATIENCE) * SLOWEST or (at_once and waited > LONGEST):
                    raise BadAnswerError(f"{host} is too slow: {came:,} bytes came in {waited:.0f} seconds")
                for piece in unpack(chunk):
                    size += len(piece)
                    if size > most:
                        raise BadAnswerError(f"{host} sends more than the {most:,} bytes that are expected")
                    yield piece

        def close(self) -> None:
            body.close()

    response.stream = Bounded()
    if encoding != "identity":
        del response.headers["Content-Encoding"]
        response.headers.pop("Content-Length", None)


def _unpacker(encoding: str) -> Callable[[bytes], Iterator[bytes]]:
    """What unpacks one chunk in pieces, so that a small chunk cannot fill the memory."""
    if encoding == "identity":
        return lambda chunk: iter((chunk,))
    packed = zlib.decompressobj(zlib.MAX_WBITS | 32)

    def unpack(chunk: bytes) -> Iterator[bytes]:
        try:
            while chunk:
                yield packed.decompress(chunk, 2**20)
                chunk = packed.unconsumed_tail
        except zlib.error as error:
            raise BadAnswerError(f"the answer cannot be unpacked: {one_line(error)}") from None

    return unpack


def refuse_web_page(response: httpx2.Response, is_file: bool) -> None:
    """Refuse a page for people with which a proxy answers in place of the Hub.

    Raises:
        [`BadAnswerError`]: if it is one.
    """
    is_page = "html" in response.headers.get("Content-Type", "").lower()
    if is_page and response.status_code == 200 and not is_file:
        raise BadAnswerError(f"{response.request.url.host} {WEB_PAGE}")


def clean_refusal(response: httpx2.Response) -> None:
    """Replace the body of an error by the messages in it, in the form that the client reads and in one line each."""
    from httpx2 import ByteStream

    for name in ("X-Error-Message", "X-Request-Id", "X-Amzn-Trace-Id", "X-Amz-Cf-Id"):
        if name in response.headers:
            response.headers[name] = one_line(response.headers[name]).encode("ascii", "replace").decode()
    if response.request.method == "HEAD":
        return
    content = b"".join(response.stream)
    response.stream.close()
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        is_page = content.lstrip()[:1] == b"<"
        value = {} if is_page else content[:1000].decode(errors="replace")
    response.stream = ByteStream(json.dumps(_messages(value)).encode())


def _messages(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {"error": one_line(value)} if value else {}
    kept: dict[str, Any] = {
        key: one_line(value[key])
        for key in ("error", "error_description", "url")  # the last of what is there already
        if isinstance(value.get(key), (str, list))
    }
    for key in ("errors", "warnings"):
        items = value.get(key)
        texts = [item.get("message") for item in items if isinstance(item, dict)] if isinstance(items, list) else []
        kept[key] = [{"message": one_line(text)} for text in texts]
    return kept
