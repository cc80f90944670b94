"""What a model takes: arguments of its `forward`, how many tokens its positions reach, padding token, vocabulary.

It reads classes, configurations and shapes of tensors, never values, so a model without memory (`meta`) will do. It
runs no model and knows no tokenizer.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple


if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

# names of position tables: position_embeddings, embed_positions, pos_emb, wpe ...; a bias is of distances
POSITION_TABLE = re.compile(r"(?<![a-z])(pos|positions?|positional|wpe)(?![a-z])(?!.*bias)")
ROTARY = "inv_freq"  # the buffer of rotary positions
USUAL = frozenset({"input_ids", "attention_mask", "token_type_ids", "pixel_values"})


class ModelInputs(NamedTuple):
    """What one architecture takes.

    Args:
        model (`str`):
            Name of the class.
        names (`frozenset[str]`):
            Arguments of its `forward`, without `labels`.
        positions (`int`, *optional*):
            Number of tokens that its positions or biases reach, without the places that are kept for padding; `None`
            where nothing ends them, as with relative positions.
        target_positions (`int`, *optional*):
            The same of the decoder of an encoder-decoder.
        first_position (`int`):
            Position of a text's first token: the places that are kept for padding come before it.
        pad_token_id (`int`, *optional*):
            Padding token of the configuration.
        vocabulary (`int`, *optional*):
            Number of its token embeddings; `None` where it embeds something else, such as patches of images.
    """

    model: str
    names: frozenset[str]
    positions: int | None
    target_positions: int | None
    first_position: int
    pad_token_id: int | None
    vocabulary: int | None = None


class _Table(NamedTuple):
    """A position table: the number of tokens that it reaches, the places before them, and where it is."""

    reach: int
    kept: int
    in_decoder: bool


def inputs_of(model: PreTrainedModel) -> ModelInputs:
    """What a model takes.

    Args:
        model (`transformers.PreTrainedModel`):
            It may lie on the `meta` device.
    """
    reaches: list[int] = []
    target_reaches: list[int] = []
    first_position = 0
    for table in _position_tables(model):
        if table.in_decoder:
            target_reaches.append(table.reach)
        else:
            reaches.append(table.reach)
            first_position = max(first_position, table.kept)
    return ModelInputs(
        model=type(model).__name__,
        names=_argument_names(type(model), type(model.config)),
        positions=min(reaches, default=_length_of_biases(model)),
        target_positions=min(target_reaches, default=None),
        first_position=first_position,
        pad_token_id=_field(model.config, "pad_token_id"),
        vocabulary=_embeddings(model),
    )


def empty_model(auto_class: str, config: PretrainedConfig) -> PreTrainedModel:
    """The model of a configuration on the `meta` device: names and shapes without memory.

    Args:
        auto_class (`str`):
            Name of a class of transformers, such as `"AutoModelForSequenceClassification"`.
        config (`transformers.PretrainedConfig`):
            Of the model.
    """
    import torch
    import transformers

    with torch.device("meta"):
        return getattr(transformers, auto_class).from_config(config, trust_remote_code=False)


def _argument_names(model_class: type[Any], config_class: type[Any]) -> frozenset[str]:
    """Arguments of `forward`. A wrapper's `**kwargs` go on to the model inside, which its configuration names.

    transformers' own classes have `**kwargs` as well, but name every input before.
    """
    names = set()
    passes_on = False
    for parameter in inspect.signature(model_class.forward).parameters.values():
        if parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
            names.add(parameter.name)
        elif parameter.kind == inspect.Parameter.VAR_KEYWORD:
            passes_on = True
    if passes_on and not model_class.__module__.startswith("transformers."):
        names |= _base_names(config_class)
    return frozenset(names - {"self", "labels"})


def _base_names(config_class: type[Any]) -> frozenset[str]:
    """Arguments of the model that a configuration stands for without a head; the usual ones where there is none."""
    from transformers import MODEL_MAPPING

    if config_class not in MODEL_MAPPING:
        return USUAL
    base = MODEL_MAPPING[config_class]
    base_class = base[0] if isinstance(base, tuple) else base  # some are of several models, Funnel's for one
    if base_class is None:
        return USUAL
    return _argument_names(base_class, config_class)


def _position_tables(model: PreTrainedModel) -> Iterator[_Table]:
    """The tables of a model's token positions.

    RoBERTa and its kin (MPNet, ESM, Longformer ...) count positions from their padding index + 1, and the table says
    so by its `padding_idx`; BART's says so by an `offset`. Tables of something else (patches of an image, coordinates,
    distances) are shorter than what the configuration says of texts, or longer and then no limit. A decoder that
    predicts n-grams (ProphetNet) looks up the position after the last token as well.
    """
    longest = max(_field(model.config, "max_position_embeddings") or 0, 0)  # XLNet says -1: without end
    has_decoder = bool(getattr(model.config, "is_encoder_decoder", False))
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        owner, _, last = name.rpartition(".")
        in_decoder = has_decoder and "decoder" in owner.split(".")
        if last.endswith(ROTARY) and longest:
            yield _Table(longest, 0, in_decoder)
        shortest = 2 if in_decoder else max(longest, 2)
        if tensor.ndim == 2 and len(tensor) >= shortest and POSITION_TABLE.search(name):
            kept = _kept_places(model.get_submodule(owner), last)
            reach = len(tensor) - _places_before(model, owner, kept)
            if longest:
                reach = min(reach, longest)
            yield _Table(reach, kept, in_decoder)


def _places_before(model: PreTrainedModel, owner: str, kept: int) -> int:
    """How many places of a position table no token of a text takes."""
    places = kept or int(getattr(model.get_submodule(owner), "offset", 0))
    predicts_ahead = getattr(model.config, "ngram", None) is not None
    if predicts_ahead and "decoder" in owner.split("."):
        places += 1
    return places


def _embeddings(model: PreTrainedModel) -> int | None:
    """Rows of the table that a model looks its tokens up in."""
    import torch

    try:
        table = model.get_input_embeddings()
    except (NotImplementedError, AttributeError):  # of models that have none
        return None
    if not isinstance(table, torch.nn.Embedding):  # of image models it projects patches
        return None
    return table.num_embeddings


def _length_of_biases(model: PreTrainedModel) -> int | None:
    """How many tokens the biases of a model without position tables are made for, where its configuration says so.

    MPT makes its ALiBi biases for `max_seq_len` tokens at every call; BLOOM and Falcon make them as long as the text.
    A field of that name that a class does not know, but some file has, says nothing.
    """
    if not hasattr(type(model.config), "max_seq_len"):
        return None
    return model.config.max_seq_len


def _kept_places(table: torch.nn.Module, tensor: str) -> int:
    """How many places of a position table are kept for padding, before a text's first token."""
    padding = getattr(table, "padding_idx", None)
    if padding is None or tensor != "weight":
        return 0
    return int(padding) + 1


def _field(config: PretrainedConfig, name: str) -> Any:
    """A field of a configuration, or of the one of its texts where it has several parts."""
    value = getattr(config, name, None)
    if value is not None:
        return value
    return getattr(getattr(config, "text_config", None), name, None)
