"""A greedy pass whose order also counts how much the predictions of the ingredients differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..errors import RecipeError
from ..metrics.predictions import disagreement
from ..plugins import strategy
from ..types import Choice, Ingredient, Mixture, Trials
from ._search import Search, check_most


@strategy(never_worse=True)
def diverse(
    ingredients: Sequence[Ingredient],
    trials: Trials,
    *,
    diversity: float = 0.5,
    accept: Literal[">=", ">"] = ">=",
    tolerance: float = 0.0,
    max_ingredients: int | None = None,
) -> Choice:
    """Add ingredients one by one, trying first those that score well and differ most from the soup so far.

    The next candidate is always the one with the best mean of two ranks: its rank by score, and its rank by how often
    its predictions differ from those of the ingredients already in the soup.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The candidates, in any order.
        trials ([`Trials`]):
            Scorer of mixtures on validation, which also gives the predictions of single ingredients.
        diversity (`float`, *optional*, defaults to 0.5):
            Weight of the rank by difference, from 0 (a greedy soup) to 1 (the order of difference alone).
        accept (`str`, *optional*, defaults to `">="`):
            `">="` keeps an ingredient that leaves the score unchanged; `">"` keeps it only if the score improves.
        tolerance (`float`, *optional*, defaults to 0.0):
            How far below the best score so far a soup may score and still be accepted, in the metric's unit.
        max_ingredients (`int`, *optional*):
            Largest number of ingredients in the soup; the search stops when it is reached.

    Returns:
        [`Choice`]: the ingredients in the order in which they were accepted, each with weight 1.

    Raises:
        [`RecipeError`]: if `diversity` is outside [0, 1], `tolerance` is negative or `max_ingredients` is below 1.

    Source: Ramé et al. 2022, [Diverse weight averaging](https://arxiv.org/abs/2205.09739).
    """
    if not 0 <= diversity <= 1:
        raise RecipeError(f"diversity is between 0 and 1, not {diversity}.")
    check_most(max_ingredients)
    trials.logits(ingredients[0])  # fails before anything is scored if predictions are not available
    search = Search(ingredients, trials, ties=accept == ">=", tolerance=tolerance)
    predictions = {item.name: trials.logits(item) for item in search.ranked}

    def mean_disagreement(item: Ingredient, members: Sequence[Ingredient]) -> float:
        disagreements = [disagreement(predictions[item.name], predictions[member.name]) for member in members]
        return sum(disagreements) / len(members)

    waiting = search.ranked[1:]  # stays ranked by score
    while waiting and len(search.mixture.ingredients) != max_ingredients:
        accepted = search.mixture.ingredients
        # 1. Rank the remaining candidates by their difference from the soup so far; ties keep their order by score.
        differences = {item.name: mean_disagreement(item, accepted) for item in waiting}
        by_difference = sorted(waiting, key=lambda item: -differences[item.name])
        # 2. Take the candidate with the best mean of both ranks.
        mean_ranks = {}
        for rank_by_score, item in enumerate(waiting):
            mean_ranks[item.name] = (1 - diversity) * rank_by_score + diversity * by_difference.index(item)
        candidate = min(waiting, key=lambda item: mean_ranks[item.name])
        waiting = [item for item in waiting if item is not candidate]
        # 3. Keep it if the score does not fall, as a greedy soup does. Every candidate is tried once.
        tried = f"+ {candidate.name}, which differs in {differences[candidate.name]:.1%}"
        search.attempt(Mixture.equal([*accepted, candidate]), tried)
    return search.result()
