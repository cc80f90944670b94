"""Whether the name of a data source is a local path, and which path was probably meant if it does not exist."""

from __future__ import annotations

import difflib
import os
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import ALIKE, DataError, did_you_mean, is_near
from ..untrusted import one_line
from .layouts import PACKED, is_table


MOST = 10_000  # entries of a folder that are examined
NEAR = 0.8  # similarity of a bare name to a local folder that makes it a typo


def place_of(path: Any) -> str:
    """A path or a name as text, with `~` as the home folder.

    Raises:
        [`DataError`]: if it is neither.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise DataError(
            f"data is a path, a name on the Hub, package.module:function, or a data set, not {type(path).__name__}."
        )
    return os.path.expanduser(os.fspath(path))


def refuse_missing_path(path: str) -> None:
    """Refuse a local path that does not exist, or a name that is almost that of a local folder.

    Args:
        path (`str`):
            Neither a file nor a folder.

    Raises:
        [`DataError`]: with the nearest existing name.
    """
    if os.path.lexists(path):
        raise DataError(f"{one_line(path)} is neither a file nor a folder.")
    parent, word = _where_it_ends(path)
    names = _names_of_data(parent)
    above = "" if parent == Path() else f" in {one_line(parent)}"
    if _is_written_as_path(path):
        raise DataError(f'there is no "{one_line(word)}"{above} ({one_line(path)}){did_you_mean(word, names)}')
    is_bare = "/" not in path
    if not is_bare and parent == Path():  # OWNER/NAME without a local folder OWNER
        return
    by_lower_case = {name.lower(): name for name in names if is_near(word, name)}
    cutoff = NEAR if is_bare else ALIKE
    matches = difflib.get_close_matches(word.lower(), by_lower_case, n=1, cutoff=cutoff)
    if matches:
        nearest = by_lower_case[matches[0]]
        raise DataError(
            f'there is no "{one_line(word)}"{above}, and as a name on the Hub {one_line(path)} is not looked for, '
            f'since "{nearest}" is here; did you mean "{parent / nearest}"? Data sets of the Hub are '
            f"hf://datasets/OWNER/NAME as well."
        )


def _is_written_as_path(path: str) -> bool:
    """Whether a name cannot be a data set of the Hub, which is `OWNER/NAME`, or `NAME` for old ones."""
    pure = Path(path)
    if path.startswith((".", "~", os.sep)) or path.endswith(os.sep) or pure.is_absolute() or "\\" in path:
        return True
    return path.count("/") > 1 or is_table(pure) or pure.suffix.lower() in (*PACKED, ".txt", ".arrow", ".xlsx")


def _where_it_ends(path: str) -> tuple[Path, str]:
    """The folder up to which a path exists, and its first missing component."""
    folder, names = Path(), Path(path).parts
    if not names:
        return folder, path
    for name in names[:-1]:
        if not (folder / name).is_dir():
            return folder, name
        folder = folder / name
    return folder, names[-1]


def _names_of_data(folder: Path) -> list[str]:
    """The contents of a folder that may hold data: folders and tables."""
    try:
        with os.scandir(folder) as entries:
            looked_at = islice(entries, MOST)
            names = [entry.name for entry in looked_at if entry.is_dir() or is_table(Path(entry.name))]
    except OSError:
        return []
    return sorted(name for name in names if not name.startswith("."))
