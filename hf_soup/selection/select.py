"""Run a strategy, and tell what its choice is worth: against what it is to be compared with, on examples that it has
not seen, and why it came out as it did. Numbers only, through the same trials as the strategy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..errors import EvaluationError, RecipeError
from ..progress import progress_bar
from ..seeds import check_seed
from ..types import (
    UNIFORM,
    Choice,
    Folds,
    Holdout,
    Ingredient,
    Mixture,
    Score,
    Selection,
    Threshold,
    Trial,
    Trials,
    gain,
    plain,
)


if TYPE_CHECKING:
    import numpy as np

NEIGHBOURS = 3  # ingredients, the best ones, whose midpoints with the only one that was kept are scored


@dataclass(frozen=True)
class Strategy:
    """A strategy with its parameters.

    Args:
        name (`str`):
            What recipes call it.
        function (`Callable`):
            The strategy.
        params (`Mapping`, *optional*):
            Its parameters, which the recipe records.
        provided (`Mapping`, *optional*):
            What the merge gives it besides: `base`, `seed`.
    """

    name: str
    function: Callable[..., Mixture | Choice]
    params: Mapping[str, Any]
    provided: Mapping[str, Any]

    def choose(self, ingredients: Sequence[Ingredient], trials: Trials) -> Choice:
        """Run it.

        Raises:
            [`RecipeError`]: if it returns something else than a mixture or a choice.
        """
        result = self.function(ingredients, trials, **self.params, **self.provided)
        if isinstance(result, Mixture):
            return Choice(result)
        if not isinstance(result, Choice):
            raise RecipeError(
                f"the strategy {self.name!r} returned a {type(result).__name__}; it returns a hf_soup.Mixture of "
                "ingredients and weights."
            )
        return result


def select(
    strategy: Strategy,
    ingredients: Sequence[Ingredient],
    trials: Trials,
    *,
    folds: int | None = None,
    holdout: float | None = None,
    seed: int = 0,
) -> tuple[Mixture, Selection]:
    """Find a mixture, and tell what the choice is worth.

    Args:
        strategy ([`Strategy`]):
            What chooses.
        ingredients (`Sequence[Ingredient]`):
            The candidates.
        trials ([`Trials`]):
            Scores mixtures on validation.
        folds (`int`, *optional*):
            Number of cross-validation folds: the search is repeated without each, and its result is scored on it.
        holdout (`float`, *optional*):
            Share of validation that the search does not see, on which its result is scored.
        seed (`int`, *optional*, defaults to 0):
            Of the folds and of the part that is held back.

    Returns:
        `tuple[Mixture, Selection]`: what was chosen, and how.

    Raises:
        [`RecipeError`]: if there are not enough examples for the folds, or for the part that is held back.
    """
    seed = check_seed(seed)
    searched, held_back = trials, None
    if holdout is not None:
        searched, held_back = _split(trials, holdout, seed)
    if folds is not None and not 2 <= folds <= searched.examples:
        raise RecipeError(f"folds is {folds}: there are 2 to {searched.examples} of them, the number of examples.")
    choice = strategy.choose(ingredients, searched)
    mixture = choice.mixture
    score = searched.score(mixture)
    reference: dict[str, float] = {}
    why = ""
    if choice.trials:
        reference = _reference(choice.trials, ingredients, searched, score)
        with contextlib.suppress(EvaluationError):  # as of a midpoint that gives NaN
            why = _why(choice, score, ingredients, searched)
    by_holdout = None if held_back is None else _score_held_back(mixture, score, held_back)
    by_folds = None if folds is None else _cross_validate(strategy, ingredients, searched, folds, seed, score)
    return mixture, Selection(
        strategy=strategy.name,
        params=plain(strategy.params),
        metric=score.metric,
        higher_is_better=score.higher_is_better,
        split=trials.score(mixture).split or "validation",
        score=score.value,
        trials=choice.trials,
        alpha=choice.alpha,
        temperature=choice.temperature,
        reference=reference,
        why=why,
        holdout=by_holdout,
        rows=None if held_back is None else searched.examples,
        folds=by_folds,
    )


def _split(trials: Trials, holdout: float, seed: int) -> tuple[Trials, Trials]:
    """The examples to search on, and those that are held back."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(trials.examples)
    count = round(holdout * len(order)) if 0 < holdout < 1 else 0
    if not 0 < count < len(order):
        raise RecipeError(f"holdout is {holdout}: of {len(order)} examples some are to select by, some to report.")
    return trials.subset(order[count:]), trials.subset(order[:count])


