"""What each ingredient contributes to a soup; what it costs to know is told before."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import RecipeError
from ..seeds import check_seed
from ..tables import align
from .points import Scorer, shown, signed, uniform


if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

EXACT = 8  # ingredients up to which all subsets are scored


class Share(NamedTuple):
    """What one ingredient contributes, in the metric's unit; positive is better.

    Args:
        name (`str`):
            The ingredient.
        alone (`float`):
            Its own score.
        left_out (`float`):
            Score of the uniform soup of all less that of all but this one.
        added (`float`, *optional*):
            Score of the soup of this one and the best other less that of the best other alone.
        shapley (`float`, *optional*):
            Its mean marginal contribution over all orders in which the soup could be put together.
        error (`float`, *optional*):
            Standard error of that, where orders were drawn; 0 where all subsets were scored.
    """

    name: str
    alone: float
    left_out: float
    added: float | None = None
    shapley: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class Contribution:
    """What each ingredient contributes to the uniform soup.

    Args:
        metric (`str`), higher_is_better (`bool`), split (`str`), examples (`int`):
            What scores, on what.
        shares (`tuple[Share, ...]`):
            One for each ingredient.
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

    def table(self) -> str:
        """A line for each ingredient, the greatest contribution first."""
        lines = [["ingredient", f"{self.metric} alone", "left out", "added to the best other", "Shapley value"]]
        for share in self.ranked():
            error = f" ± {shown(self.metric, share.error)}" if share.error else ""
            value = "-" if share.shapley is None else signed(self.metric, share.shapley) + error
            cells = [signed(self.metric, share.left_out), signed(self.metric, share.added), value]
            lines.append([share.name, shown(self.metric, share.alone), *cells])
        soup = f"The uniform soup of all has {self.metric} {shown(self.metric, self.soup)} on {self.split}."
        return f"{align(lines)}\n\n{soup} It took {self.evaluations} models."

    def ranked(self) -> list[Share]:
        """The shares, greatest Shapley value (or loss when left out) first."""
        return sorted(self.shares, key=lambda share: -(share.left_out if share.shapley is None else share.shapley))

    def to_pandas(self) -> pd.DataFrame:
        """A data frame with a line for each ingredient."""
        import pandas as pd

        return pd.DataFrame(self.shares, columns=Share._fields)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {**asdict(self), "shares": [share._asdict() for share in self.shares]}

    def plot(self) -> Figure:
        """Bars: what each ingredient contributes.

        Raises:
            [`MissingExtraError`]: if matplotlib is not installed.
        """
        from .pictures import plot_bars

        ranked = self.ranked()[::-1]  # bars begin at the bottom
        by_value = ranked[0].shapley is not None
        values = {"Shapley value" if by_value else "left out": [s.shapley if by_value else s.left_out for s in ranked]}
        errors = [s.error or 0.0 for s in ranked] if by_value else None
        title = f"{ranked[-1].name} contributes most, {ranked[0].name} least"
        unit = f"contribution to {self.metric} on {self.split}"
        return plot_bars([s.name for s in ranked], values, errors=errors, unit=unit, title=title)


