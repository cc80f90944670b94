"""From texts to what language models take, for the tasks that read text: tokenizers, padding, right tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from .data import UNSCORED
from .errors import DataError, RecipeError, did_you_mean
from .progress import library_bars


if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

LONGEST = 1_000_000  # tokens; a tokenizer that says more does not know


def load_tokenizer(source: str, revision: str | None = None) -> PreTrainedTokenizerBase:
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


def limit_length(tokenizer: Any, max_length: Any, config: PretrainedConfig) -> None:
    """Have a tokenizer cut texts to a number of tokens; saved with a model, it cuts them later as well.

    Args:
        tokenizer (`transformers.PreTrainedTokenizerBase`):
            Changed in place.
        max_length (`int`):
            Tokens, those that mark beginning and end included.
        config (`transformers.PretrainedConfig`):
            Of the model.

    Raises:
        [`RecipeError`]: if it is no such number, more than the model takes, or if there is no tokenizer.
    """
    if not hasattr(tokenizer, "model_max_length"):
        raise RecipeError(f'"max_length" is for texts, and {type(tokenizer).__name__} is no tokenizer: leave it out.')
    if not isinstance(max_length, int) or isinstance(max_length, bool):
        raise RecipeError(f'"max_length" is a whole number of tokens, not {max_length!r}.')
    marks = tokenizer.num_special_tokens_to_add(pair=True)
    if max_length <= marks:
        raise RecipeError(f'"max_length" is {max_length}, and {marks} tokens mark where texts begin and end.')
    most = _positions(config)
    if max_length > most:
        raise RecipeError(f'"max_length" is {max_length}, and the model takes {most} tokens.')
    tokenizer.model_max_length = max_length


@library_bars("datasets")
def tokenize(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, columns: Sequence[str], **options: Any) -> Dataset:
    """Tokenise once, without padding, cut to what the model takes; nothing but the model's inputs is left."""

    def encode(batch: dict[str, list]) -> dict[str, list]:
        return dict(
            tokenizer(*[[text or "" for text in batch[column]] for column in columns], truncation=True, **options)
        )

    return dataset.map(
        encode, batched=True, remove_columns=dataset.column_names, desc="Tokenizing", keep_in_memory=True
    )


def check_masking(augment: Mapping[str, Any], processing_class: PreTrainedTokenizerBase) -> None:
    """Augmentation of texts is `{"mask": share}`.

    Raises:
        [`RecipeError`]: for anything else, or if the tokenizer has no mask.
    """
    for name, share in augment.items():
        if name != "mask":
            raise RecipeError(f'texts have no augmentation "{name}"{did_you_mean(name, ["mask"])}')
        if not isinstance(share, (int, float)) or not 0 < share < 1:
            raise RecipeError(f'the augmentation "mask" takes the share of tokens, between 0 and 1, not {share!r}.')
        if processing_class.mask_token_id is None:
            raise RecipeError(f"{type(processing_class).__name__} has no mask token; leave `augment: mask` out.")


def masked(encoded: Dataset, augment: Mapping[str, Any], processing_class: PreTrainedTokenizerBase) -> Dataset:
    """The same texts with a share of their tokens masked, others each time that they are asked for.

    It draws from numpy's global generator, which Trainer seeds and stores in its checkpoints. Special tokens stay.
    """
    hide = {
        "share": augment["mask"],
        "mask": processing_class.mask_token_id,
        "keep": sorted(processing_class.all_special_ids),
    }
    return encoded.with_transform(partial(_mask, **hide))


def _mask(batch: dict[str, list], share: float, mask: int, keep: Sequence[int]) -> dict[str, list]:
    import numpy as np

    texts = []
    for ids in map(np.asarray, batch["input_ids"]):
        hidden = (np.random.random(len(ids)) < share) & ~np.isin(ids, keep)
        texts.append(np.where(hidden, mask, ids).tolist())
    return {**batch, "input_ids": texts}


def pad_collator(
    processing_class: PreTrainedTokenizerBase | None, config: PretrainedConfig
) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
    """What makes a batch of rows: tokens are padded on the right to the longest, labels with -100.

    With the model's own padding token, which decides in some models where a text ends; so no tokenizer is needed.
    """
    pad = getattr(config, "pad_token_id", None)
    pad = getattr(processing_class, "pad_token_id", None) if pad is None else pad
    return partial(_pad, fill={"input_ids": pad or 0, "labels": UNSCORED})


def _pad(rows: list[dict[str, Any]], fill: Mapping[str, int]) -> dict[str, torch.Tensor]:
    import torch

    if "attention_mask" not in rows[0]:
        rows = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows]
    batch = {}
    for key in rows[0]:
        values = [torch.as_tensor(row[key]) for row in rows]
        if values[0].ndim == 0 or len({value.shape for value in values}) == 1:
            batch[key] = torch.stack(values)
        else:
            batch[key] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=fill.get(key, 0))
    return batch


def lengths(encoded: Dataset) -> list[int]:
    """Tokens in each row, to sort by."""
    return [len(ids) for ids in encoded["input_ids"]]


def right_tokens(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities of the right tokens.

    Args:
        logits (`torch.Tensor` of shape `(batch, positions, vocabulary)`):
            What the model said of each position.
        labels (`torch.Tensor` of shape `(batch, positions)`):
            The token that is there, or -100.

    Returns:
        `tuple[torch.Tensor, torch.Tensor, torch.Tensor]`: log-probability and id of each token, and the number of
        tokens in each row.
    """
    import torch

    keep = labels != UNSCORED
    said = torch.nn.functional.cross_entropy(logits[keep].float(), labels[keep], reduction="none")
    return -said, labels[keep], keep.sum(dim=1)


def _positions(config: PretrainedConfig) -> int:
    """How many tokens a model takes: its positions, less those that RoBERTa and its kin keep for padding."""
    positions = getattr(config, "max_position_embeddings", LONGEST)
    keeps = "roberta" in config.model_type or config.model_type == "camembert"
    return positions - (config.pad_token_id + 1 if keeps else 0)
