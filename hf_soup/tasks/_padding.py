"""Makes batches of encoded texts of different lengths, for all tasks that read text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..data.columns import UNSCORED


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from ._model_inputs import ModelInputs

TEXTS = ("input_ids", "inputs_embeds", "inputs")  # names of encoded texts, with one entry for each token


class _Padding(NamedTuple):
    """How rows of different lengths are padded in a batch.

    Args:
        names (`frozenset[str]`):
            Names of the model's inputs; other columns are left out.
        fillers (`Mapping[str, int]`):
            Padding values by the end of an input's name; other inputs are padded with zeros.
        left (`bool`):
            Whether inputs with an entry for each token are padded on the left.
        labels_follow (`bool`):
            Whether labels with an entry for each token are padded like tokens.
        first_position (`int`):
            Position of the first token of a text.
    """

    names: frozenset[str]
    fillers: Mapping[str, int]
    left: bool
    labels_follow: bool
    first_position: int


def pad_collator(
    processing_class: PreTrainedTokenizerBase | None, inputs: ModelInputs, *, labels_follow: bool = True
) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
    """A function that makes a batch from rows: model inputs are padded to the longest row, and labels with -100.

    Tokens are padded on the tokenizer's padding side (on the right without a tokenizer), with the model's own padding
    token, which in some models determines where a text ends. Masks and boxes are padded with zeros.

    Args:
        processing_class (`transformers.PreTrainedTokenizerBase`, *optional*):
            Tokenizer, which encoded data does not need.
        inputs ([`ModelInputs`]):
            Inputs that the model takes.
        labels_follow (`bool`, *optional*, defaults to `True`):
            Whether labels with an entry for each token belong to the tokens; those of a decoder do not.
    """
    filler = padding_token(processing_class, inputs)
    if filler is None:
        filler = 0  # padding is masked, and every vocabulary has a token 0
    padding = _Padding(
        names=inputs.names,
        fillers={
            "input_ids": filler,
            "token_type_ids": getattr(processing_class, "pad_token_type_id", 0),
            # the last of the positions reserved for padding, before that of the first token
            "position_ids": max(inputs.first_position - 1, 0),
            "labels": UNSCORED,
        },
        left=getattr(processing_class, "padding_side", "right") == "left",
        labels_follow=labels_follow,
        first_position=inputs.first_position,
    )
    return partial(_collate, padding=padding)


def padding_token(processing_class: PreTrainedTokenizerBase | None, inputs: ModelInputs) -> int | None:
    """The padding token of the model, or else of the tokenizer."""
    if inputs.pad_token_id is not None:
        return inputs.pad_token_id
    return getattr(processing_class, "pad_token_id", None)


def _collate(rows: list[dict[str, Any]], padding: _Padding) -> dict[str, torch.Tensor]:
    """Make a batch from some rows."""
    import torch

    lengths = _text_lengths(rows)
    columns = _taken_columns(rows, padding.names)
    masks = columns.get("attention_mask")
    if masks is None:  # encoded data may have no mask, and the model would read the padding
        masks = [torch.ones(length, dtype=torch.long) for length in lengths]
    if "attention_mask" in padding.names:
        columns["attention_mask"] = masks
    batch = {}
    for name, tensors in columns.items():
        batch[name] = _stacked(name, tensors, lengths, padding)
    takes_positions = "position_ids" in padding.names and "position_ids" not in batch
    if lengths and takes_positions:
        mask = _stacked("attention_mask", masks, lengths, padding)
        # models count positions from the left themselves, which is only wrong if padding is on the left
        if mask.ndim == 2 and (mask[:, 0] == 0).any():
            batch["position_ids"] = _positions(mask, padding)
    return batch


def _text_lengths(rows: list[dict[str, Any]]) -> list[int]:
    """The number of tokens of each row; empty if rows have no text."""
    for name in TEXTS:
        if name in rows[0]:
            return [len(row[name]) for row in rows]
    return []


def _taken_columns(rows: list[dict[str, Any]], names: frozenset[str]) -> dict[str, list[torch.Tensor]]:
    """The model inputs and labels of rows, with a tensor for each row."""
    import torch

    columns = {}
    for name in rows[0]:
        if name in names or name == "labels":
            columns[name] = [torch.as_tensor(row[name]) for row in rows]
    return columns


def _positions(mask: torch.Tensor, padding: _Padding) -> torch.Tensor:
    """Positions of tokens, counted from the first token of each row that is not padding."""
    import torch

    is_token = mask != 0  # (rows, tokens)
    # argmax returns the first of equal values: the index of the first token, which is the amount of padding before it
    padding_before = is_token.long().argmax(dim=1, keepdim=True)  # (rows, 1)
    positions = torch.arange(mask.shape[1]) - padding_before + padding.first_position
    return positions.where(is_token, padding.fillers["position_ids"])


def _stacked(name: str, tensors: list[torch.Tensor], lengths: list[int], padding: _Padding) -> torch.Tensor:
    """One input of all rows as one tensor, padded to the longest row."""
    import torch

    shapes = {tensor.shape for tensor in tensors}
    if tensors[0].ndim == 0 or len(shapes) == 1:
        return torch.stack(tensors)
    goes_with_tokens = [len(tensor) for tensor in tensors] == lengths
    if name == "labels" and not padding.labels_follow:
        # labels of a decoder, whose number may happen to be that of the encoder's tokens
        goes_with_tokens = False
    side = "left" if padding.left and goes_with_tokens else "right"
    filler = _filler(name, padding)
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=filler, padding_side=side)


def _filler(name: str, padding: _Padding) -> int:
    """The padding value of an input."""
    for end, filler in padding.fillers.items():
        if name.endswith(end):  # encoder-decoder models also have decoder_input_ids
            return filler
    return 0
