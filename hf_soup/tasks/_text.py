"""Functions that tasks with texts share: tokenizers, length limits, masking, log-probabilities of tokens.

Batches are padded in `_padding.py`, and boxes of words are found in `_boxes.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..checkpoints.hub_errors import read_errors
from ..data.columns import UNSCORED
from ..data.missing import tell_missing_texts
from ..errors import DataError, RecipeError, did_you_mean
from ..progress import library_bars
from ._padding import TEXTS


if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import BatchEncoding, PreTrainedTokenizerBase

LONGEST = 1_000_000  # tokens; transformers uses a huge number for tokenizers without a limit


@read_errors(DataError, "the tokenizer cannot be read")
def load_tokenizer(source: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint.

    Raises:
        [`DataError`]: if the checkpoint has no tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision or "main", trust_remote_code=False)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{source} has no tokenizer that loads ({reason}). Save one beside it.") from None
    # without files, transformers makes a tokenizer that only has special tokens
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise DataError(f"{source} has no tokenizer. Save one beside it.")
    return tokenizer


@contextlib.contextmanager
def unchanged_state(tokenizer: Any) -> Iterator[None]:
    """Restore the truncation and padding of a tokenizer at the end.

    A fast tokenizer remembers its last truncation and padding, which would be saved with a model as settings.

    Args:
        tokenizer (`transformers.PreTrainedTokenizerBase`):
            Tokenizer; one without such a state, or an image processor, is left unchanged.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    truncation = getattr(backend, "truncation", None)
    padding = getattr(backend, "padding", None)
    yield
    if backend is None:
        return
    backend.no_truncation()
    backend.no_padding()
    # both states have the names of the arguments that set them
    if truncation is not None:
        backend.enable_truncation(**truncation)
    if padding is not None:
        backend.enable_padding(**padding)


def limit_length(tokenizer: Any, max_length: Any, positions: int | None) -> None:
    """Make a tokenizer truncate texts to a number of tokens, which is saved with the tokenizer.

    Args:
        tokenizer (`transformers.PreTrainedTokenizerBase`):
            Tokenizer, which is changed in place.
        max_length (`int`):
            Number of tokens, including those that mark the beginning and end.
        positions (`int`, *optional*):
            Number of positions of the model; `None` if it is unlimited.

    Raises:
        [`RecipeError`]: if the number is invalid or more than the model takes, or if there is no tokenizer.
    """
    if not hasattr(tokenizer, "model_max_length"):
        raise RecipeError(f'"max_length" is for texts, and {type(tokenizer).__name__} is no tokenizer: leave it out.')
    if not isinstance(max_length, int) or isinstance(max_length, bool):
        raise RecipeError(f'"max_length" is a whole number of tokens, not {max_length!r}.')
    marks = tokenizer.num_special_tokens_to_add(pair=True)  # a pair has the most, and one token of text has to remain
    if max_length <= marks:
        raise RecipeError(f'"max_length" is {max_length}, and {marks} tokens mark where texts begin and end.')
    if positions is not None and max_length > positions:
        raise RecipeError(f'"max_length" is {max_length}, and the model takes {positions} tokens.')
    tokenizer.model_max_length = max_length


def check_tokenizer(processing_class: Any) -> None:
    """Raise an error if texts are to be encoded without a tokenizer.

    Raises:
        [`DataError`]: if the processing class is something else, such as an image processor.
    """
    if hasattr(processing_class, "model_max_length") and callable(processing_class):
        return
    # a processor for several kinds of input, such as CLIP's, contains a tokenizer
    has_tokenizer = getattr(processing_class, "tokenizer", None) is not None
    remedy = "its .tokenizer" if has_tokenizer else "the tokenizer of the model"
    name = type(processing_class).__name__
    raise DataError(f"the data holds texts, and {name} is no tokenizer: pass {remedy} as processing_class.")


def most_tokens(tokenizer: PreTrainedTokenizerBase, *positions: int | None) -> int | None:
    """The maximum number of tokens of a text, by the tokenizer's limit and the model's positions.

    Args:
        tokenizer (`transformers.PreTrainedTokenizerBase`):
            Tokenizer of the model.
        positions (`int`, *optional*):
            Number of positions, as in [`ModelInputs`]; `None` if it is unlimited.

    Returns:
        `int`: the limit; `None` if there is none.

    Raises:
        [`DataError`]: if the processing class is not a tokenizer.
    """
    check_tokenizer(tokenizer)
    limits = [limit for limit in positions if limit is not None]
    if tokenizer.model_max_length <= LONGEST:
        limits.append(tokenizer.model_max_length)
    return min(limits, default=None)


@library_bars("datasets")
def in_memory(
    dataset: Dataset, function: Callable[..., dict[str, list[Any]]], *, with_indices: bool = False
) -> Dataset:
    """Encode a data set batch by batch, keeping nothing but the columns that a function returns.

    Args:
        dataset (`datasets.Dataset`):
            Data set with the examples.
        function (`Callable`):
            Function of a batch, and with `with_indices=True` of the numbers of its rows.
        with_indices (`bool`, *optional*, defaults to `False`):
            Whether it takes them.
    """
    return dataset.map(
        function,
        batched=True,
        with_indices=with_indices,
        remove_columns=dataset.column_names,
        desc="Tokenizing",
        keep_in_memory=True,
        load_from_cache_file=False,
    )


