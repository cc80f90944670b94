"""Checks and limits on every answer of a Hub before `huggingface_hub` sees it, while a call of hf_soup runs.

The client builds paths from headers and follows the addresses of listings, so checking its results would be too late.
Hooks of its HTTP client perform the checks instead, also for `datasets` and `transformers`, which share it.
`hub_answers` defines what is valid.
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

API, LFS = "/api/", ".git/info/lfs/objects/batch"  # how the paths of the API begin, and how that of large files ends
VALIDATE = "/api/validate-yaml"
BUSY = (408, 429, 500, 502, 503, 504)  # statuses of answers that may succeed a moment later
QUIET = 20.0  # seconds without a byte after which an answer has stalled
COMMITTING = 120.0  # the same while the Hub commits
SILENT = 60.0  # seconds of attempts without any answer before giving up
LARGEST_REFUSAL = 1_000_000  # bytes of an error or a redirect
SMALL = 100 * 2**20  # bytes of a file other than weights
UNKNOWN = 5 * 10**9  # bytes of a file whose size is in no listing
USUAL_PORTS = {"http": 80, "https": 443}  # of schemes
LONGEST_NAP = 8.0  # seconds that the client itself may wait; `patiently` handles longer waits and informs the user
# Prefixes of the user agents of hf_soup and of libraries; the last is that of uploads.
USER_AGENTS = ("hf_soup/", "datasets/", "transformers/", "python-httpx")
MOST_PAGES, MOST_ENTRIES, LONGEST_LISTING = 1_000, 250_000, 600.0  # of a listing; the last is in seconds


class _Listing(NamedTuple):
    """The progress of a paginated listing, and when it began."""

    begin: float
    pages: int
    entries: int


class Watch:
    """The checks of all requests and answers while calls of hf_soup run.

    There is one watch for the process, since huggingface_hub has one client, whose download threads are unaware of the
    calls. The first call switches it on, and the last one switches it off.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._calls = 0
        # the factory that made clients before it was replaced, that of huggingface_hub or of the user
        self._factory: Callable[[], httpx2.Client] | None = None
        self._listed: dict[str, int] = {}  # address -> bytes, according to a listing
        self._sizes: dict[str, int] = {}  # address -> bytes, according to the last answer or the one before a redirect
        self._small: Counter[str] = Counter()  # prefix of addresses of small files -> calls that use it
        # thread, method and address of a request -> when it was first sent, until an answer arrives
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
                self._small += Counter()  # drops the entries that are 0
                self._listings.pop(threading.get_ident(), None)
                if not self._calls:
                    self._unhook()

    def _hook(self) -> None:
        """Watch the current client, and the next one, which replaces it after a connection has failed.

        The public `set_client_factory` would close the client during the requests of other threads.
        """
        from huggingface_hub.utils import _http

        with _http._CLIENT_LOCK:
            if self._factory is None or self._new_client != _http._GLOBAL_CLIENT_FACTORY:
                self._factory = _http._GLOBAL_CLIENT_FACTORY
                _http._GLOBAL_CLIENT_FACTORY = self._new_client
        self._add_to(_http.get_session())

    def _unhook(self) -> None:
        """Restore the client and its factory, and forget what was recorded about answers."""
        from huggingface_hub.utils import _http

        with _http._CLIENT_LOCK:
            # if the user has set another factory meanwhile, it is kept
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
        """A watched client, made by the original factory."""
        if self._factory is None:
            raise RuntimeError("no call of hf_soup runs")
        client = self._factory()
        self._add_to(client)
        return client

    def _add_to(self, client: httpx2.Client) -> None:
        """Watch a client, at most once; answers are checked before other hooks see them."""
        from .hub_streams import add_deadlines

        add_deadlines(client, lambda: self._calls > 0)
        hooks = client.event_hooks
        if self._after not in hooks["response"]:
            hooks["request"].append(self._before)
            hooks["response"].insert(0, self._after)

    def _before(self, request: httpx2.Request) -> None:
        """The hook before a request: it decides about the token, the timeout and the accepted encodings."""
        if not _is_ours(request):
            return
        if "Authorization" in request.headers and not _is_hub(request.url):
            raise BadAnswerError(f"the Hub redirects to {request.url.host}, which must not receive your token")
        if request.headers.get("Accept-Encoding", "") != "identity":
            request.headers["Accept-Encoding"] = "gzip"  # the encodings that `hub_bodies` can decompress
        timeouts = request.extensions.get("timeout", {})
        reads = request.method in ("GET", "HEAD")
        longest = QUIET if reads else COMMITTING
        if timeouts.get("read") is None:  # the client would wait forever
            connect = timeouts.get("connect") or QUIET
            request.extensions["timeout"] = {**timeouts, "read": longest, "connect": connect}
        self._refuse_silence(request, max(SILENT, longest))

    def _refuse_silence(self, request: httpx2.Request, longest: float) -> None:
        """Stop retrying a request that has had no answer for too long; the client would make many more attempts."""
        key = _key_of(request)
        now = time.monotonic()
        since = self._pending.setdefault(key, now)
        if now - since > longest:
            del self._pending[key]
            raise BadAnswerError(f"{request.url.host} has not answered for {now - since:.0f} seconds")

    def _after(self, response: httpx2.Response) -> None:
        """The hook after the headers of an answer have arrived, and before its body."""
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
        if "X-HF-Warning" in response.headers:  # the client prints it
            response.headers["X-HF-Warning"] = one_line(response.headers["X-HF-Warning"])
        bound(response, self._most(response, is_api), at_once=is_api)
        # A repository may contain HTML files, which are not answers of a proxy.
        is_known_file = "X-Repo-Commit" in response.headers or _address_of(request) in self._sizes
        refuse_web_page(response, is_known_file)
        if response.status_code >= 400:
            clean_refusal(response)
            _keep_short(response)
        elif is_api and request.method != "HEAD" and not response.is_redirect:
            self._check_json(response, path)

    def _note_sizes(self, response: httpx2.Response) -> None:
        """Record the size of a file that an answer announces, and refuse it if the listing has another size.

        A file has the same size after a redirect.
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
        """The maximum number of bytes of the body."""
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
        """Read an answer of the API, refuse it if it is not valid for its address, and restore the body."""
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
        if path == VALIDATE:  # the client prints this answer
            content = json.dumps(without_controls(value)).encode()
        response.stream = ByteStream(content)
        following = response.links.get("next", {}).get("url")
        if following is not None:
            _refuse_other_listing(response.request.url, following)
        self._count_page(value, goes_on=following is not None)

    # One thread reads all pages of a listing in order, so the thread identifies the listing of a page.
    def _count_page(self, value: Any, *, goes_on: bool) -> None:
        """Count a page of a listing, and refuse a listing that does not end."""
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
    """Check every answer that the client of huggingface_hub receives in the block; see [`Watch.over`].

    Raises:
        [`BadAnswerError`]: in the block, from within the client.
    """
    return WATCH.over(sizes, small)


def _is_ours(request: httpx2.Request) -> bool:
    """Whether a request is checked: everything sent to the Hub, and requests of hf_soup or its libraries elsewhere."""
    return _is_hub(request.url) or request.headers.get("User-Agent", "").startswith(USER_AGENTS)


def _remove(hook: Callable[..., Any], hooks: list[Callable[..., Any]]) -> None:
    if hook in hooks:
        hooks.remove(hook)


def _key_of(request: httpx2.Request) -> tuple[int, str, str]:
    """A key shared by all attempts of the client at one request."""
    return threading.get_ident(), request.method, str(request.url)


def _announced_size(response: httpx2.Response) -> int | None:
    """The size of a file according to the headers of an answer; `None` if they do not state it or report an error."""
    size = response.headers.get("X-Linked-Size")
    if size is None and response.request.method == "HEAD" and not response.is_redirect:
        size = response.headers.get("Content-Length")
    if response.status_code >= 400 or size is None:
        return None
    return int(size)


def _refuse_other_listing(here: httpx2.URL, following: str) -> None:
    """Refuse a page of a listing whose next page is on another host or is the page itself."""
    there = here.join(following)
    if not _is_same_origin(here, there):
        raise BadAnswerError(f"the listing continues at {one_line(following, 80)}, which is another host")
    if there == here:
        raise BadAnswerError("the listing repeats itself")


def _keep_short(response: httpx2.Response) -> None:
    """Leave short waits for a busy Hub to the client; a long wait becomes an error at once."""
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
    """The quoted path of a request, relative to the endpoint."""
    from huggingface_hub import constants

    path = url.raw_path.decode("ascii", "replace").partition("?")[0]
    endpoint_path = re.sub(r"^\w+://[^/]+", "", constants.ENDPOINT).rstrip("/")
    return path.removeprefix(endpoint_path)


def _address_of(request: httpx2.Request) -> str:
    return _plain_address(str(request.url))


def _plain_address(address: str) -> str:
    """An address in the form that requests use."""
    from httpx2 import URL, InvalidURL

    try:
        return str(URL(address))
    except (InvalidURL, ValueError, TypeError):
        raise BadAnswerError(f"{one_line(address, 80)} is not an address") from None


def _is_hub(url: httpx2.URL) -> bool:
    """Whether it is the endpoint, a service on a subdomain of it, or the Hub itself, which its client trusts."""
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
    """The port of an address, also if it is the default of its scheme and therefore omitted."""
    return url.port or USUAL_PORTS.get(url.scheme)
