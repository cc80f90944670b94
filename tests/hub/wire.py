"""Turns a function from request to reply into an HTTP origin on loopback, and logs what passes.

It knows nothing of the Hub. A connection carries one request, so that `stop` leaves none behind; a body must come with
its length. To change how an origin behaves (to inject a fault, say), wrap its function.
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
    """What came in, read to its end."""

    method: str
    path: str  # still quoted
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]  # looked up without regard to case
    body: bytes

    def json(self) -> Any:
        """The body as JSON; none is an empty object."""
        return json.loads(self.body or b"{}")


@dataclass(frozen=True)
class Reply:
    """What goes out; the length is added, and for HEAD the body is left out."""

    status: int = 200  # 0 is no answer at all: the connection is closed
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None  # what the header says; if it is more than the body has, the reply ends too early


class Exchange(NamedTuple):
    """A line of the log; `sent` counts bytes of the body (0 for HEAD), `status` is 0 where nothing was answered."""

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
    """`content`, or the one range of its bytes that the request asks for."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
    if match is None or match[0] == "bytes=-":
        return Reply(200, content, headers)
    size, start, end = len(content), match[1], match[2]
    first = int(start) if start else max(size - int(end), 0)  # "bytes=-n" are the last n
    last = min(int(end), size - 1) if start and end else size - 1
    if first > last:
        return Reply(416, headers={"Content-Range": f"bytes */{size}"})
    return Reply(206, content[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{size}"})


class Origin:
    """A port of 127.0.0.1 whose requests `answer` answers, each in a daemon thread, until `stop`."""

    def __init__(self, name: str, answer: Answer, log: list[Exchange]) -> None:
        self._server = _Server(name, answer, log)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Closes the port."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # with the default of 5, parallel downloads wait a second for a connection

    def __init__(self, name: str, answer: Answer, log: list[Exchange]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name, self.answer, self.log = name, answer, log

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client may hang up
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
        """Prints nothing: the log is a list."""
