"""Notes about a data set, each said once, however often its examples are looked at. It decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ..errors import warn


if TYPE_CHECKING:
    from datasets import Dataset

_NOTES: WeakKeyDictionary[Dataset, set[str]] = WeakKeyDictionary()  # data set -> what was said about it


def note_once(dataset: Dataset, message: str) -> None:
    """Warn about a data set, unless the same was said about it before.

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
