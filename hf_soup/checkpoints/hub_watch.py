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
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urljoin

from ..threads import INTERRUPTED
from ..untrusted import SMALL_FILE, one_line
from .hub_answers import FILE, BadAnswerError, asked_to_wait, check_headers, checker_of, without_controls
from .hub_bodies import WEB_PAGE, bound, clean_refusal, read_body, refuse_web_page


if TYPE_CHECKING:
    import httpx2

API, LFS = "/api/", ".git/info/lfs/objects/batch"  # how the paths of the API begin, and that of large files ends
VALIDATE = "/api/validate-yaml"
BUSY = (408, 429, 500, 502, 503, 504)  # statuses of answers that may be others a moment later
QUIET = 20.0  # seconds without a byte after which an answer has stalled
COMMITTING = 120.0  # the same while the Hub writes
SILENT = 60.0  # seconds of attempts without any answer after which there is none
LARGEST_REFUSAL = 1_000_000  # bytes of an error or a redirect
SMALL = 100 * 2**20  # bytes of a file beside weights
UNKNOWN = 5 * 10**9  # bytes of a file whose size no listing has
USUAL_PORTS = {"http": 80, "https": 443}  # of schemes
LONGEST_NAP = 8.0  # seconds that the client itself may wait; longer waits are for `patiently`, which tells the user
# Beginnings of the names by which our requests and those of libraries introduce themselves; uploads have the last.
USER_AGENTS = ("hf_soup/", "datasets/", "transformers/", "python-httpx")
MOST_PAGES, MOST_ENTRIES, LONGEST_LISTING = 1_000, 250_000, 600.0  # of a listing; the last in seconds


class _Listing(NamedTuple):
    """How much of a listing in pages has come, and when it began."""

    begin: float
    pages: int
    entries: int


