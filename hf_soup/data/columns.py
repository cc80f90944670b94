"""The columns of a data set: which holds the labels, which the texts, and labels as a model counts them.

It knows nothing of where data comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import DataError, did_you_mean


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

LABEL_COLUMNS = ("label", "labels")
UNSCORED = -100  # the label that transformers' losses leave out
_STRINGS = ("string", "large_string")


def find_column(dataset: Dataset, given: str | None, usual: Sequence[str] = LABEL_COLUMNS, what: str = "label") -> str:
    """The column that was named, else the first of the usual ones that is there.

    Raises:
        [`DataError`]: if it is not there.
    """
    for column in [given] if given else usual:
        if column in dataset.column_names:
            return column
    wanted = given or usual[0]
    raise DataError(f'the data has no {what} column "{wanted}"{did_you_mean(wanted, dataset.column_names)}')


def label_names(dataset: Dataset, column: str) -> list[str] | None:
    """The names of the classes in order: those of a `ClassLabel`, sorted strings, or `None` for numbers without names.

    Args:
        dataset (`datasets.Dataset`):
            The examples.
        column (`str`):
            With one label a row, or lists of them.

    Raises:
        [`DataError`]: if the labels are neither whole numbers nor strings, or some are missing.
    """
    import datasets

    feature, values = _inner(dataset.features[column]), _flat(dataset, column)
    hidden = (None, -1) if isinstance(feature, datasets.ClassLabel) else (None,)  # -1: how the Hub hides test labels
    missing = sum(value in hidden for value in values)
    if missing:
        raise DataError(f'{missing} of {len(values)} rows have no label in the column "{column}".')
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    if getattr(feature, "dtype", "") in _STRINGS:
        return sorted(set(values))
    if not str(getattr(feature, "dtype", "")).startswith(("int", "uint", "bool")):
        raise DataError(f'the label column "{column}" holds {feature}, and classes are whole numbers or names.')
    return None


def label_ids(dataset: Dataset, column: str, id2label: Mapping[int, str]) -> np.ndarray:
    """The class of each label as the model counts them, matched by name where both have names.

    Args:
        dataset (`datasets.Dataset`):
            The examples.
        column (`str`):
            Its label column; of lists, all of them one behind the other.
        id2label (`Mapping[int, str]`):
            The model's classes.

    Returns:
        `np.ndarray` of shape `(labels,)`, int64; -100, which marks words without a label, stays.

    Raises:
        [`DataError`]: if a label is no class of the model, or is missing.
    """
    import numpy as np

    ours, values = label_names(dataset, column), _flat(dataset, column)
    theirs = [id2label[index] for index in sorted(id2label)]
    named = theirs != [f"LABEL_{index}" for index in range(len(theirs))]
    if len(values) and isinstance(values[0], str) and not named:
        raise DataError(
            f'the column "{column}" has names such as "{values[0]}", and the model has none for its classes.'
        )
    if ours is not None and named:
        unknown = sorted(set(ours) - set(theirs))
        if unknown:
            raise DataError(
                f'the model has no class "{unknown[0]}" that the data has{did_you_mean(unknown[0], theirs)}'
            )
        values = [v if v == UNSCORED else theirs.index(v if isinstance(v, str) else ours[v]) for v in values]
    ids = np.asarray(values, dtype=np.int64)
    wrong = (ids != UNSCORED) & ((ids < 0) | (ids >= len(theirs)))
    if wrong.any():
        raise DataError(
            f'labels in "{column}" go from {ids[wrong].min()} to {ids[wrong].max()}, the model has {len(theirs)} '
            "classes from 0. Is it a model for this data?"
        )
    return ids


def numbers(dataset: Dataset, column: str) -> np.ndarray:
    """A column of numbers, or of lists of them one behind the other, as float64.

    Raises:
        [`DataError`]: if it holds something else, or a number is missing or not finite.
    """
    import numpy as np

    feature, values = _inner(dataset.features[column]), _flat(dataset, column)
    if not str(getattr(feature, "dtype", "")).startswith(("int", "uint", "float", "bool")):
        example = f", such as {values[0]!r}" if values else ""
        raise DataError(f'the column "{column}" holds {feature}{example}, and numbers are needed.')
    found = np.asarray([np.nan if value is None else value for value in values], dtype=np.float64)
    if not np.isfinite(found).all():
        missing = (~np.isfinite(found)).sum()
        raise DataError(f'{missing} of {len(found)} values in "{column}" are missing or not finite.')
    return found


def split_like(ids: np.ndarray, lists: Sequence[Sequence[Any]]) -> list[np.ndarray]:
    """Cut what was put one behind the other into parts as long as `lists`."""
    import numpy as np

    return np.split(ids, np.cumsum([len(item or ()) for item in lists])[:-1])


def is_list(dataset: Dataset, column: str) -> bool:
    """Whether a column holds lists."""
    return hasattr(dataset.features[column], "feature")


def is_text(dataset: Dataset, column: str, *, listed: bool = False) -> bool:
    """Whether a column holds strings, or with `listed=True` lists of them."""
    feature = dataset.features[column]
    return listed == is_list(dataset, column) and getattr(_inner(feature), "dtype", "") in _STRINGS


def choose_columns(
    dataset: Dataset, given: Sequence[str] | None, label: str | None, *, most: int = 2, listed: bool = False
) -> list[str]:
    """The text columns: those that were named, else every column of strings but the label's.

    Args:
        dataset (`datasets.Dataset`):
            The examples.
        given (`Sequence[str]`, *optional*):
            What the user named.
        label (`str`, *optional*):
            The label column.
        most (`int`, *optional*, defaults to 2):
            How many the task takes.
        listed (`bool`, *optional*, defaults to `False`):
            Columns of lists of strings (words) instead.

    Raises:
        [`DataError`]: if a named column is not there or holds something else, or it is not plain which ones are meant.
    """
    what = "lists of words" if listed else "text"
    for column in given or ():
        find_column(dataset, column, what="text")
        if not is_text(dataset, column, listed=listed):
            raise DataError(f'the column "{column}" holds {dataset.features[column]}, and {what} is needed.')
    found = [
        column
        for column in given or dataset.column_names
        if is_text(dataset, column, listed=listed) and column != label
    ]
    if not 1 <= len(found) <= most:
        names = ", ".join(found) or "none"
        what = "columns of lists of words" if listed else "text columns"
        raise DataError(f"the data has {len(found)} {what} ({names}): name them in `text_columns`.")
    return found


def _inner(feature: Any) -> Any:
    return getattr(feature, "feature", feature)


def _flat(dataset: Dataset, column: str) -> list[Any]:
    values = dataset[column]
    return [item for row in values for item in row or ()] if is_list(dataset, column) else values[:]
