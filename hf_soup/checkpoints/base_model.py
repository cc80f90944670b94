"""The base model that the ingredients were fine-tuned from, under their names and as an ingredient itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import IncompatibleError, IngredientError
from .checkpoint import Checkpoint
from .folder import read_config
from .labels import base_order_problem, label_names
from .modules import head_names
from .source import open_checkpoint
from .subfolders import fit_subfolders, subfolder_prefix


def open_base(source: Any, ingredient: Checkpoint) -> Checkpoint:
    """Open a base model under the tensor names of the ingredients that were fine-tuned from it.

    Its tensors are renamed as transformers renames them when it loads the base model as the class of the ingredients.
    The base model may be a bare body, have another head, or use names from an older version.

    Args:
        source:
            As for [`open_checkpoint`].
        ingredient (`Checkpoint`):
            An ingredient.

    Returns:
        [`Checkpoint`]

    Raises:
        [`IngredientError`]: if it cannot be opened, or less than half of the tensors of their bodies fit.
    """
    return fit_base(open_checkpoint(source), ingredient)


def fit_base(base: Checkpoint, ingredient: Checkpoint) -> Checkpoint:
    """Return an opened base model under the tensor names of the ingredients; see [`open_base`].

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
    _refuse_stranger(base, ingredient)
    return base


def resolve_base(base_model: Any, ingredients: Any, ingredient: Checkpoint, *, needed: bool) -> Checkpoint | None:
    """Open the given base model, or, if one is needed and none is given, the base model of a sweep.

    Args:
        base_model (*optional*):
            Base model that the user gave.
        ingredients:
            What the user gave as ingredients: a sweep knows what its runs started from.
        ingredient (`Checkpoint`):
            An ingredient.
        needed (`bool`):
            Whether a sweep's base model is opened though the user named none.

    Returns:
        [`Checkpoint`], or `None` where there is none.

    Raises:
        [`IngredientError`]: as of [`open_base`].
    """
    if base_model is None and needed:
        base_model = getattr(ingredients, "base_model", None)
    if base_model is None:
        return None
    return open_base(base_model, ingredient)


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


def _refuse_stranger(base: Checkpoint, ingredient: Checkpoint) -> None:
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


def as_ingredient(base: Checkpoint, ingredient: Checkpoint, names: Sequence[str]) -> Checkpoint:
    """A base model as an additional ingredient, of the class of the others; it may lack some of their tensors.

    Args:
        base (`Checkpoint`):
            Base model, as [`open_base`] returns it.
        ingredient (`Checkpoint`):
            An ingredient.
        names (`Sequence[str]`):
            Names of all ingredients, from which that of the base model has to differ.

    Raises:
        [`IngredientError`]: if less than half of the tensors of their bodies fit.
        [`IncompatibleError`]: if it has their labels in another order.
    """
    base_labels, labels = label_names(base.config), label_names(ingredient.config)
    head = set(head_names(ingredient.specs))
    has_head = not head.isdisjoint(base.specs)
    problem = base_order_problem(base, labels)
    if problem and has_head and sorted(base_labels) == sorted(labels):
        raise IncompatibleError([problem])
    left_out = set() if base_labels == labels else head  # its head belongs to another task
    shared = {}
    averaged = {}
    for key, spec in base.specs.items():
        if key not in ingredient.specs or key in left_out:
            continue
        shared[key] = spec
        if spec.shape == ingredient.specs[key].shape:
            averaged[key] = spec
    # A table with a different number of rows counts when a base model is recognised, but it cannot be averaged.
    _refuse_stranger(replace(base, specs=shared), ingredient)
    name = f"{base.name} (base)" if base.name in names else base.name
    return replace(base, ingredient=replace(base.ingredient, name=name), config=ingredient.config, specs=averaged)
