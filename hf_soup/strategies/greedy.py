"""One pass in order of validation score; an ingredient stays if the soup does not get worse with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..types import Ingredient, Recipe, Score, Trials


def greedy(ingredients: Sequence[Ingredient], trials: Trials, *, accept: Literal[">=", ">"] = ">=") -> Recipe:
    """Add ingredients one by one, best first, and keep each that does not lower the validation score.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The candidates, in any order.
        trials ([`Trials`]):
            Scores recipes on validation.
        accept (`str`, *optional*, defaults to `">="`):
            `">="` keeps an ingredient that leaves the score as it is (the paper); `">"` asks for a gain (the released
            code).

    Returns:
        [`Recipe`]: ingredients in the order of acceptance, weight 1 each; `selection["trials"]` has one row for each
        candidate.

    Source: Wortsman et al. 2022, [Model soups](https://arxiv.org/abs/2203.05482), Recipe 1.
    """
    alone = {item.name: trials.score(Recipe((item,), (1.0,))) for item in ingredients}
    order = sorted(ingredients, key=lambda item: (-alone[item.name].rank_key, item.name))  # ties: by name
    kept, best = [order[0]], alone[order[0].name]
    rows = [_row(order[0], best, best, True, "best single ingredient")]
    for item in order[1:]:
        score = trials.score(Recipe((*kept, item), (1.0,) * (len(kept) + 1)))
        keep = score.beats(best, ties=accept == ">=")
        rows.append(_row(item, alone[item.name], score, keep, _reason(score, best)))
        if keep:
            kept, best = [*kept, item], score
    return Recipe(tuple(kept), (1.0,) * len(kept), selection={"trials": rows})


def _row(item: Ingredient, alone: Score, soup: Score, kept: bool, reason: str) -> dict[str, object]:
    return {"candidate": item.name, "alone": alone.value, "soup": soup.value, "kept": kept, "reason": reason}


def _reason(score: Score, best: Score) -> str:
    if score.value == best.value:
        return f"the soup stays at {best.value:.4f}"
    verb = "gains" if score.beats(best) else "would lose"
    return f"the soup {verb} {abs(score.value - best.value):.4f} ({best.value:.4f} to {score.value:.4f})"
