"""The straight way from the base model to a fine-tuned one, or to a soup (WiSE-FT)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..errors import RecipeError
from ..plugins import strategy
from ..types import Choice, Ingredient, Mixture, Trials
from ._search import Search
from .greedy import greedy


@strategy(linear_only=True)
def interpolate(
    ingredients: Sequence[Ingredient],
    trials: Trials,
    *,
    base: Ingredient,
    alphas: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    end: Literal["uniform", "greedy", "best"] = "uniform",
) -> Choice:
    """Score points between the base model and the ingredient, or a soup of them, and keep the best one.

    Args:
        ingredients (`Sequence[Ingredient]`):
            One, or several whose soup is the end of the way.
        trials ([`Trials`]):
            Scores mixtures on validation.
        base ([`Ingredient`]):
            What they were fine-tuned from; modules that it lacks (a head) are those of the end at every point.
        alphas (`Sequence[float]`, *optional*, defaults to 0, 0.1, ... 1):
            Where to score: 0 is the base model, 1 the end; of equals the first one given is kept. Beyond 1 the way
            is followed further.
        end (`str`, *optional*, defaults to `"uniform"`):
            Of several ingredients: all, those of a `"greedy"` soup, or the `"best"` one.

    Returns:
        [`Choice`]: the base model last; its trials have `alpha` and score of every point.

    Raises:
        [`RecipeError`]: if there is no alpha.

    Source: Wortsman et al. 2021, [Robust fine-tuning of zero-shot models](https://arxiv.org/abs/2109.01903).
    """
    if not len(alphas):
        raise RecipeError("alphas are the points to score, such as [0, 0.5, 1]; none was given.")
    search = Search(ingredients, trials)
    if end == "greedy":
        choice = greedy(ingredients, trials)
        end_of_way = list(choice.mixture.ingredients)
        search.add_trials(choice)
    elif end == "best":
        end_of_way = search.ranked[:1]
    else:
        end_of_way = search.ranked
    lacking = trials.lacking(base)
    # theta_alpha = (1 - alpha) * theta_0 + alpha * theta_1, of the base model theta_0 and the end theta_1
    mixtures = [_point(end_of_way, base, lacking, alpha) for alpha in alphas]
    scores = trials.map(mixtures)
    best = max(range(len(mixtures)), key=lambda place: scores[place].rank_key)  # of equals the first
    for place, alpha in enumerate(alphas):
        search.note(f"alpha {alpha:g}", mixtures[place], scores[place], place == best, alpha=float(alpha))
    search.take(mixtures[best], scores[best])
    return search.result(alpha=float(alphas[best]))


def _point(items: Sequence[Ingredient], base: Ingredient, lacking: Sequence[str], alpha: float) -> Mixture:
    """`(1 - alpha) * base + alpha * mean of items`; modules that the base model lacks are the mean of the items."""
    item_weights = [alpha / len(items)] * len(items)
    if alpha == 1:  # without the base model, whose weight would be 0
        return Mixture(tuple(items), tuple(item_weights))
    weights = (*item_weights, 1 - alpha)
    if not lacking:
        return Mixture((*items, base), weights)
    weights_without_base = (*[1.0] * len(items), 0.0)
    return Mixture((*items, base), {"": weights, **dict.fromkeys(lacking, weights_without_base)})
