"""Every subset."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from ..errors import RecipeError
from ..plugins import strategy
from ..types import Choice, Ingredient, Mixture, Trials
from ._search import Search


@strategy(never_worse=True)
def exhaustive(ingredients: Sequence[Ingredient], trials: Trials, *, max_candidates: int = 10) -> Choice:
    """Try every subset of the ingredients and keep the best; of equals the smallest, then the best alone.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The candidates, in any order.
        trials ([`Trials`]):
            Scores mixtures on validation: 2^k - 1 soups of k ingredients.
        max_candidates (`int`, *optional*, defaults to 10):
            Refuse more ingredients than that.

    Returns:
        [`Choice`]: best alone first, weight 1 each.

    Raises:
        [`RecipeError`]: if there are more ingredients than `max_candidates`.
    """
    if len(ingredients) > max_candidates:
        raise RecipeError(
            f"{len(ingredients)} ingredients have {2 ** len(ingredients) - 1:,} subsets, and max_candidates is "
            f'{max_candidates}: take strategy="greedy_best_first", or fewer ingredients.'
        )
    # Smaller subsets come first, and a later one has to be better: of equals the smallest stays. Those of one
    # ingredient are scored by `Search`.
    search = Search(ingredients, trials, ties=False)
    for size in range(2, len(ingredients) + 1):
        mixtures = [Mixture.equal(group) for group in combinations(search.ranked, size)]
        search.attempt_best(mixtures, [" + ".join(mixture.names) for mixture in mixtures])
    return search.result()
