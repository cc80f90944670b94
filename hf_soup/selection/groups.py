"""Groups of ingredients that are averaged first: the snapshots of a run, or the runs of one setting.

A strategy then chooses among the groups as if each were one ingredient. Every average is linear, so that a mixture of
groups is a mixture of their members.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..errors import RecipeError
from ..strategies.greedy import greedy
from ..types import Gradient, Ingredient, Mixture, Rejected, Score, Threshold, Trials


if TYPE_CHECKING:
    import numpy as np

    from ..metrics.predictions import Predictions

LAST = 3  # snapshots of a run that `within="last"` and `"minus_sqrt"` average by default


@dataclass(frozen=True)
class Group:
    """Ingredients that are averaged before a strategy chooses.

    Args:
        name (`str`):
            Name of the group, such as that of a run.
        mixture ([`Mixture`]):
            Its members, with weights that sum to 1.
    """

    name: str
    mixture: Mixture

    @property
    def ingredient(self) -> Ingredient:
        """The group as strategies see it."""
        return Ingredient(self.name, self.mixture.ingredients[-1].source)


def group_snapshots(
    name: str, snapshots: Sequence[Ingredient], within: str | None, k: int | None, trials: Trials | None
) -> Group:
    """Average the snapshots of one run.

    Args:
        name (`str`):
            Name of the run.
        snapshots (`Sequence[Ingredient]`):
            Its checkpoints, in the order of their steps.
        within (`str`, *optional*):
            `"mean"` of all snapshots, mean of the `"last"` k, the k last with the weights that emulate a decay of the
            learning rate (`"minus_sqrt"`), or those that a `"greedy"` search keeps; by default the last one alone.
        k (`int`, *optional*):
            Number of snapshots; 3 by default.
        trials ([`Trials`], *optional*):
            Scorer of mixtures, which `"greedy"` needs.

    Returns:
        [`Group`]

    Raises:
        [`RecipeError`]: if `"greedy"` has no validation data.

    Source: Tian et al. 2025, [WSM](https://arxiv.org/abs/2507.17634), section 3, for `"minus_sqrt"`.
    """
    if within is None or len(snapshots) == 1:
        return Group(name, Mixture((snapshots[-1],), (1.0,)))
    if within == "greedy":
        if trials is None:
            raise RecipeError(
                'within="greedy" chooses snapshots by validation score: add a strategy and an evaluator.'
            )
        return Group(name, _normalised(greedy(snapshots, trials, accept="loss").mixture))
    if within == "mean":
        return Group(name, _normalised(Mixture.equal(snapshots)))
    last = snapshots[-(k or LAST) :]
    if within == "last":
        return Group(name, _normalised(Mixture.equal(last)))
    return Group(name, Mixture(tuple(last), minus_sqrt(len(last))))


def minus_sqrt(count: int) -> tuple[float, ...]:
    """Weights of snapshots, the oldest first, that emulate a learning rate which decays as 1 - sqrt(t).

    With the decay `d_i = 1 - sqrt(i / n)`, the average is the oldest snapshot plus `d_i` times each later change
    `theta_i - theta_(i-1)`. Snapshot i therefore has the weight `d_i - d_(i+1)`, with `d_0 = 1` and `d_n = 0`.

    Args:
        count (`int`):
            Number of snapshots.
    """
    decay = [1 - math.sqrt(step / count) for step in range(count + 1)]
    return tuple(decay[step] - decay[step + 1] for step in range(count))


def join_groups(groups: Sequence[Group], values: Sequence[str]) -> list[Group]:
    """Average the groups that share a value, with equal weights.

    Args:
        groups (`Sequence[Group]`):
            Groups to average.
        values (`Sequence[str]`):
            Value of each group, which becomes the name of the joined one.
    """
    members: dict[str, list[Group]] = {}
    for group, value in zip(groups, values, strict=True):
        members.setdefault(value, []).append(group)
    joined = []
    for value, of_value in members.items():
        equal = Mixture.equal([group.ingredient for group in of_value])
        joined.append(Group(value, _normalised(expand(equal, of_value))))
    return joined


def expand(mixture: Mixture, groups: Sequence[Group]) -> Mixture:
    """A mixture of groups as a mixture of their members; other ingredients, such as a base model, stay as they are.

    Args:
        mixture ([`Mixture`]):
            Mixture of groups.
        groups (`Sequence[Group]`):
            The groups.
    """
    if not groups:
        return mixture
    ingredients: list[Ingredient] = []
    columns: list[tuple[int, float]] = []  # for each member, the column of its group and its weight within
    by_name = {group.name: group for group in groups}
    for column, item in enumerate(mixture.ingredients):
        group = by_name.get(item.name)
        if group is None:
            ingredients.append(item)
            columns.append((column, 1.0))
            continue
        ingredients += group.mixture.ingredients
        columns += [(column, weight) for weight in group.mixture.totals]
    rows = {}
    for module, weights in mixture.weights_by_module.items():
        rows[module] = tuple(weights[column] * weight for column, weight in columns)
    return Mixture(tuple(ingredients), rows[""] if list(rows) == [""] else rows, mixture.params)


def _normalised(mixture: Mixture) -> Mixture:
    """The same mixture with weights that sum to 1."""
    total = sum(mixture.totals)
    return Mixture(mixture.ingredients, tuple(weight / total for weight in mixture.totals))


class GroupedTrials:
    """Trials in which every ingredient is a group; they score its members.

    Args:
        trials ([`Trials`]):
            Trials of the members.
        groups (`Sequence[Group]`):
            The groups.
    """

    def __init__(self, trials: Trials, groups: Sequence[Group]):
        self._trials: Any = trials
        self._groups = groups
        self._by_name = {group.name: group for group in groups}

    def __getattr__(self, name: str) -> Any:
        """The number of examples and the modules are those of the members' trials."""
        return getattr(self._trials, name)

    def score(self, mixture: Mixture, beat: Threshold | None = None) -> Score | Rejected:
        """See [`Trials`]."""
        return self.map([mixture], beat)[0]

    def map(self, mixtures: Sequence[Mixture], beat: Threshold | None = None) -> list[Score | Rejected]:
        """See [`Trials`]."""
        expanded = [expand(mixture, self._groups) for mixture in mixtures]
        return list(self._trials.map(expanded) if beat is None else self._trials.map(expanded, beat))

    def difference(self, mixture: Mixture, other: Mixture) -> tuple[float, float] | None:
        """See [`Trials`]."""
        ends = self._trials.difference(expand(mixture, self._groups), expand(other, self._groups))
        return cast("tuple[float, float] | None", ends)

    def loss(self, mixture: Mixture) -> float | None:
        """See [`Trials`]."""
        return cast("float | None", self._trials.loss(expand(mixture, self._groups)))

    def lacking(self, ingredient: Ingredient) -> tuple[str, ...]:
        """See [`Trials`]; the members of a group lack nothing."""
        return () if ingredient.name in self._by_name else tuple(self._trials.lacking(ingredient))

    def logits(self, ingredient: Ingredient) -> Predictions:
        """See [`Trials`]."""
        return cast("Predictions", self._trials.predictions(expand(Mixture.equal([ingredient]), self._groups)))

    def ensemble(self, mixture: Mixture) -> Score:
        """See [`Trials`]."""
        members = [expand(Mixture.equal([item]), self._groups) for item in mixture.ingredients]
        return cast("Score", self._trials.ensemble_of(members, mixture.totals))

    def gradient(self, mixture: Mixture, examples: np.ndarray, scale: float = 1.0) -> Gradient:
        """See [`Trials`]; the derivative for a group is the sum of those for its members times their weights."""
        of_members = self._trials.gradient(expand(mixture, self._groups), examples, scale)
        weights = {}
        for module, derivatives in of_members.weights.items():
            remaining = list(derivatives)
            row = []
            for item in mixture.ingredients:
                group = self._by_name.get(item.name)
                shares = (1.0,) if group is None else group.mixture.totals
                own, remaining = remaining[: len(shares)], remaining[len(shares) :]
                row.append(sum(share * derivative for share, derivative in zip(shares, own, strict=True)))
            weights[module] = tuple(row)
        return Gradient(of_members.loss, weights, of_members.scale)

    def subset(self, examples: np.ndarray) -> GroupedTrials:
        """See [`Trials`]."""
        return GroupedTrials(self._trials.subset(examples), self._groups)


def values_of(
    group_by: str | Mapping[str, str], names: Sequence[str], settings: Sequence[Mapping[str, Any]]
) -> list[str]:
    """The value of each run by which runs are grouped.

    Args:
        group_by (`str` or `Mapping[str, str]`):
            Name of a setting of the runs, or the group of each run by name.
        names (`Sequence[str]`):
            Names of the runs.
        settings (`Sequence[Mapping[str, Any]]`):
            Settings of each run, where they are known.

    Raises:
        [`RecipeError`]: if a run has no value.
    """
    values = []
    for name, own in zip(names, settings, strict=True):
        if isinstance(group_by, Mapping):
            value, label = group_by.get(name), "{}"
        else:
            value, label = own.get(group_by), f"{group_by}={{}}"
        if value is None:
            known = ", ".join(sorted({key for each in settings for key in each})) or "none"
            raise RecipeError(
                f"group_by={group_by!r}: {name} has no such value. The settings of a run are read from the run.json "
                f"that a sweep writes (known here: {known}); for other runs pass a mapping of each run's name to its "
                "group."
            )
        values.append(label.format(value))
    return values