class Watch:
    """Checks of all requests and answers while calls of hf_soup run.

    There is one for the process, since huggingface_hub has one client, and its downloads run in threads that know
    nothing of the call. The first call switches it on, the last one off.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._calls = 0
        # what made clients before, of huggingface_hub or the user, while ours replaces it
        self._factory: Callable[[], httpx2.Client] | None = None
        self._listed: dict[str, int] = {}  # address -> bytes, as a listing said
        self._sizes: dict[str, int] = {}  # address -> bytes, as the last answer said, or that before a redirect
        self._small: Counter[str] = Counter()  # beginning of addresses of small files -> calls that fetch such
        # thread, method and address of a request -> when it was first sent, until an answer comes
        self._pending: dict[tuple[int, str, str], float] = {}
        self._listings: dict[int, _Listing] = {}  # thread -> the listing that it reads

    @contextlib.contextmanager
    def over(self, sizes: Mapping[str, int] | None = None, small: str | None = None) -> Iterator[None]:
        """Check all answers to the client of huggingface_hub in the block.

        Args:
            sizes (`Mapping[str, int]`, *optional*):
                Address of a file -> its bytes, as a listing said.
            small (`str`, *optional*):
                Beginning of addresses of which small files are fetched, and of others none but those of `sizes`.
        """
        small_addresses = [] if small is None else [_plain_address(small)]
        with self._lock:
            if not self._calls:
                INTERRUPTED.clear()
            self._calls += 1
            self._listed.update({_plain_address(address): size for address, size in (sizes or {}).items()})
            self._small.update(small_addresses)
            self._hook()
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1
                self._small.subtract(small_addresses)
                self._small += Counter()  # which drops those that are 0
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
        """Leave the client, and the next one, as they were, and forget what was noted of answers."""
        from huggingface_hub.utils import _http

        with _http._CLIENT_LOCK:
            # a user may have set another factory meanwhile, which stays
            if self._factory is not None and self._new_client == _http._GLOBAL_CLIENT_FACTORY:
                _http._GLOBAL_CLIENT_FACTORY = self._factory
            client = _http._GLOBAL_CLIENT
        if client is not None:
            _remove(self._before, client.event_hooks["request"])
            _remove(self._after, client.event_hooks["response"])
        self._factory = None
        self._listed.clear()
        self._sizes.clear()
        self._pending.clear()
        self._listings.clear()

    def _new_client(self) -> httpx2.Client:
        """A client as the factory before ours makes it, and watched."""
        if self._factory is None:
            raise RuntimeError("no call of hf_soup runs")
        client = self._factory()
        self._add_to(client)
        return client

    def _add_to(self, client: httpx2.Client) -> None:
        """Watch a client, once; answers are checked before other hooks see them."""
        from .hub_streams import add_deadlines

        add_deadlines(client, lambda: self._calls > 0)
        hooks = client.event_hooks
        if self._after not in hooks["response"]:
            hooks["request"].append(self._before)
            hooks["response"].insert(0, self._after)

    def _before(self, request: httpx2.Request) -> None:
        """The hook before a request: which server gets the token, how long it is waited for, what can be decoded."""
        if not _is_ours(request):
            return
        if "Authorization" in request.headers and not _is_hub(request.url):
            raise BadAnswerError(f"the Hub redirects to {request.url.host}, which must not receive your token")
        if request.headers.get("Accept-Encoding", "") != "identity":
            request.headers["Accept-Encoding"] = "gzip"  # which `hub_bodies` can unpack
        timeouts = request.extensions.get("timeout", {})
        reads = request.method in ("GET", "HEAD")
        longest = QUIET if reads else COMMITTING
        if timeouts.get("read") is None:  # the client would wait for ever
            connect = timeouts.get("connect") or QUIET
            request.extensions["timeout"] = {**timeouts, "read": longest, "connect": connect}
        self._refuse_silence(request, max(SILENT, longest))

    def _refuse_silence(self, request: httpx2.Request, longest: float) -> None:
        """End the client's attempts at a request that has had no answer for too long: it would make many more."""
        key = _key_of(request)
        now = time.monotonic()
        since = self._pending.setdefault(key, now)
        if now - since > longest:
            del self._pending[key]
            raise BadAnswerError(f"{request.url.host} has not answered for {now - since:.0f} seconds")

    def _after(self, response: httpx2.Response) -> None:
        """The hook after the head of an answer has come, and before its body."""
        from .hub_streams import answered

        answered(response)
        request = response.request
        if not _is_ours(request):
            return
        self._pending.pop(_key_of(request), None)
        path = _path(request.url)
        is_file = FILE.fullmatch(path) is not None
        is_api = not is_file and (path.startswith(API) or path.endswith(LFS))
        check_headers(request.method, path, response.headers)
        if is_file:
            self._note_sizes(response)
        if "X-HF-Warning" in response.headers:  # which the client prints
            response.headers["X-HF-Warning"] = one_line(response.headers["X-HF-Warning"])
        bound(response, self._most(response, is_api), at_once=is_api)
        # A repository may hold files of HTML, which are no answer of a proxy.
        is_known_file = "X-Repo-Commit" in response.headers or _address_of(request) in self._sizes
        refuse_web_page(response, is_known_file)
        if response.status_code >= 400:
            clean_refusal(response)
            _keep_short(response)
        elif is_api and request.method != "HEAD" and not response.is_redirect:
            self._check_json(response, path)

    def _note_sizes(self, response: httpx2.Response) -> None:
        """Note the size of a file that an answer announces, and refuse another one than the listing said.

        Where the file is redirected to, it has the same size.
        """
        size = _announced_size(response)
        if size is None:
            return
        address = _address_of(response.request)
        listed = self._listed.get(address)
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
        byte_range = re.fullmatch(r"bytes=(\d{1,15})-(\d{1,15})", response.request.headers.get("Range", ""))
        if response.status_code == HTTPStatus.PARTIAL_CONTENT and byte_range:
            return int(byte_range[2]) - int(byte_range[1]) + 1
        address = _address_of(response.request)
        if address in self._listed:
            return self._listed[address]
        if address in self._sizes:
            return self._sizes[address]
        is_small = address.startswith(tuple(self._small))
        return SMALL if is_small else UNKNOWN

    def _check_json(self, response: httpx2.Response, path: str) -> None:
        """Read an answer of the API, refuse what is not what its address answers, and put the body back."""
        from httpx2 import ByteStream

        check = checker_of(path)
        if check is None:
            return
        content = read_body(response)
        if content.lstrip()[:1] == b"<":
            raise BadAnswerError(f"{response.request.url.host} {WEB_PAGE}")
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            beginning = one_line(content[:40].decode(errors="replace"))
            raise BadAnswerError(f"the answer is not JSON: {beginning or 'it is empty'}") from None
        check(value)
        if path == VALIDATE:  # the client prints what this answers
            content = json.dumps(without_controls(value)).encode()
        response.stream = ByteStream(content)
        following = response.links.get("next", {}).get("url")
        if following is not None:
            _refuse_other_listing(response.request.url, following)
        self._count_page(value, goes_on=following is not None)

    # A listing is read by one thread, page after page, so that the thread says to which listing a page belongs.
    def _count_page(self, value: Any, *, goes_on: bool) -> None:
        """Count a page of a listing, and refuse one that does not end."""
        thread = threading.get_ident()
        begin, pages, entries = self._listings.get(thread, _Listing(time.monotonic(), 0, 0))
        pages += 1
        if isinstance(value, list):
            entries += len(value)
        if pages > MOST_PAGES or entries > MOST_ENTRIES or time.monotonic() - begin > LONGEST_LISTING:
            raise BadAnswerError(f"the listing does not end: {pages:,} pages with {entries:,} rows so far")
        if goes_on:
            self._listings[thread] = _Listing(begin, pages, entries)
        else:
            self._listings.pop(thread, None)


