"""Several processes that share each run, as `accelerate launch` starts them: who writes, shows bars, and waits."""

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
    """Wait until all processes are here."""
    if is_launched():
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def give_up(error: Exception) -> None:
    """End all processes, for the others wait for the one that failed.

    Raises:
        [`Exception`]: the error, if there are several processes.
    """
    if is_launched():
        raise error


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keep other programs from training in a folder, which is made; where the system locks no folders it is theirs.

    Raises:
        [`TrainingError`]: if another one does.
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

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
        except BlockingIOError:
            why = f"another process is training in {folder}"
            raise TrainingError(f"{why}. Wait for it, or use another folder.") from None
        except (ImportError, OSError):  # no locks on this system, or on this file system
            pass
        yield
    finally:
        os.close(descriptor)
