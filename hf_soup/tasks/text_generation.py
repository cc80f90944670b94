"""Text generation by a causal language model, scored by the probability of each next token of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..data.columns import UNSCORED, find_column, is_list
from ..data.text_columns import choose_columns
from ..errors import DataError
from . import _text as tokens
from ._heads import ends_in
from ._padding import pad_collator
from ._text import most_tokens, right_tokens, tokenize


if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ._model_inputs import ModelInputs

AUTO_CLASS = "AutoModelForCausalLM"
PIPELINE = "text-generation"
METRIC = "loss"
KIND = "tokens"
BATCH_SIZE = 8  # logits of a whole vocabulary for each token
EXAMPLE: dict[str, list[Any]] = {"text": ["good film", "the bad plot was very dull", "a very lovely cast"]}
EXAMPLE_MODEL = "gpt2"
USE = """
from transformers import pipeline

generate = pipeline("text-generation", model="{model}")
print(generate("The beginning of a text", max_new_tokens=20))
"""

# Functions shared with other tasks.
load_processing_class = tokens.load_tokenizer
check_augment = tokens.check_masking
augmented = tokens.masked
collator = pad_collator
lengths = tokens.lengths


def fits(config: PretrainedConfig) -> bool:
    """Whether the model is a causal language model."""
    return ends_in(config, "ForCausalLM", "LMHeadModel")


def label_column(dataset: Dataset, given: str | None) -> str | None:
    """`None`, because a text is its own label; or `labels` of encoded data, -100 for tokens that are not scored."""
    if given is not None:
        return find_column(dataset, given)
    return "labels" if {"input_ids", "labels"} <= set(dataset.column_names) else None


def columns(dataset: Dataset, given: Sequence[str] | None, label: str | None) -> list[str]:
    """The text column."""
    return choose_columns(dataset, given, label, most=1)


def head(dataset: Dataset, label: str | None) -> dict[str, Any]:
    """No fields, because the vocabulary is that of the tokenizer."""
    return {}


def labels(dataset: Dataset, label: str | None, config: PretrainedConfig) -> list[list[int]] | None:
    """The tokens to score, if they are given.

    Raises:
        [`DataError`]: if the column has other values.
    """
    if label is None:
        return None
    if not is_list(dataset, label):
        raise DataError(f'a text is its own label, and "{label}" holds no tokens. Leave `label_column` out.')
    return dataset[label][:]


def encode(
    dataset: Dataset,
    processing_class: PreTrainedTokenizerBase,
    columns: Sequence[str],
    labels: None,
    inputs: ModelInputs,
) -> Dataset:
    """Encode texts as tokens, which are the labels too; models shift them, so the first token is not scored."""
    limit = most_tokens(processing_class, inputs.positions)
    encoded = tokenize(dataset, processing_class, columns, limit)
    token_labels = []
    for token_ids in encoded["input_ids"]:
        # an empty text has no first token
        token_labels.append([UNSCORED, *token_ids[1:]] if token_ids else [])
    return encoded.add_column("labels", token_labels)


def all_logits(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The logits of the tokens that are scored; those at a position are of the next token."""
    return model(**batch).logits[:, :-1][batch["labels"][:, 1:] != UNSCORED]


def forward(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probability of each token after the first one that is not padding."""
    # logits at a position are those of the next token: then both have the shape (rows, tokens - 1, ...)
    following = batch.pop("labels")[:, 1:]
    if "attention_mask" in batch:
        follows_padding = batch["attention_mask"][:, :-1] == 0
        following = following.masked_fill(follows_padding, UNSCORED)
    return right_tokens(model(**batch).logits[:, :-1], following)
