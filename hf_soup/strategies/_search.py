"""What the strategies share: a search holds the soup so far and the trials made. It does not score anything itself."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import RecipeError
from ..types import Choice, Ingredient, Mixture, Rejected, Score, Threshold, Trial, Trials


if TYPE_CHECKING:
    import numpy as np

    from ..metrics.predictions import Predictions


NORMAL_95 = 1.96  # a 95 % interval of a normal distribution reaches so many standard errors to each side


class Search:
    """The soup so far, and the trials that led to it.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The candidates, each of which is scored alone first.
        trials ([`Trials`]):
            Scorer of mixtures on validation.
        ties (`bool`, *optional*, defaults to `True`):
            Whether a trial that equals the best score so far is accepted.
        tolerance (`float`, *optional*, defaults to 0.0):
            How far below the best score so far a trial may score and still be accepted, in the metric's unit.
        prescreen (`str`, *optional*):
            `"ensemble"` skips every mixture whose averaged outputs (the ensemble) score too low: no soup is scored.
        by_loss (`bool`, *optional*, defaults to `False`):
            Whether a trial that ties with the soup so far needs a loss that is not higher.
        one_standard_error (`bool`, *optional*, defaults to `False`):
            Whether a trial may score below the best so far by one standard error of the difference.
    """

    def __init__(
        self,
        ingredients: Sequence[Ingredient],
        trials: Trials,
        *,
        ties: bool = True,
        tolerance: float = 0.0,
        prescreen: str | None = None,
        by_loss: bool = False,
        one_standard_error: bool = False,
    ):
        if not tolerance >= 0:
            raise RecipeError(f"tolerance is how far a score may fall: it has to be 0 or more, not {tolerance}.")
        self.trials, self.prescreen = trials, prescreen
        self.tried: list[Trial] = []
        self._ties, self._tolerance = ties, tolerance
        self._by_loss, self._one_standard_error = by_loss, one_standard_error
        # All at once, because the scores of single candidates do not depend on each other.
        scores = trials.map([Mixture.equal([item]) for item in ingredients])
        self.single_scores = {item.name: score for item, score in zip(ingredients, scores, strict=True)}
        # best first; ties in score are broken by name, so the order of arguments does not matter
        self.ranked = sorted(ingredients, key=lambda item: (-self.single_scores[item.name].rank_key, item.name))
        for place, item in enumerate(self.ranked):
            why = "best single ingredient" if place == 0 else "a candidate"
            value = self.single_scores[item.name].value
            self.tried.append(Trial(item.name, False, why, value, ingredient=item.name))
        self.begin(Mixture.equal(self.ranked[:1]), self.single_scores[self.ranked[0].name])

    def begin(self, mixture: Mixture, score: Score, tried: str | None = None) -> None:
        """Begin with this mixture as the soup so far; `tried`, the name of a trial, records it as one."""
        self.mixture = mixture
        self.score = score
        self.best_score = score  # of all soups so far; with a tolerance the present one may be worse
        if tried is not None:
            self.tried.append(Trial(tried, True, "where the search begins", score.value))

    def start_with(self, item: Ingredient) -> None:
        """Begin with an ingredient other than the best one."""
        self.begin(Mixture.equal([item]), self.single_scores[item.name])
        for place, trial in enumerate(self.tried):
            if trial.ingredient == item.name:
                self.tried[place] = replace(trial, why="where the search begins")

    @property
    def threshold(self) -> Threshold:
        """The score that a trial has to reach: the best one so far, less the tolerance."""
        return Threshold(self.best_score, self._ties, self._tolerance)

    def attempt(self, mixture: Mixture, tried: str) -> bool:
        """Score a mixture, and make it the soup so far if it reaches the threshold; return whether it did."""
        if self.ruled_out(mixture, tried):
            return False
        if self._one_standard_error:
            score: Score | Rejected = self.trials.score(mixture)  # in full, because the interval is needed
            kept = self._threshold_for(mixture).reached_by(score)
        else:
            # A trial stops as soon as it can no longer reach the threshold, and then has no score.
            score = self.trials.score(mixture, beat=self.threshold)
            kept = self.threshold.reached_by(score)
        if kept and self._by_loss and isinstance(score, Score) and score.value == self.score.value:
            kept = self._loss_is_not_higher(mixture)
        self.note(tried, mixture, score, kept)
        if kept and isinstance(score, Score):
            self.take(mixture, score)
        return kept

    def _threshold_for(self, mixture: Mixture) -> Threshold:
        """The score that a mixture has to reach: the best so far, less one standard error of the difference."""
        error = standard_error(self.trials, mixture, self.mixture)
        return Threshold(self.best_score, self._ties, max(self._tolerance, error))

    def _loss_is_not_higher(self, mixture: Mixture) -> bool:
        """Whether the loss of a mixture is not above that of the soup so far; true where losses are not known."""
        before, after = self.trials.loss(self.mixture), self.trials.loss(mixture)
        return before is None or after is None or after <= before

    def attempt_best(self, mixtures: Sequence[Mixture], tried: Sequence[str]) -> int | None:
        """Score mixtures that do not depend on each other, and accept the best one if it reaches the threshold.

        Args:
            mixtures (`Sequence[Mixture]`):
                The mixtures to score; the first one wins a tie.
            tried (`Sequence[str]`):
                The name of each trial.

        Returns:
            `int`: the index of the mixture that was accepted; `None` if none reached the threshold.
        """
        return self.take_best(mixtures, self.trials.map(mixtures, beat=self.threshold), tried)

    def take_best(
        self, mixtures: Sequence[Mixture], scores: Sequence[Score | Rejected], tried: Sequence[str]
    ) -> int | None:
        """As [`Search.attempt_best`], for mixtures that have been scored already."""
        threshold = self.threshold
        best: int | None = None
        best_score = self.best_score
        for place, score in enumerate(scores):
            if not isinstance(score, Score) or not threshold.reached_by(score):
                continue
            if best is None or score.beats(best_score):
                best, best_score = place, score
        # recorded before one is accepted, so that all are compared with the same soup
        for place, mixture in enumerate(mixtures):
            self.note(tried[place], mixture, scores[place], place == best)
        if best is not None:
            self.take(mixtures[best], best_score)
        return best

    def take(self, mixture: Mixture, score: Score) -> None:
        """Make a mixture the soup so far."""
        self.mixture, self.score = mixture, score
        if score.beats(self.best_score):
            self.best_score = score

    def note(
        self, tried: str, mixture: Mixture, score: Score | Rejected, kept: bool, alpha: float | None = None
    ) -> None:
        """Record a trial, compared with the soup so far."""
        if isinstance(score, Rejected):
            self.tried.append(Trial(tried, False, str(score), at_most=score.right / score.n, alpha=alpha))
            return
        low, high = self.trials.difference(mixture, self.mixture) or (None, None)
        difference = score.value - self.score.value
        why = _compared_with(score, self.score, kept)
        self.tried.append(Trial(tried, kept, why, score.value, difference, low, high, alpha=alpha))

    def take_weights(self, items: Sequence[Ingredient], weights_of_items: np.ndarray, tried: str) -> None:
        """Score the mixture with a weight for each item, and make it the soup; zeros are left out."""
        weights = {item.name: float(weight) for item, weight in zip(items, weights_of_items, strict=True)}
        used = [item for item in self.ranked if weights[item.name] > 0]
        mixture = Mixture(tuple(used), tuple(weights[item.name] for item in used))
        score = self.trials.score(mixture)
        self.note(tried, mixture, score, True)
        self.take(mixture, score)

    def add_trials(self, choice: Choice) -> None:
        """Add the trials of another search, except those of single ingredients."""
        self.tried += [trial for trial in choice.trials if trial.ingredient is None]

    def ruled_out(self, mixture: Mixture, tried: str) -> bool:
        """Whether the ensemble of a mixture's ingredients scores worse than the ensemble of the soup so far.

        Source: Menes and Risser-Maroix 2024, [RADIN: Souping on a Budget](https://arxiv.org/abs/2401.17790).
        """
        if self.prescreen is None:
            return False
        before, after = self.trials.ensemble(self.mixture), self.trials.ensemble(mixture)
        if after.beats(before, ties=self._ties, tolerance=self._tolerance):
            return False
        why = f"ruled out: the ensemble goes from {before.value:.4f} to {after.value:.4f}"
        self.tried.append(Trial(tried, False, why))
        return True

    def result(self, *, alpha: float | None = None, temperature: float | None = None) -> Choice:
        """The soup so far with all trials; a single ingredient counts as kept if the soup contains it."""
        used = self.mixture.used
        trials = []
        for trial in self.tried:
            if trial.ingredient:
                trial = replace(trial, kept=trial.ingredient in used)
            trials.append(trial)
        return Choice(self.mixture, tuple(trials), alpha=alpha, temperature=temperature)


def predictions_by_name(
    ingredients: Sequence[Ingredient], trials: Trials
) -> tuple[list[Ingredient], list[Predictions]]:
    """The ingredients by name, so that their order does not matter, and the predictions of each on validation."""
    items = sorted(ingredients, key=lambda item: item.name)
    return items, [trials.logits(item) for item in items]


def standard_error(trials: Trials, mixture: Mixture, other: Mixture) -> float:
    """The standard error of the difference of two scores; 0 where examples are not known."""
    ends = trials.difference(mixture, other)
    return 0.0 if ends is None else (ends[1] - ends[0]) / (2 * NORMAL_95)


def mixture_by_module(ingredients: Sequence[Ingredient], modules: Sequence[str], weights: np.ndarray) -> Mixture:
    """A mixture from a matrix of weights with one row per module, or a single row where `modules` is `("",)`."""
    weights_of_modules = [tuple(line) for line in weights.tolist()]
    if len(modules) == 1:
        return Mixture(tuple(ingredients), weights_of_modules[0])
    return Mixture(tuple(ingredients), dict(zip(modules, weights_of_modules, strict=True)))


def shuffled(ingredients: Sequence[Ingredient], seed: int) -> list[Ingredient]:
    """The ingredients in a random order that does not depend on the order in which they are given."""
    # Sorted first, so that the seed alone decides, not the order of arguments.
    ordered = sorted(ingredients, key=lambda item: item.name)
    random.Random(seed).shuffle(ordered)
    return ordered


def check_most(most: int | None, name: str = "max_ingredients") -> None:
    """Refuse a limit below one."""
    if most is not None and most < 1:
        raise RecipeError(f"{name} is {most}, but a soup has at least one ingredient.")


def _compared_with(score: Score, before: Score, kept: bool) -> str:
    """The gain or loss of a trial, in the words used in tables."""
    if score.value == before.value:
        return f"stays at {before.value:.4f}"
    change = f"{abs(score.value - before.value):.4f} ({before.value:.4f} to {score.value:.4f})"
    if score.beats(before):
        return f"gains {change}"
    if kept:  # within the tolerance
        return f"loses {change}"
    return f"would lose {change}"
