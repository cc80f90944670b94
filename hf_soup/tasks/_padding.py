"""How encoded texts of different lengths become a batch, which the tasks that read text share. It knows no task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    padding = _Padding(
        names=inputs.names,
        fillers={
            "input_ids": 0 if filler is None else filler,
            "token_type_ids": getattr(processing_class, "pad_token_type_id", 0),
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
    import torch

    text = next((name for name in TEXTS if name in rows[0]), None)
    lengths = [] if text is None else [len(row[text]) for row in rows]
    names = [name for name in rows[0] if name in padding.names or name == "labels"]
    columns = {name: [torch.as_tensor(row[name]) for row in rows] for name in names}
    masks = columns.get("attention_mask") or [torch.ones(length, dtype=torch.long) for length in lengths]
    if "attention_mask" in padding.names:
        columns["attention_mask"] = masks
    batch = {name: _stacked(name, values, lengths, padding) for name, values in columns.items()}
    takes_positions = "position_ids" in padding.names and "position_ids" not in batch
    if text is not None and takes_positions:
        mask = _stacked("attention_mask", masks, lengths, padding)
        # models count positions from the left themselves, which is wrong only where padding is on the left
        if mask.ndim == 2 and (mask[:, 0] == 0).any():
            batch["position_ids"] = _positions(mask, padding)
    return batch


def _positions(mask: torch.Tensor, padding: _Padding) -> torch.Tensor:
    """Positions of tokens, counted from the first token of each row that is no padding."""
    import torch

    is_token = mask != 0
    padding_before = is_token.long().argmax(dim=1, keepdim=True)  # (rows, 1)
    positions = torch.arange(mask.shape[1]) - padding_before + padding.first_position
    return positions.where(is_token, padding.fillers["position_ids"])


def _stacked(name: str, values: list[torch.Tensor], lengths: Sequence[int], padding: _Padding) -> torch.Tensor:
    """One input of all rows as one tensor, as long as the longest."""
    import torch

    if values[0].ndim == 0 or len({value.shape for value in values}) == 1:
        return torch.stack(values)
    # by the end of the name: an encoder-decoder has decoder_input_ids as well
    filler = next((filler for end, filler in padding.fillers.items() if name.endswith(end)), 0)
    goes_with_tokens = all(len(value) == length for value, length in zip(values, lengths, strict=True))
    if name == "labels" and not padding.labels_follow:
        goes_with_tokens = False
    side = "left" if padding.left and goes_with_tokens else "right"
    return torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=filler, padding_side=side)
