"""Triplets: whether the embedding of a text is nearer to that of a similar one than to that of another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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
METRIC = "accuracy"
TRAINED_AS = "SentenceTransformer"
KIND = "classes"  # the similarity to the other text and to the similar one, of which the second should be higher
BATCH_SIZE = 256
EXAMPLE: dict[str, list[Any]] = {
    "anchor": ["good film", "the bad plot", "a very lovely cast"],
    "positive": ["great film", "the awful plot", "the superb cast"],
    "negative": ["bad film", "the fine plot", "dull"],
}
EXAMPLE_MODEL = "bert"
USE = sentences.USE
TRIPLETS = (("anchor", "positive", "negative"), ("query", "positive", "negative"))

# Functions shared with other tasks.
fits = sentences.fits
load_processing_class = sentences.load_settings
head = sentences.no_head
check_augment = sentences.check_augment
augmented = unchanged
collator = sentences.collator
lengths = sentences.lengths


def fits_columns(config: PretrainedConfig, names: Sequence[str]) -> bool:
    """Whether the data has an anchor with a similar and another text, and the model has no head."""
    return is_bare(config) and any(set(triplet) <= set(names) for triplet in TRIPLETS)


def label_column(dataset: Dataset, given: str | None) -> None:
    """None: the order of the columns is the label."""


def columns(dataset: Dataset, given: Sequence[str] | None, label: None) -> list[str]:
    """The columns of the anchor, the similar text and the other one."""
    return sentence_columns(dataset, given, TRIPLETS)


def labels(dataset: Dataset, label: None, config: PretrainedConfig) -> np.ndarray:
    """The second similarity should be the higher one."""
    import numpy as np

    return np.ones(len(dataset), dtype=np.int64)


def encode(
    dataset: Dataset, processing_class: Any, columns: Sequence[str], labels: np.ndarray, inputs: ModelInputs
) -> Dataset:
    """The texts as they are."""
    return texts_as_they_are(dataset, columns, labels)


def training_rows(dataset: Dataset, columns: Sequence[str], labels: np.ndarray) -> Dataset:
    """Triplets."""
    return rows_of_texts(dataset, columns)


def default_loss(rows: Dataset) -> str:
    """With the other positives of a batch as further negatives."""
    return "MultipleNegativesRankingLoss"


def forward(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The similarity of each anchor to the other text and to the similar one; of equal ones the first counts."""
    import torch

    anchors = embed(model, batch["text 0"])
    similar = model.similarity_pairwise(anchors, embed(model, batch["text 1"]))
    other = model.similarity_pairwise(anchors, embed(model, batch["text 2"]))
    classes = batch["labels"]
    return torch.stack([other, similar], dim=1), classes, torch.ones_like(classes)
