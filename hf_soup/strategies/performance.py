"""All ingredients, with larger weights for those that score better."""

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
    """Weight each ingredient by its validation score.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The ingredients, in any order.
        trials ([`Trials`]):
            Scorer of mixtures on validation.
        scheme (`str`, *optional*, defaults to `"softmax"`):
            How scores become weights: `"proportional"` to the score (to its inverse where lower is better), by a
            `"softmax"` of score / temperature, or by `"rank"`: k for the best of k ingredients down to 1 for the
            worst, with the mean rank for ties.
        temperature (`float`, *optional*, defaults to 0.01):
            Temperature of the softmax, in the metric's unit: two scores that differ by it have weights that differ by
            a factor of e.

    Returns:
        [`Choice`]: the ingredients, highest score first.

    Raises:
        [`RecipeError`]: if `temperature` is not positive, or the scores cannot serve as weights.
    """
    if not temperature > 0:
        raise RecipeError(f"temperature has to be greater than 0, not {temperature}.")
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
    # A score of 0 is a weight of 0, which is refused if all of them are; its inverse is not a number.
    zero_is_refused = not higher_is_better or not any(values)
    if lowest < 0 or (lowest == 0 and zero_is_refused):
        raise RecipeError(f"scores as low as {lowest:g} cannot be weights; use scheme='softmax' or scheme='rank'.")
    if higher_is_better:
        return values
    return [1 / value for value in values]


def _softmax(scores: Sequence[Score], temperature: float) -> list[float]:
    """w_i = exp(s_i / T), with the negative score where lower is better."""
    import numpy as np

    keys = np.array([score.rank_key for score in scores])
    # The largest is subtracted so that no exponential overflows.
    return np.exp((keys - keys.max()) / temperature).tolist()


def _rank(scores: Sequence[Score], temperature: float) -> list[float]:
    """w_i = the number of scores that are not better than s_i, with the mean rank for ties."""
    from scipy.stats import rankdata

    return rankdata([score.rank_key for score in scores]).tolist()


_SCHEMES = {"proportional": _proportional, "softmax": _softmax, "rank": _rank}
