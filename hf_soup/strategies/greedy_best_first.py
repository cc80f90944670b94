"""Rounds; in each, every ingredient that remains is tried and the best one stays."""

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
    """Try every remaining ingredient, keep the one that helps most, and begin again, until none improves the score.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The candidates, in any order.
        trials ([`Trials`]):
            Scores mixtures on validation: k (k - 1) / 2 soups of k ingredients at most.
        accept (`str`, *optional*, defaults to `">"`):
            `">"` asks for a gain in each round; `">="` goes on while the score does not fall.
        tolerance (`float`, *optional*, defaults to 0.0):
            How far below the best score so far is still good enough, in the metric's unit.
        max_ingredients (`int`, *optional*):
            Stop when the soup has as many.
        prescreen (`str`, *optional*):
            `"ensemble"` does not cook candidates with which the ensemble (averaged outputs) gets worse.

    Returns:
        [`Choice`]: ingredients in the order of acceptance, weight 1 each.

    Raises:
        [`RecipeError`]: if `tolerance` is negative or `max_ingredients` below 1.
    """
    check_most(max_ingredients)
    search = Search(ingredients, trials, ties=accept == ">=", tolerance=tolerance, prescreen=prescreen)
    remaining = search.ranked[1:]  # best alone first: of equal soups the one with the better ingredient is taken
    while remaining and len(search.mixture.ingredients) != max_ingredients:
        accepted = search.mixture.ingredients
        # 1. The soups of this round: that so far, with each remaining ingredient.
        candidates, mixtures, tried = [], [], []
        for item in remaining:
            mixture = Mixture.equal([*accepted, item])
            trial_name = f"{len(accepted)}: + {item.name}"
            if not search.ruled_out(mixture, trial_name):
                candidates.append(item)
                mixtures.append(mixture)
                tried.append(trial_name)
        # 2. Score all of them, and take the best if it is good enough; if none is, another round would be the same.
        best = search.attempt_best(mixtures, tried)
        if best is None:
            break
        # 3. The others, those that were ruled out included, are tried with the new soup.
        remaining = [item for item in remaining if item is not candidates[best]]
    return search.result()
