"""Worker processes that end with the pool, on Ctrl-C, and when their parent process is killed.

This module does not know what they work on.
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
PATIENCE = 10.0  # seconds that a worker may use for cleanup before it is killed
# The exit status of a process that was ended by SIGTERM, as shells report it.
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
    """Start processes in the block that do not receive Ctrl-C, which a terminal sends to all processes: their parent
    receives it after the block, and ends them.
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
    """The first call in a worker: take one of the devices, and end with the parent process.

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
    _function = pickle.loads(function)  # after the device is set, since imports may look for GPUs


def call_in_worker(item: Any) -> Any:
    """Process an item, unless this worker has to end."""
    if _ending.is_set():
        raise SystemExit(TERMINATED)
    if _function is None:
        raise RuntimeError("begin_worker was not called in this process")
    try:
        return _function(item)
    except SystemExit:
        # The pool catches even this, sends it to the parent and waits for the next item: without a parent, this
        # process would never end.
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            os._exit(TERMINATED)
        raise


def end_workers(pool: ProcessPoolExecutor) -> None:
    """End the processes of a pool: each may use `PATIENCE` seconds for cleanup before it is killed."""
    # The pool has no public list of its processes, and forgets them when it is shut down.
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
    """The SIGTERM handler of a worker: the current item can clean up, and the next one is not started."""
    _ending.set()
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    """Wait in a thread of a worker for the end of its parent process, and then end the worker."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(TERMINATED)
