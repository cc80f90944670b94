"""A search space -> a list of settings. Pure; nothing is trained here."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import RecipeError, did_you_mean


DISTRIBUTIONS = ("loguniform", "uniform", "range")


def expand_space(
    space: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, n_runs: int | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """All settings of a grid or list, or `n_runs` of them drawn at random.

    Args:
        space (`Mapping[str, Any]` or `Sequence[Mapping[str, Any]]`):
            A list of settings; or name -> values to choose from: a sequence, one value, `{"range": n}` (0 to n - 1),
            `{"uniform": [low, high]}` or `{"loguniform": [low, high]}`.
        n_runs (`int`, *optional*):
            Draw so many; without it the whole grid, in the order in which it is written.
        seed (`int`, *optional*, defaults to 0):
            Of the drawing.

    Returns:
        `list[dict[str, Any]]`: one setting for each run, all different.

    Raises:
        [`RecipeError`]: if the space is empty, or holds a distribution and `n_runs` is not given.
    """
    import numpy as np

    if n_runs is not None and n_runs < 1:
        raise RecipeError(f"n_runs={n_runs}: a sweep has at least one run.")
    if not isinstance(space, Mapping):
        settings = [dict(item) for item in space]
        return _some(settings if n_runs is None else settings[:n_runs])
    axes = {name: _axis(name, values) for name, values in space.items()}
    if n_runs is None:
        drawn = [name for name, axis in axes.items() if isinstance(axis, tuple)]
        if drawn:
            raise RecipeError(f'space: "{drawn[0]}" is a distribution, and distributions need `n_runs`.')
        return _some(dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))
    rng = np.random.default_rng(seed)
    discrete = math.prod(len(axis) if isinstance(axis, list) else n_runs for axis in axes.values())
    if n_runs > discrete:
        raise RecipeError(f"space: n_runs={n_runs}, but there are only {discrete} different settings.")
    found: dict[str, dict[str, Any]] = {}
    while len(found) < n_runs:
        setting = {name: _draw(axis, rng) for name, axis in axes.items()}
        found.setdefault(json.dumps(setting, sort_keys=True), setting)
    return list(found.values())


def _axis(name: str, values: Any) -> list[Any] | tuple[str, float, float]:
    """The values of one parameter as a list, or as (distribution, low, high)."""
    if isinstance(values, Mapping) and len(values) == 1 and next(iter(values)) in DISTRIBUTIONS:
        ((kind, ends),) = values.items()
        try:
            if kind == "range":
                return list(range(*ends) if isinstance(ends, (list, tuple)) else range(ends))
            low, high = map(float, ends)
        except (TypeError, ValueError):
            form = "8 or [2, 8]" if kind == "range" else "[low, high]"
            raise RecipeError(f'space: "{name}" has {{{kind}: {ends!r}}}; write {{{kind}: {form}}}.') from None
        if not (0 < low < high if kind == "loguniform" else low < high):
            raise RecipeError(
                f'space: "{name}" goes from {low:g} to {high:g}; {kind} needs a lower end below the upper one.'
            )
        return (kind, low, high)
    if isinstance(values, Mapping) and name != "augment":
        raise RecipeError(
            f'space: "{name}" has an unknown distribution{did_you_mean(next(iter(values), ""), DISTRIBUTIONS)}'
        )
    if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
        return [values]
    values = list(values)
    return [value for index, value in enumerate(values) if value not in values[:index]]


def _draw(axis: list[Any] | tuple[str, float, float], rng: Any) -> Any:
    if isinstance(axis, list):
        return axis[rng.integers(len(axis))]
    kind, low, high = axis
    return float(
        math.exp(rng.uniform(math.log(low), math.log(high))) if kind == "loguniform" else rng.uniform(low, high)
    )


def _some(settings: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    settings = list(settings)
    if not settings:
        raise RecipeError("the space is empty: give at least one setting, such as {learning_rate: [1e-5, 3e-5]}.")
    seen = set()
    for setting in settings:
        key = json.dumps(setting, sort_keys=True, default=str)
        if key in seen:
            raise RecipeError(f"space: the setting {setting} stands twice.")
        seen.add(key)
    return settings
