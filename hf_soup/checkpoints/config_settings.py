"""Settings of a configuration as transformers reads them, and which of them the model computes with.

Old and new spellings of a setting are unified, and a missing setting has its default. `configs.py` decides what a
difference between models means. No weights and no model classes are loaded.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..types import plain
from .differences import flatten
from .model_code import SHARED, names_read


LABELS = re.compile(r"^(id2label|label2id|_?num_labels|num_classes|label_names|label_descriptions)$")
# Name patterns that indicate computation, used where a model's code cannot be read.
MATTERS = re.compile(
    r"""
    rope | rotary | heads?(_|$) | (^|_)act(_|$|ivation) | norm | eps(ilon)?$ | position | window | problem_type | pool
    | scal(e|ing) | soft_?cap | temperature | ^tie_ | patch | stride | kernel | bias | expert | ^is_ | layer | depth
    | _size$ | _dim$ | ^(n|d)_[a-z]+$ | attention | causal | alibi | residual | logit | multiplier | ^summary_ | theta
    | ^(mean|std|interpolation|crop_\w+|architecture|model_type|global_pool|pruned_heads)$
    """,
    re.VERBOSE,
)
ACTIVATIONS = {  # transformers' different names for one function
    "swish": "silu",
    "gelu_python": "gelu",
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_accurate", "gelu_python_tanh"), "gelu_pytorch_tanh"),
}
INNER_SIZES = ("n_inner", "intermediate_size")  # four times the width if null
# Values that older versions wrote for settings that have been removed.
FORMER_DEFAULTS = {"position_embedding_type": "absolute"}


class ConfigSettings(NamedTuple):
    """The settings of a configuration as transformers reads it.

    Args:
        values (`dict[str, Any]`):
            Dotted name -> value.
        declared (`frozenset[str]`):
            The names that its class defines; empty where transformers knows no such class.
        used (`frozenset[str]`):
            The names that its model computes with, by its code or else by what they are called.
    """

    values: dict[str, Any]
    declared: frozenset[str]
    used: frozenset[str]


def read_settings(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, ConfigSettings]:
    """The settings of models as transformers reads them, or as they are written if it cannot read one of them.

    Args:
        configs (`Mapping[str, Mapping[str, Any]]`):
            Ingredient -> what its `config.json` holds.
    """
    # As text, which is the key of the cache.
    texts = {name: json.dumps(config, sort_keys=True, default=str) for name, config in configs.items()}
    # A configuration without a model type is read with the type of the others.
    model_types = [config["model_type"] for config in configs.values() if config.get("model_type")]
    model_type = model_types[0] if model_types else None
    models = {}
    for name, text in texts.items():
        model = _as_transformers(text, model_type)
        if model is None:
            return {name: _as_written(text) for name, text in texts.items()}
        models[name] = model
    return models


@functools.lru_cache(maxsize=128)
def _as_transformers(text: str, model_type: str | None) -> ConfigSettings | None:
    """A configuration as its class reads it; `None` if transformers has no such class or rejects the configuration."""
    from .memory import quiet_transformers

    config = {"model_type": model_type, **json.loads(text)}
    try:
        from transformers import CONFIG_MAPPING

        with quiet_transformers():
            model = _fields(CONFIG_MAPPING[config["model_type"]].from_dict(copy.deepcopy(config)))
    except Exception:  # transformers may raise anything for an invalid configuration
        return None
    return model._replace(values=_normalized(model.values, _has_one_class(config)))


@functools.lru_cache(maxsize=128)
def _as_written(text: str) -> ConfigSettings:
    """A configuration without defaults; whether the model computes with a setting is judged by its name alone."""
    config = json.loads(text)
    settings = _normalized(flatten(config), _has_one_class(config))
    return ConfigSettings(settings, frozenset(), frozenset(filter(_sounds_like_computation, settings)))


def _sounds_like_computation(name: str) -> bool:
    leaf = name.rpartition(".")[2]
    return MATTERS.search(leaf) is not None


def _has_one_class(config: Mapping[str, Any]) -> bool:
    """Whether a head has one output, which transformers treats as regression."""
    return len(config.get("id2label") or ()) == 1 or config.get("num_labels") == 1


def _fields(config: Any, prefix: str = "", outer: frozenset[str] = frozenset()) -> ConfigSettings:
    """The settings of a configuration and of the configurations nested in it.

    Args:
        config (`transformers.PretrainedConfig`):
            The configuration.
        prefix (`str`, *optional*):
            Prefix of the names of a configuration that is nested in another one.
        outer (`frozenset[str]`, *optional*):
            Names that the code of the models around it reads.
    """
    parameters = _parameters_of(type(config))
    in_code = names_read(config)
    values: dict[str, Any] = {}
    declared: set[str] = set()
    used: set[str] = set()
    for name, value in config.to_dict().items():
        inner = vars(config).get(name)
        if hasattr(inner, "to_dict") and hasattr(inner, "model_type"):
            within = _fields(inner, f"{prefix}{name}.", in_code | outer)
            values |= within.values
            declared |= within.declared
            used |= within.used
            continue
        flat = flatten({name: value}, prefix)
        values |= flat
        if name in parameters:
            declared |= set(flat)
        if in_code:
            is_used = name in in_code or name in outer or SHARED.search(name) is not None
        else:  # the code cannot be read: what the class defines, or what looks like computation by name
            is_used = name in parameters
            used |= set(filter(_sounds_like_computation, flat))
        if is_used:
            used |= set(flat)
    return ConfigSettings(values, frozenset(declared), frozenset(used))


def _parameters_of(config_class: type) -> set[str]:
    """The settings that a configuration class defines."""
    if dataclasses.is_dataclass(config_class):
        return {field.name for field in dataclasses.fields(config_class)}
    return set(inspect.signature(config_class).parameters)


def _normalized(settings: Mapping[str, Any], one_class: bool) -> dict[str, Any]:
    """The same settings with one name for each function, and a single number in place of a pair of equal ones."""
    normalized = {}
    for name, value in settings.items():
        path, _, leaf = name.rpartition(".")
        # transformers keeps `type`, the old name of `rope_type`, next to the new one.
        is_old_name = leaf == "type" and f"{path}.rope_type" in settings
        if LABELS.search(leaf) or is_old_name:
            continue
        if leaf in INNER_SIZES and value is None:
            value = _inner_size(settings, path)
        if leaf == "problem_type" and value is None:
            # The problem type that transformers infers and writes into the configuration of a model that it trains.
            value = "regression" if one_class else "single_label_classification"
        normalized[name] = plain(_normalized_value(leaf, value))
    return normalized


def _normalized_value(leaf: str, value: Any) -> Any:
    """One value in its current spelling; `leaf` is the last component of the setting's name."""
    if value == FORMER_DEFAULTS.get(leaf):
        return None
    if leaf == "pos_att_type" and isinstance(value, str):  # DeBERTa: "c2p|p2c" is the list of the two
        value = value.split("|")
    if isinstance(value, str) and "act" in leaf:
        return ACTIVATIONS.get(value, value)
    if isinstance(value, list):
        return _normalized_list(leaf, value)
    return value


def _normalized_list(leaf: str, values: list[Any]) -> Any:
    """One list in its current spelling: a single value if that means the same."""
    if leaf == "pos_att_type":  # a set of terms in any order
        return sorted(values)
    is_for_each_layer = leaf == "attention_window"  # Longformer: a single width applies to all layers
    if not values or not (is_for_each_layer or _is_pair(leaf, values)):
        return values
    first = values[0]
    all_equal = all(value == first for value in values)
    return first if all_equal else values


def _is_pair(leaf: str, values: list[Any]) -> bool:
    """Whether a list is height and width, which a single number can represent."""
    return len(values) == 2 and re.search("size|stride", leaf) is not None


def _inner_size(settings: Mapping[str, Any], path: str) -> int | None:
    """The width of the feed-forward layers where a configuration has null."""
    start = f"{path}." if path else ""
    for width in ("n_embd", "hidden_size"):
        size = settings.get(f"{start}{width}")
        if isinstance(size, int):
            return 4 * size
    return None
