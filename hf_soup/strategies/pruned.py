"""Everybody, and then those go who are not missed."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal

from ..types import Ingredient, Recipe, Trials
from ._search import Search, soup_of


def pruned(
    ingredients: Sequence[Ingredient],
    trials: Trials,
    *,
    accept: Literal[">=", ">"] = ">=",
    tolerance: float = 0.0,
) -> Recipe:
    """Begin with all ingredients and drop one after the other, worst first, while the validation score does not fall.

    When one has gone, those who stayed are asked again.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The candidates, in any order.
        trials ([`Trials`]):
            Scores recipes on validation.
        accept (`str`, *optional*, defaults to `">="`):
            `">="` drops an ingredient without which the score is as good; `">"` only for a gain.
        tolerance (`float`, *optional*, defaults to 0.0):
            How far below the best score so far is still good enough, in the metric's unit.

    Returns:
        [`Recipe`]: those who stayed, best alone first, weight 1 each.

    Raises:
        [`RecipeError`]: if `tolerance` is negative.
    """
    search = Search(ingredients, trials, ties=accept == ">=", tolerance=tolerance)
    if len(search.ranked) == 1:
        return search.result()
    everybody = soup_of(search.ranked)
    search.begin(everybody, trials.score(everybody), "all")
    queue, stayed = deque(reversed(search.ranked)), 0  # how many were asked since the last one went
    while len(queue) > max(1, stayed):
        item = queue.popleft()
        rest = [other for other in search.recipe.ingredients if other != item]
        if search.attempt(soup_of(rest), f"- {item.name}"):
            stayed = 0
        else:
            queue.append(item)
            stayed += 1
    return search.result()
