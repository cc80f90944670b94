"""The examples of a sweep: which task they are for, what is read of them, and as what a model takes.

It decides nothing about runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..data.classes import warn_of_missing_classes
from ..data.columns import LABEL_COLUMNS, is_list, is_text
from ..tokens import check_vocabulary, unchanged_state


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig

    from ..model_inputs import ModelInputs
    from ..tasks import Task


def guess_task(train: Dataset) -> str:
    """Images are classified, and so are texts; words have classes of their own, and numbers are regressed to."""
    import datasets

    if any(isinstance(feature, datasets.Image) for feature in train.features.values()):
        return "image-classification"
    label = next((column for column in LABEL_COLUMNS if column in train.column_names), None)
    words = [column for column in train.column_names if column not in LABEL_COLUMNS]
    has_words = any(is_text(train, column, listed=True) for column in words)
    if has_words and (label is None or is_list(train, label)):  # with one label a row they are keywords, or a page
        return "token-classification"
    if label is not None and is_list(train, label):
        return "multi-label-classification"
    floats = label is not None and str(getattr(train.features[label], "dtype", "")).startswith("float")
    return "regression" if floats else "text-classification"


def check_examples(
    task: Task,
    data: Dataset,
    label: str | None,
    text_columns: Sequence[str] | None,
    config: PretrainedConfig,
    what: str,
) -> tuple[list[str], Any]:
    """The columns of the inputs and what is right for each row, as a model of this configuration counts it.

    Raises:
        [`DataError`]: if a column is missing, or a label is none that the head has.
    """
    label = task.label_column(data, label)
    columns, right = task.columns(data, text_columns, label), task.labels(data, label, config)
    if task.KIND == "classes" and label is not None:
        warn_of_missing_classes(data, label, config.id2label, what)
    return columns, right


def encode_examples(
    task: Task,
    data: Dataset,
    label: str | None,
    text_columns: Sequence[str] | None,
    config: PretrainedConfig,
    processing_class: Any,
    inputs: ModelInputs,
    what: str,
) -> Dataset:
    """The examples as a model of this configuration takes them; arguments as of [`check_examples`].

    Raises:
        [`DataError`]: likewise, and if the model has no embedding for a token.
    """
    columns, right = check_examples(task, data, label, text_columns, config, what)
    with unchanged_state(processing_class):
        rows = task.encode(data, processing_class, columns, right, inputs)
    check_vocabulary(rows, processing_class, inputs)
    return rows
