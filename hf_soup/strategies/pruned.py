"""All ingredients except those that the soup scores as well without."""

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
    """Start with all ingredients and remove them one by one, worst first, while the validation score does not fall.

    Whenever an ingredient has been removed, those that were kept before are tried again.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The candidates, in any order.
        trials ([`Trials`]):
            Scorer of mixtures on validation.
        accept (`str`, *optional*, defaults to `">="`):
            `">="` removes an ingredient if the score does not fall without it; `">"` only if the score improves.
        tolerance (`float`, *optional*, defaults to 0.0):
            How far below the best score so far a soup may score and still be accepted, in the metric's unit.

    Returns:
        [`Choice`]: the ingredients that were kept, highest single score first, each with weight 1.

    Raises:
        [`RecipeError`]: if `tolerance` is negative.
    """
    search = Search(ingredients, trials, ties=accept == ">=", tolerance=tolerance)
    if len(search.ranked) == 1:
        return search.result()
    everything = Mixture.equal(search.ranked)
    search.begin(everything, trials.score(everything), "all")
    queue = deque(reversed(search.ranked))  # worst first; an ingredient that is kept is tried again at the end
    kept_in_a_row = 0  # since the last removal; the search ends when all were kept
    while len(queue) > max(1, kept_in_a_row):
        item = queue.popleft()
        rest = [member for member in search.mixture.ingredients if member != item]
        if search.attempt(Mixture.equal(rest), f"- {item.name}"):
            kept_in_a_row = 0
        else:
            queue.append(item)
            kept_in_a_row += 1
    return search.result()
