"""The straight way from the base model to a fine-tuned one, or to a soup (WiSE-FT)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..errors import RecipeError
from ..lookup import strategy
from ..types import Ingredient, Recipe, Trials
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
) -> Recipe:
    """Score points between the base model and the ingredient, or a soup of them, and keep the best one.

    Args:
        ingredients (`Sequence[Ingredient]`):
            One, or several whose soup is the end of the way.
        trials ([`Trials`]):
            Scores recipes on validation.
        base ([`Ingredient`]):
            What they were fine-tuned from; modules that it lacks (a head) are those of the end at every point.
        alphas (`Sequence[float]`, *optional*, defaults to 0, 0.1, ... 1):
            Where to score: 0 is the base model, 1 the end; of equals the first one given is kept. Beyond 1 the way
            is followed further.
        end (`str`, *optional*, defaults to `"uniform"`):
            Of several ingredients: all, those of a `"greedy"` soup, or the `"best"` one.

    Returns:
        [`Recipe`]: the base model last; `selection["trials"]` has `alpha` and score of every point.

    Raises:
        [`RecipeError`]: if there is no alpha.

    Source: Wortsman et al. 2021, [Robust fine-tuning of zero-shot models](https://arxiv.org/abs/2109.01903).
    """
    if not len(alphas):
        raise RecipeError("alphas are the points to score, such as [0, 0.5, 1]; none was given.")
    search = Search(ingredients, trials)
    items = {"uniform": search.ranked, "best": search.ranked[:1]}.get(end)
    if items is None:
        chosen = greedy(ingredients, trials)
        items = chosen.ingredients
        search.add_rows(chosen)
    lacking = trials.lacking(base)
    recipes = [_point(items, base, lacking, alpha) for alpha in alphas]
    scores = trials.map(recipes)
    best = max(range(len(recipes)), key=lambda index: scores[index].rank_key)
    for index, (recipe, score) in enumerate(zip(recipes, scores, strict=True)):
        search.note(f"alpha {alphas[index]:g}", recipe, score, index == best, alpha=float(alphas[index]))
    search.take(recipes[best], scores[best])
    return search.result(alpha=float(alphas[best]))


def _point(items: Sequence[Ingredient], base: Ingredient, lacking: Sequence[str], alpha: float) -> Recipe:
    """`(1 - alpha) * base + alpha * mean of items`."""
    if alpha == 1:
        return Recipe(tuple(items), (alpha / len(items),) * len(items))
    row = (*[alpha / len(items)] * len(items), 1 - alpha)
    own = (*[1.0] * len(items), 0.0)
    return Recipe((*items, base), {"": row, **dict.fromkeys(lacking, own)} if lacking else row)