def _score_held_back(mixture: Mixture, score: Score, held_back: Trials) -> Holdout:
    unseen = held_back.score(mixture)
    return Holdout(rows=held_back.examples, score=unseen.value, optimism=score.gain_over(unseen))


def _cross_validate(
    strategy: Strategy, ingredients: Sequence[Ingredient], trials: Trials, folds: int, seed: int, score: Score
) -> Folds:
    """Search without each fold, and score the result on it."""
    import numpy as np

    examples_by_fold: list[np.ndarray] = np.array_split(
        np.random.default_rng(seed).permutation(trials.examples), folds
    )
    scores = []
    for left_out in progress_bar(range(folds), desc="Searching without each fold", unit="fold"):
        others = np.concatenate([examples for fold, examples in enumerate(examples_by_fold) if fold != left_out])
        choice = strategy.choose(ingredients, trials.subset(others))
        scores.append(trials.subset(examples_by_fold[left_out]).score(choice.mixture).value)
    mean = fmean(scores)
    return Folds(folds, tuple(scores), mean, gain(score.value, mean, score.higher_is_better))


def _reference(
    tried: Sequence[Trial], ingredients: Sequence[Ingredient], trials: Trials, score: Score
) -> dict[str, float]:
    """What the soup has to be compared with: the best single ingredient, all averaged, and all run."""
    reference = {}
    single_scores = [
        replace(score, value=trial.score)
        for trial in tried
        if trial.ingredient is not None and trial.score is not None
    ]
    if single_scores:
        reference["best single ingredient"] = max(single_scores, key=lambda single: single.rank_key).value
    if len(ingredients) > 1:
        everything = Mixture.equal(_ranked(tried, ingredients))
        with contextlib.suppress(EvaluationError):  # no strategy need have searched there
            reference[UNIFORM] = trials.score(everything).value
        with contextlib.suppress(EvaluationError):  # of a function of a model, or of texts
            reference["ensemble"] = trials.ensemble(everything).value
    return reference


def _ranked(tried: Sequence[Trial], ingredients: Sequence[Ingredient]) -> list[Ingredient]:
    """Best single score first, as the trials have them; those that were not scored last."""
    order = {trial.ingredient: place for place, trial in enumerate(tried) if trial.ingredient is not None}
    return sorted(ingredients, key=lambda item: order.get(item.name, len(tried)))


def _why(choice: Choice, score: Score, ingredients: Sequence[Ingredient], trials: Trials) -> str:
    """The result in a sentence."""
    mixture = choice.mixture
    on_the_way_from_base = choice.alpha is not None
    if len(ingredients) == 1 and mixture.names == (ingredients[0].name,) and not on_the_way_from_base:
        return f"There was one ingredient: the soup is {ingredients[0].name}."
    candidates = {item.name for item in ingredients}
    taken = [name for name in mixture.used if name in candidates]
    ranked = _ranked(choice.trials, ingredients)
    if len(taken) == 1 and len(mixture.names) == 1 and not on_the_way_from_base:
        return _why_one(next(item for item in ranked if item.name == taken[0]), ranked, trials)
    if on_the_way_from_base:
        subject = f"The best point on the way from the base model is alpha {choice.alpha:g}"
    else:
        verb = "is" if len(taken) == 1 else "are"
        subject = f"{len(taken)} of {len(ingredients)} ingredients {verb} in the soup"
    return f"{subject}; it is {_against_single(mixture, score, ranked[0], trials)}."


