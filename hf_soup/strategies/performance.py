"""All ingredients, with more weight for those that score better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..errors import RecipeError
from ..types import Choice, Ingredient, Mixture, Score, Trials
from ._search import Search


def performance(
    ingredients: Sequence[Ingredient],
    trials: Trials,
    *,
    scheme: Literal["proportional", "softmax", "rank"] = "softmax",
    temperature: float = 0.01,
) -> Choice:
    """Weigh each ingredient by its validation score.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The ingredients, in any order.
        trials ([`Trials`]):
            Scores them on validation.
        scheme (`str`, *optional*, defaults to `"softmax"`):
            `"proportional"` to the score (of a metric that is better when lower, to its inverse), `"softmax"` of score
            / temperature, or by `"rank"`: k for the best of k down to 1 for the worst, the mean rank for ties.
        temperature (`float`, *optional*, defaults to 0.01):
            Of the softmax, in the metric's unit: a difference of this much is a factor of e.

    Returns:
        [`Choice`]: best first.

    Raises:
        [`RecipeError`]: if the temperature is not positive, or the scores cannot be weights.
    """
    if not temperature > 0:
        raise RecipeError(f"temperature is more than 0, not {temperature}.")
    search = Search(ingredients, trials)
    scores = [search.single_scores[item.name] for item in search.ranked]
    weights = _SCHEMES[scheme](scores, temperature)
    if len(search.ranked) > 1:
        mixture = Mixture(tuple(search.ranked), tuple(weights))
        score = trials.score(mixture)
        search.note(f"all, by {scheme}", mixture, score, True)
        search.take(mixture, score)
    return search.result()


# All schemes have the same signature; weights are relative to each other, so none divides by their sum.


def _proportional(scores: Sequence[Score], temperature: float) -> list[float]:
    """w_i = s_i, or 1 / s_i where lower is better."""
    values = [score.value for score in scores]
    higher_is_better = scores[0].higher_is_better
    lowest = min(values)
    # A score of 0 is a weight of 0, unless all are; its inverse is none.
    zero_is_refused = not higher_is_better or not any(values)
    if lowest < 0 or (lowest == 0 and zero_is_refused):
        raise RecipeError(f"scores from {lowest:g} on cannot be weights; take scheme='softmax' or scheme='rank'.")
    if higher_is_better:
        return values
    return [1 / value for value in values]


def _softmax(scores: Sequence[Score], temperature: float) -> list[float]:
    """w_i = exp(s_i / T), of the negative score where lower is better."""
    import numpy as np

    keys = np.array([score.rank_key for score in scores])
    return np.exp((keys - keys.max()) / temperature).tolist()  # less the largest, so that no exponential overflows


def _rank(scores: Sequence[Score], temperature: float) -> list[float]:
    """w_i = the number of scores that are no better, with the mean rank for ties."""
    from scipy.stats import rankdata

    return rankdata([score.rank_key for score in scores]).tolist()


_SCHEMES = {"proportional": _proportional, "softmax": _softmax, "rank": _rank}
