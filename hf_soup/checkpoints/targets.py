"""Checks before any work whether a target can be written, shared by all commands; they leave no files behind."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import OutputError
from ..untrusted import one_line
from .store import is_address


PARTIAL = ".partial"  # suffixes of folders under construction, next to their final names
ROOM = "x" * 100 + os.sep + "x" * 100  # the longest path that will be created in a folder, with a margin
MOUNTS = Path("/proc/self/mountinfo")  # of Linux
MOUNT_POINT = 4  # the field of its lines that holds a path


@contextlib.contextmanager
def as_output_error(target: str | os.PathLike[str]) -> Iterator[None]:
    """Convert the system's error about a file that cannot be written to an [`OutputError`]."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {one_line(target)}: {error.strerror or error}.") from None


def refuse_target(target: str | os.PathLike[str], *, overwrite: bool = False, keep: Iterable[Path] = ()) -> Path:
    """The absolute path of a folder that may be created, or replaced with `overwrite=True`.

    If it is a link to a folder, the folder is created or replaced, and the link stays.

    Args:
        target (`str` or `os.PathLike`):
            The folder.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether an existing target may be replaced.
        keep (`Iterable[Path]`, *optional*):
            Folders that it may neither be nor hold.

    Raises:
        [`OutputError`]: if it may not be made, or cannot: it is a file, below a file or a mount point, or its place
            is not writable.
    """
    target = absolute(target)
    place = _folder_of(target)
    exists = os.path.isdir(place)
    if exists:
        _refuse_full(place, target, overwrite=overwrite)
    for folder in (*_current_folder(), *keep):
        if folder.resolve().is_relative_to(place):
            raise OutputError(f"{target} holds {folder}, which would be lost. Name another folder.")
    if is_mount(place):
        raise OutputError(f"{target} is a mount point, which cannot be replaced; name a folder in it.")
    if exists and not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {target}: it is read-only.")
    _try_to_write(place.parent, place.name, target)
    return target


def _refuse_full(place: Path, target: Path, *, overwrite: bool) -> None:
    """Refuse a folder that is not empty, unless it may be replaced."""
    with as_output_error(target):  # a folder that is replaced has to be readable as well
        is_full = any(place.iterdir())
    if is_full and not overwrite:
        raise OutputError(
            f"{target} exists and is not empty. Name another folder, or pass overwrite=True (--overwrite)."
        )


def refuse_folder(target: str | os.PathLike[str]) -> Path:
    """The absolute path of a folder to which files may be added; it is created if it is missing.

    Raises:
        [`OutputError`]: if it is a file, below a file, or not writable.
    """
    target = absolute(target)
    place = _folder_of(target)
    _try_to_write(place, place.name, target)
    return target


def refuse_file(target: str | os.PathLike[str]) -> Path:
    """The absolute path of a file that may be written or replaced.

    Raises:
        [`OutputError`]: if it is a folder, below a file, or not writable.
    """
    target = absolute(target)
    if os.path.isdir(target):
        raise OutputError(f"{target} is a folder; name a file.")
    place = _place_of(target)
    _try_to_write(place.parent, place.name, target)
    return target


def absolute(target: str | os.PathLike[str]) -> Path:
    """The absolute path of a target, without following links.

    Raises:
        [`OutputError`]: if it is no path, or relative to a current folder that is gone.
    """
    if is_address(target):
        raise OutputError(
            f"{one_line(target)} is an address: only soups are saved there (save_pretrained, merge -o). Name a folder."
        )
    try:
        os.fsencode(target)
        if "\0" in os.fsdecode(target):
            raise ValueError("embedded null byte")
        return Path(os.path.abspath(Path(target).expanduser()))
    except FileNotFoundError:
        raise OutputError(f"{one_line(target)} is relative to the current folder, which is gone.") from None
    except (RuntimeError, ValueError) as error:  # an unknown user (`~name`), NUL, a lone surrogate
        raise OutputError(f"{one_line(target)} is not the path of a folder: {one_line(error)}.") from None


def is_mount(folder: Path) -> bool:
    """Whether a folder is a mount point."""
    if os.path.ismount(folder):
        return True
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # not Linux
        return False
    # `ismount` does not detect a bind mount from the same disk.
    for line in lines:
        mount_point = line.split(" ")[MOUNT_POINT]
        if _unescaped(mount_point) == str(folder):
            return True
    return False


def _unescaped(path: str) -> str:
    """A path from the list of mounts, which has spaces, line breaks and backslashes as octal escapes."""
    return re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), path)


def _place_of(target: Path) -> Path:
    """The location of a target after links are followed; its parents are folders or do not exist yet."""
    place = Path(os.path.realpath(target))
    if os.path.islink(place):
        raise OutputError(f"{target} is a link that leads to itself.")
    with as_output_error(target), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.lstat(place / ROOM)  # the system reports at once if the path is too long
    above = nearest(place.parent)
    if not os.path.isdir(above):
        raise OutputError(f"{target} is below {above}, which is a file; name another place.")
    return place


def _folder_of(target: Path) -> Path:
    """The location of an existing or future folder after links are followed."""
    place = _place_of(target)
    if os.path.lexists(place) and not os.path.isdir(place):
        raise OutputError(f"{target} is a file; name a folder.")
    return place


def nearest(place: Path) -> Path:
    """The path itself, or the nearest one above it that exists."""
    return next((path for path in (place, *place.parents) if os.path.lexists(path)), place)


def _try_to_write(folder: Path, name: str, target: Path) -> None:
    """Create and remove the first file or folder to be written; permissions do not cover `/proc` or quotas."""
    existing = nearest(folder)
    missing_names = folder.relative_to(existing).parts
    longest_name = max((name, *missing_names), key=lambda missing: len(os.fsencode(missing)))
    with as_output_error(target):
        trial = tempfile.mkdtemp(prefix=f".{longest_name}.", suffix=PARTIAL, dir=existing)
        with contextlib.suppress(FileNotFoundError):  # another process has just deleted it as a leftover
            os.rmdir(trial)


def _current_folder() -> list[Path]:
    """The current folder; empty if it has been deleted."""
    try:
        return [Path.cwd()]
    except FileNotFoundError:  # it has been deleted, and cannot be lost
        return []
