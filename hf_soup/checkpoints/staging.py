"""Folders and files that take their names when they are whole, however the process that makes them ends.

What is not whole yet lies aside, under a lock that ends with its process; the next call removes what a killed one
left. Nothing here knows what the files are.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import math
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OutputError
from .targets import PARTIAL, as_output_error, refuse_folder, refuse_target


if TYPE_CHECKING:
    from matplotlib.figure import Figure


OLD = ".old"  # how the name of a folder ends that is being replaced, where two names cannot be exchanged
TEMPORARY = "hf_soup"  # what temporary folders are called
OURS, THEIRS, UNKNOWN = "ours", "theirs", "unknown"  # which process holds a lock; unknown where nothing can be locked
# Errors of file systems that cannot flush a folder.
NOT_FLUSHED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES, errno.EISDIR)
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
_AT_FDCWD = -100  # of Linux: relative paths are those of the current folder
LONG_AGO = 3600.0  # seconds after which no process still writes a file that lies aside
# The name of a file aside: a dot, the stem of the file, the process and the thread that write it, and the suffix.
_FILE_ASIDE = re.compile(r"\..*\.\d+-\d+" + re.escape(PARTIAL) + r"(\.[^.]*)?", re.DOTALL)


@contextlib.contextmanager
def staged_folder(target: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
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
def staged_files(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder whose files move into `folder` when the block ends well; each replaces one of its name.

    Where there is no such folder yet, it appears with all of its files at once.

    Args:
        folder (`str` or `os.PathLike`):
            Folder that the files go into. Other files in it are left alone.

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
        for path in sorted(stage.rglob("*")):
            if not path.is_file():
                continue
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
    writer = f"{os.getpid()}-{threading.get_ident()}"  # several may write it at once
    aside = path.with_name(f".{path.stem}.{writer}{PARTIAL}{path.suffix}")
    try:
        yield aside
        _flush(aside)
        os.replace(aside, path)
        clear_files_aside(path.parent.iterdir(), older_than=LONG_AGO)
    finally:
        aside.unlink(missing_ok=True)


def clear_files_aside(paths: Iterable[Path], *, older_than: float = -math.inf) -> None:
    """Delete those of some paths that are files aside which a killed process has left.

    Args:
        paths (`Iterable[Path]`):
            Paths in folders that hf_soup writes into.
        older_than (`float`, *optional*):
            Age in seconds from which on they are deleted; all of them by default, which is right where no other
            process writes.
    """
    now = time.time()
    for path in paths:
        if not _FILE_ASIDE.fullmatch(path.name):
            continue
        with contextlib.suppress(OSError):  # another process deletes it too
            if path.is_file() and now - path.stat().st_mtime > older_than:
                path.unlink()


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
        raise OutputError(f"{path} is not a picture: its name does not end in any of {', '.join(sorted(formats))}.")
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
        for name in names:
            path = os.path.join(place, name)
            if os.path.isfile(path):
                _flush(path)
        _flush(place)


def exchange(first: Path, second: Path) -> bool:
    """Let two folders exchange their names at once; `False` where the system cannot.

    Args:
        first (`Path`), second (`Path`):
            Both exist, on one disk.
    """
    name = ctypes.c_char_p(os.fsencode(first))
    other_name = ctypes.c_char_p(os.fsencode(second))
    flags, here = ctypes.c_uint(_EXCHANGE), ctypes.c_int(_AT_FDCWD)
    try:  # Python itself has no call for this
        if sys.platform == "darwin":
            return ctypes.CDLL(None).renamex_np(name, other_name, flags) == 0
        if sys.platform.startswith("linux"):
            return ctypes.CDLL(None).renameat2(here, name, here, other_name, flags) == 0
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
    """Remove the folders aside that a killed process has left; a folder that it had moved away comes back."""
    aside = re.compile(re.escape(f".{name}.") + r"[a-z0-9_]{8}(\.partial|\.old)")  # as `tempfile` makes names
    try:
        entries = os.listdir(parent)
    except OSError:  # a folder that may be written but not listed
        return
    for entry in entries:
        if not aside.fullmatch(entry):
            continue
        path = parent / entry
        with _locked(path) as holder:
            if holder != OURS:  # its process still runs
                continue
            if path.suffix == OLD and not (parent / name).exists():
                path.rename(parent / name)
            else:
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[str]:
    """Hold a lock on a folder of this user's, which ends with the process; yields which process holds it."""
    try:
        import fcntl
    except ImportError:  # Windows: nothing is locked, so nothing is taken for dead
        yield UNKNOWN
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:  # another process has just removed it
        yield THEIRS
        return
    except OSError:
        yield UNKNOWN
        return
    try:
        yield _holder(descriptor, folder, fcntl.flock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def _holder(descriptor: int, folder: Path, flock: Callable[[int, int], None], how: int) -> str:
    """Which process holds the lock of a folder, after an attempt to take it."""
    if os.fstat(descriptor).st_uid != os.geteuid():
        return UNKNOWN
    try:
        flock(descriptor, how)
        # Between opening and locking, another process may have replaced the folder by one of its own.
        is_same = os.path.samestat(os.fstat(descriptor), os.stat(folder))
        return OURS if is_same else THEIRS
    except (BlockingIOError, FileNotFoundError):
        return THEIRS
    except OSError:  # no locks on this disk
        return UNKNOWN


def _flush(path: str | os.PathLike[str]) -> None:
    """Wait until one file, or the names in one folder, are on the disk."""
    on_windows = os.name == "nt"
    if on_windows and os.path.isdir(path):  # which cannot be opened there
        return
    mode = os.O_RDWR if on_windows else os.O_RDONLY  # Windows flushes only what may be written
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_FLUSHED:
            raise
    finally:
        os.close(descriptor)


def _umask() -> int:
    """The process's mask of permissions, which can be read only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
