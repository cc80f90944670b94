"""Multi-label classification: one text, or a pair of texts, to any number of labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..data.columns import STRINGS, find_column, is_list, label_ids, numbers, split_like
from ..errors import DataError
from . import _heads as heads
from . import _text as tokens
from . import text_classification
from ._heads import class_names, classes_head, classifies_texts, head_of_classes, output_kind
from ._padding import pad_collator


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import PretrainedConfig

AUTO_CLASS = "AutoModelForSequenceClassification"
PIPELINE = "text-classification"
METRIC = "f1_micro"
KIND = "labels"
BATCH_SIZE = 64
EXAMPLE: dict[str, list[Any]] = {
    "text": ["good film", "the bad plot", "and warm", "a cast"],
    "labels": [[0], [1, 2], [0, 2], []],
}
EXAMPLE_MODEL = "bert"
USE = """
from transformers import pipeline

classify = pipeline("text-classification", model="{model}", top_k=None)
print(classify("A sentence to label."))  # a probability for each label
"""

# Functions shared with other tasks.
load_processing_class = tokens.load_tokenizer
columns = text_classification.columns
check_augment = tokens.check_masking
encode = text_classification.encode
augmented = tokens.masked
collator = pad_collator
lengths = tokens.lengths
forward = heads.whole_rows


def fits(config: PretrainedConfig) -> bool:
    """Whether the model has a head for whole texts with the `problem_type` of multi-label classification."""
    return classifies_texts(config) and output_kind(config) == KIND


def label_column(dataset: Dataset, given: str | None) -> str:
    """The column with a list of labels for each row, or with 0 or 1 for each label.

    Raises:
        [`DataError`]: if the column has no lists.
    """
    column = find_column(dataset, given, ("labels", "label"))
    if not is_list(dataset, column):
        raise DataError(f'the column "{column}" holds one label a row; for several each row has a list of them.')
    missing = sum(row is None for row in dataset[column])
    if missing:
        raise DataError(f'{missing} of {len(dataset)} rows have no labels in the column "{column}".')
    return column


def head(dataset: Dataset, label: str) -> dict[str, Any]:
    """Fields of a head for the labels of the data."""
    first = dataset[0][label]
    if _is_indicator(dataset, label, len(first)):
        fields = classes_head([f"LABEL_{index}" for index in range(len(first))])
    else:
        fields = head_of_classes(dataset, label)
    return {**fields, "problem_type": "multi_label_classification"}


def labels(dataset: Dataset, label: str, config: PretrainedConfig) -> np.ndarray:
    """0 or 1 for each row and label, in float32 for the loss of transformers."""
    import numpy as np

    names = class_names(config)
    values = dataset[label][:]  # a list for each row
    if _is_indicator(dataset, label, len(names)):
        return np.asarray(values, dtype=np.float32)
    indicator = np.zeros((len(values), len(names)), dtype=np.float32)
    ids_of_rows = split_like(label_ids(dataset, label, names), values)
    for row, ids in enumerate(ids_of_rows):
        indicator[row, ids] = 1
    return indicator


def _is_indicator(dataset: Dataset, label: str, n_labels: int) -> bool:
    """Whether the lists have 0 or 1 for each label, instead of the labels that apply."""
    import datasets

    feature = dataset.features[label].feature
    # otherwise classes named 0 and 1 would look like indicators of two labels
    if isinstance(feature, datasets.ClassLabel) or feature.dtype in STRINGS:
        return False
    if not set(numbers(dataset, label)) <= {0, 1}:
        return False
    return all(len(values) == n_labels for values in dataset[label])