WATCH = Watch()


def watched(sizes: Mapping[str, int] | None = None, small: str | None = None) -> AbstractContextManager[None]:
    """Check every answer that the client of huggingface_hub gets in the block; see [`Watch.over`].

    Raises:
        [`BadAnswerError`]: in the block, from within the client.
    """
    return WATCH.over(sizes, small)


def _is_ours(request: httpx2.Request) -> bool:
    """Whether it is checked: all that goes to the Hub, and what we or a library for us ask elsewhere."""
    return _is_hub(request.url) or request.headers.get("User-Agent", "").startswith(USER_AGENTS)


def _remove(hook: Callable[..., Any], hooks: list[Callable[..., Any]]) -> None:
    if hook in hooks:
        hooks.remove(hook)


def _key_of(request: httpx2.Request) -> tuple[int, str, str]:
    """Which attempts of the client are about the same request."""
    return threading.get_ident(), request.method, str(request.url)


def _announced_size(response: httpx2.Response) -> int | None:
    """The size of a file that the head of an answer tells; `None` where it does not, or is about an error."""
    size = response.headers.get("X-Linked-Size")
    if size is None and response.request.method == "HEAD" and not response.is_redirect:
        size = response.headers.get("Content-Length")
    if response.status_code >= 400 or size is None:
        return None
    return int(size)


def _refuse_other_listing(here: httpx2.URL, following: str) -> None:
    """Refuse a page of a listing that names another host's page, or itself, as the next one."""
    there = here.join(following)
    if not _is_same_origin(here, there):
        raise BadAnswerError(f"the listing continues at {one_line(following, 80)}, which is another host")
    if there == here:
        raise BadAnswerError("the listing repeats itself")


def _keep_short(response: httpx2.Response) -> None:
    """Leave short waits for a busy Hub to the client; where it asks for a long one, that is an error at once."""
    # ignored: huggingface_hub re-exports this without saying so to type checkers
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

    seconds = asked_to_wait(response.headers)
    if response.status_code in BUSY and seconds > LONGEST_NAP:
        hf_raise_for_status(response)
    for name in ("Retry-After", "ratelimit"):
        response.headers.pop(name, None)
    if seconds:
        response.headers["Retry-After"] = str(math.ceil(seconds))


def _path(url: httpx2.URL) -> str:
    """The quoted path of a request, behind that of the endpoint."""
    from huggingface_hub import constants

    path = url.raw_path.decode("ascii", "replace").partition("?")[0]
    endpoint_path = re.sub(r"^\w+://[^/]+", "", constants.ENDPOINT).rstrip("/")
    return path.removeprefix(endpoint_path)


def _address_of(request: httpx2.Request) -> str:
    return _plain_address(str(request.url))


def _plain_address(address: str) -> str:
    """An address as requests have it."""
    from httpx2 import URL, InvalidURL

    try:
        return str(URL(address))
    except (InvalidURL, ValueError, TypeError):
        raise BadAnswerError(f"{one_line(address, 80)} is not an address") from None


def _is_hub(url: httpx2.URL) -> bool:
    """Whether it is the endpoint, a service below its name, or the Hub itself, which its client trusts."""
    from httpx2 import URL
    from huggingface_hub import constants

    for hub in (URL(constants.ENDPOINT), URL("https://huggingface.co"), URL("https://hf.co")):
        is_below = url.host.endswith(f".{hub.host}") and url.scheme == hub.scheme and _port(url) == _port(hub)
        if is_below or _is_same_origin(hub, url):
            return True
    return False


def _is_same_origin(url: httpx2.URL, other: httpx2.URL) -> bool:
    return (url.scheme, url.host, _port(url)) == (other.scheme, other.host, _port(other))


def _port(url: httpx2.URL) -> int | None:
    """The port of an address, also where it is the usual one of its scheme, which addresses leave out."""
    return url.port or USUAL_PORTS.get(url.scheme)