def contribution_cost(n: int, samples: int | None = None) -> int:
    """How many models [`measure_contribution`] scores at most for `n` ingredients.

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
    orders = 2 * math.ceil(samples / 2)  # each with its reverse; single ones, all, and all but one are known
    return min(2 * n + 1 + max(n - 1, 0) + orders * max(n - 3, 0), subsets)


def measure_contribution(scorer: Scorer, *, samples: int | None = None, seed: int = 0) -> Contribution:
    """Score the uniform soups of subsets of the ingredients.

    Ctrl-C ends it with what is known, which the same call finds again.

    Args:
        scorer ([`Scorer`]):
            The ingredients and the examples.
        samples (`int`, *optional*):
            Orders that are drawn for Shapley values, whose standard error is told; 0 leaves them out. By default all
            subsets of up to 8 ingredients are scored, and of more there are no Shapley values.
        seed (`int`, *optional*, defaults to 0):
            Of the orders.

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
    sign = 1.0 if scorer.higher_is_better else -1.0
    known: dict[frozenset[str], float] = {}
    complete = True

    with scorer.progress("Soups of subsets", contribution_cost(len(names), samples)) as bar:

        def value(members: Sequence[str]) -> float:
            key = frozenset(members)
            if key not in known:
                ordered = [name for name in names if name in key]
                known[key] = sign * scorer.point(uniform(ordered)).score
                bar.update()
            return known[key]

        alone = {name: value([name]) for name in names}
        whole = value(names)
        shares = {name: Share(name, sign * alone[name], whole - value(_without(names, name))) for name in names}
        shapley: dict[str, tuple[float, float]] = {}
        try:
            for name in names:
                best = max(_without(names, name), key=alone.__getitem__)
                shares[name] = shares[name]._replace(added=value([best, name]) - alone[best])
            nothing = sum(alone.values()) / len(names)
            if samples is None:
                shapley = exact_shapley(names, lambda members: value(members) if members else nothing)
            elif samples:
                shapley = sampled_shapley(
                    names, lambda members: value(members) if members else nothing, samples=samples, seed=seed
                )
        except KeyboardInterrupt:
            complete = False
    for name, (mean, error) in shapley.items():
        shares[name] = shares[name]._replace(shapley=mean, error=error)
    about = (scorer.metric, scorer.higher_is_better, scorer.evaluator.split, scorer.examples)
    return Contribution(*about, tuple(shares.values()), sign * whole, len(known), complete)


def exact_shapley(names: Sequence[str], value: Any) -> dict[str, tuple[float, float]]:
    """Shapley values from all subsets.

    Args:
        names (`Sequence[str]`):
            The players.
        value (`Callable[[Sequence[str]], float]`):
            What a subset is worth, the empty one included.

    Returns:
        `dict[str, tuple[float, float]]`: value, and 0 as its error.
    """
    n, found = len(names), {}
    for name in names:
        others, terms = _without(names, name), []
        for size in range(n):
            share = 1 / (n * math.comb(n - 1, size))
            for subset in itertools.combinations(others, size):
                terms.append(share * (value((*subset, name)) - value(subset)))
        found[name] = (math.fsum(terms), 0.0)
    return found


def sampled_shapley(names: Sequence[str], value: Any, *, samples: int, seed: int) -> dict[str, tuple[float, float]]:
    """Shapley values from orders that are drawn, each with its reverse, and their standard errors.

    Args:
        names (`Sequence[str]`), value (`Callable[[Sequence[str]], float]`):
            As of [`exact_shapley`].
        samples (`int`):
            How many orders: drawn ones, each with its reverse, which varies less.
        seed (`int`):
            Of the drawing.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in names}  # a mean over an order and its reverse, one for each
    for _ in range(math.ceil(samples / 2)):
        order = [names[at] for at in rng.permutation(len(names))]
        gains: dict[str, float] = dict.fromkeys(names, 0.0)
        for one in (order, order[::-1]):
            before = value(())
            for at, name in enumerate(one):
                after = value(tuple(one[: at + 1]))
                gains[name] += (after - before) / 2
                before = after
        for name, gain in gains.items():
            found[name].append(gain)
    roots = math.sqrt(max(len(found[names[0]]) - 1, 0))
    return {
        name: (float(np.mean(each)), float(np.std(each)) / roots if roots else math.nan)
        for name, each in found.items()
    }


def _samples(n: int, samples: int | None) -> int | None:
    """How many orders are drawn; `None` is all subsets.

    Raises:
        [`RecipeError`]: if they are too few to tell an error.
    """
    if samples is not None and samples != 0 and samples < 4:
        raise RecipeError(f"samples is 4 or more, so that an error can be told, or 0 for none: {samples}.")
    return (None if n <= EXACT else 0) if samples is None else samples


def _without(names: Sequence[str], name: str) -> list[str]:
    return [other for other in names if other != name]
