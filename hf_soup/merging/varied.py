"""Parameters of a method that differ between tensors: by module, or along the depth of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..checkpoints.modules import assign_modules, depths_of, group, own_prefix
from ..errors import RecipeError


def is_varied(value: object) -> bool:
    """Whether the value of a number is given by module (a mapping) or by depth (a list)."""
    return isinstance(value, (Mapping, list, tuple))


def values_by_tensor(param: str, value: Any, names: Iterable[str], default: Any) -> dict[str, float]:
    """The value of a parameter for each tensor.

    Args:
        param (`str`):
            Name of the parameter, for error messages.
        value (`Mapping` or `Sequence[float]`):
            Module prefix -> a number, or numbers along the depth; or numbers along the depth.
        names (`Iterable[str]`):
            Names of all tensors.
        default:
            Value of tensors that no module covers.

    Raises:
        [`RecipeError`]: if a module covers no tensor, or a tensor has no value.
    """
    names = list(names)
    depths = depths_of(names)
    by_module = value if isinstance(value, Mapping) else {"": value}
    module_of = assign_modules(names, by_module, param)
    values = {}
    for name in names:
        own = by_module[module_of[name]] if name in module_of else default
        if own is None or isinstance(own, type):  # a parameter without a default
            raise RecipeError(f'{param}: "{name}" has no value; give one for "" as well, the rest.')
        values[name] = own if not is_varied(own) else at_depth(own, depths[name])
    return values


def weights_by_depth(
    weights: object, ingredients: Sequence[str], names: Iterable[str]
) -> dict[str, tuple[float, ...]] | None:
    """Weights that are given along the depth for each ingredient, as weights by module; `None` for other weights.

    Args:
        weights:
            Weights as the user gave them: here, a mapping of names of ingredients to weights along the depth.
        ingredients (`Sequence[str]`):
            Names of the ingredients; those that are not named have the weight 0.
        names (`Iterable[str]`):
            Names of all tensors.
    """
    if not isinstance(weights, Mapping) or not weights or not set(weights) <= set(ingredients):
        return None
    if not all(is_varied(values) and len(values) for values in weights.values()):
        return None
    names = list(names)
    prefix = own_prefix(names)
    depths = depths_of(names)
    rows = {}
    for name in names:
        values = [at_depth(weights.get(item, [0.0]), depths[name]) for item in ingredients]
        rows[group(name, prefix)] = tuple(values)
    return rows


def at_depth(values: Sequence[float], depth: float) -> float:
    """The value at a depth from 0 to 1, interpolated between values at equal distances.

    Args:
        values (`Sequence[float]`):
            One value or more, the first of which belongs to the bottom of the model, and the last to the top.
        depth (`float`):
            Position in the model.
    """
    place = depth * (len(values) - 1)
    low = min(int(place), len(values) - 1)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)
