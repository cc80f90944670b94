"""Every answer of a Hub, checked and bounded before `huggingface_hub` sees it, while a call of ours runs.

The client makes paths of headers and follows the addresses of listings, so a check of what it returns would come too
late: hooks of its HTTP client check instead, also for `datasets` and `transformers`, which share it. `hub_answers`
says what is right.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from ..threads import INTERRUPTED
from ..untrusted import SMALL_FILE, one_line
from .hub_answers import FILE, BadAnswerError, asked_to_wait, check_headers, checker_of, without_controls
from .hub_bodies import WEB_PAGE, bound, clean_refusal, refuse_web_page


if TYPE_CHECKING:
    import httpx2

BUSY = (408, 429, 500, 502, 503, 504)
QUIET = 20.0  # seconds without a byte after which an answer has stalled
COMMITTING = 120.0  # the same while the Hub writes
SILENT = 60.0  # seconds of attempts without any answer after which there is none
LARGEST_REFUSAL = 1_000_000  # bytes of an error or a redirect
SMALL = 100 * 2**20  # bytes of what lies beside weights
UNKNOWN = 5 * 10**9  # bytes of a file whose size nothing says
LONGEST_NAP = 8.0  # seconds that the client itself may wait; more is for `patiently`, which says it
OURS = ("hf_soup/", "datasets/", "transformers/", "python-httpx")  # who asks; uploads say only the last
MOST_PAGES, MOST_ROWS, LONGEST_LISTING = 1_000, 250_000, 600.0  # of a listing; the last in seconds


class Watch:
    """What is known of the requests of a call: one for the process, as the client is one, and downloads are threads.

    It is switched on by the first call and off after the last.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._calls = 0
        self._factory: Callable[[], httpx2.Client] | None = None  # of the user or the client, while ours replaces it
        self._listed: dict[str, int] = {}  # address -> bytes, as a listing said
        self._sizes: dict[str, int] = {}  # address -> bytes, as the last answer said, or that before a redirect
        self._small: Counter[str] = Counter()  # beginning of addresses of small files
        self._asked: dict[tuple[int, str, str], float] = {}  # what was asked and when, until an answer comes
        self._listings: dict[int, tuple[float, int, int]] = {}  # thread -> begin, pages and rows of its listing

    @contextlib.contextmanager
    def over(self, sizes: Mapping[str, int] | None = None, small: str | None = None) -> Iterator[None]:
        """Check all answers to the client of huggingface_hub in the block.

        Args:
            sizes (`Mapping[str, int]`, *optional*):
                Address of a file -> its bytes, as a listing said.
            small (`str`, *optional*):
                Beginning of addresses of which small files are fetched, and of others none but those of `sizes`.
        """
        below = [] if small is None else [_plain_address(small)]
        with self._lock:
            if not self._calls:
                INTERRUPTED.clear()
            self._calls += 1
            self._listed.update({_plain_address(address): size for address, size in (sizes or {}).items()})
            self._small.update(below)
            self._hook()
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1
                self._small.subtract(below)
                self._small += Counter()  # without those that are 0
                self._listings.pop(threading.get_ident(), None)
                if not self._calls:
                    self._unhook()

    def _hook(self) -> None:
        """Watch the client that there is, and the next one, which follows where a connection has failed.

        The public `set_client_factory` would close the client under the requests of other threads.
        """
        from huggingface_hub.utils import _http

        with _http._CLIENT_LOCK:
            if self._factory is None or self._new_client != _http._GLOBAL_CLIENT_FACTORY:
                self._factory = _http._GLOBAL_CLIENT_FACTORY
                _http._GLOBAL_CLIENT_FACTORY = self._new_client
        self._add_to(_http.get_session())

    def _unhook(self) -> None:
        from huggingface_hub.utils import _http

        with _http._CLIENT_LOCK:
            if self._new_client == _http._GLOBAL_CLIENT_FACTORY:
                _http._GLOBAL_CLIENT_FACTORY = self._factory
            client = _http._GLOBAL_CLIENT
        if client is not None:
            for kind, hook in (("request", self._before), ("response", self._after)):
                hooks = client.event_hooks[kind]
                if hook in hooks:
                    hooks.remove(hook)
        self._factory = None
        self._listed.clear()
        self._sizes.clear()
        self._asked.clear()
        self._listings.clear()

    def _new_client(self) -> httpx2.Client:
        client = self._factory()
        self._add_to(client)
        return client

    def _add_to(self, client: httpx2.Client) -> None:
        from .hub_streams import add_deadlines

        add_deadlines(client, lambda: self._calls > 0)
        hooks = client.event_hooks
        if self._after not in hooks["response"]:
            hooks["request"].append(self._before)
            hooks["response"].insert(0, self._after)

    def _before(self, request: httpx2.Request) -> None:
        """A request: to whom it may say who asks, for how long it waits, and what it can decode."""
        if not _is_ours(request):
            return
        if "Authorization" in request.headers and not _is_hub(request.url):
            raise BadAnswerError(f"the Hub sends us on to {request.url.host}, which is not to have your token")
        if request.headers.get("Accept-Encoding", "") != "identity":
            request.headers["Accept-Encoding"] = "gzip"
        waits = request.extensions.get("timeout", {})
        longest = QUIET if request.method in ("GET", "HEAD") else COMMITTING
        if waits.get("read") is None:
            request.extensions["timeout"] = {**waits, "read": longest, "connect": waits.get("connect") or QUIET}
        key = (threading.get_ident(), request.method, str(request.url))
        now = time.monotonic()
        since = self._asked.setdefault(key, now)
        if now - since > max(SILENT, longest):
            del self._asked[key]
            raise BadAnswerError(f"{request.url.host} has not answered for {now - since:.0f} seconds")

    def _after(self, response: httpx2.Response) -> None:
        """An answer, of which the headers are there and the body is not."""
        from .hub_streams import answered

        answered(response)
        request = response.request
        if not _is_ours(request):
            return
        self._asked.pop((threading.get_ident(), request.method, str(request.url)), None)
        path = _path(request.url)
        is_file = FILE.fullmatch(path) is not None
        is_api = not is_file and (path.startswith("/api/") or path.endswith(".git/info/lfs/objects/batch"))
        check_headers(request.method, path, response.headers)
        if is_file:
            self._note_sizes(response)
        is_known = "X-Repo-Commit" in response.headers or _plain_address(str(request.url)) in self._sizes
        if "X-HF-Warning" in response.headers:  # which the client prints
            response.headers["X-HF-Warning"] = one_line(response.headers["X-HF-Warning"])
        bound(response, self._most(response, is_api), at_once=is_api)
        refuse_web_page(response, is_known)
        if response.status_code >= 400:
            clean_refusal(response)
            _keep_short(response)
        elif is_api and request.method != "HEAD" and not response.is_redirect:
            self._check_json(response, path)

    def _note_sizes(self, response: httpx2.Response) -> None:
        """A file is as large as the listing said; where it is redirected to, it is as large as it was said to be."""
        address = _plain_address(str(response.request.url))
        told = response.headers.get("X-Linked-Size")
        if told is None and response.request.method == "HEAD" and not response.is_redirect:
            told = response.headers.get("Content-Length")
        if response.status_code >= 400 or told is None:
            return
        listed, size = self._listed.get(address), int(told)
        if listed is not None and listed != size:
            raise BadAnswerError(f"a file of {listed:,} bytes is announced with {size:,}")
        if listed is None and size > SMALL and address.startswith(tuple(self._small)):
            raise BadAnswerError(f"a file of {size:,} bytes is announced where at most {SMALL:,} are expected")
        self._sizes[address] = size
        if "Location" in response.headers:
            self._sizes[_plain_address(urljoin(address, response.headers["Location"]))] = size

    def _most(self, response: httpx2.Response, is_api: bool) -> int:
        """How many bytes the body may have."""
        if response.status_code >= 300:
            return LARGEST_REFUSAL
        if is_api or response.request.method not in ("GET", "HEAD"):
            return SMALL_FILE
        asked = re.fullmatch(r"bytes=(\d{1,15})-(\d{1,15})", response.request.headers.get("Range", ""))
        if response.status_code == 206 and asked:
            return int(asked[2]) - int(asked[1]) + 1
        address = _plain_address(str(response.request.url))
        unknown = SMALL if address.startswith(tuple(self._small)) else UNKNOWN
        return self._listed.get(address, self._sizes.get(address, unknown))

    def _check_json(self, response: httpx2.Response, path: str) -> None:
        from httpx2 import ByteStream

        check = checker_of(path)
        if check is None:
            return
        content = b"".join(response.stream)
        response.stream.close()
        if content.lstrip()[:1] == b"<":
            raise BadAnswerError(f"{response.request.url.host} {WEB_PAGE}")
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            shown = one_line(content[:40].decode(errors="replace"))
            raise BadAnswerError(f"the answer is no JSON: {shown or 'it is empty'}") from None
        check(value)
        is_printed = path == "/api/validate-yaml"
        response.stream = ByteStream(json.dumps(without_controls(value)).encode() if is_printed else content)
        following = response.links.get("next", {}).get("url")
        if following is not None:
            here = response.request.url
            if not _is_same_origin(here, here.join(following)):
                raise BadAnswerError(f"the listing goes on at {one_line(following, 80)}, which is another host")
            if here.join(following) == here:
                raise BadAnswerError("the listing goes round in circles")
        self._count_pages(value, following is not None)

    def _count_pages(self, value: Any, goes_on: bool) -> None:
        thread = threading.get_ident()
        begin, pages, rows = self._listings.get(thread, (time.monotonic(), 0, 0))
        pages, rows = pages + 1, rows + (len(value) if isinstance(value, list) else 0)
        if pages > MOST_PAGES or rows > MOST_ROWS or time.monotonic() - begin > LONGEST_LISTING:
            raise BadAnswerError(f"the listing does not end: {pages:,} pages with {rows:,} rows so far")
        self._listings[thread] = (begin, pages, rows)
        if not goes_on:
            del self._listings[thread]


