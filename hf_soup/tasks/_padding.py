"""How encoded texts of different lengths become a batch, which the tasks that read text share. It knows no task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..data.columns import UNSCORED


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from ._model_inputs import ModelInputs

TEXTS = ("input_ids", "inputs_embeds", "inputs")  # a text as models take it, one entry for each token


class _Padding(NamedTuple):
    """How rows of different lengths become a batch.

    Args:
        names (`frozenset[str]`):
            What the model takes; the rest of a row is left out.
        fillers (`Mapping[str, int]`):
            What to fill up with, by the end of an input's name; all else is filled up with zeros.
        left (`bool`):
            Whether what goes with the tokens is filled up on the left.
        labels_follow (`bool`):
            Whether labels as many as tokens go with them.
        first_position (`int`):
            Position of a text's first token.
    """

    names: frozenset[str]
    fillers: Mapping[str, int]
    left: bool
    labels_follow: bool
    first_position: int


def pad_collator(
    processing_class: PreTrainedTokenizerBase | None, inputs: ModelInputs, *, labels_follow: bool = True
) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
    """A function that makes a batch of rows: what the model takes, filled up to the longest, and labels with -100.

    Tokens are filled up on the side that the tokenizer pads, without one on the right, with the model's own padding
    token, which decides in some models where a text ends. Masks and boxes are filled up with zeros.

    Args:
        processing_class (`transformers.PreTrainedTokenizerBase`, *optional*):
            The tokenizer; data that is encoded already needs none.
        inputs ([`ModelInputs`]):
            What the model takes.
        labels_follow (`bool`, *optional*, defaults to `True`):
            Whether labels as many as tokens belong to these; those of a decoder do not.
    """
    filler = padding_token(processing_class, inputs)
    if filler is None:
        filler = 0  # padding is masked, and every vocabulary has a token 0
    padding = _Padding(
        names=inputs.names,
        fillers={
            "input_ids": filler,
            "token_type_ids": getattr(processing_class, "pad_token_type_id", 0),
            # the last of the places that are kept for padding, before that of the first token
            "position_ids": max(inputs.first_position - 1, 0),
            "labels": UNSCORED,
        },
        left=getattr(processing_class, "padding_side", "right") == "left",
        labels_follow=labels_follow,
        first_position=inputs.first_position,
    )
    return partial(_collate, padding=padding)


def padding_token(processing_class: PreTrainedTokenizerBase | None, inputs: ModelInputs) -> int | None:
    """The model's own padding token, else the tokenizer's."""
    if inputs.pad_token_id is not None:
        return inputs.pad_token_id
    return getattr(processing_class, "pad_token_id", None)


def _collate(rows: list[dict[str, Any]], padding: _Padding) -> dict[str, torch.Tensor]:
    """The batch of some rows."""
    import torch

    lengths = _text_lengths(rows)
    columns = _taken_columns(rows, padding.names)
    masks = columns.get("attention_mask")
    if masks is None:  # data that is encoded already may have none, and the model would read the padding
        masks = [torch.ones(length, dtype=torch.long) for length in lengths]
    if "attention_mask" in padding.names:
        columns["attention_mask"] = masks
    batch = {}
    for name, tensors in columns.items():
        batch[name] = _stacked(name, tensors, lengths, padding)
    takes_positions = "position_ids" in padding.names and "position_ids" not in batch
    if lengths and takes_positions:
        mask = _stacked("attention_mask", masks, lengths, padding)
        # models count positions from the left themselves, which is wrong only where padding is on the left
        if mask.ndim == 2 and (mask[:, 0] == 0).any():
            batch["position_ids"] = _positions(mask, padding)
    return batch


def _text_lengths(rows: list[dict[str, Any]]) -> list[int]:
    """The number of tokens of each row; empty where rows hold no text."""
    for name in TEXTS:
        if name in rows[0]:
            return [len(row[name]) for row in rows]
    return []


def _taken_columns(rows: list[dict[str, Any]], names: frozenset[str]) -> dict[str, list[torch.Tensor]]:
    """What the model takes of rows, and the labels: a tensor for each row."""
    import torch

    columns = {}
    for name in rows[0]:
        if name in names or name == "labels":
            columns[name] = [torch.as_tensor(row[name]) for row in rows]
    return columns


def _positions(mask: torch.Tensor, padding: _Padding) -> torch.Tensor:
    """Positions of tokens, counted from the first token of each row that is no padding."""
    import torch

    is_token = mask != 0  # (rows, tokens)
    # of equal values argmax takes the first: where the first token is, which is how many places precede it
    padding_before = is_token.long().argmax(dim=1, keepdim=True)  # (rows, 1)
    positions = torch.arange(mask.shape[1]) - padding_before + padding.first_position
    return positions.where(is_token, padding.fillers["position_ids"])


def _stacked(name: str, tensors: list[torch.Tensor], lengths: list[int], padding: _Padding) -> torch.Tensor:
    """One input of all rows as one tensor, as long as the longest."""
    import torch

    shapes = {tensor.shape for tensor in tensors}
    if tensors[0].ndim == 0 or len(shapes) == 1:
        return torch.stack(tensors)
    goes_with_tokens = [len(tensor) for tensor in tensors] == lengths
    if name == "labels" and not padding.labels_follow:
        # those of a decoder, which may happen to be as many as the tokens of the encoder
        goes_with_tokens = False
    side = "left" if padding.left and goes_with_tokens else "right"
    filler = _filler(name, padding)
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=filler, padding_side=side)


def _filler(name: str, padding: _Padding) -> int:
    """What an input is filled up with."""
    for end, filler in padding.fillers.items():
        if name.endswith(end):  # an encoder-decoder has decoder_input_ids as well
            return filler
    return 0
