"""Recipes as configurations of mergekit, by which tools on the Hub recognise a merge. Nothing is merged here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoints import hub
from ..checkpoints.labels import is_identity
from ..checkpoints.other_contents import ADAPTER_WEIGHTS
from ..checkpoints.vocabularies import BASE
from ..plugins import asks_for, load_function, parameters
from ..types import Ingredient, Recipe
from .mergekit import ORDERED, PARAMETERS
from .strict_yaml import dumper


MERGEKIT_FILE = "mergekit_config.yml"
THEIR_NAMES = {"scale": "lambda"}  # parameters of changes that have another name in mergekit


def write_mergekit(folder: Path, recipe: Recipe) -> None:
    """Write `mergekit_config.yml`, by which tools on the Hub recognise a merge, if mergekit can make the same model.

    Args:
        folder (`Path`):
            Folder of the soup.
        recipe ([`Recipe`]):
            Its recipe.
    """
    text = dump_mergekit(recipe)
    if text is not None:
        (folder / MERGEKIT_FILE).write_text(text, encoding="utf-8")


def dump_mergekit(recipe: Recipe) -> str | None:
    """The configuration with which mergekit makes the same model; `None` if it cannot.

    Args:
        recipe ([`Recipe`]):
            The recipe of a soup. Weights by module, alignments and statistics estimated again have no equivalent.
    """
    import yaml

    is_cut_off = recipe.adapter is not None and recipe.adapter.rank is not None
    if isinstance(recipe.weights, Mapping) or is_cut_off:
        return None
    is_plain = recipe.batchnorm is None and not any(not is_identity(order) for order in recipe.alignments.values())
    if recipe.method not in PARAMETERS or not is_plain or recipe.base_inside is not None:
        return None
    used = [(item, weight) for item, weight in zip(recipe.ingredients, recipe.weights, strict=True) if weight]
    if recipe.vocabulary is not None and len(used) < len(recipe.ingredients):  # rows come from those left out as well
        return None
    weights = [weight for _, weight in used]
    takes_weights = "weight" in PARAMETERS[recipe.method]
    if not takes_weights and recipe.method not in ORDERED and len(set(weights)) > 1:
        return None
    params: dict[str, Any] = {}
    for name, value in _with_defaults(recipe, weights).items():
        theirs = THEIR_NAMES.get(name, name) if recipe.method != "passthrough" else name
        if not isinstance(value, (int, float)) or theirs not in PARAMETERS[recipe.method]:
            return None
        params[theirs] = value
    function = load_function("method", recipe.method)
    if asks_for(function, "rng") and params.get("density", 1) != 1:  # other random numbers
        return None
    models = []
    for item, weight in used:
        own = {"parameters": {"weight": weight}} if takes_weights else {}
        models.append({"model": _with_base(item, recipe.base_model), **own})
    content: dict[str, Any] = {"merge_method": recipe.method, "models": models}
    if recipe.method in ORDERED:
        content["base_model"] = models[0]["model"]
    elif recipe.base_model is not None and asks_for(function, "base"):
        content["base_model"] = _public(recipe.base_model)
    if params:
        content["parameters"] = params
    if recipe.chat_template is not None:
        content["chat_template"] = recipe.chat_template
    if recipe.vocabulary is not None:
        if recipe.base_model is not None:  # rows come from it
            if recipe.method in ORDERED:
                return None
            content["base_model"] = _public(recipe.base_model)
        named = {item.name: _public(item) for item in recipe.ingredients}
        content["tokenizer_source"] = {**named, BASE: "base"}.get(recipe.vocabulary, recipe.vocabulary)
    if recipe.dtype != "auto":
        content["dtype"] = recipe.dtype
    return yaml.dump(content, Dumper=dumper(), sort_keys=False)


def _with_defaults(recipe: Recipe, weights: Sequence[float]) -> dict[str, Any]:
    """The parameters of a recipe, with the defaults that mergekit does not have."""
    params = dict(recipe.params)
    function = load_function("method", recipe.method)
    if recipe.method == "slerp" and params.get("t") is None:
        params["t"] = weights[-1] / sum(weights)
    for name, parameter in parameters(function).items():
        theirs = THEIR_NAMES.get(name, name)
        if name in ("density", "t") and theirs in PARAMETERS[recipe.method]:
            params.setdefault(name, parameter.default)
    return params


def _with_base(item: Ingredient, base: Ingredient | None) -> str:
    """The name of a model; of an adapter with its base model before it."""
    if base is None or ADAPTER_WEIGHTS not in item.files:
        return _public(item)
    return f"{_public(base)}+{_public(item)}"


def _public(item: Ingredient) -> str:
    """A Hub id, or the name of a folder without its path."""
    if hub.is_hub_id(item.source):
        return f"{item.source}@{item.revision}" if item.revision else item.source
    return item.name
