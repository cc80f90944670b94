"""A data set as a task's models take it, in the batches that they are run in."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..data import UNSCORED
from ..errors import DataError


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import PretrainedConfig

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "pixel_values")  # of data that is encoded already


class Encoded(NamedTuple):
    """Examples as model inputs, the batches that they are run in (rows of the data set), and what makes a batch."""

    rows: Dataset
    batches: tuple[np.ndarray, ...]
    collate: Any


def is_encoded(dataset: Dataset) -> bool:
    """Whether the data is what models take already."""
    return any(name in dataset.column_names for name in ("input_ids", "pixel_values"))


def encode(
    dataset: Dataset,
    task: ModuleType,
    config: PretrainedConfig,
    *,
    processing_class: Any,
    label_column: str | None,
    text_columns: Sequence[str] | None,
    batch_size: int | None,
) -> Encoded:
    """Columns -> model inputs, longest first; the arguments are an [`Evaluator`]'s.

    Raises:
        [`DataError`]: if columns are missing, labels are none of the model's, or a row has no token.
    """
    import numpy as np

    label = task.label_column(dataset, label_column)
    right = task.labels(dataset, label, config)
    if is_encoded(dataset):
        rows = _with_labels(dataset, right)
    elif processing_class is None:
        raise DataError("there is no tokenizer or image processor: pass Evaluator(..., processing_class=...).")
    else:
        rows = task.encode(dataset, processing_class, task.columns(dataset, text_columns, label), right)
    lengths = task.lengths(rows)
    order = np.arange(len(rows)) if lengths is None else np.argsort(-np.asarray(lengths), kind="stable")
    if lengths is not None and min(lengths) == 0:
        if task.KIND != "tokens":
            raise DataError(f"row {lengths.index(0)} has no token at all; leave it out.")
        order = order[: np.count_nonzero(lengths)]  # a text without tokens has none to score
    size = batch_size or task.BATCH_SIZE
    batches = tuple(order[start : start + size] for start in range(0, len(order), size))
    return Encoded(rows, batches, task.collator(processing_class, config))


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


def _with_labels(dataset: Dataset, right: Any) -> Dataset:
    """What is encoded already, with labels as the model counts them."""
    import numpy as np

    inputs = [name for name in MODEL_INPUTS if name in dataset.column_names]
    rows = dataset.select_columns(inputs)
    if right is None:  # the text is its own label
        right = rows["input_ids"][:]
        if "attention_mask" in inputs:
            right = [np.where(mask, ids, UNSCORED) for ids, mask in zip(right, rows["attention_mask"], strict=True)]
    return rows.add_column("labels", [item.tolist() if hasattr(item, "tolist") else item for item in right])
