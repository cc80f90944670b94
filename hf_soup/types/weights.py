"""Weights of ingredients: one row of numbers, or a row for each module prefix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RecipeError, listed
from ..untrusted import one_line


# One weight for each ingredient, or a row of weights for each module prefix.
Weights = tuple[float, ...] | dict[str, tuple[float, ...]]


def as_weights(weights: object) -> Weights:
    """Convert weights to a tuple of numbers, or to such a tuple for each module prefix.

    Raises:
        [`RecipeError`]: if the weights have another form.
    """
    try:
        if not isinstance(weights, Mapping):
            return _row(weights)
        rows = {}
        for prefix, row in weights.items():
            if not isinstance(prefix, str):
                raise TypeError
            rows[prefix] = _row(row)
        return rows
    except (TypeError, ValueError, OverflowError):  # OverflowError for integers that are too large for a float
        raise RecipeError(
            "weights are a sequence of numbers, or a mapping {module prefix: sequence of numbers}, not "
            f"{one_line(repr(weights))}."
        ) from None


def _row(row: Any) -> tuple[float, ...]:
    """One weight for each ingredient, from any sequence of numbers."""
    if isinstance(row, (str, bytes)):  # its characters may be digits
        raise TypeError
    return tuple(map(float, row))


def by_module(weights: Weights) -> dict[str, tuple[float, ...]]:
    """The weights of the ingredients by module prefix; a single row is that of `""`."""
    if isinstance(weights, dict):
        return weights
    return {"": weights}


def check_weights(prefix: str, weights: Sequence[float], names: Sequence[str]) -> None:
    """Raise an error for a row of weights that does not define a mean.

    Args:
        prefix (`str`):
            Prefix of the modules; `""` is the rest.
        weights (`Sequence[float]`):
            Row of weights.
        names (`Sequence[str]`):
            Names of the ingredients.

    Raises:
        [`RecipeError`]: if the row has the wrong length, contains a number that is not finite, or is all zeros.
    """
    where = f"the weights of {one_line(prefix)!r}" if prefix else "the weights"
    if len(weights) != len(names):
        numbers = listed([f"{weight:g}" for weight in weights])
        raise RecipeError(
            f"{where} are {len(weights)} ({numbers}) for {len(names)} ingredients ({listed(names)}); give one for "
            "each."
        )
    if not all(map(math.isfinite, weights)):
        raise RecipeError(f"{where} contain a number that is not finite: {listed(map(str, weights))}.")
    if not any(weights):
        raise RecipeError(f"{where} are all zero: the soup would be empty. Give at least one that is not zero.")
