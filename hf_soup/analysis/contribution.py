"""The contribution of each ingredient to a soup. The cost is known before anything is scored."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..display.results import Result
from ..display.tables import align
from ..errors import RecipeError
from ..metrics.statistics import formatted, signed
from ..seeds import check_seed
from ..types import best_of, gain
from .points import Scorer, uniform


if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from tqdm import tqdm

EXACT = 8  # ingredients up to which all subsets are scored


class Share(NamedTuple):
    """What one ingredient contributes, in the metric's unit; positive is better.

    Args:
        name (`str`):
            The ingredient.
        single_score (`float`):
            Score of the ingredient by itself.
        left_out (`float`):
            Score of the uniform soup of all less that of all but this one.
        added (`float`, *optional*):
            Score of the soup of this one and the best other less that of the best other by itself.
        shapley (`float`, *optional*):
            Mean marginal contribution of the ingredient over all orders in which the soup could be built.
        error (`float`, *optional*):
            Standard error of that, where orders were drawn; 0 where all subsets were scored.
    """

    name: str
    single_score: float
    left_out: float
    added: float | None = None
    shapley: float | None = None
    error: float | None = None

    @property
    def value(self) -> float:
        """The Shapley value if it is known, otherwise the loss of the soup without the ingredient."""
        return self.left_out if self.shapley is None else self.shapley


@dataclass(frozen=True, repr=False)
class Contribution(Result):
    """What each ingredient contributes to the uniform soup.

    Args:
        metric (`str`), higher_is_better (`bool`), split (`str`), examples (`int`):
            Metric, its direction, split and number of examples of the scores.
        shares (`tuple[Share, ...]`):
            Share of each ingredient.
        soup (`float`):
            Score of the uniform soup of all.
        evaluations (`int`):
            Models that it took.
        complete (`bool`, *optional*, defaults to `True`):
            Whether all that was asked for was scored.
    """

    metric: str
    higher_is_better: bool
    split: str
    examples: int
    shares: tuple[Share, ...]
    soup: float
    evaluations: int
    complete: bool = True

    @property
    def finding(self) -> str:
        """Which ingredient contributes most, in a sentence without its full stop."""
        ranked = self.ranked()
        return f"{ranked[0].name} contributes most to the soup, {ranked[-1].name} least"

    def table(self) -> str:
        """A row for each ingredient, the largest contribution first."""
        lines = [["ingredient", f"{self.metric} alone", "left out", "added to the best other", "Shapley value"]]
        for share in self.ranked():
            shapley = self._difference_cell(share.shapley)
            if share.error:  # exact values have the error 0
                shapley += f" ± {formatted(self.metric, share.error)}"
            differences = [signed(self.metric, share.left_out), self._difference_cell(share.added), shapley]
            lines.append([share.name, formatted(self.metric, share.single_score), *differences])
        soup = f"The uniform soup of all has {self.metric} {formatted(self.metric, self.soup)} on {self.split}."
        return f"{align(lines)}\n\n{soup} It took {self.evaluations} models."

    def _difference_cell(self, difference: float | None) -> str:
        """A difference in the table; `-` if it was not measured."""
        return "-" if difference is None else signed(self.metric, difference)

    def ranked(self) -> list[Share]:
        """The shares, greatest Shapley value (or loss when left out) first."""
        return sorted(self.shares, key=lambda share: -share.value)

    def to_pandas(self) -> pd.DataFrame:
        """A data frame with a row for each ingredient."""
        import pandas as pd

        return pd.DataFrame(self.shares, columns=Share._fields)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {**asdict(self), "shares": [share._asdict() for share in self.shares]}

    def plot(self) -> Figure:
        """Draw the contribution of each ingredient as a bar.

        Raises:
            [`MissingExtraError`]: if matplotlib is not installed.
        """
        from .pictures import plot_bars

        ranked = self.ranked()[::-1]  # bars begin at the bottom
        label, errors = "left out", None
        if ranked[0].shapley is not None:
            label, errors = "Shapley value", [share.error or 0.0 for share in ranked]
        values = {label: [share.value for share in ranked]}
        title = f"{ranked[-1].name} contributes most, {ranked[0].name} least"
        unit = f"contribution to {self.metric} on {self.split}"
        return plot_bars([share.name for share in ranked], values, errors=errors, unit=unit, title=title)


def contribution_cost(n: int, samples: int | None = None) -> int:
    """The maximum number of models that [`measure_contribution`] scores for `n` ingredients.

    Args:
        n (`int`):
            Ingredients.
        samples (`int`, *optional*):
            Orders that are drawn for Shapley values; 0 leaves them out, by default up to 8 ingredients are exact and
            more leave them out.
    """
    subsets, samples = 2**n - 1, _samples(n, samples)
    if samples is None:
        return subsets
    single_and_left_out = 2 * n + 1  # each alone, all but each, and the soup of all
    with_the_best = max(n - 1, 0)  # the additional cost of the other subsets
    # An order comes with its reverse. On its way from the first ingredient to all of them, only the soups in between
    # are not among those above.
    orders = 2 * math.ceil(samples / 2)
    in_between = orders * max(n - 3, 0)
    return min(single_and_left_out + with_the_best + in_between, subsets)


def measure_contribution(scorer: Scorer, *, samples: int | None = None, seed: int = 0) -> Contribution:
    """Score the uniform soups of subsets of the ingredients.

    Ctrl-C ends the measurement; the same call resumes it with the soups that were scored.

    Args:
        scorer ([`Scorer`]):
            The ingredients and the examples.
        samples (`int`, *optional*):
            Random orders for Shapley values, whose standard error is reported; 0 leaves them out. By default all
            subsets of up to 8 ingredients are scored, and of more there are no Shapley values.
        seed (`int`, *optional*, defaults to 0):
            Seed of the sampled orders.

    Returns:
        [`Contribution`]: the value of no ingredients at all is taken to be the mean of the ingredients alone, so that
        Shapley values sum to what the soup gains over that.

    Raises:
        [`RecipeError`]: if there is one ingredient alone.

    Source: Shapley 1953; for data and models: Ghorbani and Zou 2019, [Data Shapley](https://arxiv.org/abs/1904.02868).
    """
    names = scorer.names
    if len(names) < 2:
        raise RecipeError("contributions to a soup need two ingredients or more.")
    samples, seed = _samples(len(names), samples), check_seed(seed)
    complete = True
    with scorer.progress("Soups of subsets", contribution_cost(len(names), samples)) as bar:
        subsets = _Subsets(scorer, bar)
        # Without these scores there is no result: here Ctrl-C ends the analysis, and below it shortens it.
        single_scores = {name: subsets.score([name]) for name in names}
        shares = {}
        for name, score in single_scores.items():
            shares[name] = Share(name, score, left_out=subsets.gain(names, _without(names, name)))
        try:
            for name in names:
                scores_of_others = {other: single_scores[other] for other in _without(names, name)}
                best = best_of(scores_of_others, subsets.higher_is_better)
                shares[name] = shares[name]._replace(added=subsets.gain([best, name], [best]))
            for name, (mean, error) in _shapley(subsets, samples, seed).items():
                shares[name] = shares[name]._replace(shapley=mean, error=error)
        except KeyboardInterrupt:  # the result covers what was scored; the same call finds it again and continues
            complete = False
    return Contribution(
        metric=scorer.metric,
        higher_is_better=subsets.higher_is_better,
        split=scorer.evaluator.split,
        examples=scorer.examples,
        shares=tuple(shares.values()),
        soup=subsets.score(names),
        evaluations=subsets.scored,
        complete=complete,
    )


class _Subsets:
    """Uniform soups of subsets of the ingredients, each scored once.

    Args:
        scorer ([`Scorer`]):
            The ingredients and the examples.
        bar (`tqdm`):
            Counts the soups that are scored.
    """

    def __init__(self, scorer: Scorer, bar: tqdm[Any]):
        self.names, self.higher_is_better = scorer.names, scorer.higher_is_better
        self._scorer, self._bar = scorer, bar
        self._scores: dict[frozenset[str], float] = {}

    @property
    def scored(self) -> int:
        """The number of soups that were scored."""
        return len(self._scores)

    def score(self, members: Collection[str]) -> float:
        """The score of the uniform soup of some ingredients."""
        subset = frozenset(members)
        if subset not in self._scores:
            # A subset has one recipe, and one cached result, in whatever order it is assembled.
            in_order = [name for name in self.names if name in subset]
            self._scores[subset] = self._scorer.point(uniform(in_order)).score
            self._bar.update()
        return self._scores[subset]

    def gain(self, members: Collection[str], others: Collection[str]) -> float:
        """How much better one soup is than another."""
        return gain(self.score(members), self.score(others), self.higher_is_better)

    def worth(self, members: Collection[str]) -> float:
        """The score on a scale where higher is better; for no ingredients, the mean score of the single ones."""
        score = self.score(members) if members else self._mean_of_singles()
        # Shapley values are positive for a benefit, also for losses.
        return gain(score, 0.0, self.higher_is_better)

    def _mean_of_singles(self) -> float:
        """The value of the empty set of ingredients, for which there is no model."""
        return sum(self.score([name]) for name in self.names) / len(self.names)


def _shapley(subsets: _Subsets, samples: int | None, seed: int) -> dict[str, tuple[float, float]]:
    """Shapley values and their errors: exact ones, estimates from random orders, or none."""
    if samples is None:
        return exact_shapley(subsets.names, subsets.worth)
    if samples == 0:
        return {}
    return sampled_shapley(subsets.names, subsets.worth, samples=samples, seed=seed)


def exact_shapley(names: Sequence[str], worth: Callable[[Sequence[str]], float]) -> dict[str, tuple[float, float]]:
    """Compute exact Shapley values from all subsets.

    Args:
        names (`Sequence[str]`):
            The players.
        worth (`Callable[[Sequence[str]], float]`):
            Function that returns the score of a subset, including the empty one.

    Returns:
        `dict[str, tuple[float, float]]`: value, and 0 as its error.
    """
    players, values = len(names), {}
    for name in names:
        others, terms = _without(names, name), []
        for size in range(players):
            # The share of orders in which exactly a subset S of this size precedes `name`: |S|! (n - |S| - 1)! / n!
            share = 1 / (players * math.comb(players - 1, size))
            for subset in itertools.combinations(others, size):
                terms.append(share * (worth((*subset, name)) - worth(subset)))
        values[name] = (math.fsum(terms), 0.0)
    return values


def sampled_shapley(
    names: Sequence[str], worth: Callable[[Sequence[str]], float], *, samples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Estimate Shapley values from random orders, each with its reverse, and their standard errors.

    Args:
        names (`Sequence[str]`), worth (`Callable[[Sequence[str]], float]`):
            The arguments of [`exact_shapley`].
        samples (`int`):
            Number of orders. Each sampled order is followed by its reverse, which reduces the variance.
        seed (`int`):
            Seed of the sampled orders.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    draws = math.ceil(samples / 2)
    gains: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(draws):
        order = [names[index] for index in rng.permutation(len(names))]
        forward, backward = _marginal_gains(order, worth), _marginal_gains(order[::-1], worth)
        for name in names:
            gains[name].append(forward[name] / 2 + backward[name] / 2)
    # An order and its reverse are one independent draw, and the error is that of the mean of the draws. numpy's
    # standard deviation divides by n, which the root of n - 1 corrects; a single draw has no error.
    root = math.sqrt(max(draws - 1, 0))
    values = {}
    for name, drawn in gains.items():
        error = math.nan
        if root:
            error = float(np.std(drawn)) / root
        values[name] = (float(np.mean(drawn)), error)
    return values


def _marginal_gains(order: Sequence[str], worth: Callable[[Sequence[str]], float]) -> dict[str, float]:
    """The gain that each player adds to those before it."""
    gains, before = {}, worth(())
    for index, name in enumerate(order):
        after = worth(tuple(order[: index + 1]))
        gains[name] = after - before
        before = after
    return gains


def _samples(n: int, samples: int | None) -> int | None:
    """How many orders are drawn; `None` means all subsets.

    Raises:
        [`RecipeError`]: if they are too few to tell an error.
    """
    # Two draws, each an order and its reverse, are the fewest that have a standard deviation.
    if samples is not None and samples != 0 and samples < 4:
        raise RecipeError(f"samples is 4 or more, so that the error can be estimated, or 0 for none; not {samples}.")
    if samples is not None:
        return samples
    return None if n <= EXACT else 0


def _without(names: Sequence[str], name: str) -> list[str]:
    """All names but this one, in their order."""
    return [other for other in names if other != name]
