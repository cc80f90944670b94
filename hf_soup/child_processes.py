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
from typing import Any, NoReturn


DEVICES = "CUDA_VISIBLE_DEVICES"
PATIENCE = 10.0  # seconds that a worker has to clean up before it is killed

# of a worker process: what it calls, and whether it is to end
_function: list[Callable[[Any], Any]] = []
_ending = threading.Event()


@contextlib.contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Processes that are started in the block do not hear Ctrl-C, which a terminal sends to all: the one that began
    them does, and ends them. It hears it after the block.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_worker(devices: Any, function: bytes) -> None:
    """The first call in a worker: it takes one of the devices, and ends with the process that began it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, _end)
    os.environ[DEVICES] = devices.get()
    _function[:] = [pickle.loads(function)]


def call_in_worker(item: Any) -> Any:
    """Work on an item, unless this worker is to end."""
    if _ending.is_set():
        raise SystemExit(143)
    try:
        return _function[0](item)
    except SystemExit:
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():  # nobody reads what becomes of the item
            os._exit(143)
        raise


def end_workers(pool: ProcessPoolExecutor) -> None:
    """End the processes of a pool: they clean up what they are at, and are killed if that takes too long."""
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
    _ending.set()
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(143)
