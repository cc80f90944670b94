"""Makes a test Hub misbehave on demand: `hub.faults.add("commit", 503)`, `with hub.faults.on("download", "cut"):`.

A fault waits for requests of its step, in the order of adding, and `times` of them use it up (`math.inf` for all).
`hits` lists what fired. It knows the Hub's addresses and nothing of what they mean: it wraps a function that answers.
"""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote, urlencode

from .errors import error_reply
from .wire import Answer, Reply, Request


API = r"/api/(?:models|datasets)/[^/]+(?:/[^/]+)?"
STEPS = {  # step: origin, method, path
    "whoami": ("hub", "GET", r"/api/whoami-v2"),
    "create": ("hub", "POST", r"/api/repos/create"),
    "yaml": ("hub", "POST", r"/api/validate-yaml"),
    "preupload": ("hub", "POST", rf"{API}/preupload/[^/]+"),
    "lfs-batch": ("hub", "POST", r"/.+\.git/info/lfs/objects/batch"),
    "lfs-upload": ("cdn", "PUT", r"/.+"),
    "lfs-verify": ("hub", "POST", r"/.+\.git/info/lfs/objects/verify"),
    "lfs-complete": ("hub", "POST", r"/api/complete_multipart"),
    "commit": ("hub", "POST", rf"{API}/commit/[^/]+"),
    "info": ("hub", "GET", rf"{API}(?:/revision/[^/]+)?"),
    "tree": ("hub", "GET", rf"{API}/tree/.+"),
    "list": ("hub", "GET", r"/api/(?:models|datasets)"),
    "metadata": ("hub", "HEAD", r"/.+/resolve/.+"),
    # Where the bytes are: on the Hub for small files (a redirect is none), on the CDN for LFS files
    "download": ("hub|cdn", "GET", r"/.+/resolve/.+|/[0-9a-f]{64}"),
}
MESSAGES = {
    401: "Invalid username or password.",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    412: "A commit has happened since. Please refresh and try again.",
    429: "You have been rate-limited; you can retry this action later.",
    500: "Internal Error - We're working hard to fix this as soon as possible!",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
BUSY = "Cannot create repo: another conflicting operation is in progress"  # what a 409 means there; 2.4 asks again
KINDS = (
    *MESSAGES,  # that status, in place of any effect
    "gated",  # likewise: the 403 of a repository that one must ask for
    "drop",  # no effect, and the connection is closed without an answer
    "lost",  # the whole effect, and the connection is closed without an answer
    "cut",  # the whole effect, the headers, and half of the body (nothing changes where there is none, as for HEAD)
    "corrupt",  # the whole effect, and the last byte of the body is another one: only a digest tells
    "slow",  # as always, after `seconds`
)
HANG_UP = Reply(0)


@dataclass
class Fault:
    """What goes wrong the next `left` times."""

    step: str
    kind: int | str
    left: float
    retry_after: int | None
    seconds: float
    match: str


class Faults:
    """What is going to go wrong, and what did (`hits`: step and kind, in order); any thread may use it."""

    def __init__(self) -> None:
        self.hits: list[tuple[str, int | str]] = []
        self._waiting: list[Fault] = []
        self._lock = threading.Lock()

    def add(
        self,
        step: str,
        kind: int | str,
        *,
        times: float = 1,
        retry_after: int | None = None,
        seconds: float = 0.0,
        match: str | None = None,
    ) -> Fault:
        """The next `times` requests of `step`, whose address contains `match`, go wrong.

        `retry_after` goes with a status, `seconds` with "slow". The address of an LFS file on the CDN names the file.
        """
        if step not in STEPS:
            raise ValueError(f"step={step!r} is not one of {', '.join(STEPS)}")
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is not one of {', '.join(map(str, KINDS))}")
        fault = Fault(step, kind, times, retry_after, seconds, match or "")
        with self._lock:
            self._waiting.append(fault)
        return fault

    @contextmanager
    def on(self, step: str, kind: int | str, **how: Any) -> Iterator[None]:
        """As `add`, but at the end of the block whatever is left of the fault is removed."""
        fault = self.add(step, kind, **how)
        try:
            yield
        finally:
            with self._lock:
                fault.left = 0

    def clear(self) -> None:
        """Nothing waits, and nothing has been hit."""
        with self._lock:
            self._waiting.clear()
            self.hits.clear()

    def wrap(self, origin: str, answer: Answer) -> Answer:
        """`answer`, which now and then goes wrong."""

        def faulty(request: Request) -> Reply:
            if not self._waiting:
                return answer(request)
            step = step_of(origin, request)
            if (origin, step) == ("hub", "download") and (reply := answer(request)).status == 302:
                return reply
            fault = self._take(step, _target(request)) if step else None
            return misbehave(fault, answer, request) if fault else answer(request)

        return faulty

    def _take(self, step: str, target: str) -> Fault | None:
        with self._lock:
            self._waiting = [fault for fault in self._waiting if fault.left > 0]
            for fault in self._waiting:
                if fault.step == step and fault.match in target:
                    fault.left -= 1
                    self.hits.append((step, fault.kind))
                    return fault
        return None


def step_of(origin: str, request: Request) -> str | None:
    """The step that a request is; None for one that cannot go wrong."""
    for step, (origins, method, pattern) in STEPS.items():
        if origin in origins.split("|") and method == request.method and re.fullmatch(pattern, request.path):
            return step
    return None


def misbehave(fault: Fault, answer: Answer, request: Request) -> Reply:
    """The reply in place of `answer(request)`, which is called if the fault lets the request take effect."""
    if fault.kind == "drop":
        return HANG_UP
    if fault.kind == "gated":
        return error_reply(403, "Access to model is restricted.", {"X-Error-Code": "GatedRepo"})
    if fault.kind in MESSAGES:
        message = BUSY if (fault.step, fault.kind) == ("create", 409) else MESSAGES[fault.kind]
        later = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
        return error_reply(fault.kind, message, later)
    if fault.kind == "slow":
        time.sleep(fault.seconds)
    reply = answer(request)
    if fault.kind == "lost":
        return HANG_UP
    if fault.kind == "cut":
        return replace(reply, body=reply.body[: len(reply.body) // 2], length=len(reply.body))
    if fault.kind == "corrupt" and reply.body:
        return replace(reply, body=reply.body[:-1] + bytes([reply.body[-1] ^ 0xFF]))
    return reply


def _target(request: Request) -> str:
    return unquote(f"{request.path}?{urlencode(request.query, doseq=True)}")
