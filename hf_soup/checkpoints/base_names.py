"""A base model under the tensor names of its fine-tunes, as transformers renames them on loading it as their class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import IngredientError
from .checkpoint import Checkpoint
from .folder import read_config
from .modules import head_names
from .subfolders import fit_subfolders, subfolder_prefix


def fit_base(base: Checkpoint, ingredient: Checkpoint) -> Checkpoint:
    """Return an opened base model under the tensor names of the ingredients; see `open_base`.

    Args:
        base (`Checkpoint`):
            Base model as it was opened.
        ingredient (`Checkpoint`):
            An ingredient.
    """
    if base.problems:
        raise IngredientError(f"{base.problems[0]}.")
    subfolder, config = _model_of(ingredient)
    # A base model with the same subfolder was renamed when it was opened, as the ingredient was.
    if config and (subfolder == "" or subfolder not in base.subfolders):
        base = _renamed(base, subfolder, config)
    refuse_stranger(base, ingredient)
    return base


def _model_of(item: Checkpoint) -> tuple[str, Mapping[str, Any]]:
    """The subfolder of a checkpoint that holds a transformers model, and its configuration; empty if there is none."""
    if item.config:
        return "", item.config
    for subfolder in item.subfolders:
        if not subfolder or item.folder is None:
            continue
        config = read_config(item.folder / subfolder, needed=False)
        if "architectures" in config:
            return subfolder, config
    return "", {}


def _renamed(base: Checkpoint, subfolder: str, config: Mapping[str, Any]) -> Checkpoint:
    """A base model under the names that transformers gives its tensors when it loads it with another configuration.

    Args:
        base (`Checkpoint`):
            Base model as it was opened.
        subfolder (`str`):
            Subfolder of the ingredients that the base model stands for.
        config (`Mapping[str, Any]`):
            Configuration of that subfolder.
    """
    model_specs = {spec.key: spec for spec in base.specs.values() if not spec.subfolder}
    fitted = fit_subfolders(config, {"": model_specs})
    # The model may be in a subfolder of the ingredients and in the top folder of the base model.
    prefix = subfolder_prefix(subfolder)
    specs = {name: spec for name, spec in base.specs.items() if spec.subfolder}
    for name, spec in fitted.specs.items():
        full_name = prefix + name
        specs[full_name] = spec._replace(name=full_name, stored=spec.key)
    notes = [f"{base.name}: {note}" for note in fitted.notes]
    base = replace(base, notes=(*base.notes, *notes))
    if base.tensors is None:
        twins = tuple((spec, prefix + name) for spec, name in fitted.twins)
        return replace(base, specs=specs, fitted=fitted._replace(twins=twins))
    # Tensors in memory can be renamed directly; tied weights were compared when the model was opened.
    return replace(
        base,
        specs={name: spec._replace(stored="") for name, spec in specs.items()},
        tensors={name: base.tensors[spec.key] for name, spec in specs.items()},
        fitted=fitted._replace(twins=()),
    )


def refuse_stranger(base: Checkpoint, ingredient: Checkpoint) -> None:
    """Refuse a base model that has less than half of an ingredient's body, counted in tensors or in parameters.

    A table with a different number of rows, such as the embeddings of an extended vocabulary, counts as present.
    """
    body = set(ingredient.specs) - set(head_names(ingredient.specs))
    tensors_that_fit = 0
    parameters = parameters_that_fit = 0
    for name in body:
        shape, numel = ingredient.specs[name].shape, ingredient.specs[name].numel
        parameters += numel
        if name not in base.specs:
            continue
        base_shape = base.specs[name].shape
        if base_shape == shape:
            tensors_that_fit += 1
        if base_shape[1:] == shape[1:]:
            parameters_that_fit += numel
    has_half = tensors_that_fit * 2 >= len(body) and parameters_that_fit * 2 >= parameters
    if tensors_that_fit == 0 or not has_half:
        raise IngredientError(
            f"{base.name!r} is not a base model of {ingredient.name!r}: {tensors_that_fit} of {len(body)} tensors of "
            "the body "
            "fit. Is it another architecture, another size, or saved in another layout?"
        )
