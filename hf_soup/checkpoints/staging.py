"""Folders and files that take their names when they are whole, however the process that makes them ends.

What is not whole yet lies aside, under a lock that ends with its process; the next call removes what a killed one
left. Nothing here knows what the files are.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OutputError
from .targets import PARTIAL, as_output_error, refuse_folder, refuse_target


if TYPE_CHECKING:
    from matplotlib.figure import Figure


OLD = ".old"  # how the name of a folder ends that is being replaced, where two names cannot be exchanged
TEMPORARY = "hf_soup"  # what temporary folders are called
OURS, THEIRS, UNKNOWN = "ours", "theirs", "unknown"  # who holds a lock; unknown where nothing can be locked
# What systems answer that cannot flush a folder.
NOT_FLUSHED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES, errno.EISDIR)
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
LONG_AGO = 3600.0  # seconds after which a file that lies aside belongs to nobody


@contextlib.contextmanager
def staged_folder(target: str | os.PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its name when the block ends well, and is deleted otherwise.

    Its files are on the disk before it takes the name. Where the system can, it and the folder that it replaces
    exchange their names at once, so that there is a whole folder under the name at every moment. Of a link to a
    folder, what it points to is replaced, and the link stays.

    Args:
        target (`str` or `os.PathLike`):
            The folder to make.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether a folder that is there is replaced; it stays as it was until the new one is whole.

    Raises:
        [`OutputError`]: if `target` exists, or something cannot be written.
    """
    target = refuse_target(target, overwrite=overwrite)
    place = Path(os.path.realpath(target))
    with as_output_error(target):
        place.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # a system without a place for temporary files
            _clear_litter(Path(tempfile.gettempdir()), TEMPORARY)
        with _folder_aside(place.parent, place.name) as stage:
            yield stage
            stage.chmod(0o777 & ~_umask())
            flush_folder(stage)
            _take_name(stage, place, overwrite=overwrite)
            _flush(place.parent)


@contextlib.contextmanager
def staged_files(folder: str | os.PathLike) -> Iterator[Path]:
    """A temporary folder whose files move into `folder` when the block ends well; each replaces one of its name.

    Where there is no such folder yet, it appears with all of its files at once.

    Args:
        folder (`str` or `os.PathLike`):
            What else it holds stays.

    Raises:
        [`OutputError`]: if something cannot be written.
    """
    target = refuse_folder(folder)
    if not target.exists():
        with staged_folder(target) as stage:
            yield stage
        return
    with as_output_error(target), _folder_aside(target, target.name) as stage:
        yield stage
        flush_folder(stage)
        for path in sorted(path for path in stage.rglob("*") if path.is_file()):
            new = target / path.relative_to(stage)
            new.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, new)
        _flush(target)


@contextlib.contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """A file aside, of the same suffix, that replaces `path` when the block ends well, and is deleted otherwise.

    Raises:
        [`OSError`]: if it cannot be written.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = f"{os.getpid()}-{threading.get_ident()}"  # several may write it at once
    aside = path.with_name(f".{path.stem}.{mine}{PARTIAL}{path.suffix}")
    try:
        yield aside
        _flush(aside)
        os.replace(aside, path)
        _clear_old_files(path)
    finally:
        aside.unlink(missing_ok=True)


def _clear_old_files(path: Path) -> None:
    """Delete what processes that were killed have left beside a file some time ago."""
    ours = re.compile(re.escape(f".{path.stem}.") + r"\d+-\d+" + re.escape(f"{PARTIAL}{path.suffix}"))
    for other in path.parent.iterdir():
        with contextlib.suppress(OSError):
            if ours.fullmatch(other.name) and time.time() - other.stat().st_mtime > LONG_AGO:
                other.unlink()


def clear_files_aside(folder: Path) -> None:
    """Delete files that a killed process has left aside in a folder or below it, while no other process writes."""
    for path in folder.rglob(f".*{PARTIAL}.*"):
        if path.is_file():
            path.unlink(missing_ok=True)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a small file so that it is there whole or not at all.

    Raises:
        [`OutputError`]: if it cannot be written.
    """
    with as_output_error(path), staged_file(path) as aside:
        aside.write_text(json.dumps(data, indent=2, default=str) + "\n", encoding="utf-8")


