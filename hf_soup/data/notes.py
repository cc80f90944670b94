"""Warnings about a data set that are given only once, however often its examples are used."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ..errors import warn


if TYPE_CHECKING:
    from datasets import Dataset

_NOTES: WeakKeyDictionary[Dataset, set[str]] = WeakKeyDictionary()  # data set -> the warnings given about it


def note_once(dataset: Dataset, message: str) -> None:
    """Warn about a data set, unless the same warning was given before.

    Args:
        dataset (`datasets.Dataset`):
            Data set that the note is about.
        message (`str`):
            Text of the note.
    """
    notes = _NOTES.setdefault(dataset, set())
    if message not in notes:
        notes.add(message)
        warn(message)
