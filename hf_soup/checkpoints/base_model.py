"""A base model: what ingredients were fine-tuned from, under their names, and as one more ingredient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..errors import IncompatibleError, IngredientError
from .checkpoint import Checkpoint
from .labels import label_names
from .modules import head_names
from .parts import fit_parts
from .source import open_checkpoint


def open_base(source: Any, like: Checkpoint, *, allow_pickle: bool = False) -> Checkpoint:
    """Open a base model under the names of the ingredients that were fine-tuned from it.

    Its names become those that transformers finds when it loads it as the class of the ingredients, whatever its own
    class and version: a bare body, one with another head, old names. What the ingredients lack is left out.

    Args:
        source:
            As for [`open_checkpoint`].
        like (`Checkpoint`):
            An ingredient.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            As for [`open_checkpoint`].

    Returns:
        [`Checkpoint`]

    Raises:
        [`IngredientError`]: if it cannot be opened, or less than half of the tensors of their bodies fit.
    """
    base = open_checkpoint(source, allow_pickle=allow_pickle)
    if base.problems:
        raise IngredientError(f"{base.problems[0]}.")
    if not like.config:
        return base
    raw = {spec.key: spec for spec in base.specs.values() if not spec.part}
    fitted = fit_parts(like.config, {"": raw}, None, base.name)
    specs = {name: spec for name, spec in base.specs.items() if spec.part} | fitted.specs
    specs = {name: spec for name, spec in specs.items() if name in like.specs}
    tensors = base.tensors
    if tensors is not None:
        tensors = {name: tensors[spec.key] for name, spec in specs.items()}
    base = replace(base, specs=specs, tensors=tensors, fitted=fitted)
    _refuse_stranger(base, like)
    return base


def _refuse_stranger(base: Checkpoint, like: Checkpoint) -> None:
    """Refuse a base model that has less than half of the tensors of an ingredient's body."""
    body = set(like.specs) - set(head_names(like.specs))
    fit_there = [name for name in body if name in base.specs and base.specs[name].shape == like.specs[name].shape]
    if len(fit_there) * 2 < len(body) or not fit_there:
        raise IngredientError(
            f"{base.name!r} is no base of {like.name!r}: {len(fit_there)} of {len(body)} tensors of the body fit. "
            "Is it another architecture, or another size?"
        )


def as_ingredient(base: Checkpoint, like: Checkpoint, names: Sequence[str]) -> Checkpoint:
    """A base model as one more ingredient, of the class of the others: what it lacks they have alone.

    Args:
        base (`Checkpoint`):
            As [`open_base`] gives it.
        like (`Checkpoint`):
            An ingredient.
        names (`Sequence[str]`):
            Of all ingredients; it gets another.

    Raises:
        [`IngredientError`]: if less than half of the tensors of their bodies fit.
        [`IncompatibleError`]: if it has their labels in another order.
    """
    theirs, ours, head = label_names(base.config), label_names(like.config), set(head_names(like.specs))
    if theirs != ours and sorted(theirs) == sorted(ours) and head & set(base.specs):
        found = f"{base.name} has the labels in another order than the ingredients"
        raise IncompatibleError([f"{found}: {list(theirs)[:6]}, not {list(ours)[:6]}"])
    apart = head if theirs != ours else set()  # a head for something else
    name = f"{base.name} (base)" if base.name in names else base.name
    fitting = {key: spec for key, spec in base.specs.items() if key in like.specs and key not in apart}
    own = {key: spec for key, spec in fitting.items() if spec.shape == like.specs[key].shape}
    _refuse_stranger(replace(base, specs=own), like)
    return replace(base, ingredient=replace(base.ingredient, name=name), config=like.config, specs=own)