WATCH = Watch()


def watched(sizes: Mapping[str, int] | None = None, small: str | None = None) -> AbstractContextManager[None]:
    """Check every answer that the client of huggingface_hub gets in the block; see [`Watch.over`].

    Raises:
        [`BadAnswerError`]: in the block, from within the client.
    """
    return WATCH.over(sizes, small)


def _is_ours(request: httpx2.Request) -> bool:
    """Whether it is checked: all that goes to the Hub, and what we or a library for us ask elsewhere."""
    return _is_hub(request.url) or request.headers.get("User-Agent", "").startswith(OURS)


def _keep_short(response: httpx2.Response) -> None:
    """A busy Hub: short waits are left to the client; where it asks for a long one, that is an error at once."""
    from huggingface_hub.utils import hf_raise_for_status

    asked = asked_to_wait(response.headers)
    if response.status_code in BUSY and asked > LONGEST_NAP:
        hf_raise_for_status(response)
    for name in ("Retry-After", "ratelimit"):
        response.headers.pop(name, None)
    if asked:
        response.headers["Retry-After"] = str(math.ceil(asked))


def _path(url: httpx2.URL) -> str:
    """The quoted path of a request, behind that of the endpoint."""
    from huggingface_hub import constants

    path = url.raw_path.decode("ascii", "replace").partition("?")[0]
    return path.removeprefix(re.sub(r"^\w+://[^/]+", "", constants.ENDPOINT).rstrip("/"))


def _plain_address(address: str) -> str:
    """An address as requests have it."""
    from httpx2 import URL, InvalidURL

    try:
        return str(URL(address))
    except (InvalidURL, ValueError, TypeError):
        raise BadAnswerError(f"{one_line(address, 80)} is no address") from None


def _is_hub(url: httpx2.URL) -> bool:
    """Whether it is the endpoint, a service below its name, or the Hub itself, which its client trusts."""
    from httpx2 import URL
    from huggingface_hub import constants

    for hub in (URL(constants.ENDPOINT), URL("https://huggingface.co"), URL("https://hf.co")):
        below = url.host.endswith(f".{hub.host}") and url.scheme == hub.scheme and _port(url) == _port(hub)
        if _is_same_origin(hub, url) or below:
            return True
    return False


def _is_same_origin(one: httpx2.URL, other: httpx2.URL) -> bool:
    return (one.scheme, one.host, _port(one)) == (other.scheme, other.host, _port(other))


def _port(url: httpx2.URL) -> int | None:
    return url.port or {"http": 80, "https": 443}.get(url.scheme)
