"""The line segment from the base model to a fine-tuned one, or to a soup (WiSE-FT)."""

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
    """Score points on the line from the base model to the ingredient, or to a soup of them, and keep the best one.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The fine-tuned model at the end of the line, or several of which `end` makes one.
        trials ([`Trials`]):
            Scorer of mixtures on validation.
        base ([`Ingredient`]):
            The model that the ingredients were fine-tuned from. Modules that it lacks, such as a head, are those of
            the fine-tuned end at every point.
        alphas (`Sequence[float]`, *optional*, defaults to 0, 0.1, ... 1):
            Points to score: 0 is the base model, 1 the fine-tuned end, and values above 1 extrapolate beyond it. The
            first one given wins a tie.
        end (`str`, *optional*, defaults to `"uniform"`):
            Model at the end of the line where there are several ingredients: their `"uniform"` soup, a `"greedy"` soup
            of them, or the `"best"` single one.

    Returns:
        [`Choice`]: the mixture with the base model last; its trials record the `alpha` and the score of every point.

    Raises:
        [`RecipeError`]: if `alphas` is empty.

    Source: Wortsman et al. 2021, [Robust fine-tuning of zero-shot models](https://arxiv.org/abs/2109.01903).
    """
    if not len(alphas):
        raise RecipeError("alphas is empty; it lists the points to score, such as [0, 0.5, 1].")
    search = Search(ingredients, trials)
    if end == "greedy":
        choice = greedy(ingredients, trials)
        end_of_line = list(choice.mixture.ingredients)
        search.add_trials(choice)
    elif end == "best":
        end_of_line = search.ranked[:1]
    else:
        end_of_line = search.ranked
    lacking = trials.lacking(base)
    # theta_alpha = (1 - alpha) * theta_0 + alpha * theta_1, of the base model theta_0 and the end theta_1
    mixtures = [_point(end_of_line, base, lacking, alpha) for alpha in alphas]
    scores = trials.map(mixtures)
    best = max(range(len(mixtures)), key=lambda place: scores[place].rank_key)  # the first one wins a tie
    for place, alpha in enumerate(alphas):
        search.note(f"alpha {alpha:g}", mixtures[place], scores[place], place == best, alpha=float(alpha))
    search.take(mixtures[best], scores[best])
    return search.result(alpha=float(alphas[best]))


def _point(items: Sequence[Ingredient], base: Ingredient, lacking: Sequence[str], alpha: float) -> Mixture:
    """`(1 - alpha) * base + alpha * mean of items`, where modules that the base lacks are the mean of the items."""
    item_weights = [alpha / len(items)] * len(items)
    if alpha == 1:  # without the base model, whose weight would be 0
        return Mixture(tuple(items), tuple(item_weights))
    weights = (*item_weights, 1 - alpha)
    if not lacking:
        return Mixture((*items, base), weights)
    weights_without_base = (*[1.0] * len(items), 0.0)
    return Mixture((*items, base), {"": weights, **dict.fromkeys(lacking, weights_without_base)})
