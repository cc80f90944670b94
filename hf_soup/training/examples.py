"""The examples of a sweep: which task they are for, what is read of them, and as what a model takes.

It decides nothing about runs, and loads no data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..data.classes import warn_of_missing_classes
from ..data.columns import LABEL_COLUMNS, is_list, is_text
from ..tasks._text import unchanged_state
from ..tasks._vocabulary import check_vocabulary
from .head import class_labels


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig

    from ..tasks import Task
    from ..tasks._model_inputs import ModelInputs


@dataclass(frozen=True)
class Columns:
    """What a sweep reads of its examples.

    Args:
        task ([`Task`]):
            A file of `hf_soup.tasks`.
        label (`str`, *optional*):
            The column with what is right for each row.
        inputs (`list[str]`):
            The columns that the model reads.
        text_columns (`Sequence[str]`, *optional*):
            Those of them that the user named.
        head (`Mapping[str, Any]`):
            What the labels say of the configuration of a head; empty where models of the task have no head.
    """

    task: Task
    label: str | None
    inputs: list[str]
    text_columns: Sequence[str] | None
    head: Mapping[str, Any]

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes, where the labels are classes."""
        if "label2id" not in self.head:
            return None
        return list(self.head["label2id"])

    @property
    def task_name(self) -> str:
        """Such as `"text-classification"`."""
        return self.task.__name__.split(".")[-1].replace("_", "-")


def choose_columns(
    task: Task, train: Dataset, label_column: str | None, text_columns: Sequence[str] | None
) -> Columns:
    """The columns of the training data that a task reads; arguments as of [`hf_soup.sweep`].

    Raises:
        [`DataError`]: if a column is missing.
    """
    label = task.label_column(train, label_column)
    inputs = task.columns(train, text_columns, label)
    return Columns(task, label, inputs, text_columns, task.head(train, label))


def guess_task(train: Dataset) -> str:
    """Images are classified, and so are texts; words have classes of their own, and numbers are regressed to."""
    import datasets

    if any(isinstance(feature, datasets.Image) for feature in train.features.values()):
        return "image-classification"
    has_words = _has_words(train)
    label_columns = [column for column in LABEL_COLUMNS if column in train.column_names]
    if not label_columns:
        # labels of words often have a name of their own, such as ner_tags
        return "token-classification" if has_words else "text-classification"
    label = label_columns[0]
    if is_list(train, label):
        return "token-classification" if has_words else "multi-label-classification"
    # lists of words with one label a row are keywords, or the words of a page
    is_number = str(getattr(train.features[label], "dtype", "")).startswith("float")
    return "regression" if is_number else "text-classification"


def _has_words(train: Dataset) -> bool:
    """Whether a column besides that of the labels holds lists of words."""
    others = set(train.column_names) - set(LABEL_COLUMNS)
    return any(is_text(train, column, listed=True) for column in others)


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
    columns = task.columns(data, text_columns, label)
    right = task.labels(data, label, config)
    if task.KIND == "classes" and label is not None:
        warn_of_missing_classes(data, label, class_labels(config), what)
    return columns, right


def encode_examples(
    data: Dataset, columns: Columns, config: PretrainedConfig, processing_class: Any, inputs: ModelInputs, what: str
) -> Dataset:
    """The examples as a model of a configuration takes them.

    Args:
        data (`datasets.Dataset`):
            Training or validation examples.
        columns ([`Columns`]):
            Those of the training data. Examples that lack one are read by their own columns.
        config (`transformers.PretrainedConfig`):
            Of the model.
        processing_class:
            The tokenizer or image processor.
        inputs ([`ModelInputs`]):
            What the model takes.
        what (`str`):
            What errors call the examples.

    Raises:
        [`DataError`]: as [`check_examples`], and if the model has no embedding for a token.
    """
    task = columns.task
    has_all = set(columns.inputs) <= set(data.column_names)
    named = columns.inputs if has_all else columns.text_columns
    names, right = check_examples(task, data, columns.label, named, config, what)
    with unchanged_state(processing_class):  # it is saved with each run
        rows: Dataset = task.encode(data, processing_class, names, right, inputs)
    check_vocabulary(rows, processing_class, inputs)
    return rows
