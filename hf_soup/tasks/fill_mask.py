"""Masked words: a bidirectional language model, scored by the probability of words that are hidden from it.

In each text 15 % of the tokens, and at least one, are replaced by the mask. Which ones depends on the text alone, so
that all models see the same masks, in every call and in whatever order the texts come.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..data.columns import UNSCORED
from ..errors import DataError
from . import _text as tokens
from . import text_generation
from ._heads import ends_in
from ._no_augmentation import refuse_augment, unchanged
from ._padding import pad_collator
from ._text import most_tokens, right_tokens, tokenize


if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ._model_inputs import ModelInputs

AUTO_CLASS = "AutoModelForMaskedLM"
PIPELINE = "fill-mask"
METRIC = "loss"
KIND = "tokens"
BATCH_SIZE = 8  # logits of a whole vocabulary for each token
MASKED = 0.15  # of the tokens, as BERT was trained
EXAMPLE: dict[str, list[Any]] = {"text": ["good film", "the bad plot was very dull", "a very lovely cast"]}
EXAMPLE_MODEL = "bert"
USE = """
from transformers import pipeline

fill = pipeline("fill-mask", model="{model}")
print(fill("A text with a " + fill.tokenizer.mask_token + " word."))
"""

# Functions shared with other tasks.
load_processing_class = tokens.load_tokenizer
label_column = text_generation.label_column
columns = text_generation.columns
head = text_generation.head
labels = text_generation.labels
collator = pad_collator
lengths = tokens.lengths
check_augment = partial(
    refuse_augment, why="texts for fill-mask have no augmentation: 15 % of their tokens are masked already."
)
augmented = unchanged


def fits(config: PretrainedConfig) -> bool:
    """Whether the model has a head for masked words."""
    return ends_in(config, "ForMaskedLM")


def encode(
    dataset: Dataset,
    processing_class: PreTrainedTokenizerBase,
    columns: Sequence[str],
    labels: None,
    inputs: ModelInputs,
) -> Dataset:
    """Encode texts as tokens, some of which are masked; these are the labels.

    Raises:
        [`DataError`]: if the tokenizer has no mask.
    """
    limit = most_tokens(processing_class, inputs.positions)
    mask = getattr(processing_class, "mask_token_id", None)
    if mask is None:
        raise DataError(f"{type(processing_class).__name__} has no mask token, which words are replaced by.")
    special = set(processing_class.all_special_ids)
    encoded = tokenize(dataset, processing_class, columns, limit)
    masked_ids, token_labels = [], []
    for ids in encoded["input_ids"]:
        chosen = _masked_places(ids, special)
        masked_ids.append([mask if place in chosen else token for place, token in enumerate(ids)])
        token_labels.append([token if place in chosen else UNSCORED for place, token in enumerate(ids)])
    encoded = encoded.remove_columns("input_ids").add_column("input_ids", masked_ids)
    return encoded.add_column("labels", token_labels)


def _masked_places(ids: Sequence[int], special: set[int]) -> set[int]:
    """The places of a text that are masked, drawn with a seed that is a digest of its tokens."""
    import numpy as np

    places = [place for place, token in enumerate(ids) if token not in special]
    if not places:
        return set()
    rng = np.random.default_rng(zlib.crc32(np.asarray(ids, dtype=np.int64).tobytes()))
    count = max(round(MASKED * len(places)), 1)
    return set(rng.choice(places, size=count, replace=False).tolist())


def all_logits(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The logits of the tokens that are scored."""
    return model(**batch).logits[batch["labels"] != UNSCORED]


def forward(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probability of each masked token."""
    masked = batch.pop("labels")
    return right_tokens(model(**batch).logits, masked)
