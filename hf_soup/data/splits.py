"""Which splits data has, and a validation split where it has none: part of the training data, kept apart."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, warn
from ..seeds import check_seed
from .classes import part_of
from .columns import LABEL_COLUMNS, is_list
from .functions import call_function, is_function
from .hub_data import splits_on_hub
from .layouts import configuration, find_split, is_saved, splits_of
from .load import ON_HUB, load_data, without_slice
from .places import place_of, refuse_missing_path


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

CARVED = 0.1  # share of the training data
ROWS_OF_CLASS = 5  # on average; a column with fewer rows for each value does not hold classes
TRAIN, VALIDATION = "train", "validation"


def split_names(path: Any, name: str | None = None) -> list[str]:
    """The splits that data has; none where it is one set by itself.

    Args:
        path (`str`, `datasets.Dataset` or `datasets.DatasetDict`):
            As of [`load_data`].
        name (`str`, *optional*):
            The configuration of a Hub data set, or of a folder the one within it.

    Raises:
        [`DataError`]: if the Hub does not tell.
    """
    import datasets

    if isinstance(path, datasets.Dataset):
        return []
    if isinstance(path, datasets.DatasetDict):
        return list(path)
    path = place_of(path)
    if os.path.isdir(path):
        folder = configuration(Path(path), name)
        return [] if is_saved(folder) else list(splits_of(folder))
    if os.path.isfile(path):
        return []
    if path.startswith(ON_HUB):
        return splits_on_hub(path.removeprefix(ON_HUB), name)
    if is_function(path):
        returned = call_function(path)
        return list(returned) if isinstance(returned, datasets.DatasetDict) else []
    refuse_missing_path(path)
    return splits_on_hub(path, name)


def load_training(
    path: str | Dataset | DatasetDict,
    *,
    name: str | None = None,
    train: str = TRAIN,
    validation: str = VALIDATION,
    label_column: str | None = None,
    seed: int = 0,
) -> tuple[Dataset, Dataset]:
    """Training and validation examples; where there is no validation split, a tenth of the others is kept for it.

    Args:
        path (`str`, `datasets.Dataset` or `datasets.DatasetDict`):
            A folder, a file, a Hub id, `package.module:function`, or what is loaded already.
        name (`str`, *optional*):
            The configuration of a Hub data set, or of a folder the one within it.
        train (`str`, *optional*, defaults to `"train"`):
            A split, which may be a slice.
        validation (`str`, *optional*, defaults to `"validation"`):
            Likewise.
        label_column (`str`, *optional*):
            By what to stratify; `label` or `labels` where there is one.
        seed (`int`, *optional*, defaults to 0):
            Of the choice.

    Returns:
        `tuple[datasets.Dataset, datasets.Dataset]`: to train on, and to validate on.

    Raises:
        [`DataError`]: if there is no such data.
    """
    seed = check_seed(seed)
    training = load_data(path, name=name, split=train)
    validation_split, training_split = without_slice(validation), without_slice(train)
    if validation_split == training_split or find_split(split_names(path, name), validation_split) is not None:
        return training, load_data(path, name=name, split=validation)
    return carve(training, label_column, seed=seed)


def carve(train: Dataset, label_column: str | None = None, *, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Keep a tenth of the training data apart, of each class alike where there are classes, and say so.

    Args:
        train (`datasets.Dataset`):
            At least two rows.
        label_column (`str`, *optional*):
            `label` or `labels` where there is one.
        seed (`int`, *optional*, defaults to 0):
            Of the choice.

    Returns:
        `tuple[datasets.Dataset, datasets.Dataset]`: what is left to train on, and the validation data, each in the
        order in which it was.

    Raises:
        [`DataError`]: if there is nothing to divide.
    """
    from sklearn.model_selection import train_test_split

    seed = check_seed(seed)
    if len(train) < 2:
        raise DataError("one example cannot be both trained and validated on: give more, or validation data.")
    column = next((name for name in (label_column, *LABEL_COLUMNS) if name in train.column_names), None)
    classes = None if column is None else _classes_to_stratify(train, column)
    least = 1 if classes is None else len(set(classes))  # at least one example of each class
    size = max(round(len(train) * CARVED), least)
    kept, apart = train_test_split(range(len(train)), test_size=size, random_state=seed, stratify=classes)
    how = "" if classes is None else f"stratified by {column}, "
    warn(
        f"the data has no validation split: {size} of {len(train)} training examples are kept for it ({how}seed "
        f"{seed})."
    )
    return part_of(train.select(sorted(kept)), train), part_of(train.select(sorted(apart)), train)


def _classes_to_stratify(train: Dataset, column: str) -> list[Any] | None:
    """The class of each row, or `None` where a column does not hold classes that can be divided alike."""
    if is_list(train, column) or str(train.features[column].dtype).startswith("float"):
        return None
    classes: list[Any] = train[column][:]
    counts = Counter(classes)
    too_many = len(counts) * ROWS_OF_CLASS > len(train)
    too_few = min(counts.values(), default=0) < 2  # one example cannot be on both sides
    return None if too_many or too_few or None in counts else classes
