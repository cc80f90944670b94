"""The columns of a dataset: the label column, and labels in the numbering of a model.

The origin of the data is unknown here; `text_columns.py` chooses the text columns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import DataError, did_you_mean


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

LABEL_COLUMNS = ("label", "labels")
UNSCORED = -100  # the label that transformers' losses ignore
STRINGS = ("string", "large_string")  # Arrow's text types
WHOLE_NUMBER = re.compile(r"-?\d+")


def find_column(dataset: Dataset, named: str | None, usual: Sequence[str] = LABEL_COLUMNS, role: str = "label") -> str:
    """The column that was named, or else the first of the usual ones that exists.

    Raises:
        [`DataError`]: if it is not there.
    """
    candidates = [named] if named else usual
    for column in candidates:
        if column in dataset.column_names:
            return column
    wanted = candidates[0]
    raise DataError(f'the data has no {role} column "{wanted}"{did_you_mean(wanted, dataset.column_names)}')


def label_names(dataset: Dataset, column: str) -> list[str] | None:
    """The class names in order: those of a `ClassLabel`, sorted strings, or `None` for numbers without names.

    Args:
        dataset (`datasets.Dataset`):
            The examples.
        column (`str`):
            Column with one label in each row, or with lists of labels.

    Raises:
        [`DataError`]: if the labels are neither whole numbers nor strings, or some are missing.
    """
    import datasets

    feature, values = _element_feature(dataset, column), _flat_values(dataset, column)
    class_names = list(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    # The Hub hides the labels of test sets as -1, which is an ordinary number if there are no class names.
    hidden = (None, "") if class_names is None else (None, -1)
    missing = sum(value in hidden for value in values)
    if missing:
        raise DataError(f'{missing} of {len(values)} rows have no label in the column "{column}".')
    if class_names is not None:
        return class_names
    dtype = str(getattr(feature, "dtype", ""))
    if dtype in STRINGS:
        return sorted(set(values))
    # pandas turns a column of integers into floats when a value is missing
    whole_floats = dtype.startswith("float") and all(float(value).is_integer() for value in values)
    if not whole_floats and not dtype.startswith(("int", "uint", "bool")):
        raise DataError(f'the label column "{column}" holds {feature}, but classes are whole numbers or names.')
    return None


def label_ids(dataset: Dataset, column: str, id2label: Mapping[int, str]) -> np.ndarray:
    """The class of each label in the model's numbering, matched by name if both have names.

    Args:
        dataset (`datasets.Dataset`):
            The examples.
        column (`str`):
            Label column of the data set; lists of labels are flattened.
        id2label (`Mapping[int, str]`):
            The model's classes.

    Returns:
        `np.ndarray` of shape `(labels,)`, int64; -100, which marks words without a label, stays.

    Raises:
        [`DataError`]: if a label is no class of the model, or is missing.
    """
    import numpy as np

    data_names, values = label_names(dataset, column), _flat_values(dataset, column)
    model_names = [id2label[index] for index in sorted(id2label)]
    # transformers' generated names of a model's classes
    model_is_named = model_names != [f"LABEL_{index}" for index in range(len(model_names))]
    labels: Sequence[Any] = values
    if data_names is None:
        if model_is_named:
            labels = _numbers_by_name(values, model_names, column)
    elif model_is_named:
        labels = _match_names(values, data_names, model_names)
    else:
        _refuse_unnamed_model(column, values, data_names, len(model_names))
    ids = np.asarray(labels, dtype=np.int64)
    wrong = (ids != UNSCORED) & ((ids < 0) | (ids >= len(model_names)))
    if wrong.any():
        raise DataError(
            f'labels in "{column}" go from {ids[wrong].min()} to {ids[wrong].max()}, the model has {len(model_names)} '
            "classes from 0. Is it a model for this data?"
        )
    return ids


def _match_names(values: Sequence[Any], data_names: Sequence[str], model_names: Sequence[str]) -> list[int]:
    """The model's number of the class that each label names.

    Args:
        values (`Sequence[Any]`):
            Names of classes, or numbers that are their places in `data_names`.
        data_names (`Sequence[str]`), model_names (`Sequence[str]`):
            Names of classes.

    Raises:
        [`DataError`]: if the model lacks a class that the data has.
    """
    unknown = sorted(set(data_names) - set(model_names))
    if unknown:
        raise DataError(
            f'the model has no class "{unknown[0]}" that the data has{did_you_mean(unknown[0], model_names)}'
        )
    position = {name: model_names.index(name) for name in data_names}
    labels = []
    for value in values:
        if value == UNSCORED:
            labels.append(UNSCORED)
        elif isinstance(value, str):
            labels.append(position[value])
        else:
            labels.append(position[data_names[value]])
    return labels


def _refuse_unnamed_model(column: str, values: Sequence[Any], data_names: Sequence[str], classes: int) -> None:
    """Refuse class names in the data if a model without names does not show which is which."""
    if values and isinstance(values[0], str):
        raise DataError(
            f'the column "{column}" has names such as "{values[0]}", and the model has none for its classes.'
        )
    if len(data_names) != classes:
        raise DataError(
            f'the column "{column}" has {len(data_names)} classes, and the model has {classes} without names, so that '
            "it is not known which is which: set id2label in the model's configuration."
        )


def _numbers_by_name(values: Sequence[Any], model_names: Sequence[str], column: str) -> Sequence[Any]:
    """Numeric labels for a model whose class names are numbers, such as stars from 1 to 5.

    Raises:
        [`DataError`]: if they may be names of classes as well as their places.
    """
    if not all(WHOLE_NUMBER.fullmatch(name) for name in model_names):
        return values
    # The labels are either the names, 1 to 5, or the model's numbers, 0 to 4.
    position = {int(name): place for place, name in enumerate(model_names)}
    places = set(range(len(model_names)))
    labels = set(values) - {UNSCORED}
    if not labels <= set(position):
        return values
    if set(position) != places and labels <= places:
        raise DataError(
            f'the labels in "{column}" may be names of classes ({model_names[0]} to {model_names[-1]}) or their '
            f"places (0 to {len(model_names) - 1}): write them as text to mean names, or cast the column to a "
            "ClassLabel."
        )
    ids = {**position, UNSCORED: UNSCORED}
    return [ids[value] for value in values]


def numbers(dataset: Dataset, column: str) -> np.ndarray:
    """A column of numbers as float64; lists are flattened.

    Raises:
        [`DataError`]: if it holds something else, or a number is missing or not finite.
    """
    import numpy as np

    feature, values = _element_feature(dataset, column), _flat_values(dataset, column)
    if not str(getattr(feature, "dtype", "")).startswith(("int", "uint", "float", "bool")):
        example = f", such as {values[0]!r}" if values else ""
        raise DataError(f'the column "{column}" holds {feature}{example}, but numbers are needed.')
    array = np.asarray(values, dtype=np.float64)  # NaN where a value is `None`
    missing = (~np.isfinite(array)).sum()
    if missing:
        raise DataError(f'{missing} of {len(array)} values in "{column}" are missing or not finite.')
    return array


def split_like(ids: np.ndarray, lists: Sequence[Sequence[Any] | None]) -> list[np.ndarray]:
    """Split a flattened column into parts as long as `lists`; a missing list gives an empty part."""
    import numpy as np

    sizes = []
    for values in lists:
        sizes.append(0 if values is None else len(values))
    return np.split(ids, np.cumsum(sizes)[:-1])


def is_list(dataset: Dataset, column: str) -> bool:
    """Whether a column holds lists."""
    return hasattr(dataset.features[column], "feature")


def is_text(dataset: Dataset, column: str, *, listed: bool = False) -> bool:
    """Whether a column holds strings, or with `listed=True`, lists of strings."""
    holds_strings = getattr(_element_feature(dataset, column), "dtype", "") in STRINGS
    return holds_strings and listed == is_list(dataset, column)


def _element_feature(dataset: Dataset, column: str) -> Any:
    """The feature of a column's values, or of the values in its lists."""
    feature = dataset.features[column]
    return getattr(feature, "feature", feature)


def _flat_values(dataset: Dataset, column: str) -> list[Any]:
    """The values of a column; lists are concatenated."""
    values = dataset[column][:]
    if not is_list(dataset, column):
        return values
    flat: list[Any] = []
    for row in values:
        flat += row or []
    return flat
