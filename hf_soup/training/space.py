"""A search space -> a list of settings. Pure; nothing is trained here."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import RecipeError, did_you_mean
from ..types import plain


if TYPE_CHECKING:
    import numpy as np

DISTRIBUTIONS = ("choice", "integers", "loguniform", "range", "uniform")
MAPPINGS = ("augment", "class_weights")  # settings whose values are mappings


def expand_space(
    space: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, n_runs: int | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """All settings of a grid or list, or `n_runs` of them drawn at random.

    Args:
        space (`Mapping[str, Any]` or `Sequence[Mapping[str, Any]]`):
            A list of settings; or name -> values: a sequence, one value, `{"range": n}` (0 to n - 1), or a
            distribution: `{"choice": [...]}`, `{"integers": [low, high]}` (both included), `{"uniform": [low, high]}`
            or `{"loguniform": [low, high]}`.
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
        if isinstance(space, str) or not isinstance(space, Iterable) or not all(isinstance(s, Mapping) for s in space):
            raise RecipeError(f"space is a mapping of names to values, or a list of settings, not {space!r}.")
        settings = [dict(item) for item in space]
        return different(settings if n_runs is None else settings[:n_runs])
    axes = {name: _axis(name, values) for name, values in space.items()}
    if n_runs is None:
        drawn = [name for name, axis in axes.items() if isinstance(axis, _Distribution)]
        if drawn:
            raise RecipeError(f'space: "{drawn[0]}" is a distribution, and distributions need `n_runs`.')
        return different(dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))
    rng = np.random.default_rng(seed)
    discrete = math.prod(_size(axis, n_runs) for axis in axes.values())
    if n_runs > discrete:
        raise RecipeError(f"space: n_runs={n_runs}, but there are only {discrete} different settings.")
    found: dict[str, dict[str, Any]] = {}
    while len(found) < n_runs:
        setting = plain({name: _draw(axis, rng) for name, axis in axes.items()})
        found.setdefault(json.dumps(setting, sort_keys=True), setting)
    return list(found.values())


def share_single_values(space: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take the settings with one value out of a space: all runs share them.

    Args:
        space (`Mapping[str, Any]`):
            As of [`expand_space`].

    Returns:
        `tuple[dict[str, Any], dict[str, Any]]`: the space without them, and name -> value.
    """
    varied, shared = {}, {}
    for name, values in space.items():
        axis = _axis(name, values)
        if isinstance(axis, list) and len(axis) == 1:
            shared[name] = axis[0]
        else:
            varied[name] = values
    return varied, shared


class _Distribution(NamedTuple):
    """Where values are drawn from: a list (`choice`), or all between two ends."""

    kind: str
    values: Sequence[Any]


def _axis(name: str, given: Any) -> list[Any] | _Distribution:
    """The values of one parameter as a list, or as what they are drawn from."""
    if isinstance(given, Mapping) and len(given) == 1 and next(iter(given)) in DISTRIBUTIONS:
        ((kind, ends),) = given.items()
        if kind == "range":
            return _range(name, ends)
        if kind == "choice":
            return _Distribution(kind, _different(name, ends))
        return _between(name, kind, ends)
    if isinstance(given, Mapping) and name not in MAPPINGS:
        raise RecipeError(
            f'space: "{name}" has an unknown distribution{did_you_mean(next(iter(given), ""), DISTRIBUTIONS)}'
        )
    if isinstance(given, (str, Mapping)) or not isinstance(given, Iterable):
        return [given]
    return _different(name, given)


def _range(name: str, ends: Any) -> list[int]:
    try:
        return list(range(*ends) if isinstance(ends, (list, tuple)) else range(ends))
    except TypeError:
        raise RecipeError(f'space: "{name}" has {{range: {ends!r}}}; write {{range: 8 or [2, 8]}}.') from None


def _between(name: str, kind: str, ends: Any) -> _Distribution:
    number = int if kind == "integers" else float
    try:
        low, high = map(number, ends)
    except (TypeError, ValueError):
        raise RecipeError(f'space: "{name}" has {{{kind}: {ends!r}}}; write {{{kind}: [low, high]}}.') from None
    if not (0 < low < high if kind == "loguniform" else low < high):
        raise RecipeError(
            f'space: "{name}" goes from {low:g} to {high:g}; {kind} needs a lower end below the upper one.'
        )
    return _Distribution(kind, (low, high))


def _different(name: str, values: Any) -> list[Any]:
    if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
        raise RecipeError(f'space: "{name}" has {{choice: {values!r}}}; write {{choice: [a, b]}}.')
    values = [plain(value) for value in values]
    return [value for index, value in enumerate(values) if value not in values[:index]]


def _size(axis: list[Any] | _Distribution, n_runs: int) -> int:
    """How many different values there are, as far as it matters for `n_runs` draws."""
    if isinstance(axis, list) or axis.kind == "choice":
        return len(axis if isinstance(axis, list) else axis.values)
    return axis.values[1] - axis.values[0] + 1 if axis.kind == "integers" else n_runs


def _draw(axis: list[Any] | _Distribution, rng: np.random.Generator) -> Any:
    if isinstance(axis, list) or axis.kind == "choice":
        values = axis if isinstance(axis, list) else axis.values
        return values[rng.integers(len(values))]
    low, high = axis.values
    if axis.kind == "integers":
        return int(rng.integers(low, high + 1))
    if axis.kind == "loguniform":
        return math.exp(rng.uniform(math.log(low), math.log(high)))
    return float(rng.uniform(low, high))


def different(settings: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Settings as a list.

    Raises:
        [`RecipeError`]: if there is none, or one stands twice.
    """
    settings = [plain(setting) for setting in settings]
    if not settings:
        raise RecipeError("the space is empty: give at least one setting, such as {learning_rate: [1e-5, 3e-5]}.")
    seen = set()
    for setting in settings:
        key = json.dumps(setting, sort_keys=True, default=str)
        if key in seen:
            raise RecipeError(f"space: the setting {setting} stands twice.")
        seen.add(key)
    return settings
