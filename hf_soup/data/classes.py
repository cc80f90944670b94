"""Which classes a set of examples lacks, and whether that can be chance: the first rows of sorted data do.

It changes no data and knows nothing of models but the names of their classes.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from ..errors import listed
from ..untrusted import one_line
from .columns import UNSCORED, is_list, label_ids
from .notes import note_once


if TYPE_CHECKING:
    from datasets import Dataset

CHANCE = 0.01  # of rows taken at random to lack as many classes; above it nothing is said
FEW = 10  # rows, below which nothing is said unless it is known what they were cut from
HIDDEN = (None, -1, UNSCORED)  # labels that are none
_WHOLE: WeakKeyDictionary[Dataset, Dataset] = WeakKeyDictionary()  # a slice -> what it was cut from


class MissingClasses(NamedTuple):
    """What a set of examples lacks.

    Args:
        names (`tuple[str, ...]`):
            Classes without an example.
        classes (`int`):
            Number of classes that there are.
        rows (`int`):
            Number of examples with a label.
    """

    names: tuple[str, ...]
    classes: int
    rows: int

    def numbers(self) -> str:
        """How many are missing, and among how many rows."""
        return f"{len(self.names)} of {self.classes} classes have none of {self.rows} examples"

    def told(self, what: str) -> str:
        """That `what` lacks them, and what to do, in two sentences."""
        missing = one_line(listed(self.names))
        there = self.classes - len(self.names)
        return (
            f"{what} has examples of {there} of {self.classes} classes and none of {missing}, which {self.rows} rows "
            "taken at random would have: a slice of data that is sorted by class lacks classes. Take rows at random: "
            f"dataset.shuffle(seed=0).select(range({self.rows}))."
        )


def part_of(part: Dataset, whole: Dataset) -> Dataset:
    """The part, of which is known from now on what it was cut from.

    Args:
        part (`datasets.Dataset`):
            Some rows.
        whole (`datasets.Dataset`):
            All of them, or a part that was cut before.
    """
    if part is not whole:
        _WHOLE[part] = _WHOLE.get(whole, whole)
    return part


def missing_classes(dataset: Dataset, label: str, id2label: Mapping[int, str]) -> MissingClasses | None:
    """The classes that a set of examples has none of, where that is no accident.

    Classes are those of the data that it was cut from where that is known, else those of the model, which are taken to
    be equally frequent. In the second case rows have to be sorted by class as well: others were chosen on purpose.

    Args:
        dataset (`datasets.Dataset`):
            The examples.
        label (`str`):
            The column with one class for each row.
        id2label (`Mapping[int, str]`):
            The model's classes.

    Returns:
        [`MissingClasses`], or `None` where none are missing, or rows at random could well lack as many.

    Raises:
        [`DataError`]: if a label is none of the model's.
    """
    if is_list(dataset, label):
        return None
    whole = _WHOLE.get(dataset)
    if whole is not None and label in whole.column_names and not is_list(whole, label):
        found, everything = _counts(dataset, label), _counts(whole, label)
        gone = [value for value in everything if value not in found]
        names = getattr(whole.features[label], "names", None)
        shown = tuple(names[value] if names else str(value) for value in sorted(gone, key=str))
        numbers = sum(everything.values()), sum(everything[value] for value in gone)
        return _improbable(MissingClasses(shown, len(everything), sum(found.values())), *numbers)
    ids = [index for index in label_ids(dataset, label, id2label).tolist() if index not in HIDDEN]
    present = set(ids)
    shown = tuple(str(id2label[index]) for index in sorted(id2label) if index not in present)
    return lacking(shown, len(id2label), len(ids)) if _is_sorted(ids) else None


def lacking(names: tuple[str, ...], classes: int, rows: int) -> MissingClasses | None:
    """The same where only numbers are known: of classes that are equally frequent, among rows without end."""
    if rows < FEW:
        return None
    return _improbable(MissingClasses(names, classes, rows), None, len(names))


def warn_of_missing_classes(dataset: Dataset, label: str, id2label: Mapping[int, str], what: str) -> None:
    """Say which classes a set of examples lacks, once.

    Args:
        dataset (`datasets.Dataset`):
            The examples.
        label (`str`):
            The column with one class for each row.
        id2label (`Mapping[int, str]`):
            The model's classes.
        what (`str`):
            What the note calls the examples.
    """
    missing = missing_classes(dataset, label, id2label)
    if missing is not None:
        note_once(dataset, missing.told(what))


def _improbable(missing: MissingClasses, total: int | None, gone: int) -> MissingClasses | None:
    """What is missing, unless rows at random would lack as many classes with some probability.

    It is at most the number of sets of so many classes, times the probability that none of one set is drawn.

    Args:
        missing ([`MissingClasses`]):
            What is missing.
        total (`int`, *optional*):
            Number of rows that these were drawn from; `None` for rows without end.
        gone (`int`):
            How many of them have a class that is missing; without end how many classes are missing.
    """
    if not missing.names or not missing.rows:
        return None
    sets = _log_choices(missing.classes, len(missing.names))
    if total is None:
        share = gone / missing.classes
        none_drawn = missing.rows * math.log1p(-share) if share < 1 else -math.inf
    elif total - gone < missing.rows:
        none_drawn = -math.inf
    else:
        none_drawn = _log_choices(total - gone, missing.rows) - _log_choices(total, missing.rows)
    return missing if sets + none_drawn < math.log(CHANCE) else None


def _is_sorted(ids: Sequence[int]) -> bool:
    """Whether the class changes from row to row far less often than it would in a random order."""
    counts = Counter(ids)
    changes = sum(one != other for one, other in itertools.pairwise(ids))
    at_random = len(ids) * (1 - sum((count / len(ids)) ** 2 for count in counts.values())) if ids else 0.0
    return changes <= max(len(counts) - 1, at_random / 4)


def _log_choices(n: int, k: int) -> float:
    """Logarithm of the number of ways to choose k of n."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _counts(dataset: Dataset, label: str) -> Counter[Any]:
    return Counter(value for value in dataset[label][:] if value not in HIDDEN)
