"""Files that lie in a checkpoint's folder, read and copied from there and from nowhere else.

A link that leads out of the folder is refused, whatever it is called: a soup would carry off what it points to. In the
Hub's cache files are links to blobs of the same repository. It knows no format.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import IngredientError
from ..untrusted import SMALL_FILE, as_error, one_line, open_file, parse_json, read_file


VALUES = 1_000_000  # in a file of JSON: each takes up to a hundred bytes of memory
VALUES_OF_WORDS = 5_000_000  # the same of a vocabulary with its merges
BLOCK = 2**20  # bytes that are read at once of what may be large
_REPOSITORY = re.compile(r"models--[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def lies_in(folder: Path, path: Path) -> bool:
    """Whether a file or folder is where its folder says, once all links on the way to it are followed.

    Args:
        folder (`Path`):
            Of the checkpoint; it may itself be reached through links, since the user named it.
        path (`Path`):
            A path below it.
    """
    folder, place = folder.resolve(), path.resolve()
    if place.is_relative_to(folder):
        return True
    blobs = _blobs_of(folder)
    return blobs is not None and place.parent == blobs and bool(_BLOB.fullmatch(place.name))


def _blobs_of(folder: Path) -> Path | None:
    """Of a snapshot in a cache of the Hub, or a folder in one: where the contents of its repository lie."""
    for snapshot in (folder, *folder.parents):
        repository = snapshot.parent.parent
        if (
            snapshot.parent.name == "snapshots"
            and _COMMIT.fullmatch(snapshot.name)
            and _REPOSITORY.fullmatch(repository.name)
        ):
            return repository / "blobs"
    return None


def place_of(folder: Path, name: str) -> Path:
    """The file of a folder without links on the way, which may be opened.

    Args:
        folder (`Path`):
            Of the checkpoint.
        name (`str`):
            Relative to it.

    Raises:
        [`IngredientError`]: if it is, or lies below, a link out of the folder.
    """
    path = folder / name
    with as_error(IngredientError, f"{one_line(path)} cannot be read"):
        place = path.resolve()
        if not lies_in(folder, path):
            raise IngredientError(
                f"{one_line(path)} is a link out of its folder, which is not followed. Copy the file to its place."
            )
    return place


def is_there(folder: Path, name: str) -> bool:
    """Whether a folder has such a file, or a link called so; errors as of [`place_of`]."""
    path = folder / name
    with as_error(IngredientError, f"{one_line(path)} cannot be read"):
        return place_of(folder, name).is_file()


def read_inside(folder: Path, name: str, *, at_most: int = SMALL_FILE) -> bytes:
    """The bytes of a regular file of a folder.

    Raises:
        [`FileNotFoundError`]: if there is no such file.
        [`IngredientError`]: if it is a link out of the folder, no regular file, larger, or cannot be read.
    """
    return read_file(place_of(folder, name), at_most=at_most)


def json_inside(folder: Path, name: str) -> Any:
    """What a JSON file of a folder holds; errors as of [`read_inside`] and [`parse_bounded`]."""
    return parse_bounded(read_inside(folder, name), str(folder / name))


def parse_bounded(content: bytes, where: str, *, most: int = VALUES) -> Any:
    """What a JSON text holds that has no more values than memory is for.

    Args:
        content (`bytes`):
            The text.
        where (`str`):
            What errors call it.
        most (`int`, *optional*, defaults to 1,000,000):
            Number of values and brackets.

    Raises:
        [`IngredientError`]: if it has more, or is no JSON.
    """
    if sum(map(content.count, (b",", b":", b"[", b"{"))) > most:
        raise IngredientError(f"{one_line(where)} holds more than {most:,} values, which no such file needs.")
    return parse_json(content, where)


def blocks_of(folder: Path, name: str, *, at_most: int) -> Iterator[bytes]:
    """The same piece by piece, for files that may be large."""
    left = at_most
    where = one_line(folder / name)
    with open_file(place_of(folder, name)) as file, as_error(IngredientError, f"{where} cannot be read"):
        while block := file.read(BLOCK):
            left -= len(block)
            if left < 0:
                raise IngredientError(f"{where} is larger than {at_most:,} bytes, which are taken at most.")
            yield block


def names_below(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """The regular files of a folder and of folders in it, by their names relative to it with `/`, and their states;
    links to folders are not followed, and hidden folders are left out.

    Raises:
        [`IngredientError`]: if a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise IngredientError(f"cannot read {one_line(error.filename)}: {one_line(error.strerror)}.")

    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in files:
            path = Path(place, file)
            try:
                if path.is_file():  # no broken link, no socket
                    yield path.relative_to(folder).as_posix(), path.stat()
            except OSError as error:
                refuse(error)


def special_files(folder: Path) -> list[str]:
    """Pipes, sockets and devices in a folder or in folders in it, by their names relative to it."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(place, file) for file in files):
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                found.append(path.relative_to(folder).as_posix())
    return found


def linked_folders(folder: Path) -> list[str]:
    """The links to folders elsewhere that lie in a folder, or in folders in it, by their names relative to it."""
    found = []
    for place, folders, _ in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [Path(place, name) for name in folders if os.path.islink(os.path.join(place, name))]
        found += [path.relative_to(folder).as_posix() for path in links if not lies_in(folder, path)]
    return found
