"""A data set as a task's models take it, in the batches that they are run in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..data.classes import MissingClasses, missing_classes, warn_of_missing_classes
from ..data.columns import UNSCORED
from ..errors import DataError, warn
from ..tokens import TEXTS, check_vocabulary


if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig

    from ..model_inputs import ModelInputs

MAIN_INPUTS = (*TEXTS, "pixel_values")  # a data set that has one of them is encoded already
NUMBERS = ("int", "uint", "float", "bool")


class Encoded(NamedTuple):
    """Examples as model inputs, and how they are run.

    Args:
        rows (`datasets.Dataset`):
            Model inputs and labels.
        batches (`tuple[np.ndarray, ...]`):
            Rows of each batch.
        collate (`Callable`):
            Makes a batch of rows.
        lengths (`np.ndarray`):
            Tokens of each row; all 0 where rows have one size.
        decodes_images (`bool`):
            Whether rows are image files, some of which may not decode.
    """

    rows: Dataset
    batches: tuple[np.ndarray, ...]
    collate: Any
    lengths: np.ndarray
    decodes_images: bool

    def batch_of(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Some rows as one batch."""
        return self.collate(self.rows.__getitems__(rows.tolist()))


def is_encoded(dataset: Dataset) -> bool:
    """Whether the data is what models take already."""
    return any(name in dataset.column_names and _holds_numbers(dataset, name) for name in MAIN_INPUTS)


def encode(
    dataset: Dataset,
    task: ModuleType,
    config: PretrainedConfig,
    inputs: ModelInputs,
    *,
    processing_class: Any,
    label_column: str | None,
    text_columns: Sequence[str] | None,
    batch_size: int | None,
    split: str,
) -> Encoded:
    """Columns -> model inputs, longest first; the arguments after `inputs` are an [`Evaluator`]'s.

    Raises:
        [`DataError`]: if columns are missing, labels are none of the model's, or a row has no token, or more than the
            model takes.
    """
    import datasets
    import numpy as np

    label = task.label_column(dataset, label_column)
    right = task.labels(dataset, label, config)
    if task.KIND == "classes":
        warn_of_missing_classes(dataset, label, config.id2label, split)
    if is_encoded(dataset):
        rows = _with_labels(dataset, right, label, inputs)
    elif processing_class is None:
        raise DataError("there is no tokenizer or image processor: pass Evaluator(..., processing_class=...).")
    else:
        rows = task.encode(dataset, processing_class, task.columns(dataset, text_columns, label), right, inputs)
    check_vocabulary(rows, processing_class, inputs)
    found = task.lengths(rows)
    lengths = np.zeros(len(rows), dtype=np.int64) if found is None else np.asarray(found)
    order = np.argsort(-lengths, kind="stable")
    if found is not None:
        _refuse_long_rows(rows, lengths, inputs)
    if found is not None and lengths.min() == 0:
        if task.KIND != "tokens":
            raise DataError(f"row {lengths.argmin()} has no token at all; leave it out.")
        order = order[: np.count_nonzero(lengths)]  # a text without tokens has none to score
    size = batch_size or task.BATCH_SIZE
    batches = tuple(order[start : start + size] for start in range(0, len(order), size))
    decodes_images = any(isinstance(feature, datasets.Image) for feature in rows.features.values())
    return Encoded(rows, batches, task.collator(processing_class, inputs), lengths, decodes_images)


def classes_missing(
    dataset: Dataset, task: ModuleType, label_column: str | None, config: PretrainedConfig
) -> MissingClasses | None:
    """The classes of a model that a set of examples has none of, where that is no accident.

    Args:
        dataset (`datasets.Dataset`):
            The examples.
        task (`ModuleType`):
            A file of `hf_soup.tasks`.
        label_column (`str`, *optional*):
            What the user named.
        config (`transformers.PretrainedConfig`):
            Of the model.
    """
    if task.KIND != "classes":
        return None
    return missing_classes(dataset, task.label_column(dataset, label_column), config.id2label)