def _against_single(mixture: Mixture, score: Score, best: Ingredient, trials: Trials) -> str:
    """How a mixture compares with the best single ingredient, and whether the examples can tell."""
    single = Mixture.equal([best])
    best_score = trials.score(single)
    rival = f"the best single ingredient, {best.name} ({best_score.value:.4f})"
    gained = score.gain_over(best_score)
    if gained == 0:
        return f"as good as {rival}"
    result = f"{'better' if gained > 0 else 'worse'} than {rival} by {abs(gained):.4f}"
    interval = trials.difference(mixture, single)
    if interval is None:
        return result
    low, high = interval
    certainty = "cannot tell from nothing" if low <= 0 <= high else "can tell from chance"
    return f"{result}, which {score.n} examples {certainty} (95 % interval {low:+.4f} to {high:+.4f})"


def _why_one(best: Ingredient, ranked: Sequence[Ingredient], trials: Trials) -> str:
    """Why a single ingredient was kept: score the midpoint between it and the next best in full, and two more until
    they are seen to be no worse than both ends.
    """
    next_best, *others = [item for item in ranked if item != best][:NEIGHBOURS]
    scores = {item.name: trials.score(Mixture.equal([item])) for item in ranked}
    midpoint = Mixture.equal([best, next_best])
    best_score, next_score, mid_score = scores[best.name], scores[next_best.name], trials.score(midpoint)
    worse_end = min(best, next_best, key=lambda end: scores[end.name].rank_key)
    evidence = (
        f"halfway to {next_best.name}, {best_score.metric} is {mid_score.value:.4f} against {best_score.value:.4f}"
    )
    if _is_barrier(midpoint, mid_score, worse_end, scores[worse_end.name], trials) and all(
        _is_lower_halfway(best, item, scores, trials) for item in others
    ):
        neighbours = f"the {len(others) + 1} next best lie" if others else "the next best lies"
        ends = f"{evidence} and {next_score.value:.4f} at the two ends"
        return f"Only {best.name} was kept: {neighbours} across a barrier; {ends}."
    if mid_score.beats(best_score):
        return f"Only {best.name} was kept, where the search ended; {evidence}."
    change = trials.difference(midpoint, Mixture.equal([best]))
    if change is not None:
        low, high = change
        noise = (high - low) / 2
        rank_keys = [score.rank_key for score in scores.values()]
        spread = max(rank_keys) - min(rank_keys)
        if noise >= spread:
            return (
                f"Only {best.name} was kept: validation is too small to tell; with {best_score.n} examples "
                f"differences below {noise:.4f} are noise, and the ingredients differ by {spread:.4f}."
            )
        if low <= 0 <= high:
            return (
                f"Only {best.name} was kept: the others add nothing that {best_score.n} examples can show; {evidence}."
            )
    return f"Only {best.name} was kept: the others cost more than they bring; {evidence}."


def _is_barrier(
    midpoint: Mixture, mid_score: Score, worse_end: Ingredient, worse_score: Score, trials: Trials
) -> bool:
    """Whether the midpoint is worse than both ends, by more than chance where that is known."""
    if not worse_score.beats(mid_score):
        return False
    interval = trials.difference(midpoint, Mixture.equal([worse_end]))
    return interval is None or not interval[0] <= 0 <= interval[1]


def _is_lower_halfway(best: Ingredient, item: Ingredient, scores: Mapping[str, Score], trials: Trials) -> bool:
    """Whether the midpoint is worse than both ends; it is run no further than that takes."""
    worse_end = min(best, item, key=lambda end: scores[end.name].rank_key)
    threshold = Threshold(scores[worse_end.name])
    return not threshold.reached_by(trials.score(Mixture.equal([best, item]), beat=threshold))
