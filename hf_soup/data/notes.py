"""Notes about a data set, each said once, however often its examples are looked at. It decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ..errors import warn


if TYPE_CHECKING:
    from datasets import Dataset

_SAID: WeakKeyDictionary[Dataset, set[str]] = WeakKeyDictionary()


def note_once(dataset: Dataset, message: str) -> None:
    """Warn about a data set, unless the same was said about it before.

    Args:
        dataset (`datasets.Dataset`):
            What it is about.
        message (`str`):
            What is said.
    """
    said = _SAID.setdefault(dataset, set())
    if message in said:
        return
    said.add(message)
    warn(message)
