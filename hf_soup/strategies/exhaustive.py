"""The best of all subsets of the ingredients."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from ..errors import RecipeError
from ..plugins import strategy
from ..types import Choice, Ingredient, Mixture, Trials
from ._search import Search


@strategy(never_worse=True)
def exhaustive(ingredients: Sequence[Ingredient], trials: Trials, *, max_candidates: int = 10) -> Choice:
    """Score every subset of the ingredients and keep the best one.

    Among subsets with the same score the smallest wins, then the one whose ingredients score best alone.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The candidates, in any order.
        trials ([`Trials`]):
            Scorer of mixtures on validation. A search over k ingredients scores 2^k - 1 soups.
        max_candidates (`int`, *optional*, defaults to 10):
            Largest number of ingredients that is accepted, since each further one doubles the number of subsets.

    Returns:
        [`Choice`]: the ingredients of the best subset, highest single score first, each with weight 1.

    Raises:
        [`RecipeError`]: if there are more ingredients than `max_candidates`.
    """
    if len(ingredients) > max_candidates:
        raise RecipeError(
            f"{len(ingredients)} ingredients have {2 ** len(ingredients) - 1:,} subsets, and max_candidates is "
            f'{max_candidates}: use strategy="greedy_best_first", or fewer ingredients.'
        )
    # Smaller subsets come first and a later one has to score better, so that the smallest wins a tie. `Search` scores
    # the subsets of one ingredient.
    search = Search(ingredients, trials, ties=False)
    for size in range(2, len(ingredients) + 1):
        mixtures = [Mixture.equal(group) for group in combinations(search.ranked, size)]
        search.attempt_best(mixtures, [" + ".join(mixture.names) for mixture in mixtures])
    return search.result()
