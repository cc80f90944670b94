"""Regression: one text, or a pair of texts, to a number, such as the similarity of two sentences (STS-B)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..data.columns import find_column, numbers
from ..errors import DataError
from . import _text as tokens
from . import text_classification
from ._heads import classifies_texts, output_kind
from ._padding import pad_collator


if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel

AUTO_CLASS = "AutoModelForSequenceClassification"
PIPELINE = "text-classification"
METRIC = "pearsonr"
KIND = "values"
BATCH_SIZE = 64
EXAMPLE: dict[str, list[Any]] = {
    "a": ["good film", "bad", "warm plot"],
    "b": ["great film", "the cast", "a"],
    "label": [4.5, 0.0, 2.25],
}
EXAMPLE_MODEL = "bert"
USE = """
from transformers import pipeline

score = pipeline("text-classification", model="{model}", function_to_apply="none")
print(score("A sentence to score."))
"""

# Functions shared with other tasks.
load_processing_class = tokens.load_tokenizer
columns = text_classification.columns
check_augment = tokens.check_masking
encode = text_classification.encode
augmented = tokens.masked
collator = pad_collator
lengths = tokens.lengths


def fits(config: PretrainedConfig) -> bool:
    """Whether the model has a head that predicts a number for whole texts: `problem_type` regression, or one label."""
    return classifies_texts(config) and output_kind(config) == KIND


def label_column(dataset: Dataset, given: str | None) -> str:
    """The column of numbers."""
    return find_column(dataset, given, ("label", "labels", "score"))


def head(dataset: Dataset, label: str) -> dict[str, Any]:
    """Fields of a head for one number."""
    numbers(dataset, label)
    return {"num_labels": 1, "problem_type": "regression"}


def labels(dataset: Dataset, label: str, config: PretrainedConfig) -> np.ndarray:
    """The number of each row.

    Raises:
        [`DataError`]: if the model predicts more than one number, or the column has other values.
    """
    if config.num_labels != 1:
        raise DataError(f"the model predicts {config.num_labels} numbers for each text; regression needs one.")
    return numbers(dataset, label)


def forward(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The predicted number for each row."""
    values = batch.pop("labels")
    predicted = model(**batch).logits[:, 0]  # of shape (rows, 1)
    items_of_rows = values.new_ones(len(values)).long()
    return predicted, values, items_of_rows