def of_one_length(encoded: Encoded) -> Encoded:
    """The same batches, split where the number of tokens changes, so that none needs padding."""
    import numpy as np

    batches: list[np.ndarray] = []
    for rows in encoded.batches:
        batches += np.split(rows, np.flatnonzero(np.diff(encoded.lengths[rows])) + 1)
    return encoded._replace(batches=tuple(batches))


def first_in_small_batches(encoded: Encoded, first: np.ndarray, size: int) -> Encoded:
    """The same rows in other batches: these first and a few at a time, the others as they were.

    Of those that come first, as many as half a batch has are sorted by length, so that small batches pad little.

    Args:
        encoded ([`Encoded`]):
            Examples and batches.
        first (`np.ndarray`):
            Rows.
        size (`int`):
            Of a usual batch; small ones have a quarter.
    """
    import numpy as np

    order = np.concatenate(encoded.batches)
    first, rest = first[np.isin(first, order)], order[~np.isin(order, first)]
    place = np.empty(int(order.max()) + 1, dtype=np.int64)
    place[order] = np.arange(len(order))
    small = max(size // 4, 1)
    windows = [first[start : start + 2 * small] for start in range(0, len(first), 2 * small)]
    first = np.concatenate([window[np.argsort(place[window])] for window in windows] or [first])
    parts = (first, small), (rest, size)
    batches = tuple(part[start : start + n] for part, n in parts for start in range(0, len(part), n))
    return encoded._replace(batches=batches)


def without_rows(encoded: Encoded, done: np.ndarray) -> Encoded:
    """The batches without rows that were run already."""
    import numpy as np

    left = [rows[~np.isin(rows, done)] for rows in encoded.batches]
    return encoded._replace(batches=tuple(rows for rows in left if len(rows)))


def _with_labels(dataset: Dataset, right: Any, label: str | None, inputs: ModelInputs) -> Dataset:
    """What is encoded already, with labels as the model counts them; columns that it does not take are named."""
    import numpy as np

    taken = [name for name in dataset.column_names if name in inputs.names and _holds_numbers(dataset, name)]
    unused = [name for name in dataset.column_names if name not in (*taken, label)]
    if unused:
        warn(
            f"the encoded data has columns that {inputs.model} does not take, and they are not used: "
            f"{', '.join(unused)}."
        )
    rows = dataset.select_columns(taken)
    if right is None:  # the text is its own label
        if "input_ids" not in taken:
            raise DataError('the tokens to score are the text itself, and the encoded data has no "input_ids".')
        right = rows["input_ids"][:]
        if "attention_mask" in taken:
            right = [np.where(mask, ids, UNSCORED) for ids, mask in zip(right, rows["attention_mask"], strict=True)]
    return rows.add_column("labels", [item.tolist() if hasattr(item, "tolist") else item for item in right])


def _holds_numbers(dataset: Dataset, column: str) -> bool:
    """Whether a column holds numbers, or arrays or lists of them to any depth."""
    feature = dataset.features[column]
    while hasattr(feature, "feature"):
        feature = feature.feature
    return str(getattr(feature, "dtype", "")).startswith(NUMBERS)


def _refuse_long_rows(rows: Dataset, lengths: np.ndarray, inputs: ModelInputs) -> None:
    """Texts are cut when they are encoded; rows that came encoded are not.

    Raises:
        [`DataError`]: if one has more tokens than the positions of the model reach.
    """
    for row in _long_rows(rows, lengths, inputs):
        raise DataError(
            f"row {row} has {lengths[row]} tokens, and the positions of {inputs.model} reach {inputs.positions}: cut "
            "the encoded data to that."
        )


def _long_rows(rows: Dataset, lengths: np.ndarray, inputs: ModelInputs) -> Iterator[int]:
    """Rows with too many tokens; where padding has no position of its own, it does not count."""
    if inputs.positions is None:
        return
    for row in (lengths > inputs.positions).nonzero()[0].tolist():
        tokens = lengths[row]
        if inputs.first_position and "attention_mask" in rows.column_names:
            tokens = sum(rows[row]["attention_mask"])
        if tokens > inputs.positions:
            yield row
