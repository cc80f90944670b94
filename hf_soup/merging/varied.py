"""Numbers that differ between tensors: by module or pattern, along the depth of the model, and by ingredient."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeGuard

from ..checkpoints.modules import assign_modules, at_depth, depths_of, group, own_prefix
from ..errors import RecipeError
from ..untrusted import one_line


def is_varied(value: object) -> bool:
    """Whether a number is given by ingredient or module (a mapping), or by depth (a list)."""
    return isinstance(value, (Mapping, list, tuple))


def is_by_ingredient(value: object, ingredients: Collection[str]) -> TypeGuard[Mapping[str, Any]]:
    """Whether a mapping gives a value for each ingredient by name; other mappings give one by module."""
    return isinstance(value, Mapping) and bool(value) and set(value) <= set(ingredients)


def values_by_tensor(param: str, value: Any, names: Sequence[str], default: Any) -> dict[str, float]:
    """The value of a parameter for each tensor.

    Args:
        param (`str`):
            Name of the parameter, for error messages.
        value (`float`, `Sequence[float]` or `Mapping`):
            A number, numbers along the depth, or either of them by module or pattern.
        names (`Sequence[str]`):
            Names of all tensors.
        default:
            Value of tensors that no module covers.

    Raises:
        [`RecipeError`]: if a module covers no tensor, or a tensor has no value.
    """
    depths = depths_of(names)
    by_module = value if isinstance(value, Mapping) else {"": value}
    for own in by_module.values():
        _check_value(param, own)
    module_of = assign_modules(names, by_module, param)
    values = {}
    for name in names:
        own = by_module[module_of[name]] if name in module_of else default
        if isinstance(own, (list, tuple)):
            own = at_depth(own, depths[name])
        if not isinstance(own, (int, float)):  # a parameter without a default
            raise RecipeError(f'{param}: "{name}" has no value; give one for "" as well, the rest.')
        values[name] = own
    return values


def _check_value(param: str, value: object) -> None:
    """Raise an error for what is neither a number nor a list of numbers."""
    numbers = value if isinstance(value, (list, tuple)) else [value]
    if not numbers or not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers):
        raise RecipeError(
            f"{param}: a value is a number, or a list of numbers along the depth, not {one_line(repr(value))}."
        )


def values_by_ingredient(
    param: str, value: Mapping[str, Any], ingredients: Sequence[str], names: Sequence[str], default: Any
) -> dict[str, tuple[float, ...]]:
    """The values of a parameter for each tensor, one for each ingredient.

    Args:
        param (`str`), names (`Sequence[str]`), default:
            As for [`values_by_tensor`].
        value (`Mapping[str, Any]`):
            Name of an ingredient -> its value; of others it is the default.
        ingredients (`Sequence[str]`):
            Names of the ingredients, in their order.
    """
    columns = [values_by_tensor(param, value.get(item, default), names, default) for item in ingredients]
    return {name: tuple(column[name] for column in columns) for name in names}


def weights_by_module(
    weights: Mapping[str, Any], ingredients: Sequence[str], names: Sequence[str]
) -> dict[str, tuple[float, ...]]:
    """Weights that vary between tensors for each ingredient, as weights by module, and by tensor for the exceptions of
    a module.

    Args:
        weights (`Mapping[str, Any]`):
            Name of an ingredient -> its weight, as a number, along the depth, by module or by pattern. Others have the
            weight 0.
        ingredients (`Sequence[str]`), names (`Sequence[str]`):
            Names of the ingredients and of all tensors.
    """
    rows = values_by_ingredient("weights", weights, ingredients, names, 0.0)
    prefix = own_prefix(names)
    of_groups: dict[str, Counter[tuple[float, ...]]] = {}
    for name, row in rows.items():
        of_groups.setdefault(group(name, prefix), Counter())[row] += 1
    by_module = {module: counts.most_common(1)[0][0] for module, counts in of_groups.items()}
    for name, row in rows.items():
        if row != by_module[group(name, prefix)]:
            by_module[name] = row
    return by_module
