"""Encodes a data set as inputs of a task's models, in the batches that are run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..data.classes import MissingClasses, missing_classes, warn_of_missing_classes
from ..data.columns import UNSCORED
from ..errors import DataError, warn
from ..tasks._audio import SAMPLES
from ..tasks._heads import class_names, names_classes
from ..tasks._padding import TEXTS
from ..tasks._sentences import AUTO_CLASS
from ..tasks._vocabulary import check_vocabulary


if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig

    from ..tasks import Task
    from ..tasks._model_inputs import ModelInputs

MAIN_INPUTS = (*TEXTS, "pixel_values")  # a data set with one of these columns is encoded already
NUMBERS = ("int", "uint", "float", "bool")  # prefixes of the types of numbers


class Encoded(NamedTuple):
    """Examples as model inputs, with their batches.

    Args:
        rows (`datasets.Dataset`):
            Rows with model inputs and labels.
        batches (`tuple[np.ndarray, ...]`):
            Row numbers of each batch.
        collate (`Callable`):
            Function that makes a batch from rows.
        lengths (`np.ndarray`):
            Number of tokens of each row; all 0 if all rows have the same size.
        decodes_images (`bool`):
            Whether rows are image files, some of which may be unreadable.
    """

    rows: Dataset
    batches: tuple[np.ndarray, ...]
    collate: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]
    lengths: np.ndarray
    decodes_images: bool

    def batch_of(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Make a batch from some rows."""
        return self.collate(self.rows.__getitems__(rows.tolist()))


def is_encoded(dataset: Dataset) -> bool:
    """Whether the data consists of model inputs already."""
    return any(name in dataset.column_names and _holds_numbers(dataset, name) for name in MAIN_INPUTS)


def encode(
    dataset: Dataset,
    task: Task,
    config: PretrainedConfig,
    inputs: ModelInputs,
    *,
    processing_class: Any,
    label_column: str | None,
    text_columns: Sequence[str] | None,
    batch_size: int | None,
    split: str,
) -> Encoded:
    """Encode columns as model inputs, longest first; the arguments after `inputs` are those of an [`Evaluator`].

    Raises:
        [`DataError`]: if columns are missing, the model lacks a label, or a row has no tokens or more than the model
            takes.
    """
    import datasets
    import numpy as np

    if is_encoded(dataset) and not getattr(task, "TAKES_ENCODED", True):
        raise DataError(f"data for {task.PIPELINE} is encoded here: give the columns themselves, not model inputs.")
    label = task.label_column(dataset, label_column)
    labels = task.labels(dataset, label, config)
    if names_classes(task) and label is not None:
        warn_of_missing_classes(dataset, label, class_names(config), split)
    if is_encoded(dataset):
        rows = _with_labels(dataset, labels, label, inputs)
    elif processing_class is None and task.AUTO_CLASS != AUTO_CLASS:  # such models read texts by themselves
        raise DataError("there is no tokenizer or image processor: pass Evaluator(..., processing_class=...).")
    else:
        columns = task.columns(dataset, text_columns, label)
        rows = task.encode(dataset, processing_class, columns, labels, inputs)
    check_vocabulary(rows, processing_class, inputs)
    token_counts = task.lengths(rows)
    if token_counts is None:
        lengths = np.zeros(len(rows), dtype=np.int64)
        order = np.arange(len(rows))
    else:
        lengths = np.asarray(token_counts)
        if SAMPLES not in rows.column_names:  # samples of sounds have no positions
            _refuse_long_rows(rows, lengths, inputs)
        order = _longest_first(lengths, task.KIND)
    size = batch_size or task.BATCH_SIZE
    batches = tuple(_in_batches(order, size))
    decodes_images = any(isinstance(feature, datasets.Image) for feature in rows.features.values())
    return Encoded(rows, batches, task.collator(processing_class, inputs), lengths, decodes_images)


def _longest_first(lengths: np.ndarray, kind: str) -> np.ndarray:
    """Rows in the order in which they are run; if tokens are scored, texts without tokens are left out.

    Raises:
        [`DataError`]: if a row without tokens would have to be scored.
    """
    import numpy as np

    order = np.argsort(-lengths, kind="stable")
    if lengths.min() > 0:
        return order
    if kind != "tokens":
        raise DataError(f"row {lengths.argmin()} has no token at all; leave it out.")
    return order[: np.count_nonzero(lengths)]


def classes_missing(
    dataset: Dataset, task: Task, label_column: str | None, config: PretrainedConfig
) -> MissingClasses | None:
    """The classes of a model that a data set lacks, if that is unlikely to be chance.

    Args:
        dataset (`datasets.Dataset`):
            Data set to check.
        task ([`Task`]):
            A file of `hf_soup.tasks`.
        label_column (`str`, *optional*):
            Label column that the user named.
        config (`transformers.PretrainedConfig`):
            Configuration of the model.
    """
    if not names_classes(task):
        return None
    label = task.label_column(dataset, label_column)
    if label is None:
        return None
    return missing_classes(dataset, label, class_names(config))


