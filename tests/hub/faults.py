"""Faults of a test Hub on demand: `hub.faults.add("commit", 503)`, `with hub.faults.on("download", "cut"):`.

A fault applies to the next `times` requests of its step (`math.inf` for all); several faults apply in the order in
which they were added. `hits` lists the faults that occurred. This module knows only the Hub's addresses, and wraps a
function that answers requests.
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
    # The bytes of small files come from the Hub (a redirect does not count), those of LFS files from the CDN.
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
BUSY = "Cannot create repo: another conflicting operation is in progress"  # a 409 on create; client 2.4 retries
KINDS = (
    *MESSAGES,  # that status, without any effect
    "gated",  # the 403 of a gated repository, without any effect
    "drop",  # no effect, and the connection is closed without an answer
    "lost",  # the complete effect, and the connection is closed without an answer
    "cut",  # the complete effect, but only half of the body (no change without a body, as for HEAD)
    "corrupt",  # the complete effect, but the last byte of the body is changed, which only a digest shows
    "slow",  # the usual answer, after `seconds`
)
HANG_UP = Reply(0)


@dataclass
class Fault:
    """A fault of the next `left` requests of its step."""

    step: str
    kind: int | str
    left: float
    retry_after: int | None
    seconds: float
    match: str


class Faults:
    """The faults to come, and those that occurred (`hits`: step and kind, in order); usable from several threads."""

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
        """Make the next `times` requests of `step` whose address contains `match` fail.

        `retry_after` is for a status, `seconds` for "slow". The address of an LFS file on the CDN contains its name.
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
        """Add a fault for the duration of the block."""
        fault = self.add(step, kind, **how)
        try:
            yield
        finally:
            with self._lock:
                fault.left = 0

    def clear(self) -> None:
        """Remove all faults, and forget all hits."""
        with self._lock:
            self._waiting.clear()
            self.hits.clear()

    def wrap(self, origin: str, answer: Answer) -> Answer:
        """Wrap a function that answers requests, so that faults apply to it."""

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
    """The step of a request, or None if no fault can apply to it."""
    for step, (origins, method, pattern) in STEPS.items():
        if origin in origins.split("|") and method == request.method and re.fullmatch(pattern, request.path):
            return step
    return None


def misbehave(fault: Fault, answer: Answer, request: Request) -> Reply:
    """The reply instead of `answer(request)`, which is called if the fault lets the request take effect."""
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
