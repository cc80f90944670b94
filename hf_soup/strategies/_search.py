"""What strategies share: a search keeps the soup so far, and a row for each thing that it tried. It scores nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from ..errors import RecipeError
from ..types import Bar, Ingredient, Recipe, Rejected, Score, Trial, Trials


if TYPE_CHECKING:
    import numpy as np


class Search:
    """The soup so far, and what was tried on the way to it.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The candidates.
        trials ([`Trials`]):
            Scores recipes on validation.
        bar ([`Bar`], *optional*):
            What a trial has to reach, whose score is filled in: by default as good as the soup so far.
        prescreen (`str`, *optional*):
            `"ensemble"`: candidates whose averaged outputs are not good enough are not cooked at all.
    """

    def __init__(
        self,
        ingredients: Sequence[Ingredient],
        trials: Trials,
        *,
        ties: bool = True,
        tolerance: float = 0.0,
        prescreen: str | None = None,
    ):
        if not tolerance >= 0:
            raise RecipeError(f"tolerance is how much worse is still good enough: 0 or more, not {tolerance}.")
        self.trials, self.prescreen, self.rows = trials, prescreen, []
        self._ties, self._tolerance = ties, tolerance
        scores = trials.map([soup_of([item]) for item in ingredients])
        self.alone: dict[str, Score] = {item.name: score for item, score in zip(ingredients, scores, strict=True)}
        # best first; ties in score are broken by name, so the order of arguments does not matter
        self.ranked = sorted(ingredients, key=lambda item: (-self.alone[item.name].rank_key, item.name))
        for place, item in enumerate(self.ranked):
            why = "best single ingredient" if place == 0 else "a candidate"
            self.rows.append(Trial(item.name, False, why, self.alone[item.name].value, ingredient=item.name))
        self.begin(soup_of(self.ranked[:1]), self.alone[self.ranked[0].name])

    def begin(self, recipe: Recipe, score: Score, tried: str | None = None) -> None:
        """Take a recipe for the soup so far; with `tried` as a row of its own."""
        self.recipe, self.score, self.top = recipe, score, score
        if tried is not None:
            self.rows.append(Trial(tried, True, "where the search begins", score.value))

    def start_with(self, item: Ingredient) -> None:
        """Begin with another ingredient than the best one."""
        self.begin(soup_of([item]), self.alone[item.name])
        self.rows = [
            replace(row, why="where the search begins") if row.ingredient == item.name else row for row in self.rows
        ]

    @property
    def bar(self) -> Bar:
        """What a trial has to reach: the best score so far, less the tolerance."""
        return Bar(self.top, self._ties, self._tolerance)

    def attempt(self, recipe: Recipe, tried: str) -> bool:
        """Try a recipe, and take it if it is good enough."""
        if self.ruled_out(recipe, tried):
            return False
        bar = self.bar
        found = self.trials.score(recipe, beat=bar)
        kept = bar.reached_by(found)
        self.note(tried, recipe, found, kept)
        if kept:
            self.take(recipe, found)
        return kept

    def take(self, recipe: Recipe, score: Score) -> None:
        """Make a recipe the soup so far."""
        self.recipe, self.score = recipe, score
        if score.beats(self.top):
            self.top = score

    def note(
        self, tried: str, recipe: Recipe, found: Score | Rejected, kept: bool, alpha: float | None = None
    ) -> None:
        """Write a row about a trial, measured against the soup so far."""
        if isinstance(found, Rejected):
            self.rows.append(Trial(tried, False, str(found), at_most=found.right / found.n, alpha=alpha))
            return
        low, high = self.trials.difference(recipe, self.recipe) or (None, None)
        difference = found.value - self.score.value
        why = _told(found, self.score, kept)
        self.rows.append(Trial(tried, kept, why, found.value, difference, low, high, alpha=alpha))

    def add_rows(self, recipe: Recipe) -> None:
        """Take over the trials of another search, without the ingredients alone."""
        self.rows += [Trial(**row) for row in recipe.selection["trials"] if "ingredient" not in row]

    def ruled_out(self, recipe: Recipe, tried: str) -> bool:
        """Whether the ensemble of a recipe's ingredients is worse than that of the soup so far.

        Source: Menes and Risser-Maroix 2024, [RADIN: Souping on a Budget](https://arxiv.org/abs/2401.17790).
        """
        if self.prescreen is None:
            return False
        before, after = self.trials.ensemble(self.recipe), self.trials.ensemble(recipe)
        if after.beats(before, ties=self._ties, tolerance=self._tolerance):
            return False
        why = f"ruled out: the ensemble goes from {before.value:.4f} to {after.value:.4f}"
        self.rows.append(Trial(tried, False, why))
        return True

    def result(self, **more: object) -> Recipe:
        """The soup so far, with all rows; `more` goes into the selection as well. Of ingredients alone those are kept
        that are in it.
        """
        columns = zip(self.recipe.names, zip(*self.recipe.rows.values(), strict=True), strict=True)
        inside = {name for name, weights in columns if any(weights)}
        rows = [replace(row, kept=row.ingredient in inside) if row.ingredient else row for row in self.rows]
        return replace(self.recipe, selection={"trials": [as_row(row) for row in rows], **more})


def soup_of(ingredients: Sequence[Ingredient]) -> Recipe:
    """Equal parts, in this order."""
    return Recipe(tuple(ingredients), (1.0,) * len(ingredients))


def mixed(ingredients: Sequence[Ingredient], modules: Sequence[str], rows: np.ndarray) -> Recipe:
    """With a row of weights for each module, or one for all where `modules` is `("",)`."""
    weights = [tuple(row) for row in rows.tolist()]
    return Recipe(tuple(ingredients), dict(zip(modules, weights, strict=True)) if len(modules) > 1 else weights[0])


def as_row(trial: Trial) -> dict[str, object]:
    """A row as a recipe keeps it: without what is not known."""
    return {key: value for key, value in asdict(trial).items() if value is not None}


def shuffled(ingredients: Sequence[Ingredient], seed: int) -> list[Ingredient]:
    """In random order, whatever order they are given in."""
    ordered = sorted(ingredients, key=lambda item: item.name)
    random.Random(seed).shuffle(ordered)
    return ordered


def check_most(most: int | None, name: str = "max_ingredients") -> None:
    """Refuse a limit below one."""
    if most is not None and most < 1:
        raise RecipeError(f"{name} is {most}, and a soup has at least one.")


def _told(score: Score, before: Score, kept: bool) -> str:
    if score.value == before.value:
        return f"stays at {before.value:.4f}"
    verb = "gains" if score.beats(before) else "loses" if kept else "would lose"
    return f"{verb} {abs(score.value - before.value):.4f} ({before.value:.4f} to {score.value:.4f})"
