"""Folders and files that appear under their names only when they are complete, even if the process is killed.

An incomplete one has a temporary name, and a lock that ends with its process; the next call removes what a killed
process left. The content of the files is unknown here.
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
from ..ranks import ALONE, Ranks
from .targets import PARTIAL, as_output_error, refuse_folder, refuse_target


if TYPE_CHECKING:
    from matplotlib.figure import Figure


UNFINISHED = ".unfinished"  # suffix of folders that the next call goes on with
OLD = ".old"  # suffix of a folder that is being replaced, where two names cannot be exchanged
TEMPORARY = "hf_soup"  # prefix of temporary folders
OURS, THEIRS, UNKNOWN = "ours", "theirs", "unknown"  # who holds a lock; unknown without locks
# Errors of file systems that cannot flush a folder.
NOT_FLUSHED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES, errno.EISDIR)
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
_AT_FDCWD = -100  # Linux: relative paths start at the current folder
LONG_AGO = 3600.0  # seconds after which no process still writes a temporary file
# The name of a temporary file: a dot, the stem of the file, the process and thread that write it, and the suffix.
_FILE_ASIDE = re.compile(r"\..*\.\d+-\d+" + re.escape(PARTIAL) + r"(\.[^.]*)?", re.DOTALL)


@contextlib.contextmanager
def staged_folder(target: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder next to `target` that takes its name when the block succeeds, and is deleted otherwise.

    Its files are flushed to the disk before the renaming. If the system supports it, the names of the new and the old
    folder are exchanged atomically, so that a complete folder exists under the name at every moment. If `target` is a
    link to a folder, the folder is replaced and the link stays.

    Args:
        target (`str` or `os.PathLike`):
            The folder to make.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether an existing folder is replaced; it is unchanged until the new one is complete.

    Raises:
        [`OutputError`]: if `target` exists, or something cannot be written.
    """
    target = refuse_target(target, overwrite=overwrite)
    place = Path(os.path.realpath(target))
    with as_output_error(target):
        place.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # a system without a directory for temporary files
            _clear_litter(Path(tempfile.gettempdir()), TEMPORARY)
        with _folder_aside(place.parent, place.name) as stage:
            yield stage
            stage.chmod(0o777 & ~_umask())
            flush_folder(stage)
            _take_name(stage, place, overwrite=overwrite)
            flush_path(place.parent)


