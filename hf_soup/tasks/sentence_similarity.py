"""Sentence similarity: how similar two sentences are by their embeddings, against scores (as in STS-B).

The score of a pair is the similarity of the embeddings by the function of the model, cosine for most. The mean of
these scores is the ensemble of several models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..data.columns import find_column, numbers
from . import _sentences as sentences
from ._no_augmentation import unchanged
from ._sentences import AUTO_CLASS as AUTO_CLASS
from ._sentences import embed, is_bare, rows_of_texts, sentence_columns, texts_as_they_are


if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig

    from ._model_inputs import ModelInputs

PIPELINE = "sentence-similarity"
METRIC = "spearmanr"
KIND = "values"
TRAINED_AS = "SentenceTransformer"
BATCH_SIZE = 256
EXAMPLE: dict[str, list[Any]] = {
    "sentence1": ["good film", "the bad plot", "a very lovely cast", "dull"],
    "sentence2": ["great film", "a lovely plot", "the cast", "weak"],
    "score": [0.9, 0.1, 0.5, 0.6],
}
EXAMPLE_MODEL = "bert"
USE = sentences.USE
PAIRS = (("sentence1", "sentence2"), ("sentence_A", "sentence_B"), ("text1", "text2"), ("anchor", "other"))
SCORES = ("score", "similarity_score", "similarity", "label", "labels")

# Functions shared with other tasks.
fits = sentences.fits
load_processing_class = sentences.load_settings
head = sentences.no_head
check_augment = sentences.check_augment
augmented = unchanged
collator = sentences.collator
lengths = sentences.lengths


def fits_columns(config: PretrainedConfig, names: Sequence[str]) -> bool:
    """Whether the data has scored pairs, and the model has no head."""
    has_pair = any(set(pair) <= set(names) for pair in PAIRS)
    return is_bare(config) and has_pair and any(name in names for name in SCORES)


def label_column(dataset: Dataset, given: str | None) -> str:
    """The column of scores."""
    return find_column(dataset, given, SCORES)


def columns(dataset: Dataset, given: Sequence[str] | None, label: str) -> list[str]:
    """The columns of the two sentences."""
    return sentence_columns(dataset, given, PAIRS)


def labels(dataset: Dataset, label: str, config: PretrainedConfig) -> np.ndarray:
    """The score of each pair."""
    return numbers(dataset, label)


def encode(
    dataset: Dataset, processing_class: Any, columns: Sequence[str], labels: np.ndarray, inputs: ModelInputs
) -> Dataset:
    """The texts as they are, with the scores."""
    return texts_as_they_are(dataset, columns, labels)


def training_rows(dataset: Dataset, columns: Sequence[str], labels: np.ndarray) -> Dataset:
    """Pairs with their scores."""
    return rows_of_texts(dataset, columns).add_column("score", list(map(float, labels)))


def default_loss(rows: Dataset) -> str:
    """For scores of any range."""
    return "CoSENTLoss"


def forward(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The similarity of each pair."""
    scores = batch["labels"]
    first, second = embed(model, batch["text 0"]), embed(model, batch["text 1"])
    similarities = model.similarity_pairwise(first, second)
    return similarities, scores, scores.new_ones(len(scores)).long()
