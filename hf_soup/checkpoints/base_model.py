"""The base model that the ingredients were fine-tuned from, under their names and as an ingredient itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..errors import IncompatibleError
from .base_names import fit_base, refuse_stranger
from .checkpoint import Checkpoint
from .labels import base_order_problem, label_names
from .modules import head_names
from .source import open_checkpoint


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
    refuse_stranger(replace(base, specs=shared), ingredient)
    name = f"{base.name} (base)" if base.name in names else base.name
    return replace(base, ingredient=replace(base.ingredient, name=name), config=ingredient.config, specs=averaged)
