"""Tensors in pieces, and threads that work them off: so a merge needs the memory of a few pieces, not of a model.

It does not know what is done to a piece.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from ..errors import RecipeError


PIECE = 2**18  # elements: the buffers of a thread stay in cache, and calls are few
MAX_THREADS = 8  # more would wait for memory
T = TypeVar("T")


def piece_starts(numel: int) -> range:
    """Where the pieces of a tensor begin, in elements; an empty tensor has one, which is empty."""
    return range(0, max(numel, 1), PIECE)


def check_device(device: str) -> None:
    """Refuse a device that torch does not have here.

    Raises:
        [`RecipeError`]: with what it said.
    """
    if device == "cpu":
        return
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(f"cannot compute on device={device!r}: {str(error).splitlines()[0]}") from None


def in_threads(items: Iterable[T], make_worker: Callable[[], Callable[[T], None]]) -> None:
    """Work through items on as many threads as torch would use, 8 at most, in about the order in which they come.

    torch's own threads rest meanwhile: each worker computes alone, and records no graph.

    Args:
        items (`Iterable`):
            Of work; drawn one at a time.
        make_worker (`Callable[[], Callable[[T], None]]`):
            Called once on each thread, for what takes an item there: it may have buffers of its own.

    Raises:
        [`Exception`]: the first that a worker raises; what was not begun is left.
    """
    import torch

    threads, todo = torch.get_num_threads(), _shared(items)
    stop = threading.Event()

    def run() -> None:
        torch.set_num_threads(1)
        work = make_worker()
        with torch.no_grad():
            for item in todo:
                if stop.is_set():
                    return
                work(item)

    try:
        with ThreadPoolExecutor(min(threads, MAX_THREADS)) as pool:
            try:
                for future in as_completed([pool.submit(run) for _ in range(min(threads, MAX_THREADS))]):
                    future.result()
            finally:
                stop.set()  # also on Ctrl-C
    finally:
        torch.set_num_threads(threads)


class _shared(Iterator[T]):  # noqa: N801
    """One iterator that several threads draw from."""

    def __init__(self, items: Iterable[T]):
        self._items = iter(items)
        self._lock = threading.Lock()

    def __next__(self) -> T:
        with self._lock:
            return next(self._items)
