"""Weight files that stay on a server: ranges of their bytes are read in the order of use, and none is kept.

How bytes are requested is unknown here; `hub_ranges.py` does it for the Hub.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from ..errors import IngredientError
from ..threads import INTERRUPTED, submit


# Measured by `benchmarks/large.py`: larger requests bring nothing. More at once are faster for one ingredient alone.
WINDOW = 16 * 2**20  # bytes of one request
IN_FLIGHT = 4  # requests at once for the files of one ingredient
MOST_IN_FLIGHT = 32  # requests at once for all ingredients
MEMORY = 256 * 2**20  # bytes that are requested or in use, for all ingredients
MOST_WAITING = 2 * MOST_IN_FLIGHT  # windows that are kept because those before them have not arrived
GAP = 2**18  # unused bytes that are read with their neighbours, since another request would take longer


def at_once(n_ingredients: int) -> int:
    """The number of requests at a time for each of several ingredients."""
    return max(1, min(IN_FLIGHT, MOST_IN_FLIGHT // n_ingredients))


def window_size(n_ingredients: int) -> int:
    """The size of a request in bytes for each of several ingredients."""
    return min(WINDOW, MEMORY // (n_ingredients * (at_once(n_ingredients) + 1)))


class OtherContentsError(IngredientError):
    """A file that was read to its end has another digest than the server announced: nothing made from it is right."""


class ByteRange(NamedTuple):
    """Bytes of a file.

    Args:
        file (`str`):
            Name of the file in its checkpoint.
        start (`int`), stop (`int`):
            Position of the first byte, and behind the last one.
    """

    file: str
    start: int
    stop: int


class RemoteFiles:
    """The weight files of an ingredient on a server.

    Args:
        name (`str`):
            Name of the ingredient.
        sizes (`Mapping[str, int]`):
            File -> its size in bytes.
        digests (`Mapping[str, str]`):
            File -> its digest as the server reports it, such as `sha256:...`.
        fetch (`Callable[[ByteRange, memoryview], None]`):
            Fills memory with the bytes of a range; it is called from several threads, and has to be picklable.
        refuse_changed (`Callable[[], None]`, *optional*):
            Raises an error if the files are others than before; called before and after reading.
    """

    def __init__(
        self,
        name: str,
        sizes: Mapping[str, int],
        digests: Mapping[str, str],
        fetch: Callable[[ByteRange, memoryview], None],
        refuse_changed: Callable[[], None] | None = None,
    ):
        self.name, self.sizes, self.digests = name, sizes, digests
        self._fetch, self._refuse_changed = fetch, refuse_changed
        self._ahead: ReadAhead | None = None
        self.begin()

    def begin(self) -> None:
        """Forget which files have been verified, before they are read once more."""
        self._verified: set[str] = set()
        self._hashes = {file: self._new_hash(file) for file in self.sizes}

    def _new_hash(self, file: str) -> FileHash:
        return FileHash(self.sizes[file], self.digests[file])

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs; it reads from the beginning."""
        return {key: vars(self)[key] for key in ("name", "sizes", "digests", "_fetch", "_refuse_changed")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._ahead = None
        self.begin()

    def read(self, wanted: ByteRange, into: memoryview) -> None:
        """Fill memory with the bytes of a range, which have arrived already if [`reading_ahead`] was told of them.

        Raises:
            [`IngredientError`]: if the server does not give them.
        """
        ahead = self._ahead
        if wanted.start == wanted.stop:
            return
        if ahead is None:
            self._fetch(wanted, into)
        else:
            ahead.read(wanted, into)

    @contextlib.contextmanager
    def reading_ahead(self, ranges: Iterable[ByteRange], n_ingredients: int) -> Iterator[None]:
        """Request bytes in advance while they are used in the block.

        Args:
            ranges (`Iterable[ByteRange]`):
                The ranges that will be read, in order. Others can be read too, but are waited for.
            n_ingredients (`int`):
                Number of ingredients that are read at the same time.

        Raises:
            [`IngredientError`]: at the end of the block, if a file that was read from its beginning to its end is not
                the one that the server announced.
        """
        if self._ahead is not None:  # as base model and ingredient: the first announcement has all ranges of its own
            yield
            return
        if self._refuse_changed is not None:
            self._refuse_changed()
        ranges = list(ranges)
        starts: dict[str, int] = {}  # file -> where reading begins
        for byte_range in ranges:
            starts.setdefault(byte_range.file, byte_range.start)
        for file, start in starts.items():
            if start < self._hashes[file].position:  # it is read once more
                self._hashes[file] = self._new_hash(file)
        windows = windows_of(ranges, self._hashes, window_size(n_ingredients))
        self._ahead = ReadAhead(windows, self._fetch, self._hash, at_once(n_ingredients))
        try:
            yield
        except BaseException as error:
            self._stop(interrupted=not isinstance(error, Exception))
            raise
        self._stop()
        self._refuse_other_contents()
        if self._refuse_changed is not None:
            self._refuse_changed()

    def _stop(self, *, interrupted: bool = False) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.stop(interrupted=interrupted)

    def _hash(self, window: ByteRange, content: memoryview) -> None:
        self._hashes[window.file].add(window.start, content)

    def _refuse_other_contents(self) -> None:
        changed = []
        for file, hashed in self._hashes.items():
            if hashed.is_whole and hashed.is_right:
                self._verified.add(file)
            elif hashed.is_whole:
                changed.append(file)
        if changed:
            raise OtherContentsError(
                f"{', '.join(changed)} of {self.name!r} came with other contents than the Hub announced: try again, "
                "or download it with stream=False."
            )

    @property
    def verified(self) -> frozenset[str]:
        """The files that were read completely since [`begin`], and have the digest that the server reports."""
        return frozenset(self._verified)


class FileHash:
    """The digest of a file whose bytes arrive in windows, in any order but without gaps.

    Args:
        size (`int`):
            Size of the file in bytes.
        digest (`str`):
            Digest that the server reports: `sha256:...`, or git's `sha1:...` of small files.
    """

    def __init__(self, size: int, digest: str):
        self._algorithm, _, self._expected = digest.partition(":")
        self._size = size
        self._lock = threading.RLock()
        self._waiting: dict[int, memoryview] = {}
        self.position = 0  # bytes that are hashed
        self.is_followed = self._algorithm in ("sha1", "sha256")
        if self.is_followed:
            self._hash = hashlib.new(self._algorithm, b"blob %d\0" % size if self._algorithm == "sha1" else b"")

    def add(self, start: int, content: memoryview) -> None:
        """Add the bytes of a window from `start`."""
        with self._lock:
            if not self.is_followed or start < self.position:
                return
            self._waiting[start] = content
            if len(self._waiting) > MOST_WAITING:  # bytes in between are not read
                self.give_up()
            while self.position in self._waiting:
                following = self._waiting.pop(self.position)
                self._hash.update(following)
                self.position += len(following)

    def give_up(self) -> None:
        """Stop hashing: the windows of the file leave something out, or come in another order."""
        with self._lock:
            self.is_followed = False
            self._waiting.clear()

    @property
    def is_whole(self) -> bool:
        """Whether all bytes of the file are hashed."""
        return self.is_followed and self.position == self._size

    @property
    def is_right(self) -> bool:
        """Whether the digest is that of the server."""
        return self._hash.hexdigest() == self._expected


def windows_of(ranges: Iterable[ByteRange], hashes: Mapping[str, FileHash], size: int) -> list[Window]:
    """The requests for ranges that are read in order: neighbours in one, and large ones in several.

    Args:
        ranges (`Iterable[ByteRange]`):
            The ranges, in the order of use.
        hashes (`Mapping[str, FileHash]`):
            File -> how much of it has been hashed before. A file that is not read on from there is not hashed.
        size (`int`):
            Largest number of bytes of a request.
    """
    windows: list[Window] = []
    planned: dict[ByteRange, list[Window]] = {}  # several adapters read the same tensors of their base model
    last: dict[str, Window] = {}  # file -> its latest window
    for byte_range in ranges:
        file, start, stop = byte_range
        if start == stop:
            continue
        window = last.get(file)
        if byte_range in planned:
            for holder in planned[byte_range]:
                holder.unread += min(stop, holder.stop) - max(start, holder.start)
            continue
        if window is not None and window.start <= start and stop <= window.stop:  # a part that is read twice
            window.unread += stop - start
            continue
        planned[byte_range] = []
        # What is not used is read if it is small: the header of the file, or a tensor between others.
        end = hashes[file].position if window is None else window.stop
        most = min(GAP, size // 2) if end else size - 1
        place = end if 0 <= start - end <= most else start
        while place < stop:
            if window is None or window.stop != place or window.stop - window.start >= size:
                window = last[file] = Window(file, place, place)
                windows.append(window)
            window.stop = min(stop, window.start + size)
            window.unread += max(0, window.stop - max(start, place))
            planned[byte_range].append(window)
            place = window.stop
    _follow(windows, hashes)
    return windows


def _follow(windows: list[Window], hashes: Mapping[str, FileHash]) -> None:
    """Give up hashing the files that are not read on, without a gap, from where they have been hashed up to."""
    ends: dict[str, int] = {}
    for window in windows:
        end = ends.get(window.file, hashes[window.file].position)
        if window.start != end:
            hashes[window.file].give_up()
        ends[window.file] = window.stop


class Window:
    """Bytes of a file that are requested at once, and released when all that are wanted have been read.

    Args:
        file (`str`):
            The file.
        start (`int`), stop (`int`):
            Position of the first byte, and behind the last one.
    """

    def __init__(self, file: str, start: int, stop: int):
        self.file, self.start, self.stop = file, start, stop
        self.unread = 0  # bytes that will be read
        self.content: Future[memoryview] | None = None  # requested, and not released yet
        self.is_released = False


class ReadAhead:
    """Windows that are requested in order, a few more than are in use.

    Args:
        windows (`list[Window]`):
            The windows, in the order of use.
        fetch (`Callable[[ByteRange, memoryview], None]`):
            Fills memory with the bytes of a range.
        arrived (`Callable[[ByteRange, memoryview], None]`):
            Called with each window that has arrived.
        at_once (`int`):
            Number of requests at a time.
    """

    def __init__(
        self,
        windows: list[Window],
        fetch: Callable[[ByteRange, memoryview], None],
        arrived: Callable[[ByteRange, memoryview], None],
        at_once: int,
    ):
        self._fetch, self._arrived = fetch, arrived
        self._at_once = at_once
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(at_once)
        self._to_come = iter(windows)
        self._n_held = 0  # windows that are requested or in use
        self._released: deque[Window] = deque()  # rows of adapters begin a little before what was read last
        self._by_file: dict[str, list[Window]] = {}
        for window in windows:
            self._by_file.setdefault(window.file, []).append(window)
        for of_file in self._by_file.values():
            of_file.sort(key=lambda window: window.start)
        with self._lock:
            self._request_more()

    def _request_more(self) -> None:
        """Request windows until enough are held; the lock is held."""
        while self._n_held <= self._at_once:  # one is in use while the others arrive
            window = next(self._to_come, None)
            if window is None:
                return
            if window.content is None and not window.is_released:  # otherwise a reader was earlier
                self._request(window)

    def _request(self, window: Window) -> Future[memoryview] | None:
        """Request a window; `None` if the system provides no threads, so that its readers read it themselves."""
        window.content = submit(self._pool, self._fetch_window, ByteRange(window.file, window.start, window.stop))
        window.is_released = window.content is None
        self._n_held += not window.is_released
        return window.content

    def _fetch_window(self, window: ByteRange) -> memoryview:
        content = memoryview(bytearray(window.stop - window.start))
        self._fetch(window, content)
        self._arrived(window, content)
        return content

    def read(self, wanted: ByteRange, into: memoryview) -> None:
        """Fill memory with the bytes of a range, from the windows that hold them."""
        file, start, stop = wanted
        while start < stop:
            window = self._window_at(file, start)
            end = stop if window is None else min(stop, window.stop)
            part = into[start - wanted.start : end - wanted.start]
            content = None if window is None else self._content_of(window)
            if window is None or content is None:  # not announced, or read again
                self._fetch(ByteRange(file, start, end), part)
            else:
                part[:] = content[start - window.start : end - window.start]
                self._release(window, end - start)
            start = end

    def _window_at(self, file: str, position: int) -> Window | None:
        windows = self._by_file.get(file, [])
        place = bisect.bisect_right(windows, position, key=lambda window: window.start) - 1
        if place < 0 or position >= windows[place].stop:
            return None
        return windows[place]

    def _content_of(self, window: Window) -> memoryview | None:
        """The bytes of a window, when they have arrived; `None` if they have been released."""
        with self._lock:
            content = window.content
            if content is None and not window.is_released:
                content = self._request(window)
        return None if content is None else content.result()

    def _release(self, window: Window, size: int) -> None:
        """Count bytes that were read, and free a window of which nothing more is wanted."""
        with self._lock:
            window.unread -= size
            if window.unread <= 0 and not window.is_released:
                window.is_released = True
                self._n_held -= 1
                self._released.append(window)
                if len(self._released) > 1:
                    self._released.popleft().content = None
                self._request_more()

    def stop(self, *, interrupted: bool = False) -> None:
        """End the requests; those in progress are not waited for after Ctrl-C."""
        if interrupted:
            INTERRUPTED.set()
        self._pool.shutdown(wait=not interrupted, cancel_futures=True)
