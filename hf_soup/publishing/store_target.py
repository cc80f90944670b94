"""A folder on an object store as the target of a soup: what it may hold before, and in which order files appear in it.

Stores cannot rename folders. Until a soup is complete, its folder lacks what every reader needs: the configuration,
and the index of shards.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable
from pathlib import Path

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.companion_files import CONFIG, MODULES
from ..checkpoints.other_contents import ADAPTER
from ..checkpoints.staging import temporary_folder
from ..checkpoints.store import Store, target
from ..errors import OutputError
from ..untrusted import one_line


MARKER = ".hf_soup_unfinished.json"  # in a folder that is not complete; it has the key of the work
LAST = (CONFIG, MODULES, ADAPTER)  # without these, no reader takes a folder for a model


def open_store_target(address: str, key: str, *, overwrite: bool) -> Store:
    """Prepare a folder for the files of a soup: it is empty, or holds those that the same work has left.

    Args:
        address (`str`):
            Address of the folder.
        key (`str`):
            Name of the work, as of [`key_of`].
        overwrite (`bool`):
            Whether other files in it are deleted. They are deleted first, so that old and new files are never mixed.

    Raises:
        [`OutputError`]: if there are other files, or the store refuses.
    """
    store = refuse_store(address)
    files = store.files()
    if files and not _is_left_by(store, key, files):
        if not overwrite:
            raise OutputError(
                f"{one_line(address)} is not empty. Name another folder, or pass overwrite=True (--overwrite)."
            )
        for name in sorted(files, key=_appears_last, reverse=True):
            store.delete(name)
    with temporary_folder() as folder:
        (folder / MARKER).write_text(json.dumps({"key": key}), encoding="utf-8")
        store.upload(folder / MARKER, MARKER)
    return store


def refuse_store(address: str) -> Store:
    """A folder that a soup can be saved in.

    Raises:
        [`OutputError`]: if the address is none, or that of a repository of the Hub, or the store is not reachable.
    """
    store = target(address)
    store.files()
    return store


def refuse_lost(inputs: Iterable[Checkpoint], address: str) -> None:
    """Refuse a folder that is or holds an ingredient, which would be deleted before it is read.

    Raises:
        [`OutputError`]: naming the ingredient.
    """
    target = f"{address.rstrip('/')}/"
    for item in inputs:
        source = f"{item.ingredient.source.rstrip('/')}/"
        if source.startswith(target):
            raise OutputError(f"{one_line(address)} holds {item.name}, which would be lost. Name another folder.")


def _is_left_by(store: Store, key: str, files: Iterable[str]) -> bool:
    """Whether the folder holds the unfinished files of the same work."""
    if MARKER not in files:
        return False
    try:
        found = json.loads(store.read(MARKER, 0, 1000))
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("key") == key


def finish_store_target(store: Store, folder: Path) -> None:
    """Upload the files of a folder, those without which nothing is read last, and remove the marker.

    Raises:
        [`OutputError`]: if the store refuses them.
    """
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    for name in sorted(names, key=_appears_last):
        store.upload(folder / name, name)
    store.delete(MARKER)


def _appears_last(name: str) -> tuple[bool, bool, str]:
    """A key by which the files come last without which a folder is no model."""
    return posixpath.basename(name) in LAST, name.endswith(".index.json"), name
