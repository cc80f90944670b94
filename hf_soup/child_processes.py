"""Worker processes that end when their work does: with the pool, on Ctrl-C, and when the process that began them is
killed.

It does not know what they work on.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from types import FrameType
from typing import Any, NoReturn, Protocol


DEVICES = "CUDA_VISIBLE_DEVICES"
PATIENCE = 10.0  # seconds that a worker has to clean up before it is killed
# The exit status of a process that SIGTERM has ended, as shells report it.
TERMINATED = 128 + signal.SIGTERM

# State of a worker process: the function that it calls on each item, and whether it has been asked to end.
_function: Callable[[Any], Any] | None = None
_ending = threading.Event()


class DeviceQueue(Protocol):
    """The queue from which each worker takes its device; `SimpleQueue` of multiprocessing is one."""

    def get(self) -> str:
        """The next device, in the form of `CUDA_VISIBLE_DEVICES`."""


@contextlib.contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Processes that are started in the block do not receive Ctrl-C, which a terminal sends to all: the process that
    began them receives it after the block, and ends them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_worker(devices: DeviceQueue, function: bytes) -> None:
    """The first call in a worker: it takes one of the devices, and ends with the process that began it.

    Args:
        devices (`DeviceQueue`):
            Holds one device for each worker.
        function (`bytes`):
            The pickled function that the worker calls on each item.
    """
    global _function
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, _end)
    os.environ[DEVICES] = devices.get()
    _function = pickle.loads(function)  # after the device is set: what this imports may look for GPUs


def call_in_worker(item: Any) -> Any:
    """Work on an item, unless this worker is to end."""
    if _ending.is_set():
        raise SystemExit(TERMINATED)
    if _function is None:
        raise RuntimeError("begin_worker was not called in this process")
    try:
        return _function(item)
    except SystemExit:
        # The pool catches even this, sends it to the parent and waits for the next item: without a parent this
        # process would never end.
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            os._exit(TERMINATED)
        raise


def end_workers(pool: ProcessPoolExecutor) -> None:
    """End the processes of a pool: each may clean up for `PATIENCE` seconds, and is killed after that."""
    # The pool has no public list of its processes. It forgets them when it is shut down, so they come first.
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()


def _end(number: int, _: FrameType | None) -> NoReturn:
    """The handler of SIGTERM in a worker: what it works on can clean up, and the next item is not begun."""
    _ending.set()
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    """Wait in a thread of a worker for the end of the process that began it, and then end the worker."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(TERMINATED)
