"""Rounds, each of which tries every remaining ingredient and keeps the best one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..plugins import strategy
from ..types import Choice, Ingredient, Mixture, Trials
from ._search import Search, check_most


@strategy(never_worse=True)
def greedy_best_first(
    ingredients: Sequence[Ingredient],
    trials: Trials,
    *,
    accept: Literal[">=", ">"] = ">",
    tolerance: float = 0.0,
    max_ingredients: int | None = None,
    prescreen: Literal["ensemble"] | None = None,
) -> Choice:
    """Try every remaining ingredient, keep the one that helps most, and repeat until none improves the score.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The candidates, in any order.
        trials ([`Trials`]):
            Scorer of mixtures on validation. A search over k ingredients scores at most k (k - 1) / 2 soups.
        accept (`str`, *optional*, defaults to `">"`):
            `">"` stops at the first round without an improvement; `">="` continues while the score does not fall.
        tolerance (`float`, *optional*, defaults to 0.0):
            How far below the best score so far a soup may score and still be accepted, in the metric's unit.
        max_ingredients (`int`, *optional*):
            Largest number of ingredients in the soup; the search stops when it is reached.
        prescreen (`str`, *optional*):
            `"ensemble"` skips every candidate that lowers the score of the ensemble (averaged outputs), without
            building its soup.

    Returns:
        [`Choice`]: the ingredients in the order in which they were accepted, each with weight 1.

    Raises:
        [`RecipeError`]: if `tolerance` is negative or `max_ingredients` is below 1.
    """
    check_most(max_ingredients)
    search = Search(ingredients, trials, ties=accept == ">=", tolerance=tolerance, prescreen=prescreen)
    # Highest single score first, so that of equal soups the one with the better ingredient wins.
    remaining = search.ranked[1:]
    while remaining and len(search.mixture.ingredients) != max_ingredients:
        accepted = search.mixture.ingredients
        # 1. The candidates of this round: the soup so far with each remaining ingredient.
        candidates, mixtures, tried = [], [], []
        for item in remaining:
            mixture = Mixture.equal([*accepted, item])
            trial_name = f"{len(accepted)}: + {item.name}"
            if not search.ruled_out(mixture, trial_name):
                candidates.append(item)
                mixtures.append(mixture)
                tried.append(trial_name)
        # 2. Score all of them and accept the best if it reaches the threshold; if none does, another round would have
        # the same result.
        best = search.attempt_best(mixtures, tried)
        if best is None:
            break
        # 3. The others, including those that were ruled out, are tried again with the new soup.
        remaining = [item for item in remaining if item is not candidates[best]]
    return search.result()
