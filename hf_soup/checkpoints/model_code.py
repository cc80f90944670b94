"""Which settings a model of transformers computes with, found in the text of its source code.

No model class is imported: a setting counts if its name occurs in the modeling files, or in a method by which the
configuration computes another attribute. `SHARED` lists the settings that code shared by models reads.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
from pathlib import Path
from typing import Any


SHARED = re.compile(
    r"""
    ^( rope_(parameters|theta|scaling) | partial_rotary_factor | layer_types | sliding_window | attention_chunk_size
    | head_dim | hidden_size | num_(attention_heads|key_value_heads|hidden_layers) | max_position_embeddings
    | tie_word_embeddings | tie_encoder_decoder | problem_type | is_(decoder|encoder_decoder|causal)
    | add_cross_attention | use_bidirectional_attention | pruned_heads | per_layer_config | model_type
    | backbone(_\w+)? | use_timm_backbone | use_pretrained_backbone | out_(features|indices) | quantization_config
    | vision_feature_(layer|select_strategy)  # defaults of arguments
    | t2u_\w+ | position_embedding_type )$  # taken by their beginning; read by earlier versions of transformers
    """,
    re.VERBOSE,
)
COMMENT = re.compile(r"(?m)^\s*#.*$")
NAME = re.compile(r"\.([A-Za-z_]\w*)\b|[\"']([A-Za-z_]\w*)[\"']")
OTHER_MODEL = re.compile(r"from \.\.(\w+)\.modeling_\w+ import")
# Methods that complete or validate a configuration: what they derive are settings of their own.
FILLS_UP = re.compile(r"^(__init__|__post_init__|validate\w*|convert_\w+|to_\w+|from_\w+)$")


def names_read(config: Any) -> frozenset[str]:
    """The names of settings that the code of a configuration's model reads; empty if it cannot be read.

    Args:
        config (`transformers.PretrainedConfig`):
            A configuration. A wrapper of timm's models passes on what it has, so that its code says nothing.
    """
    if str(config.model_type).startswith("timm"):
        return frozenset()
    try:
        folder = Path(inspect.getfile(type(config))).parent
    except (TypeError, OSError):
        return frozenset()
    names = _names_in_models(folder)
    if not names:
        return frozenset()
    for cls in type(config).__mro__:
        if "transformers.models." in cls.__module__:
            names |= _names_in_configuration(Path(inspect.getfile(cls)))
    # Code may read a setting by an alias that the configuration defines: `hidden_size` for `n_embd`.
    settings = {setting for alias, setting in config.attribute_map.items() if alias in names}
    return names | settings


@functools.lru_cache(maxsize=128)
def _names_in_models(folder: Path) -> frozenset[str]:
    """Attributes and quoted names in the modeling files of a folder, and of the folders that these import."""
    names: set[str] = set()
    waiting, seen = [folder], {folder}
    while waiting:
        place = waiting.pop()
        for path in sorted(place.glob("modeling_*.py")):
            text = COMMENT.sub("", path.read_text(encoding="utf-8"))
            for attribute, quoted in NAME.findall(text):  # one of the two is empty
                names.add(attribute or quoted)
            imported = {folder.parent / model for model in OTHER_MODEL.findall(text)} - seen
            seen |= imported
            waiting += sorted(imported)
    return frozenset(names)


@functools.lru_cache(maxsize=128)
def _names_in_configuration(path: Path) -> frozenset[str]:
    """The settings that properties and methods of configurations read, except those that complete or validate them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and not FILLS_UP.search(node.name):
            names |= _attributes_of_self(node)
    return frozenset(names)


def _attributes_of_self(method: ast.FunctionDef) -> set[str]:
    """The names that occur in a method as `self.name`."""
    names = set()
    for node in ast.walk(method):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            names.add(node.attr)
    return names
