"""Text classification: one text, or a pair of texts, to one of several classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..data import choose_columns
from ..errors import DataError, RecipeError


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

AUTO_CLASS = "AutoModelForSequenceClassification"
ARCHITECTURE = "ForSequenceClassification"
METRIC = "accuracy"
LONGEST = 1_000_000  # tokens; a tokenizer that says more does not know


def load_processing_class(source: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    Raises:
        [`DataError`]: if it has none.
    """
    from transformers import AutoConfig, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision or "main", trust_remote_code=False)
    except (OSError, ValueError, TypeError) as error:
        why = str(error).splitlines()[0]
        raise DataError(f"{source} has no tokenizer that loads ({why}). Save one beside it.") from None
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):  # what transformers makes when there are no files
        raise DataError(f"{source} has no tokenizer. Save one beside it.")
    if tokenizer.model_max_length > LONGEST:  # its files do not say, and then nothing would be cut
        config = AutoConfig.from_pretrained(source, revision=revision or "main", trust_remote_code=False)
        tokenizer.model_max_length = _positions(config)
    return tokenizer


def _positions(config: PretrainedConfig) -> int:
    """How many tokens a model takes: its positions, less those that RoBERTa and its kin keep for padding."""
    positions = getattr(config, "max_position_embeddings", LONGEST)
    keeps = "roberta" in config.model_type or config.model_type == "camembert"
    return positions - (config.pad_token_id + 1 if keeps else 0)


def columns(dataset: Dataset, given: Sequence[str] | None, label: str) -> list[str]:
    """One or two text columns."""
    return choose_columns(dataset, given, label)


def check_augment(augment: Mapping[str, Any]) -> None:
    """Texts have no augmentation.

    Raises:
        [`RecipeError`]: if there is one.
    """
    if augment:
        raise RecipeError("texts have no augmentation; leave `augment` out.")


def encode(
    dataset: Dataset,
    processing_class: PreTrainedTokenizerBase,
    columns: Sequence[str],
    label_ids: np.ndarray,
    augment: dict[str, Any] | None = None,
) -> Dataset:
    """Tokenise once, without padding, cut to what the model takes; `augment` is empty."""

    def tokenize(batch: dict[str, list]) -> dict[str, list]:
        return dict(processing_class(*[[text or "" for text in batch[column]] for column in columns], truncation=True))

    encoded = dataset.map(
        tokenize, batched=True, remove_columns=dataset.column_names, desc="Tokenizing", keep_in_memory=True
    )
    return encoded.add_column("labels", label_ids.tolist())


def collator(processing_class: PreTrainedTokenizerBase) -> Callable[[list[dict]], dict]:
    """Pad to the longest of the batch."""
    from transformers import DataCollatorWithPadding

    return DataCollatorWithPadding(processing_class)


def lengths(encoded: Dataset) -> list[int]:
    """Tokens in each row."""
    return [len(ids) for ids in encoded["input_ids"]]
