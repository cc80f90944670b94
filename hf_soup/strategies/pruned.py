"""All ingredients, less those without which the soup is as good."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal

from ..types import Choice, Ingredient, Mixture, Trials
from ._search import Search


def pruned(
    ingredients: Sequence[Ingredient],
    trials: Trials,
    *,
    accept: Literal[">=", ">"] = ">=",
    tolerance: float = 0.0,
) -> Choice:
    """Begin with all ingredients and drop one after the other, worst first, while the validation score does not fall.

    When one has been dropped, those that stayed are tried again.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The candidates, in any order.
        trials ([`Trials`]):
            Scores mixtures on validation.
        accept (`str`, *optional*, defaults to `">="`):
            `">="` drops an ingredient without which the score is as good; `">"` only for a gain.
        tolerance (`float`, *optional*, defaults to 0.0):
            How far below the best score so far is still good enough, in the metric's unit.

    Returns:
        [`Choice`]: those that stayed, best alone first, weight 1 each.

    Raises:
        [`RecipeError`]: if `tolerance` is negative.
    """
    search = Search(ingredients, trials, ties=accept == ">=", tolerance=tolerance)
    if len(search.ranked) == 1:
        return search.result()
    everything = Mixture.equal(search.ranked)
    search.begin(everything, trials.score(everything), "all")
    queue = deque(reversed(search.ranked))  # worst first; those that stay go to its end and are tried again
    kept_in_a_row = 0  # how many were tried since the last one was dropped; after all of them the search ends
    while len(queue) > max(1, kept_in_a_row):
        item = queue.popleft()
        rest = [member for member in search.mixture.ingredients if member != item]
        if search.attempt(Mixture.equal(rest), f"- {item.name}"):
            kept_in_a_row = 0
        else:
            queue.append(item)
            kept_in_a_row += 1
    return search.result()