def save_figure(figure: Figure, path: Path) -> None:
    """Draw a picture into a file, which is there whole or not at all.

    Raises:
        [`OutputError`]: if it cannot be written, or matplotlib knows no format of its name.
    """
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise OutputError(f"{path} is no picture: its name ends in none of {', '.join(sorted(formats))}.")
    with as_output_error(path), staged_file(path) as aside:
        figure.savefig(aside)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder in the system's place for temporary files, deleted when the block ends; if the process is killed
    before, by the next call of this function or of [`staged_folder`].

    Raises:
        [`OutputError`]: if there is no such place that can be written.
    """
    with as_output_error("temporary files"):
        place = tempfile.gettempdir()
    with contextlib.ExitStack() as stack:
        with as_output_error(place):
            stage = stack.enter_context(_folder_aside(Path(place), TEMPORARY))
        yield stage


def flush_folder(folder: Path) -> None:
    """Wait until the files of a folder, and those of the folders in it, are on the disk.

    Raises:
        [`OSError`]: if the disk fails or is full after all.
    """
    for place, _, names in os.walk(folder, topdown=False):
        for path in (os.path.join(place, name) for name in names):
            if os.path.isfile(path):
                _flush(path)
        _flush(place)


def exchange(one: Path, other: Path) -> bool:
    """Let two folders exchange their names at once; `False` where the system cannot.

    Args:
        one (`Path`), other (`Path`):
            Both exist, on one disk.
    """
    names = ctypes.c_char_p(os.fsencode(one)), ctypes.c_char_p(os.fsencode(other))
    try:
        if sys.platform == "darwin":
            return ctypes.CDLL(None).renamex_np(*names, ctypes.c_uint(_EXCHANGE)) == 0
        if sys.platform.startswith("linux"):
            here = ctypes.c_int(-100)  # AT_FDCWD: paths as they are
            return ctypes.CDLL(None).renameat2(here, names[0], here, names[1], ctypes.c_uint(_EXCHANGE)) == 0
    except (AttributeError, OSError):  # a C library that lacks it
        pass
    return False


@contextlib.contextmanager
def _folder_aside(parent: Path, name: str) -> Iterator[Path]:
    """A locked folder in `parent` for what will be called `name`. In the end it is deleted where it still has a name
    of its own, or what it was exchanged with is.
    """
    _clear_litter(parent, name)
    with contextlib.ExitStack() as stack:
        holder = THEIRS
        while holder == THEIRS:  # another process has taken it for litter before it was locked
            stage = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=PARTIAL, dir=parent))
            stack.callback(shutil.rmtree, stage, ignore_errors=True)
            holder = stack.enter_context(_locked(stage))
        yield stage


def _take_name(stage: Path, target: Path, *, overwrite: bool) -> None:
    """Rename the whole new folder; without `overwrite`, one that another process has made meanwhile is left alone."""
    if not overwrite or not target.exists():
        stage.rename(target)
        return
    if exchange(stage, target):
        return
    old = stage.with_suffix(OLD)
    target.rename(old)
    try:
        stage.rename(target)
    except BaseException:  # also Ctrl-C: the old folder comes back
        if not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _clear_litter(parent: Path, name: str) -> None:
    """Remove what a process that was killed has left; what it had moved away comes back."""
    ours = re.compile(re.escape(f".{name}.") + r"[a-z0-9_]{8}(\.partial|\.old)")
    try:
        found = [parent / entry for entry in os.listdir(parent) if ours.fullmatch(entry)]
    except OSError:  # a folder that may be written but not listed
        return
    for path in found:
        with _locked(path) as holder:
            if holder != OURS:
                continue
            if path.suffix == OLD and not (parent / name).exists():
                path.rename(parent / name)
            else:
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[str]:
    """Hold a lock on a folder of this user's, which ends with the process; gives who holds it."""
    try:
        import fcntl
    except ImportError:  # Windows: nothing is locked, so nothing is taken for dead
        yield UNKNOWN
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:  # somebody else has just removed it
        yield THEIRS
        return
    except OSError:
        yield UNKNOWN
        return
    try:
        yield _holder(descriptor, folder, fcntl.flock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def _holder(descriptor: int, folder: Path, flock: Any, how: int) -> str:
    if os.fstat(descriptor).st_uid != os.geteuid():
        return UNKNOWN
    try:
        flock(descriptor, how)
        return OURS if os.path.samestat(os.fstat(descriptor), os.stat(folder)) else THEIRS
    except (BlockingIOError, FileNotFoundError):
        return THEIRS
    except OSError:  # no locks on this disk
        return UNKNOWN


def _flush(path: str | os.PathLike) -> None:
    """Wait until one file, or the names in one folder, are on the disk."""
    windows = os.name == "nt"
    if windows and os.path.isdir(path):
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_FLUSHED:
            raise
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
