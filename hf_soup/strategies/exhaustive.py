"""Every subset."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from ..errors import RecipeError
from ..lookup import strategy
from ..types import Bar, Ingredient, Recipe, Trials
from ._search import Search, soup_of


@strategy(never_worse=True)
def exhaustive(ingredients: Sequence[Ingredient], trials: Trials, *, max_candidates: int = 10) -> Recipe:
    """Try every subset of the ingredients and keep the best; of equals the smallest, then the best alone.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The candidates, in any order.
        trials ([`Trials`]):
            Scores recipes on validation: 2^k - 1 soups of k ingredients.
        max_candidates (`int`, *optional*, defaults to 10):
            Refuse more ingredients than that.

    Returns:
        [`Recipe`]: best alone first, weight 1 each.

    Raises:
        [`RecipeError`]: if there are more ingredients than `max_candidates`.
    """
    if len(ingredients) > max_candidates:
        raise RecipeError(
            f"{len(ingredients)} ingredients have {2 ** len(ingredients) - 1:,} subsets, and max_candidates is "
            f'{max_candidates}: take strategy="greedy_best_first", or fewer ingredients.'
        )
    search = Search(ingredients, trials, ties=False)
    for size in range(2, len(ingredients) + 1):
        soups = [soup_of(group) for group in combinations(search.ranked, size)]
        bar: Bar = search.bar
        found = trials.map(soups, beat=bar)
        reached = [index for index, one in enumerate(found) if bar.reached_by(one)]
        best = max(reached, key=lambda index: found[index].rank_key, default=None)
        for index, soup in enumerate(soups):
            search.note(" + ".join(soup.names), soup, found[index], index == best)
        if best is not None:
            search.take(soups[best], found[best])
    return search.result()
