"""The examples of a sweep: their task, their columns, and their encoding as model inputs.

No data is loaded here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..data.classes import warn_of_missing_classes
from ..data.columns import LABEL_COLUMNS, is_list, is_text
from ..tasks._heads import names_classes
from ..tasks._text import unchanged_state
from ..tasks._vocabulary import check_vocabulary
from ..tasks.automatic_speech_recognition import TEXTS
from ..tasks.semantic_segmentation import MASKS
from .head import class_labels


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig

    from ..tasks import Task
    from ..tasks._model_inputs import ModelInputs


@dataclass(frozen=True)
class Columns:
    """The columns of the examples that a sweep uses.

    Args:
        task ([`Task`]):
            A file of `hf_soup.tasks`.
        label (`str`, *optional*):
            Name of the label column.
        inputs (`list[str]`):
            Names of the columns that are model inputs.
        text_columns (`Sequence[str]`, *optional*):
            Names of the text columns, if the user named them.
        head (`Mapping[str, Any]`):
            Fields of the configuration that follow from the labels; empty if models of the task have no head.
    """

    task: Task
    label: str | None
    inputs: list[str]
    text_columns: Sequence[str] | None
    head: Mapping[str, Any]

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes, if the labels are classes."""
        if "label2id" not in self.head:
            return None
        return list(self.head["label2id"])

    @property
    def task_name(self) -> str:
        """Name of the task, such as `"text-classification"`."""
        return self.task.__name__.split(".")[-1].replace("_", "-")


def choose_columns(
    task: Task, train: Dataset, label_column: str | None, text_columns: Sequence[str] | None
) -> Columns:
    """Determine the columns of the training data that a task uses; the arguments are those of [`hf_soup.sweep`].

    Raises:
        [`DataError`]: if a column is missing.
    """
    label = task.label_column(train, label_column)
    inputs = task.columns(train, text_columns, label)
    return Columns(task, label, inputs, text_columns, task.head(train, label))


def guess_task(train: Dataset) -> str:
    """Infer the task from the columns: classification of images, texts or words, or regression for numbers."""
    import datasets

    if any(isinstance(feature, datasets.Image) for feature in train.features.values()):
        return _task_of_images(train)
    if any(isinstance(feature, datasets.Audio) for feature in train.features.values()):
        has_texts = any(name in train.column_names for name in TEXTS)
        return "automatic-speech-recognition" if has_texts else "audio-classification"
    if {"anchor", "positive"} <= set(train.column_names):  # names that only data for embeddings has
        return "triplet" if "negative" in train.column_names else "information-retrieval"
    if {"question", "context", "answers"} <= set(train.column_names):
        return "question-answering"
    has_words = _has_words(train)
    label_columns = [column for column in LABEL_COLUMNS if column in train.column_names]
    if not label_columns:
        # labels of words often have a special name, such as ner_tags
        return "token-classification" if has_words else "text-classification"
    label = label_columns[0]
    if is_list(train, label):
        return "token-classification" if has_words else "multi-label-classification"
    # lists of words with one label for each row are keywords, or the words of a page
    is_number = str(getattr(train.features[label], "dtype", "")).startswith("float")
    return "regression" if is_number else "text-classification"


def _task_of_images(train: Dataset) -> str:
    """The task of images: with masks, with objects, or with classes."""
    import datasets

    if any(name in train.column_names and isinstance(train.features[name], datasets.Image) for name in MASKS):
        return "semantic-segmentation"
    return "object-detection" if "objects" in train.column_names else "image-classification"


def _has_words(train: Dataset) -> bool:
    """Whether a column other than the label column holds lists of words."""
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
    """The input columns, and the label of each row as an index of this model's classes.

    Raises:
        [`DataError`]: if a column is missing, or the head does not have a label.
    """
    label = task.label_column(data, label)
    columns = task.columns(data, text_columns, label)
    right = task.labels(data, label, config)
    if names_classes(task) and label is not None:
        warn_of_missing_classes(data, label, class_labels(config), what)
    return columns, right


def encode_examples(
    data: Dataset, columns: Columns, config: PretrainedConfig, processing_class: Any, inputs: ModelInputs, what: str
) -> Dataset:
    """Encode examples as inputs of a model.

    Args:
        data (`datasets.Dataset`):
            Training or validation examples.
        columns ([`Columns`]):
            Columns of the training data. Examples that lack one of them are read by their own columns.
        config (`transformers.PretrainedConfig`):
            Configuration of the model.
        processing_class:
            The tokenizer or image processor.
        inputs ([`ModelInputs`]):
            Inputs that the model takes.
        what (`str`):
            Name of the examples in error messages.

    Raises:
        [`DataError`]: for the reasons of [`check_examples`], or if the model has no embedding for a token.
    """
    task = columns.task
    has_all = set(columns.inputs) <= set(data.column_names)
    named = columns.inputs if has_all else columns.text_columns
    names, right = check_examples(task, data, columns.label, named, config, what)
    with unchanged_state(processing_class):  # the processing class is saved with each run
        rows: Dataset = task.encode(data, processing_class, names, right, inputs)
    check_vocabulary(rows, processing_class, inputs)
    return rows