@contextlib.contextmanager
def staged_files(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder whose files move into `folder` when the block succeeds; each replaces the file of its name.

    If `folder` does not exist yet, it appears with all of its files at once.

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
        flush_path(target)


@contextlib.contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """A temporary file, with the same suffix, that replaces `path` when the block succeeds, and is deleted otherwise.

    Raises:
        [`OSError`]: if it cannot be written.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f"{os.getpid()}-{threading.get_ident()}"  # several processes may write it at once
    aside = path.with_name(f".{path.stem}.{writer}{PARTIAL}{path.suffix}")
    try:
        yield aside
        flush_path(aside)
        os.replace(aside, path)
        clear_files_aside(path.parent.iterdir(), older_than=LONG_AGO)
    finally:
        aside.unlink(missing_ok=True)


def clear_files_aside(paths: Iterable[Path], *, older_than: float = -math.inf) -> None:
    """Delete those of the given paths that are temporary files of a killed process.

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
    """Write a small JSON file atomically.

    Raises:
        [`OutputError`]: if it cannot be written.
    """
    with as_output_error(path), staged_file(path) as aside:
        aside.write_text(json.dumps(data, indent=2, default=str) + "\n", encoding="utf-8")


def save_figure(figure: Figure, path: Path) -> None:
    """Save a figure to a file atomically.

    Raises:
        [`OutputError`]: if it cannot be written, or matplotlib knows no format of its name.
    """
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise OutputError(f"{path} is not a picture: its name does not end in any of {', '.join(sorted(formats))}.")
    with as_output_error(path), staged_file(path) as aside:
        figure.savefig(aside)


@contextlib.contextmanager
def resumable_folder(
    target: str | os.PathLike[str], key: str, ranks: Ranks = ALONE, *, overwrite: bool = False
) -> Iterator[Path]:
    """A folder next to `target` that takes its name when the block succeeds, and otherwise stays for the next call.

    Everything in it whose name begins with a dot is deleted in the end.

    Args:
        target (`str` or `os.PathLike`):
            The folder to make.
        key (`str`):
            Name of the work: the next call with the same key gets the same folder.
        ranks ([`Ranks`], *optional*):
            Processes that fill the folder together; the first of them renames it.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether an existing folder is replaced; it is unchanged until the new one is complete.

    Raises:
        [`OutputError`]: if `target` exists, something cannot be written, another process does the same work, or a rank
            does not see the folder.
    """
    target = refuse_target(target, overwrite=overwrite)
    place = Path(os.path.realpath(target))
    stage = place.parent / f".{place.name}.{key}{UNFINISHED}"
    with as_output_error(target), contextlib.ExitStack() as stack:
        with ranks.together():
            if ranks.is_first:
                _restore_old(stage, place)
                stage.mkdir(parents=True, exist_ok=True)
                if stack.enter_context(_locked(stage)) == THEIRS:
                    raise OutputError(f"another process is making {target}. Wait for it, or name another folder.")
        blind = [str(rank) for rank, sees in enumerate(ranks.gather(stage.is_dir())) if not sees]
        if blind:
            raise OutputError(
                f"{place.parent} is not shared by all ranks: what the first one writes is not seen by rank "
                f"{', '.join(blind)}. Name a folder on shared storage, or push without one."
            )
        yield stage
        with ranks.together():
            if ranks.is_first:
                for path in stage.glob(".*"):
                    _remove(path)
                stage.chmod(0o777 & ~_umask())
                flush_folder(stage)
                _take_name(stage, place, overwrite=overwrite)
                _clear_unfinished(place)
                flush_path(place.parent)


def _restore_old(stage: Path, place: Path) -> None:
    """Give back its name to a folder that a killed process had moved away."""
    old = stage.with_suffix(OLD)
    if old.is_dir() and not place.exists():
        old.rename(place)


def _clear_unfinished(place: Path) -> None:
    """Remove the unfinished folders of other work for the same target, unless a process is at work on them."""
    form = re.compile(re.escape(f".{place.name}.") + r"[0-9a-f]{16}" + re.escape(UNFINISHED))
    for other in place.parent.iterdir():
        if form.fullmatch(other.name):
            with _locked(other) as holder:
                if holder == OURS:
                    shutil.rmtree(other, ignore_errors=True)


def _remove(path: Path) -> None:
    """Remove a file or a folder with its content."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder in the system's temporary directory, deleted at the end of the block; if the process is killed before,
    by the next call of this function or of [`staged_folder`].

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
    """Wait until the files of a folder and its subfolders are on the disk.

    Raises:
        [`OSError`]: if the disk fails or is full after all.
    """
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = os.path.join(place, name)
            if os.path.isfile(path):
                flush_path(path)
        flush_path(place)


def exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two folders atomically; `False` if the system does not support it.

    Args:
        first (`Path`), second (`Path`):
            Both exist, on one disk.
    """
    name = ctypes.c_char_p(os.fsencode(first))
    other_name = ctypes.c_char_p(os.fsencode(second))
    flags, here = ctypes.c_uint(_EXCHANGE), ctypes.c_int(_AT_FDCWD)
    try:  # Python has no function for this
        if sys.platform == "darwin":
            return ctypes.CDLL(None).renamex_np(name, other_name, flags) == 0
        if sys.platform.startswith("linux"):
            return ctypes.CDLL(None).renameat2(here, name, here, other_name, flags) == 0
    except (AttributeError, OSError):  # a C library that lacks it
        pass
    return False


@contextlib.contextmanager
def _folder_aside(parent: Path, name: str) -> Iterator[Path]:
    """A locked temporary folder in `parent` for the future folder `name`. At the end it is deleted if it still has a
    temporary name, or else the folder with which it was exchanged.
    """
    _clear_litter(parent, name)
    with contextlib.ExitStack() as stack:
        holder = THEIRS
        while holder == THEIRS:  # another process removed it as a leftover before it was locked
            stage = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=PARTIAL, dir=parent))
            stack.callback(shutil.rmtree, stage, ignore_errors=True)
            holder = stack.enter_context(_locked(stage))
        yield stage


def _take_name(stage: Path, target: Path, *, overwrite: bool) -> None:
    """Rename the complete new folder; without `overwrite`, one that another process made meanwhile stays."""
    if not overwrite or not target.exists():
        stage.rename(target)
        return
    if exchange(stage, target):
        return
    old = stage.with_suffix(OLD)
    target.rename(old)
    try:
        stage.rename(target)
    except BaseException:  # also Ctrl-C: the old folder is restored
        if not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _clear_litter(parent: Path, name: str) -> None:
    """Remove the temporary folders of killed processes; a folder that such a process had moved away is restored."""
    aside = re.compile(re.escape(f".{name}.") + r"[a-z0-9_]{8}(\.partial|\.old)")  # the form of names from `tempfile`
    try:
        entries = os.listdir(parent)
    except OSError:  # a folder with permission to write but not to list
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
    """Hold a lock on a folder of this user, which ends with the process; yields which process holds it."""
    try:
        import fcntl
    except ImportError:  # Windows: without locks, no process is assumed to be dead
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
    """Which process holds the lock of a folder, after an attempt to acquire it."""
    if os.fstat(descriptor).st_uid != os.geteuid():
        return UNKNOWN
    try:
        flock(descriptor, how)
        # Between opening and locking, another process may have replaced the folder by its own.
        is_same = os.path.samestat(os.fstat(descriptor), os.stat(folder))
        return OURS if is_same else THEIRS
    except (BlockingIOError, FileNotFoundError):
        return THEIRS
    except OSError:  # this disk does not support locks
        return UNKNOWN


def flush_path(path: str | os.PathLike[str]) -> None:
    """Wait until one file, or the names in one folder, are on the disk."""
    on_windows = os.name == "nt"
    if on_windows and os.path.isdir(path):  # folders cannot be opened there
        return
    mode = os.O_RDWR if on_windows else os.O_RDONLY  # Windows flushes only files that are open for writing
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_FLUSHED:
            raise
    finally:
        os.close(descriptor)


def _umask() -> int:
    """The process's umask, which can be read only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
