"""The splits of data, and the choice of the examples that a sweep trains and validates on.

If there is no validation split, part of the training data is held out for it.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import DataError, warn
from ..options import answers_keywords
from ..seeds import check_seed
from .classes import subset_of
from .columns import is_list
from .functions import call_function, is_function
from .hub_data import splits_on_hub
from .layouts import configuration, find_split, is_saved, splits_of
from .load import ON_HUB, load_data
from .places import place_of, refuse_missing_path


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

CARVED = 0.1  # of the training data
TRAIN, VALIDATION = "train", "validation"
FEWEST_OF_A_CLASS = 5  # fewest training examples per class, on average


class Source(NamedTuple):
    """Where examples come from.

    Args:
        path (`str`, `datasets.Dataset` or `datasets.DatasetDict`):
            Source of the data, as in [`load_data`].
        name (`str`, *optional*):
            The configuration of a Hub data set, or of a folder the one within it.
        split (`str`, *optional*, defaults to `"train"`):
            The split that is meant, which may be a slice.
    """

    path: str | Dataset | DatasetDict
    name: str | None = None
    split: str = TRAIN

    def load(self) -> Dataset:
        """Load the examples.

        Raises:
            [`DataError`]: if there are none.
        """
        return load_data(self.path, name=self.name, split=self.split)


@dataclass(frozen=True)
class TrainingData:
    """The examples of a sweep.

    Args:
        train (`datasets.Dataset`):
            To train on.
        validation (`datasets.Dataset`, *optional*):
            To score runs on; pre-training has none.
        path (`str`, *optional*):
            Source of the training examples, if they have a name.
    """

    train: Dataset
    validation: Dataset | None
    path: str | None = None


def split_names(path: Any, name: str | None = None) -> list[str]:
    """The names of the splits of the data; empty if it is a single dataset.

    Args:
        path (`str`, `datasets.Dataset` or `datasets.DatasetDict`):
            Source of the data, as in [`load_data`].
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
        result = call_function(path)
        if isinstance(result, datasets.DatasetDict):
            return list(result)
        return []
    refuse_missing_path(path)
    return splits_on_hub(path, name)


@answers_keywords
def load_training(
    path: str | Dataset | DatasetDict,
    *,
    name: str | None = None,
    train: str = TRAIN,
    validation: str = VALIDATION,
    label_column: str | None = None,
    seed: int = 0,
) -> tuple[Dataset, Dataset]:
    """Load training and validation examples; without a validation split, a tenth of the training data is held out.

    Args:
        path (`str`, `datasets.Dataset` or `datasets.DatasetDict`):
            A folder, a file, a Hub id, `package.module:function`, or what is loaded already.
        name (`str`, *optional*):
            The configuration of a Hub data set, or of a folder the one within it.
        train (`str`, *optional*, defaults to `"train"`):
            A split, which may be a slice.
        validation (`str`, *optional*, defaults to `"validation"`):
            The split for validation, which may be a slice.
        label_column (`str`, *optional*):
            Column to stratify by; by default `label` or `labels`, where there is one.
        seed (`int`, *optional*, defaults to 0):
            Seed of the random split.

    Returns:
        `tuple[datasets.Dataset, datasets.Dataset]`: training and validation examples.

    Raises:
        [`DataError`]: if there is no such data.
    """
    seed = check_seed(seed)
    source = Source(path, name, train)
    examples = source.load()
    if _has_split(source, validation):
        return examples, source._replace(split=validation).load()
    return carve(examples, label_column, seed=seed)


def load_training_data(
    source: Source,
    validation: Source | str = VALIDATION,
    *,
    label_column: str | None = None,
    seed: int = 0,
) -> TrainingData:
    """Load the examples of a sweep; used by Python, cook files and the command line.

    Args:
        source ([`Source`]):
            The training examples.
        validation ([`Source`] or `str`, *optional*, defaults to `"validation"`):
            Other data; or a split of the same data, for which part of the training examples is kept apart where it
            is missing.
        label_column (`str`, *optional*), seed (`int`, *optional*, defaults to 0):
            Column to stratify by and seed of the random split, as in [`load_training`].

    Raises:
        [`DataError`]: if there is no such data.
    """
    path = source.path if isinstance(source.path, str) else None
    if isinstance(validation, Source):
        return TrainingData(source.load(), validation.load(), path)
    train, held_out = load_training(
        source.path,
        name=source.name,
        train=source.split,
        validation=validation,
        label_column=label_column,
        seed=seed,
    )
    return TrainingData(train, held_out, path)


def _has_split(source: Source, split: str) -> bool:
    """Whether the data has a split, or the source itself is that split or a slice of it."""
    wanted = split.split("[")[0].strip()
    if wanted == source.split.split("[")[0].strip():
        return True
    return find_split(split_names(source.path, source.name), wanted) is not None


def carve(train: Dataset, label_column: str | None = None, *, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Hold out a tenth of the training data, stratified by class if there are classes, and report it.

    Args:
        train (`datasets.Dataset`):
            At least two rows.
        label_column (`str`, *optional*):
            `label` or `labels` where there is one.
        seed (`int`, *optional*, defaults to 0):
            Seed of the random split.

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
    candidates = [name for name in (label_column, "label", "labels") if name in train.column_names]
    column = candidates[0] if candidates else None
    classes = _classes(train, column)
    least, how = 1, f"seed {seed}"
    if classes:
        least = len(set(classes))  # at least one example of each class
        how = f"stratified by {column}, {how}"
    size = max(round(len(train) * CARVED), least)
    rows, rows_apart = train_test_split(range(len(train)), test_size=size, random_state=seed, stratify=classes)
    kept_apart = f"{size} of {len(train)} training examples are kept for it ({how})"
    warn(f"the data has no validation split: {kept_apart}.")
    # Rows keep their order. The source of each part is recorded, so that missing classes are detected.
    rest = subset_of(train.select(sorted(rows)), train)
    validation = subset_of(train.select(sorted(rows_apart)), train)
    return rest, validation


def _classes(train: Dataset, column: str | None) -> list[Any] | None:
    """The class of each row; `None` if the column holds no classes that can be stratified."""
    if column is None or is_list(train, column) or str(train.features[column].dtype).startswith("float"):
        return None
    classes = train[column][:]
    counts = Counter(classes)
    too_many = len(counts) * FEWEST_OF_A_CLASS > len(train)
    # scikit-learn needs at least two examples of each class to stratify
    if too_many or None in counts or min(counts.values()) < 2:
        return None
    return list(classes)