def _in_batches(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Split rows into batches, in order."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _with_batches(encoded: Encoded, batches: Iterable[np.ndarray]) -> Encoded:
    """The same examples in other batches, without empty ones."""
    return encoded._replace(batches=tuple(rows for rows in batches if len(rows)))


def of_one_length(encoded: Encoded) -> Encoded:
    """The same batches, split wherever the number of tokens changes, so that no padding is needed."""
    import numpy as np

    batches: list[np.ndarray] = []
    for rows in encoded.batches:
        changes = np.flatnonzero(np.diff(encoded.lengths[rows]))  # positions of the last row of each length
        batches += np.split(rows, changes + 1)
    return _with_batches(encoded, batches)


def first_in_small_batches(encoded: Encoded, first: np.ndarray, size: int) -> Encoded:
    """The same rows in other batches: the given rows first and in small batches, the others unchanged.

    The first rows are sorted by length within groups of half a batch, so that small batches need little padding.

    Args:
        encoded ([`Encoded`]):
            Examples and batches.
        first (`np.ndarray`):
            Rows to run first.
        size (`int`):
            Size of a usual batch; small batches have a quarter of it.
    """
    import numpy as np

    order = np.concatenate(encoded.batches)
    early = first[np.isin(first, order)]
    late = order[~np.isin(order, first)]
    place = np.empty(int(order.max()) + 1, dtype=np.int64)  # position of each row in the usual order, by length
    place[order] = np.arange(len(order))
    small = max(size // 4, 1)
    batches = []
    for start in range(0, len(early), 2 * small):
        window = early[start : start + 2 * small]
        by_length = window[np.argsort(place[window])]
        batches += [by_length[:small], by_length[small:]]
    batches += _in_batches(late, size)
    return _with_batches(encoded, batches)


def without_rows(encoded: Encoded, done: np.ndarray) -> Encoded:
    """The batches without the rows that were run already."""
    import numpy as np

    remaining = [rows[~np.isin(rows, done)] for rows in encoded.batches]
    return _with_batches(encoded, remaining)


def _with_labels(dataset: Dataset, labels: Any, label: str | None, inputs: ModelInputs) -> Dataset:
    """Encoded data with the model's class indices as labels; a warning names columns that the model does not take."""
    taken = [name for name in dataset.column_names if name in inputs.names and _holds_numbers(dataset, name)]
    unused = [name for name in dataset.column_names if name not in (*taken, label)]
    if unused:
        warn(
            f"the encoded data has columns that {inputs.model} does not take, and they are not used: "
            f"{', '.join(unused)}."
        )
    rows = dataset.select_columns(taken)
    if labels is None:
        labels = _own_tokens(rows)
    plain_labels = []
    for label_of_row in labels:
        # pyarrow takes numpy's numbers, but no lists of arrays
        plain_labels.append(label_of_row.tolist() if hasattr(label_of_row, "tolist") else label_of_row)
    return rows.add_column("labels", plain_labels)


def _own_tokens(rows: Dataset) -> list[Any]:
    """The tokens of texts, which are their own labels, without padding.

    Raises:
        [`DataError`]: if the data has none.
    """
    import numpy as np

    if "input_ids" not in rows.column_names:
        raise DataError('the tokens to score are the text itself, and the encoded data has no "input_ids".')
    tokens: list[Any] = rows["input_ids"][:]
    if "attention_mask" not in rows.column_names:
        return tokens
    labels = []
    for ids, mask in zip(tokens, rows["attention_mask"], strict=True):
        labels.append(np.where(mask, ids, UNSCORED))
    return labels


def _holds_numbers(dataset: Dataset, column: str) -> bool:
    """Whether a column holds numbers, or arrays or lists of them to any depth."""
    feature = dataset.features[column]
    while hasattr(feature, "feature"):  # a list, whose items have their own feature
        feature = feature.feature
    return str(getattr(feature, "dtype", "")).startswith(NUMBERS)


def _refuse_long_rows(rows: Dataset, lengths: np.ndarray, inputs: ModelInputs) -> None:
    """Raise an error for rows that are too long: texts are truncated, but encoded rows are not.

    Raises:
        [`DataError`]: if a row has more tokens than the model has positions.
    """
    for row in _long_rows(rows, lengths, inputs):
        raise DataError(
            f"row {row} has {lengths[row]} tokens, and the positions of {inputs.model} reach {inputs.positions}: "
            "truncate the encoded data to that."
        )


def _long_rows(rows: Dataset, lengths: np.ndarray, inputs: ModelInputs) -> Iterator[int]:
    """Rows with too many tokens; padding only counts if it has positions."""
    if inputs.positions is None:
        return
    for row in (lengths > inputs.positions).nonzero()[0].tolist():
        tokens = lengths[row]
        if inputs.first_position and "attention_mask" in rows.column_names:
            tokens = sum(rows[row]["attention_mask"])
        if tokens > inputs.positions:
            yield row