def tokenize(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    columns: Sequence[str],
    limit: int | None,
    boxes: str | None = None,
) -> Dataset:
    """Tokenise a data set without padding, keeping the tokenizer's columns only.

    Args:
        dataset (`datasets.Dataset`):
            Data set with the examples.
        tokenizer (`transformers.PreTrainedTokenizerBase`):
            Tokenizer of the model.
        columns (`Sequence[str]`):
            Columns of texts; with boxes, one column of lists of words.
        limit (`int`, *optional*):
            Number of tokens at which longer texts are truncated.
        boxes (`str`, *optional*):
            Name of the column with a box for each word.
    """
    if boxes is None:
        tell_missing_texts(dataset, columns)

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if boxes is not None:
            (words,) = columns
            return dict(call_tokenizer(tokenizer, batch[words], limit=limit, boxes=batch[boxes]))
        texts = []
        for column in columns:
            texts.append([text or "" for text in batch[column]])
        return dict(call_tokenizer(tokenizer, *texts, limit=limit))

    return in_memory(dataset, encode)


def call_tokenizer(
    tokenizer: PreTrainedTokenizerBase, *texts: list[Any], limit: int | None, **options: Any
) -> BatchEncoding:
    """Tokenise texts.

    Args:
        tokenizer (`transformers.PreTrainedTokenizerBase`):
            Tokenizer of the model.
        texts (`list`):
            One list of texts, or two lists for pairs.
        limit (`int`, *optional*):
            Number of tokens at which longer texts are truncated.
        options:
            Further arguments of the tokenizer, such as `text_target`.

    Raises:
        [`DataError`]: if the tokenizer does not take the texts.
    """
    try:
        return tokenizer(*texts, truncation=limit is not None, max_length=limit, **options)
    except (ValueError, TypeError) as error:
        raise DataError(f"{type(tokenizer).__name__} does not take the texts: {error}") from None


def check_masking(augment: Mapping[str, Any], processing_class: PreTrainedTokenizerBase) -> None:
    """Check the augmentation of texts, which is `{"mask": share}`.

    Raises:
        [`RecipeError`]: for other augmentations, or if the tokenizer has no mask token.
    """
    for name, share in augment.items():
        if name != "mask":
            raise RecipeError(f'texts have no augmentation "{name}"{did_you_mean(name, ["mask"])}')
        if not isinstance(share, (int, float)) or not 0 < share < 1:
            raise RecipeError(f'the augmentation "mask" takes the share of tokens, between 0 and 1, not {share!r}.')
        if processing_class.mask_token_id is None:
            raise RecipeError(f"{type(processing_class).__name__} has no mask token; leave `augment: mask` out.")


def masked(encoded: Dataset, augment: Mapping[str, Any], processing_class: PreTrainedTokenizerBase) -> Dataset:
    """The same texts with a random share of their tokens masked, drawn each time that a row is read.

    numpy's global generator is used, which Trainer seeds and stores in its checkpoints. Special tokens are not masked.
    """
    special = sorted(processing_class.all_special_ids)
    mask = partial(_mask, share=augment["mask"], mask_id=processing_class.mask_token_id, special_ids=special)
    return encoded.with_transform(mask)


def _mask(batch: dict[str, list[Any]], share: float, mask_id: int, special_ids: Sequence[int]) -> dict[str, list[Any]]:
    """Mask tokens of a batch, for [`masked`]."""
    import numpy as np

    texts = []
    for token_ids in map(np.asarray, batch["input_ids"]):
        is_drawn = np.random.random(len(token_ids)) < share
        is_masked = is_drawn & ~np.isin(token_ids, special_ids)
        texts.append(np.where(is_masked, mask_id, token_ids).tolist())
    return {**batch, "input_ids": texts}


def lengths(encoded: Dataset) -> list[int]:
    """The number of tokens of each row, to sort by."""
    text = next(name for name in TEXTS if name in encoded.column_names)  # encoded data has one of them
    return [len(tokens) for tokens in encoded[text]]


def right_tokens(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities of the correct tokens.

    Args:
        logits (`torch.Tensor` of shape `(batch, positions, vocabulary)`):
            Logits for each position.
        labels (`torch.Tensor` of shape `(batch, positions)`):
            Id of the token at each position, or -100.

    Returns:
        `tuple[torch.Tensor, torch.Tensor, torch.Tensor]`: log-probability and id of each token, and the number of
        tokens in each row.
    """
    import torch

    is_scored = labels != UNSCORED
    token_ids = labels[is_scored]
    # in float32, because bfloat16 has only two to three digits
    losses = torch.nn.functional.cross_entropy(logits[is_scored].float(), token_ids, reduction="none")
    return -losses, token_ids, is_scored.sum(dim=1)
