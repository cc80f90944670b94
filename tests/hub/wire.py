"""An HTTP origin on loopback made from a function that maps requests to replies, with a log of all exchanges.

This module is independent of the Hub. Each connection carries one request, so that `stop` leaves none open; a body
needs a length. To change the behaviour of an origin, for example to inject a fault, wrap its function.
"""

import json
import re
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit


class Request(NamedTuple):
    """A request that has been read completely."""

    method: str
    path: str  # still quoted
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]  # case-insensitive lookup
    body: bytes

    def json(self) -> Any:
        """The body as JSON; an empty body is an empty object."""
        return json.loads(self.body or b"{}")


@dataclass(frozen=True)
class Reply:
    """A reply; its length is added, and the body is left out for HEAD."""

    status: int = 200  # 0 closes the connection without an answer
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None  # the length in the header; if it exceeds that of the body, the reply is cut off


class Exchange(NamedTuple):
    """A line of the log; `sent` counts bytes of the body (0 for HEAD), and `status` is 0 without an answer."""

    origin: str
    method: str
    path: str
    range: str | None
    authorization: str | None
    status: int
    sent: int


Answer = Callable[[Request], Reply]


def json_reply(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """`value` as JSON."""
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


def content_reply(request: Request, content: bytes, headers: Mapping[str, str]) -> Reply:
    """`content`, or the single range of bytes that the request specifies."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
    if match is None or match[0] == "bytes=-":
        return Reply(200, content, headers)
    size, start, end = len(content), match[1], match[2]
    first = int(start) if start else max(size - int(end), 0)  # "bytes=-n" means the last n bytes
    last = min(int(end), size - 1) if start and end else size - 1
    if first > last:
        return Reply(416, headers={"Content-Range": f"bytes */{size}"})
    return Reply(206, content[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{size}"})


class Origin:
    """A port of 127.0.0.1 on which `answer` replies to requests, each in a daemon thread, until `stop`."""

    def __init__(self, name: str, answer: Answer, log: list[Exchange]) -> None:
        self._server = _Server(name, answer, log)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # with the default of 5, parallel downloads wait a second for a connection

    def __init__(self, name: str, answer: Answer, log: list[Exchange]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name, self.answer, self.log = name, answer, log

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client may close the connection
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _handle(self) -> None:
        url, body = urlsplit(self.path), self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            reply = self.server.answer(Request(self.command, url.path, parse_qs(url.query), self.headers, body))
        except Exception:  # a bug here: 501, because clients would retry a 500 for half a minute
            reply = Reply(501, traceback.format_exc().encode(), {"Content-Type": "text/plain"})
        sent = b"" if self.command == "HEAD" else reply.body
        seen = self.headers.get("Range"), self.headers.get("Authorization")
        self.server.log.append(Exchange(self.server.name, self.command, url.path, *seen, reply.status, len(sent)))
        if reply.status == 0:
            self.close_connection = True
            return
        length = len(reply.body) if reply.length is None else reply.length
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(length), "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815 - http.server looks for these names

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing, because exchanges are logged in a list."""
