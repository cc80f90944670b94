"""The cook files that ship with the package: their names, purposes and locations.

An installed package has them in a subfolder; in a checkout or an editable install they are in `recipes/` at the top of
the repository.
"""

from __future__ import annotations

import os
from pathlib import Path


_PACKAGE = Path(__file__).parent.parent
FOLDERS = (_PACKAGE / "recipes", _PACKAGE.parent / "recipes")  # in a wheel, in a checkout


def shipped_recipes() -> dict[str, Path]:
    """Name -> cook file, in the order of the names."""
    for folder in FOLDERS:
        files = sorted(folder.glob("*.yaml"))
        if files:
            return {file.stem: file for file in files}
    return {}


def summary(recipe: Path) -> str:
    """The purpose of a cook file: its first line, which is a comment."""
    first, *_ = recipe.read_text(encoding="utf-8").splitlines()
    return first.removeprefix("#").strip()


def resolve_shipped(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The cook file with a given name; an existing file or folder of that name takes precedence.

    Args:
        path (`str` or `os.PathLike`):
            What is to be cooked.

    Returns:
        `str` or `os.PathLike`: the shipped cook file, or `path` where it names none.
    """
    if not isinstance(path, str) or os.path.exists(path):
        return path
    return shipped_recipes().get(path, path)
