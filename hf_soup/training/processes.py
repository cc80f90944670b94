"""Processes that share each run under `accelerate launch`: which of them writes files, and how they wait."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..checkpoints.targets import as_output_error
from ..errors import TrainingError
from ..evaluation.running import is_launched


def is_main() -> bool:
    """Whether this process is the only one, or the one that writes files."""
    if not is_launched():
        return True
    from accelerate import PartialState

    return PartialState().is_main_process


def wait() -> None:
    """Wait until all processes have reached this point."""
    if is_launched():
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def give_up(error: Exception) -> None:
    """End all processes, because the others would wait for the one that failed.

    Raises:
        [`Exception`]: the error, if there are several processes.
    """
    if is_launched():
        raise error


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Create a folder and lock it against other programs that train in it, if the file system has locks.

    Raises:
        [`TrainingError`]: if another program holds the lock.
    """
    if not is_main():
        yield
        return
    with as_output_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the process ends, however it ends
        except BlockingIOError:
            why = f"another process is training in {folder}"
            raise TrainingError(f"{why}. Wait for it, or use another folder.") from None
        except (ImportError, OSError):  # no locks on this system, or on this file system
            pass
        yield
    finally:
        os.close(descriptor)
