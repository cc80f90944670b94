"""One pass over the ingredients, which keeps each one that does not lower the validation score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..plugins import strategy
from ..types import Choice, Ingredient, Mixture, Trials
from ._search import Search, check_most, shuffled


@strategy(never_worse=True)
def greedy(
    ingredients: Sequence[Ingredient],
    trials: Trials,
    *,
    accept: Literal[">=", ">", "loss"] = ">=",
    tolerance: float = 0.0,
    one_standard_error: bool = False,
    max_ingredients: int | None = None,
    order: Literal["score", "random", "given"] = "score",
    prescreen: Literal["ensemble"] | None = None,
    seed: int = 0,
) -> Choice:
    """Add ingredients one by one, best first, and keep each that does not lower the validation score.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The candidates, in any order.
        trials ([`Trials`]):
            Scorer of mixtures on validation.
        accept (`str`, *optional*, defaults to `">="`):
            `">="` keeps an ingredient that leaves the score unchanged (as in the paper); `">"` keeps it only if the
            score improves (as in the released code); `"loss"` keeps one that leaves the score unchanged only if the
            validation loss does not rise, so that ties of accuracy do not depend on the order.
        tolerance (`float`, *optional*, defaults to 0.0):
            How far below the best score so far a soup may score and still be accepted, in the metric's unit.
        one_standard_error (`bool`, *optional*, defaults to `False`):
            Whether a soup is also accepted if it scores below the best score so far by at most one standard error of
            their difference, which favours soups of more ingredients. Trials then run on all examples.
        max_ingredients (`int`, *optional*):
            Largest number of ingredients in the soup; the search stops when it is reached.
        order (`str`, *optional*, defaults to `"score"`):
            Order in which ingredients are tried: highest single `"score"` first (as in the paper), in `"random"` order
            drawn from the seed of the merge, or as `"given"`.
        prescreen (`str`, *optional*):
            `"ensemble"` skips every candidate that lowers the score of the ensemble (averaged outputs), without
            building its soup.
        seed (`int`, *optional*, defaults to 0):
            Seed of the random order. The merge passes its own.

    Returns:
        [`Choice`]: the ingredients in the order in which they were accepted, each with weight 1.

    Raises:
        [`RecipeError`]: if `tolerance` is negative or `max_ingredients` is below 1.

    Source: Wortsman et al. 2022, [Model soups](https://arxiv.org/abs/2203.05482), Recipe 1.
    """
    check_most(max_ingredients)
    search = Search(
        ingredients,
        trials,
        ties=accept != ">",
        tolerance=tolerance,
        prescreen=prescreen,
        by_loss=accept == "loss",
        one_standard_error=one_standard_error,
    )
    # The paper sorts the ingredients in decreasing order of ValAcc(theta_i).
    queues = {"score": search.ranked, "random": shuffled(ingredients, seed), "given": list(ingredients)}
    queue = queues[order]
    # The paper begins with no ingredient, so that the first one is always accepted.
    if queue[0] != search.ranked[0]:
        search.start_with(queue[0])
    # for i = 2 to k: if ValAcc(average(ingredients + [theta_i])) >= ValAcc(average(ingredients)), add theta_i.
    # With the defaults of `tolerance` and `accept`, the best score so far is the score of the soup so far.
    for item in queue[1:]:
        if len(search.mixture.ingredients) == max_ingredients:
            break
        search.attempt(Mixture.equal([*search.mixture.ingredients, item]), f"+ {item.name}")
    return search.result()
