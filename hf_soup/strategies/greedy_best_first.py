"""Rounds; in each, every ingredient that remains is tried and the best one stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..lookup import strategy
from ..types import Ingredient, Recipe, Trials
from ._search import Search, check_most, soup_of


@strategy(never_worse=True)
def greedy_best_first(
    ingredients: Sequence[Ingredient],
    trials: Trials,
    *,
    accept: Literal[">=", ">"] = ">",
    tolerance: float = 0.0,
    max_ingredients: int | None = None,
    prescreen: Literal["ensemble"] | None = None,
) -> Recipe:
    """Try every remaining ingredient, keep the one that helps most, and begin again, until none improves the score.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The candidates, in any order.
        trials ([`Trials`]):
            Scores recipes on validation: k (k - 1) / 2 soups of k ingredients at most.
        accept (`str`, *optional*, defaults to `">"`):
            `">"` asks for a gain in each round; `">="` goes on while the score does not fall.
        tolerance (`float`, *optional*, defaults to 0.0):
            How far below the best score so far is still good enough, in the metric's unit.
        max_ingredients (`int`, *optional*):
            Stop when the soup has as many.
        prescreen (`str`, *optional*):
            `"ensemble"` does not cook candidates with which the ensemble (averaged outputs) gets worse.

    Returns:
        [`Recipe`]: ingredients in the order of acceptance, weight 1 each.

    Raises:
        [`RecipeError`]: if `tolerance` is negative or `max_ingredients` below 1.
    """
    check_most(max_ingredients)
    search = Search(ingredients, trials, ties=accept == ">=", tolerance=tolerance, prescreen=prescreen)
    remaining = search.ranked[1:]
    while remaining and len(search.recipe.ingredients) != max_ingredients:
        soups = {item.name: soup_of([*search.recipe.ingredients, item]) for item in remaining}
        number = len(search.recipe.ingredients)
        asked = [item for item in remaining if not search.ruled_out(soups[item.name], f"{number}: + {item.name}")]
        bar = search.bar
        names = [item.name for item in asked]
        found = dict(zip(names, trials.map([soups[name] for name in names], beat=bar), strict=True))
        reached = [name for name in names if bar.reached_by(found[name])]
        best = max(reached, key=lambda name: found[name].rank_key, default=None)  # ties: the best alone, by name
        for name in names:
            search.note(f"{number}: + {name}", soups[name], found[name], name == best)
        if best is None:
            break
        search.take(soups[best], found[best])
        remaining = [item for item in remaining if item.name != best]
    return search.result()
