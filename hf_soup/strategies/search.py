"""Mixing weights by evolution: a budgeted search over the simplex, for any metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..errors import MissingExtraError, RecipeError
from ..lookup import strategy
from ..types import Ingredient, Recipe, Trials
from ._search import Search, mixed, soup_of


@strategy(never_worse=True)
def search(
    ingredients: Sequence[Ingredient],
    trials: Trials,
    *,
    by: Literal["model", "module"] = "model",
    budget: int = 60,
    sigma: float = 1.0,
    seed: int = 0,
) -> Recipe:
    """Search mixing weights with CMA-ES and keep the best recipe that was scored, single ingredients included.

    The weights are a softmax of free numbers that start equal. The metric need not be smooth; a score costs one pass.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The ingredients, in any order.
        trials ([`Trials`]):
            Scores recipes on validation.
        by (`str`, *optional*, defaults to `"model"`):
            One weight for each ingredient, or for each named `"module"` of each.
        budget (`int`, *optional*, defaults to 60):
            How many soups are scored at most.
        sigma (`float`, *optional*, defaults to 1.0):
            How far the first free numbers spread.
        seed (`int`, *optional*, defaults to 0):
            Of the search; that of the merge.

    Returns:
        [`Recipe`]: best alone first.

    Raises:
        [`MissingExtraError`]: if `cmaes` is not installed.
        [`RecipeError`]: if `budget` or `sigma` is not positive.

    Source: Hansen 2016, [The CMA evolution strategy](https://arxiv.org/abs/1604.00772); the `cmaes` package.
    """
    if budget < 1 or not sigma > 0:
        raise RecipeError(f"budget and sigma are more than 0, not {budget} and {sigma}.")
    try:
        from cmaes import CMA
    except ImportError:
        raise MissingExtraError("this strategy needs cmaes: pip install 'hf-soup[search]'") from None
    import numpy as np
    from scipy import special

    found = Search(ingredients, trials, ties=False)
    k = len(found.ranked)
    if k == 1:
        return found.result()
    modules = trials.modules if by == "module" else ("",)
    _try(found, [soup_of(found.ranked)], ["uniform"])
    optimizer = CMA(mean=np.zeros(len(modules) * k), sigma=sigma, seed=seed)
    spent = 1
    while spent < budget:
        points = [optimizer.ask() for _ in range(optimizer.population_size)]
        rows = [special.softmax(point.reshape(len(modules), -1), axis=1) for point in points]
        recipes = [mixed(found.ranked, modules, each) for each in rows[: budget - spent]]
        tried = [f"{spent + place}: {_shown(recipe)}" for place, recipe in enumerate(recipes, start=1)]
        scores = _try(found, recipes, tried)
        spent += len(recipes)
        if len(scores) == len(points):
            optimizer.tell([(point, -score) for point, score in zip(points, scores, strict=True)])
    return found.result()


def _try(found: Search, recipes: Sequence[Recipe], tried: Sequence[str]) -> list[float]:
    """Score recipes, take the best if it is better than all before, and give their rank keys."""
    scores = found.trials.map(recipes)
    best = max(range(len(recipes)), key=lambda index: scores[index].rank_key)
    better = found.bar.reached_by(scores[best])
    for index, (recipe, score) in enumerate(zip(recipes, scores, strict=True)):
        found.note(tried[index], recipe, score, better and index == best)
    if better:
        found.take(recipes[best], scores[best])
    return [score.rank_key for score in scores]


def _shown(recipe: Recipe) -> str:
    if len(recipe.rows) > 1:
        return f"weights of {len(recipe.rows)} modules"
    return " ".join(f"{weight:.2f}" for weight in recipe.weights)
