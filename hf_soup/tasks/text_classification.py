"""Text classification: one text, or a pair of texts, to one of several classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..data.columns import find_column, is_list, is_text, label_ids
from ..data.text_columns import choose_columns
from ..errors import DataError
from . import _heads as heads
from . import _text as tokens
from ._boxes import box_column, find_boxes
from ._heads import class_names, classifies_texts, output_kind
from ._padding import pad_collator
from ._text import most_tokens, tokenize


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from ._model_inputs import ModelInputs

AUTO_CLASS = "AutoModelForSequenceClassification"
PIPELINE = "text-classification"
METRIC = "accuracy"
KIND = "classes"
BATCH_SIZE = 64
EXAMPLE: dict[str, list[Any]] = {
    "text": ["good film", "the bad plot", "a very lovely cast", "dull", "and weak"],
    "label": [1, 0, 1, 0, 0],
}
EXAMPLE_MODEL = "bert"
USE = """
from transformers import pipeline

classify = pipeline("text-classification", model="{model}")
print(classify("A sentence to classify."))
"""

# Functions shared with other tasks.
load_processing_class = tokens.load_tokenizer
head = heads.head_of_classes
check_augment = tokens.check_masking
augmented = tokens.masked
collator = pad_collator
lengths = tokens.lengths
forward = heads.whole_rows


def fits(config: PretrainedConfig) -> bool:
    """Whether the model has a head for classes of whole texts."""
    return classifies_texts(config) and output_kind(config) == KIND


def label_column(dataset: Dataset, given: str | None) -> str:
    """The column of classes.

    Raises:
        [`DataError`]: if the column has lists.
    """
    column = find_column(dataset, given)
    if is_list(dataset, column):
        raise DataError(f'the column "{column}" holds lists: the task is multi-label-classification or another one.')
    return column


def columns(dataset: Dataset, given: Sequence[str] | None, label: str) -> list[str]:
    """One or two text columns, or one column of lists of words for pages with boxes."""
    if find_boxes(dataset) is not None and _has_words(dataset, given, label):
        return choose_columns(dataset, given, label, most=1, of_words=True)
    return choose_columns(dataset, given, label)


def _has_words(dataset: Dataset, given: Sequence[str] | None, label: str) -> bool:
    """Whether one of the input columns has lists of words."""
    named = [given] if isinstance(given, str) else given or dataset.column_names
    for column in named:
        is_input = column in dataset.column_names and column != label
        if is_input and is_text(dataset, column, listed=True):
            return True
    return False


def labels(dataset: Dataset, label: str, config: PretrainedConfig) -> np.ndarray:
    """The class of each row."""
    return label_ids(dataset, label, class_names(config))


def encode(
    dataset: Dataset,
    processing_class: PreTrainedTokenizerBase,
    columns: Sequence[str],
    labels: np.ndarray,
    inputs: ModelInputs,
) -> Dataset:
    """Encode texts as tokens, with their classes.

    Raises:
        [`DataError`]: if the tokenizer or the model does not take the values of a column.
    """
    limit = most_tokens(processing_class, inputs.positions, inputs.target_positions)
    boxes = box_column(dataset, processing_class, columns, inputs)
    if boxes is None and not is_text(dataset, columns[0]):
        raise DataError(f'the column "{columns[0]}" holds lists of words, and {inputs.model} takes no boxes for them.')
    encoded = tokenize(dataset, processing_class, columns, limit, boxes)
    return encoded.add_column("labels", labels.tolist())
