"""Reading and copying of files in a checkpoint's folder, and only of files in it.

A link that leads out of the folder is refused, whatever its name, since a soup would otherwise copy its target. In the
Hub's cache, files are links to blobs of the same repository. File formats are unknown here.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import IngredientError
from ..untrusted import SMALL_FILE, as_error, one_line, open_file, parse_json, read_file
from .hub_answers import is_commit, is_digest


VALUES = 1_000_000  # values in a JSON file: each takes up to a hundred bytes of memory
VALUES_OF_WORDS = 5_000_000  # the same for a vocabulary with its merges
BLOCK = 2**20  # bytes read at once from files that may be large
_REPOSITORY = re.compile(r"models--[\w.-]+")  # a repository's folder in the Hub's cache


def lies_in(folder: Path, path: Path) -> bool:
    """Whether a file or folder is inside the given folder after all links on its path are followed.

    Args:
        folder (`Path`):
            Folder of the checkpoint. It may itself be reached through links, since the user named it.
        path (`Path`):
            A path below it.
    """
    return _lies_in(folder.resolve(), path.resolve())


def _lies_in(folder: Path, place: Path) -> bool:
    """Whether a place is inside a folder, both without links."""
    if place.is_relative_to(folder):
        return True
    # The Hub's cache stores contents outside the snapshots, which link to them.
    blobs = _blobs_of(folder)
    return blobs is not None and place.parent == blobs and is_digest(place.name)


def _blobs_of(folder: Path) -> Path | None:
    """The folder with a repository's contents, for a snapshot in a cache of the Hub or a folder in one."""
    for snapshot in (folder, *folder.parents):
        repository = snapshot.parent.parent  # <repository>/snapshots/<commit>
        is_snapshot = snapshot.parent.name == "snapshots" and is_commit(snapshot.name)
        if is_snapshot and _REPOSITORY.fullmatch(repository.name):
            return repository / "blobs"
    return None


def place_of(folder: Path, name: str) -> Path:
    """The resolved path of a file in a folder, which is safe to open.

    Args:
        folder (`Path`):
            Folder of the checkpoint.
        name (`str`):
            Relative to it.

    Raises:
        [`IngredientError`]: if it is, or lies below, a link out of the folder.
    """
    path = folder / name
    with as_error(IngredientError, f"{one_line(path)} cannot be read"):
        place = path.resolve()
        if not _lies_in(folder.resolve(), place):
            raise IngredientError(
                f"{one_line(path)} is a link out of its folder, which is not followed. Copy the file to its place."
            )
    return place


def is_there(folder: Path, name: str) -> bool:
    """Whether a folder has a file or link with this name; raises the errors of [`place_of`]."""
    path = folder / name
    with as_error(IngredientError, f"{one_line(path)} cannot be read"):
        return place_of(folder, name).is_file()


def read_inside(folder: Path, name: str, *, at_most: int = SMALL_FILE) -> bytes:
    """Read the bytes of a regular file in a folder.

    Raises:
        [`FileNotFoundError`]: if there is no such file.
        [`IngredientError`]: if it is a link out of the folder, no regular file, larger, or cannot be read.
    """
    return read_file(place_of(folder, name), at_most=at_most)


def json_inside(folder: Path, name: str) -> Any:
    """The content of a JSON file in a folder; raises the errors of [`read_inside`] and [`parse_bounded`]."""
    return parse_bounded(read_inside(folder, name), str(folder / name))


def parse_bounded(content: bytes, where: str, *, most: int = VALUES) -> Any:
    """Parse a JSON text, with a limit on the number of values in it.

    Args:
        content (`bytes`):
            The text.
        where (`str`):
            Name of the file in errors.
        most (`int`, *optional*, defaults to 1,000,000):
            Largest number of values and brackets.

    Raises:
        [`IngredientError`]: if it has more, or is no JSON.
    """
    separators = sum(content.count(mark) for mark in (b",", b":", b"[", b"{"))  # approximately the number of values
    if separators > most:
        raise IngredientError(f"{one_line(where)} holds more than {most:,} values, which no such file needs.")
    return parse_json(content, where)


def blocks_of(folder: Path, name: str, *, at_most: int) -> Iterator[bytes]:
    """The bytes of a file in pieces, for files that may be large; raises the errors of [`read_inside`]."""
    left = at_most
    where = one_line(folder / name)
    with open_file(place_of(folder, name)) as file, as_error(IngredientError, f"{where} cannot be read"):
        while block := file.read(BLOCK):
            left -= len(block)
            if left < 0:
                raise IngredientError(f"{where} is larger than {at_most:,} bytes, which are taken at most.")
            yield block


class FolderContents(NamedTuple):
    """The contents of a folder and its subfolders, as relative names with `/`; hidden folders are skipped.

    Args:
        sizes (`dict[str, int]`):
            Regular files of the folder, including links to such, with their sizes in bytes.
        linked_folders (`tuple[str, ...]`):
            Links to folders elsewhere, which are not followed.
        special_files (`tuple[str, ...]`):
            Pipes, sockets and devices.
    """

    sizes: dict[str, int]
    linked_folders: tuple[str, ...]
    special_files: tuple[str, ...]


def contents_of(folder: Path) -> FolderContents:
    """List the contents of a folder in one walk.

    Raises:
        [`IngredientError`]: if the folder, or one in it, cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise IngredientError(f"cannot read {one_line(error.filename)}: {one_line(error.strerror)}.")

    sizes: dict[str, int] = {}
    linked_folders: list[str] = []
    special_files: list[str] = []
    for place, folder_names, file_names in os.walk(folder, onerror=refuse):
        folder_names[:] = [name for name in folder_names if not name.startswith(".")]  # `os.walk` skips the others
        for name in folder_names:
            path = Path(place, name)
            if path.is_symlink() and not lies_in(folder, path):
                linked_folders.append(path.relative_to(folder).as_posix())
        for name in file_names:
            path = Path(place, name)
            try:
                if path.is_file():
                    sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
                elif _is_special(path):
                    special_files.append(path.relative_to(folder).as_posix())
            except OSError as error:
                refuse(error)
    return FolderContents(sizes, tuple(linked_folders), tuple(special_files))


def _is_special(path: Path) -> bool:
    """Whether a path is anything other than a file, a folder or a link; links may be broken."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:  # deleted during the walk
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISLNK(mode))
