"""Calls that wait for a disk or a server, made in parallel. What they do is unknown here.

Such a function must not be the first to import a large library: two threads that import one at the same time may see
it partially initialised (transformers replaces its own module while it is imported).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar


MOST = 8  # threads at once
# Set after Ctrl-C: Python raises it only in the main thread, so other threads check this while they wait.
INTERRUPTED = threading.Event()
T = TypeVar("T")
R = TypeVar("R")


def side_by_side(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """The results of a function for each item, in order, computed on at most 8 threads.

    If the system provides no more threads, the existing ones do the work, or else the calling thread.

    Args:
        function (`Callable`):
            Function to call.
        items (`Iterable`):
            Items to call it with. A single item is handled in the calling thread.

    Raises:
        [`Exception`]: the first that the function raises, in the order of the items.
    """
    items = list(items)
    if len(items) < 2:
        return [function(item) for item in items]
    pool = ThreadPoolExecutor(min(MOST, len(items)))
    interrupted = False
    try:
        futures: list[Future[R]] = []
        for item in items:
            future = submit(pool, function, item)
            if future is None:
                break
            futures.append(future)
        results = [future.result() for future in futures]
    except (KeyboardInterrupt, SystemExit):
        interrupted = True
        INTERRUPTED.set()
        raise
    finally:
        # If one item has failed, pending ones are skipped. After Ctrl-C nothing is waited for, since a request to a
        # server may take minutes.
        pool.shutdown(wait=not interrupted, cancel_futures=True)
    without_thread = [function(item) for item in items[len(results) :]]
    return results + without_thread


def submit(pool: ThreadPoolExecutor, function: Callable[..., R], *arguments: object) -> Future[R] | None:
    """Submit a call to a pool; `None` if the pool needs another thread and the system provides none."""
    try:
        return pool.submit(function, *arguments)
    except RuntimeError:  # "can't start new thread"
        return None
