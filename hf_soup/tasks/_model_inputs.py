"""The inputs of a model: arguments of its `forward`, number of positions, padding token, vocabulary.

They are read from classes, configurations and shapes of tensors, so a model on the `meta` device is sufficient. No
model is run here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple


if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

# names of position tables: position_embeddings, embed_positions, pos_emb, wpe ...; biases are for distances
POSITION_TABLE = re.compile(r"(?<![a-z])(pos|positions?|positional|wpe)(?![a-z])(?!.*bias)")
ROTARY = "inv_freq"  # the buffer of rotary positions
USUAL = frozenset({"input_ids", "attention_mask", "token_type_ids", "pixel_values"})


class ModelInputs(NamedTuple):
    """The inputs of an architecture.

    Args:
        model (`str`):
            Name of the model's class.
        names (`frozenset[str]`):
            Names of the arguments of `forward`, without `labels`.
        positions (`int`, *optional*):
            Number of positions for tokens, without those reserved for padding; `None` if it is unlimited, as with
            relative positions.
        target_positions (`int`, *optional*):
            Number of positions of the decoder in an encoder-decoder model.
        first_position (`int`):
            Position of the first token of a text, after those reserved for padding.
        pad_token_id (`int`, *optional*):
            Id of the padding token in the configuration.
        vocabulary (`int`, *optional*):
            Number of token embeddings; `None` if the model embeds something else, such as patches of images.
        decoder_start (`int`, *optional*):
            Id of the token that a decoder starts with, before those of the text.
    """

    model: str
    names: frozenset[str]
    positions: int | None
    target_positions: int | None
    first_position: int
    pad_token_id: int | None
    vocabulary: int | None = None
    decoder_start: int | None = None


class _Table(NamedTuple):
    """A position table: its number of positions, the reserved positions before them, and its module."""

    reach: int
    kept: int
    in_decoder: bool


def inputs_of(model: PreTrainedModel) -> ModelInputs:
    """The inputs of a model.

    Args:
        model (`transformers.PreTrainedModel`):
            Model, which may be on the `meta` device.
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
        decoder_start=_field(model.config, "decoder_start_token_id"),
    )


def auto_class(names: str | Sequence[str], config: PretrainedConfig) -> Any:
    """The auto class of transformers for a model.

    Args:
        names (`str` or `Sequence[str]`):
            Name of the class, such as `"AutoModelForSequenceClassification"`; of several, the first that knows the
            configuration is taken, or else the last.
        config (`transformers.PretrainedConfig`):
            Configuration of the model.
    """
    import transformers

    classes = [getattr(transformers, name) for name in ([names] if isinstance(names, str) else names)]
    return next((each for each in classes if type(config) in each._model_mapping), classes[-1])


def empty_model(names: str | Sequence[str], config: PretrainedConfig) -> PreTrainedModel:
    """The model of a configuration on the `meta` device, which has names and shapes but no memory.

    Args:
        names (`str` or `Sequence[str]`):
            Name of a class of transformers, or several, as for [`auto_class`].
        config (`transformers.PretrainedConfig`):
            Configuration of the model.
    """
    import torch

    with torch.device("meta"):
        return auto_class(names, config).from_config(config, trust_remote_code=False)


def _argument_names(model_class: type[Any], config_class: type[Any]) -> frozenset[str]:
    """Arguments of `forward`. A wrapper passes its `**kwargs` to the inner model, which its configuration names.

    Classes of transformers have `**kwargs` too, but name every input before them.
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
    """Arguments of the model without a head for a configuration; the usual ones if there is no such model."""
    from transformers import MODEL_MAPPING

    if config_class not in MODEL_MAPPING:
        return USUAL
    base = MODEL_MAPPING[config_class]
    base_class = base[0] if isinstance(base, tuple) else base  # some have several models, such as Funnel
    if base_class is None:
        return USUAL
    return _argument_names(base_class, config_class)


def _position_tables(model: PreTrainedModel) -> Iterator[_Table]:
    """The position tables of a model's tokens.

    RoBERTa and similar models (MPNet, ESM, Longformer ...) count positions from the padding index + 1, which is the
    `padding_idx` of the table; BART's table has an `offset`. Tables of something else (patches of an image,
    coordinates, distances) are shorter than the configuration's limit for texts, or longer and then no limit. A
    decoder that predicts n-grams (ProphetNet) also looks up the position after the last token.
    """
    longest = max(_field(model.config, "max_position_embeddings") or 0, 0)  # -1 in XLNet means unlimited
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
    """Number of reserved positions of a position table, before those of tokens."""
    places = kept or int(getattr(model.get_submodule(owner), "offset", 0))
    predicts_ahead = getattr(model.config, "ngram", None) is not None
    if predicts_ahead and "decoder" in owner.split("."):
        places += 1
    return places


def _embeddings(model: PreTrainedModel) -> int | None:
    """Number of token embeddings of a model."""
    import torch

    try:
        table = model.get_input_embeddings()
    except (NotImplementedError, AttributeError):  # the model has none
        return None
    if not isinstance(table, torch.nn.Embedding):  # in image models it projects patches
        return None
    return table.num_embeddings


def _length_of_biases(model: PreTrainedModel) -> int | None:
    """The number of tokens that a model with biases instead of position tables is made for, if it is configured.

    MPT makes ALiBi biases for `max_seq_len` tokens in every call; those of BLOOM and Falcon are as long as the text. A
    field of that name is ignored if the configuration class does not define it.
    """
    if not hasattr(type(model.config), "max_seq_len"):
        return None
    return model.config.max_seq_len


def _kept_places(table: torch.nn.Module, tensor: str) -> int:
    """The number of positions of a table that are reserved for padding, before the first token."""
    padding = getattr(table, "padding_idx", None)
    if padding is None or tensor != "weight":
        return 0
    return int(padding) + 1


def _field(config: PretrainedConfig, name: str) -> Any:
    """A field of a configuration, or of its text configuration if it has several parts."""
    value = getattr(config, name, None)
    if value is not None:
        return value
    return getattr(getattr(config, "text_config", None), name, None)
