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
    weights = _SCHEMES[scheme]([search.single_scores[item.name] for item in search.ranked], temperature)
    if len(search.ranked) > 1:
        mixture = Mixture(tuple(search.ranked), tuple(weights))
        score = trials.score(mixture)
        search.note(f"all, by {scheme}", mixture, score, True)
        search.take(mixture, score)
    return search.result()


def _proportional(scores: Sequence[Score], temperature: float) -> list[float]:
    values = [score.value for score in scores]
    lowest = min(values)
    if lowest < 0 or (lowest == 0 and (not scores[0].higher_is_better or not any(values))):
        raise RecipeError(f"scores from {lowest:g} on cannot be weights; take scheme='softmax' or scheme='rank'.")
    return values if scores[0].higher_is_better else [1 / value for value in values]


def _softmax(scores: Sequence[Score], temperature: float) -> list[float]:
    import numpy as np

    keys = np.array([score.rank_key for score in scores])
    return np.exp((keys - keys.max()) / temperature).tolist()


def _rank(scores: Sequence[Score], temperature: float) -> list[float]:
    from scipy.stats import rankdata

    return rankdata([score.rank_key for score in scores]).tolist()


_SCHEMES = {"proportional": _proportional, "softmax": _softmax, "rank": _rank}
