"""Tensors in pieces, and threads that process them, so that a merge needs the memory of a few pieces instead of a
model.

This module does not know what is done with a piece.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from ..errors import RecipeError
from ..threads import submit


PIECE = 2**18  # elements: the buffers of a thread stay in the cache, and calls are few
# Measured by `benchmarks/threads.py`: from memory, more threads than cores are slower. On storage that answers slowly
# they are faster, so that OMP_NUM_THREADS may ask for as many.
MAX_THREADS = 8
T = TypeVar("T")


def piece_starts(numel: int) -> range:
    """The first element of each piece of a tensor; an empty tensor has one empty piece."""
    return range(0, max(numel, 1), PIECE)


def check_device(device: str) -> None:
    """Refuse a device that torch cannot use here.

    Raises:
        [`RecipeError`]: with what it said.
    """
    if device == "cpu":
        return
    import torch

    try:
        torch.zeros(1, device=device, dtype=torch.float64).item()  # sums of float32 values are computed in float64
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        # each kind of device raises its own errors when it is missing
        raise RecipeError(f"cannot compute on device={device!r}: {str(error).splitlines()[0]}") from None


def in_threads(items: Iterable[T], make_worker: Callable[[], Callable[[T], None]], *, with_torch: bool = True) -> None:
    """Process items on as many threads as torch would use, at most 8, approximately in order.

    torch's own threads are idle meanwhile: each worker computes on one thread, without recording a graph.

    Args:
        items (`Iterable`):
            Items to work on, which are drawn one at a time.
        make_worker (`Callable[[], Callable[[T], None]]`):
            Called once on each thread, for what takes an item there: it may have buffers of its own.
        with_torch (`bool`, *optional*, defaults to `True`):
            Whether the workers use torch; otherwise it is not imported, which takes one or two seconds.

    Raises:
        [`Exception`]: the first that a worker raises; what was not begun is left.
    """
    shared_items, stop = _SharedIterator(items), threading.Event()
    with_torch = with_torch or "torch" in sys.modules  # whose number of threads may have been changed

    def run() -> None:
        work = make_worker()
        with _one_thread_of_torch() if with_torch else contextlib.nullcontext():
            for item in shared_items:
                if stop.is_set():
                    return
                work(item)

    at_rest = _torch_at_rest() if with_torch else contextlib.nullcontext(_threads_without_torch())
    with at_rest as threads, ThreadPoolExecutor(threads) as pool:
        try:
            running = []
            for _ in range(threads):
                future = submit(pool, run)
                if future is not None:
                    running.append(future)
            for future in as_completed(running):
                future.result()
            if not running:  # the system provides no threads, so the calling thread does the work
                run()
        finally:
            stop.set()  # also on Ctrl-C


def _threads_without_torch() -> int:
    """The number of threads to use, as torch would count them."""
    threads = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        threads = len(os.sched_getaffinity(0))
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given) > 0:
        threads = int(given)
    return min(threads, MAX_THREADS)


@contextlib.contextmanager
def _one_thread_of_torch() -> Iterator[None]:
    """Compute on the calling thread alone, without recording a graph."""
    import torch

    torch.set_num_threads(1)  # the pool has as many threads as torch would use for one piece
    with torch.no_grad():
        yield


_LOCK = threading.Lock()
_threads_before: list[int] = []  # for the calls in progress, torch's number of threads before the first of them


@contextlib.contextmanager
def _torch_at_rest() -> Iterator[int]:
    """Yield the number of threads to use; torch's own number is reduced, and restored when the last call ends.

    Calls can overlap, and a later one would otherwise take the reduced number for torch's own.
    """
    import torch

    with _LOCK:
        if _threads_before:
            threads = _threads_before[0]
        else:
            threads = torch.get_num_threads()
        _threads_before.append(threads)
    try:
        yield min(threads, MAX_THREADS)
    finally:
        with _LOCK:
            _threads_before.pop()
            if not _threads_before:
                torch.set_num_threads(threads)


class _SharedIterator(Iterator[T]):
    """One iterator that several threads draw from."""

    def __init__(self, items: Iterable[T]):
        self._items = iter(items)
        self._lock = threading.Lock()

    def __next__(self) -> T:
        with self._lock:
            return next(self._items)
