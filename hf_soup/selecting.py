"""Run a strategy, and tell what its choice is worth: against what it is to be compared with, on examples that it has
not seen, and why it came out as it did. Numbers only, through the same trials as the strategy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from .errors import EvaluationError, RecipeError
from .progress import progress_bar
from .seeds import check_seed
from .strategies._search import soup_of
from .types import Bar, Ingredient, Recipe, Score, Trials


if TYPE_CHECKING:
    import numpy as np

ASKED = 3  # ingredients, the best ones, whose midpoints with the only one that was kept are looked at


def select(
    find: Callable[..., Recipe],
    ingredients: Sequence[Ingredient],
    trials: Trials,
    params: Mapping[str, Any],
    *,
    folds: int | None = None,
    holdout: float | None = None,
    seed: int = 0,
) -> Recipe:
    """Find a recipe, and tell what the choice is worth.

    Args:
        find (`Callable`):
            The strategy.
        ingredients (`Sequence[Ingredient]`):
            The candidates.
        trials ([`Trials`]):
            Scores recipes on validation.
        params (`Mapping`):
            Of the strategy.
        folds (`int`, *optional*):
            Search as many times on all folds but one, and score the result on that one.
        holdout (`float`, *optional*):
            Which part of validation the search does not see, on which its result is scored.
        seed (`int`, *optional*, defaults to 0):
            Of the folds and of the part that is held back.

    Returns:
        [`Recipe`]: with rows, reference scores, `why`, `folds` and `holdout` in its selection.

    Raises:
        [`RecipeError`]: if there are not enough examples for the folds, or for the part that is held back.
    """
    import numpy as np

    seed = check_seed(seed)
    back: np.ndarray | None = None
    if holdout is not None:
        order = np.random.default_rng(seed).permutation(trials.examples)
        n = round(holdout * len(order)) if 0 < holdout < 1 else 0
        if not 0 < n < len(order):
            raise RecipeError(f"holdout is {holdout}: of {len(order)} examples some are to select by, some to report.")
        trials, back = trials.part(order[n:]), trials.part(order[:n])
    if folds is not None and not 2 <= folds <= trials.examples:
        raise RecipeError(f"folds is {folds}: there are 2 to {trials.examples} of them, the number of examples.")
    recipe = find(ingredients, trials, **params)
    score = trials.score(recipe)
    sign = 1 if score.higher_is_better else -1
    told: dict[str, Any] = {"score": score.value, "trials": [], **recipe.selection}
    if told["trials"]:
        told |= {"reference": _reference(told["trials"], ingredients, trials, score)}
        with contextlib.suppress(EvaluationError):  # as of a midpoint that gives NaN
            told |= {"why": _why(recipe, score, ingredients, trials, told["trials"])}
    if holdout is not None:
        value = back.score(recipe).value
        told["holdout"] = {"rows": back.examples, "score": value, "optimism": sign * (score.value - value)}
        told["rows"] = trials.examples
    if folds is not None:
        values = _cross_validated(find, ingredients, trials, params, folds, seed)
        mean = fmean(values)
        told["folds"] = {"k": folds, "scores": values, "mean": mean, "optimism": sign * (score.value - mean)}
    return Recipe(recipe.ingredients, recipe.weights, selection=told)


def _cross_validated(
    find: Callable[..., Recipe],
    ingredients: Sequence[Ingredient],
    trials: Trials,
    params: Mapping[str, Any],
    folds: int,
    seed: int,
) -> list[float]:
    """Scores on each fold of what was found on the others."""
    import numpy as np

    parts = np.array_split(np.random.default_rng(seed).permutation(trials.examples), folds)
    values = []
    for left_out in progress_bar(range(folds), desc="Searching without each fold", unit="fold"):
        others = np.concatenate([rows for place, rows in enumerate(parts) if place != left_out])
        found = find(ingredients, trials.part(others), **params)
        values.append(trials.part(parts[left_out]).score(found).value)
    return values


def _reference(
    rows: Sequence[Mapping[str, Any]], ingredients: Sequence[Ingredient], trials: Trials, score: Score
) -> dict[str, float]:
    """What the soup has to be compared with: the best alone, all averaged, and all run."""
    pick = max if score.higher_is_better else min
    alone = [row["score"] for row in rows if "ingredient" in row]
    found = {"best single ingredient": pick(alone)} if alone else {}
    if len(ingredients) > 1:
        everybody = _ranked(rows, ingredients)
        with contextlib.suppress(EvaluationError):  # nobody has searched there
            found["uniform soup"] = trials.score(soup_of(everybody)).value
        with contextlib.suppress(EvaluationError):  # of a function of a model, or of texts
            found["ensemble"] = trials.ensemble(soup_of(everybody)).value
    return found


def _ranked(rows: Sequence[Mapping[str, Any]], ingredients: Sequence[Ingredient]) -> list[Ingredient]:
    """Best alone first, as the rows have them."""
    order = [row["ingredient"] for row in rows if "ingredient" in row]
    return sorted(ingredients, key=lambda item: order.index(item.name) if item.name in order else len(order))


def _why(
    recipe: Recipe,
    score: Score,
    ingredients: Sequence[Ingredient],
    trials: Trials,
    rows: Sequence[Mapping[str, Any]],
) -> str:
    if len(ingredients) == 1 and recipe.names == (ingredients[0].name,) and "alpha" not in recipe.selection:
        return f"There was one ingredient: the soup is {ingredients[0].name}."
    columns = zip(recipe.names, zip(*recipe.rows.values(), strict=True), strict=True)
    inside = {name for name, weights in columns if any(weights)} & {item.name for item in ingredients}
    ranked = _ranked(rows, ingredients)
    if len(inside) == 1 and len(recipe.names) == 1 and "alpha" not in recipe.selection:
        return _why_one(next(item for item in ranked if item.name in inside), ranked, trials)
    best = soup_of(ranked[:1])
    alone = trials.score(best)
    gain = (score.value - alone.value) * (1 if score.higher_is_better else -1)
    who = f"{len(inside)} of {len(ingredients)} ingredients {'is' if len(inside) == 1 else 'are'} in the soup"
    if "alpha" in recipe.selection:
        who = f"The best point on the way from the base model is alpha {recipe.selection['alpha']:g}"
    than = f"the best single ingredient, {ranked[0].name} ({alone.value:.4f})"
    told = f"{who}; it is {'better' if gain > 0 else 'worse'} than {than} by {abs(gain):.4f}"
    if gain == 0:
        told = f"{who}; it is as good as {than}"
    limits = trials.difference(recipe, best)
    if limits is None or gain == 0:
        return f"{told}."
    tell = "cannot tell from nothing" if limits[0] <= 0 <= limits[1] else "can tell from chance"
    return f"{told}, which {score.n} examples {tell} (95 % interval {limits[0]:+.4f} to {limits[1]:+.4f})."


def _why_one(best: Ingredient, ranked: Sequence[Ingredient], trials: Trials) -> str:
    """Why nobody else is in the soup: look halfway between the one that is and the next best, at the first in full, at
    two more until they are seen to be no worse than both ends.
    """
    first, *others = [item for item in ranked if item != best][:ASKED]
    alone = {item.name: trials.score(soup_of([item])) for item in ranked}
    halfway, mine, theirs = soup_of([best, first]), alone[best.name], alone[first.name]
    mid, worse = trials.score(halfway), min(best, first, key=lambda end: alone[end.name].rank_key)
    below, change = (trials.difference(halfway, soup_of([end])) for end in (worse, best))
    said = f"halfway to {first.name}, {mine.metric} is {mid.value:.4f} against {mine.value:.4f}"
    sure = below is None or not below[0] <= 0 <= below[1]
    if (
        mid.rank_key < alone[worse.name].rank_key
        and sure
        and all(_lower(best, item, alone, trials) for item in others)
    ):
        who = "the next best lies" if not others else f"the {len(others) + 1} next best lie"
        return f"Only {best.name} was kept: {who} across a barrier; {said} and {theirs.value:.4f} at the two ends."
    if mid.beats(mine):
        return f"Only {best.name} was kept, where the search ended; {said}."
    if change is not None:
        noise = (change[1] - change[0]) / 2
        spread = max(score.rank_key for score in alone.values()) - min(score.rank_key for score in alone.values())
        if noise >= spread:
            return (
                f"Only {best.name} was kept: validation is too small to tell; with {mine.n} examples differences "
                f"below {noise:.4f} are noise, and the ingredients differ by {spread:.4f}."
            )
        if change[0] <= 0 <= change[1]:
            return f"Only {best.name} was kept: the others add nothing that {mine.n} examples can show; {said}."
    return f"Only {best.name} was kept: the others cost more than they bring; {said}."


def _lower(best: Ingredient, item: Ingredient, alone: Mapping[str, Score], trials: Trials) -> bool:
    """Whether the model halfway is worse than both ends; it is run no further than that takes."""
    worse = min(best, item, key=lambda end: alone[end.name].rank_key)
    bar = Bar(alone[worse.name])
    return not bar.reached_by(trials.score(soup_of([best, item]), beat=bar))
