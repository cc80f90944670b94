"""Expands a search space into a list of settings. Nothing is trained here.

If settings are drawn from a grid, the grid itself is never built, because it may be huge.
"""

from __future__ import annotations

import itertools
import json
import math
import numbers
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import RecipeError, did_you_mean
from ..seeds import check_seed
from ..types import plain


if TYPE_CHECKING:
    import numpy as np

MOST_RUNS = 10_000  # maximum number of runs of a sweep; each is trained and has a folder
MOST_VALUES = 1_000_000  # maximum number of values of a parameter, except for ranges
REPEATS = 100  # draws for each run that may repeat earlier settings before drawing is given up
DISTRIBUTIONS = ("choice", "integers", "loguniform", "range", "uniform")
LOWEST, HIGHEST = -(2**63), 2**63 - 1  # limits of the integers that numpy draws
MAPPINGS = ("augment", "average", "class_weights", "peft")  # settings whose values are mappings


def expand_space(
    space: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, n_runs: int | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """All settings of a grid or list, or `n_runs` of them drawn at random.

    Args:
        space (`Mapping[str, Any]` or `Sequence[Mapping[str, Any]]`):
            A list of settings, or a mapping of names to values. Values are a sequence, one value, `{"range": n}` (0 to
            n - 1), or a distribution: `{"choice": [...]}`, `{"integers": [low, high]}` (both included),
            `{"uniform": [low, high]}` or `{"loguniform": [low, high]}`.
        n_runs (`int`, *optional*):
            Number of settings to draw; by default the whole grid is used, in the order in which it is written.
        seed (`int`, *optional*, defaults to 0):
            Random seed for drawing.

    Returns:
        `list[dict[str, Any]]`: the settings of each run, all different.

    Raises:
        [`RecipeError`]: if the space is empty or has more than 10,000 runs, or contains a distribution and `n_runs` is
            not given.
    """
    import numpy as np

    seed = check_seed(seed)
    _check_number(n_runs)
    if not isinstance(space, Mapping):
        return _listed_settings(space, n_runs)
    axes = {name: _axis(name, values) for name, values in space.items()}
    if n_runs is None:
        return _grid(axes)
    discrete = math.prod(_size(axis, n_runs) for axis in axes.values())
    if n_runs > discrete:
        raise RecipeError(f"space: n_runs={n_runs}, but there are only {discrete} different settings.")
    return _drawn_settings(axes, n_runs, np.random.default_rng(seed))


def _drawn_settings(axes: Mapping[str, Axis], n_runs: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Draw `n_runs` different settings."""
    drawn: dict[str, dict[str, Any]] = {}
    repeats = 0
    while len(drawn) < n_runs:
        setting = plain({name: _draw(axis, rng) for name, axis in axes.items()})
        key = _key(setting)
        if key in drawn:
            repeats += 1
        else:
            repeats = 0
        if repeats > REPEATS * n_runs:  # for example between two adjacent numbers
            raise RecipeError(f"space: n_runs={n_runs}, but only {len(drawn)} different settings could be drawn.")
        drawn.setdefault(key, setting)
    return list(drawn.values())


def _grid(axes: Mapping[str, Axis]) -> list[dict[str, Any]]:
    """Every combination of values, in the order in which they are written."""
    lists: dict[str, Sequence[Any]] = {}
    for name, axis in axes.items():
        if isinstance(axis, _Distribution):
            raise RecipeError(f'space: "{name}" is a distribution, and distributions need `n_runs`.')
        lists[name] = axis
    _refuse_many(math.prod(map(len, lists.values())))
    settings = []
    for values in itertools.product(*lists.values()):  # the last name varies first
        settings.append(dict(zip(lists, values, strict=True)))
    return different_settings(settings)


def _check_number(n_runs: Any) -> None:
    """Raise an error for an invalid number of runs."""
    if n_runs is None:
        return
    if isinstance(n_runs, bool) or not isinstance(n_runs, numbers.Integral):
        raise RecipeError(f"n_runs is a whole number, not {n_runs!r}.")
    if n_runs < 1:
        raise RecipeError(f"n_runs={n_runs}: a sweep has at least one run.")
    _refuse_many(int(n_runs))


def _refuse_many(runs: int) -> None:
    """Raise an error for more runs than a sweep may have."""
    if runs > MOST_RUNS:
        # a product of long ranges may have more digits than Python prints
        count = f"{runs:,}" if runs < 10**15 else "more than 10^15"
        raise RecipeError(f"the space has {count} runs, and a sweep at most {MOST_RUNS:,}: draw some, with `n_runs`.")


def _listed_settings(space: Any, n_runs: int | None) -> list[dict[str, Any]]:
    """The settings of a list, which may be infinite: only as many as allowed are read."""
    if isinstance(space, str) or not isinstance(space, Iterable):
        raise RecipeError(f"space is a mapping of names to values, or a list of settings, not {space!r}.")
    settings = list(itertools.islice(space, n_runs or MOST_RUNS + 1))
    for setting in settings:
        if not isinstance(setting, Mapping):
            raise RecipeError(f"space is a mapping of names to values, or a list of settings, not of {setting!r}.")
    if len(settings) > MOST_RUNS:
        raise RecipeError(f"the space has more than {MOST_RUNS:,} runs: draw some, with `n_runs`.")
    return different_settings(dict(setting) for setting in settings)


def share_single_values(space: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Separate the settings with a single value from a space, because all runs share them.

    Args:
        space (`Mapping[str, Any]`):
            Search space, as for [`expand_space`].

    Returns:
        `tuple[dict[str, Any], dict[str, Any]]`: the rest of the space, and the shared settings.
    """
    varied, shared = {}, {}
    for name, values in space.items():
        axis = _axis(name, values)
        if not isinstance(axis, _Distribution) and len(axis) == 1:
            shared[name] = axis[0]
        else:
            varied[name] = values
    return varied, shared


class _Distribution(NamedTuple):
    """A distribution of values: a list (`choice`), or all numbers between two ends."""

    distribution: str
    values: Sequence[Any]


Axis = Sequence[Any] | _Distribution  # the values of one parameter


def _axis(name: str, values: Any) -> Axis:
    """The values of one parameter, or their distribution; ranges stay ranges, however long."""
    if isinstance(values, Mapping) and len(values) == 1 and next(iter(values)) in DISTRIBUTIONS:
        ((distribution, ends),) = values.items()
        if distribution == "range":
            return _range(name, ends)
        if distribution == "choice":
            return _Distribution(distribution, _different_values(name, ends))
        return _between(name, distribution, ends)
    if isinstance(values, Mapping) and name not in MAPPINGS:
        raise RecipeError(
            f'space: "{name}" has an unknown distribution{did_you_mean(next(iter(values), ""), DISTRIBUTIONS)}'
        )
    if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
        return [values]
    return _different_values(name, values)


def _range(name: str, ends: Any) -> range:
    """The values of `{"range": ends}`, with the ends of Python's `range`."""
    try:
        values = range(*ends) if isinstance(ends, (list, tuple)) else range(ends)
    except (TypeError, ValueError):
        raise RecipeError(f'space: "{name}" has {{range: {ends!r}}}; write {{range: 8 or [2, 8]}}.') from None
    return _short_range(name, values)


def _short_range(name: str, values: range) -> range:
    """A range whose length Python can represent."""
    try:
        len(values)
    except OverflowError:
        raise RecipeError(f'space: the range of "{name}" has more than 2^63 values.') from None
    return values


def _between(name: str, distribution: str, ends: Any) -> _Distribution:
    """A distribution between two ends, which are checked."""
    number = int if distribution == "integers" else float
    try:
        low, high = map(number, ends)
    except (TypeError, ValueError, OverflowError):
        raise RecipeError(
            f'space: "{name}" has {{{distribution}: {ends!r}}}; write {{{distribution}: [low, high]}}.'
        ) from None
    if not low < high or (distribution == "loguniform" and low <= 0):
        raise RecipeError(
            f'space: "{name}" goes from {low:g} to {high:g}; {distribution} needs a lower end below the upper one.'
        )
    if distribution == "integers":
        is_drawable = low >= LOWEST and high < HIGHEST
    else:
        is_drawable = math.isfinite(high - low)  # numpy refuses a difference that overflows
    if not is_drawable:
        raise RecipeError(f'space: "{name}" goes from {low:g} to {high:g}, which is too wide a range to draw from.')
    return _Distribution(distribution, (low, high))


def _different_values(name: str, values: Any) -> Sequence[Any]:
    """The values of one parameter without duplicates, which would give identical runs."""
    if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
        raise RecipeError(f'space: "{name}" has {{choice: {values!r}}}; write {{choice: [a, b]}}.')
    if isinstance(values, range):
        return _short_range(name, values)
    first = [plain(value) for value in itertools.islice(values, MOST_VALUES + 1)]
    if len(first) > MOST_VALUES:
        raise RecipeError(f'space: "{name}" has more than {MOST_VALUES:,} values; write {{range: [first, last]}}.')
    seen: set[Hashable] = set()  # avoids pairwise comparisons of a million values
    distinct: list[Any] = []
    for value in first:
        if isinstance(value, Hashable):
            if value in seen:
                continue
            seen.add(value)
        elif value in distinct:
            continue
        distinct.append(value)
    return distinct


def _size(axis: Axis, n_runs: int) -> int:
    """Number of different values, as far as it matters for `n_runs` draws."""
    if not isinstance(axis, _Distribution):
        return len(axis)
    if axis.distribution == "choice":
        return len(axis.values)
    if axis.distribution == "integers":
        low, high = axis.values
        return int(high - low + 1)
    return n_runs  # there are always enough floating-point numbers


def _draw(axis: Axis, rng: np.random.Generator) -> Any:
    """Draw one value of a parameter; numbers have Python types, which JSON supports."""
    if not isinstance(axis, _Distribution):
        return axis[int(rng.integers(len(axis)))]
    if axis.distribution == "choice":
        return axis.values[int(rng.integers(len(axis.values)))]
    low, high = axis.values
    if axis.distribution == "integers":
        return int(rng.integers(low, high + 1))
    if axis.distribution == "loguniform":
        return math.exp(rng.uniform(math.log(low), math.log(high)))
    return float(rng.uniform(low, high))


def different_settings(settings: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Settings as a list.

    Raises:
        [`RecipeError`]: if the list is empty or has duplicates.
    """
    settings = [plain(setting) for setting in settings]
    if not settings:
        raise RecipeError("the space is empty: give at least one setting, such as {learning_rate: [1e-5, 3e-5]}.")
    seen = set()
    for setting in settings:
        key = _key(setting)
        if key in seen:
            raise RecipeError(f"space: the setting {setting} is given twice.")
        seen.add(key)
    return settings


def _key(setting: Mapping[str, Any]) -> str:
    """A setting as a string, for comparison: its values may be mappings and lists, which have no hash."""
    return json.dumps(setting, sort_keys=True, default=str)
