"""Detection of classes that a set of examples lacks for other reasons than chance, as in the first rows of sorted
data.

The data is not changed, and of a model only the class names are known here.
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

CHANCE = 0.01  # probability that randomly chosen rows lack as many classes, above which there is no warning
FEW = 10  # rows, below which there is no warning unless the source of the slice is known
HIDDEN = (None, -1, UNSCORED)  # values of rows without a label
_WHOLE: WeakKeyDictionary[Dataset, Dataset] = WeakKeyDictionary()  # a slice -> the data set from which it was cut


class MissingClasses(NamedTuple):
    """The classes that a set of examples lacks.

    Args:
        names (`tuple[str, ...]`):
            Classes without an example.
        classes (`int`):
            Number of classes.
        rows (`int`):
            Number of examples with a label.
    """

    names: tuple[str, ...]
    classes: int
    rows: int

    def numbers(self) -> str:
        """The number of missing classes, and the number of rows."""
        return f"{len(self.names)} of {self.classes} classes have none of {self.rows} examples"

    def message(self, examples: str) -> str:
        """What is missing and what to do, in two sentences.

        Args:
            examples (`str`):
                Name of the examples in the message, such as `"train"`.
        """
        missing = one_line(listed(self.names))
        present = self.classes - len(self.names)
        return (
            f"{examples} has examples of {present} of {self.classes} classes and none of {missing}, which {self.rows} "
            "rows taken at random would have: a slice of data that is sorted by class lacks classes. Take rows at "
            f"random: dataset.shuffle(seed=0).select(range({self.rows}))."
        )


def subset_of(subset: Dataset, whole: Dataset) -> Dataset:
    """Return the subset, after recording the data set from which it was cut.

    Args:
        subset (`datasets.Dataset`):
            Some rows.
        whole (`datasets.Dataset`):
            All examples, or a slice of them that was taken before.
    """
    if subset is not whole:
        _WHOLE[subset] = _WHOLE.get(whole, whole)
    return subset


def missing_classes(dataset: Dataset, label: str, id2label: Mapping[int, str]) -> MissingClasses | None:
    """The classes without examples in a data set, unless that is plausible by chance.

    The expected classes are those of the data set from which it was cut, if it is known, or else those of the model,
    which are assumed to be equally frequent. In the second case the rows also have to be sorted by class, since other
    rows were selected on purpose.

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
        return _missing_of_whole(dataset, whole, label)
    ids = [index for index in label_ids(dataset, label, id2label).tolist() if index not in HIDDEN]
    if not _is_sorted(ids):
        return None
    present = set(ids)
    absent = tuple(str(id2label[index]) for index in sorted(id2label) if index not in present)
    return improbably_missing(absent, len(id2label), len(ids))


def improbably_missing(names: tuple[str, ...], classes: int, rows: int) -> MissingClasses | None:
    """The missing classes where only counts are known, for equally frequent classes in an infinite population.

    Args:
        names (`tuple[str, ...]`):
            Classes without an example.
        classes (`int`):
            Number of classes.
        rows (`int`):
            Number of examples.

    Returns:
        [`MissingClasses`], or `None` where rows at random could well lack as many.
    """
    if rows < FEW or not names:
        return None
    share = len(names) / classes
    # In an infinite population each row belongs to another class with probability 1 - share, independently of the
    # others.
    log_none_drawn = -math.inf
    if share < 1:
        log_none_drawn = rows * math.log1p(-share)
    missing = MissingClasses(names, classes, rows)
    if not _is_improbable(missing, log_none_drawn):
        return None
    return missing


def warn_of_missing_classes(dataset: Dataset, label: str, id2label: Mapping[int, str], examples: str) -> None:
    """Warn once about the classes that a set of examples lacks.

    Args:
        dataset (`datasets.Dataset`):
            The examples.
        label (`str`):
            The column with one class for each row.
        id2label (`Mapping[int, str]`):
            The model's classes.
        examples (`str`):
            Name of the examples in the note.
    """
    missing = missing_classes(dataset, label, id2label)
    if missing is not None:
        note_once(dataset, missing.message(examples))


def _missing_of_whole(dataset: Dataset, whole: Dataset, label: str) -> MissingClasses | None:
    """The classes that a slice lacks of its source, unless randomly chosen rows could well lack as many."""
    counts = _class_counts(dataset, label)
    whole_counts = _class_counts(whole, label)
    absent = sorted(whole_counts.keys() - counts.keys(), key=str)
    if not absent or not counts:
        return None
    class_names = getattr(whole.features[label], "names", None)
    if class_names:
        names = tuple(class_names[value] for value in absent)
    else:
        names = tuple(str(value) for value in absent)
    missing = MissingClasses(names, len(whole_counts), counts.total())
    total = whole_counts.total()
    rows_of_others = total - sum(whole_counts[value] for value in absent)
    if rows_of_others < missing.rows:
        log_none_drawn = -math.inf
    else:  # hypergeometric: all rows are drawn from those of the other classes
        log_none_drawn = _log_choices(rows_of_others, missing.rows) - _log_choices(total, missing.rows)
    if not _is_improbable(missing, log_none_drawn):
        return None
    return missing


def _is_improbable(missing: MissingClasses, log_none_drawn: float) -> bool:
    """Whether randomly chosen rows are unlikely to lack as many classes.

    The probability is at most the number of sets of that many classes, times the probability that none of one set is
    drawn.

    Args:
        missing ([`MissingClasses`]):
            The classes that are missing.
        log_none_drawn (`float`):
            Logarithm of the probability that rows at random have none of the classes that are missing.
    """
    log_sets = _log_choices(missing.classes, len(missing.names))
    return log_sets + log_none_drawn < math.log(CHANCE)


def _is_sorted(ids: Sequence[int]) -> bool:
    """Whether the class changes from row to row far less often than in a random order."""
    if not ids:
        return True
    counts = Counter(ids)
    changes = sum(previous != following for previous, following in itertools.pairwise(ids))
    same = sum((count / len(ids)) ** 2 for count in counts.values())  # probability that two rows have the same class
    # A random order has about len(ids) * (1 - same) changes, and a quarter of that is far less; sorted rows have one
    # change between two classes, also if there are few rows.
    return changes <= max(len(counts) - 1, len(ids) * (1 - same) / 4)


def _log_choices(n: int, k: int) -> float:
    """The logarithm of the number of ways to choose k of n; the number itself would overflow."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _class_counts(dataset: Dataset, label: str) -> Counter[Any]:
    """How many rows have each label; rows without one are not counted."""
    return Counter(value for value in dataset[label][:] if value not in HIDDEN)
