"""Run a strategy, and tell what its choice is worth: beside what it is to be compared with, and on unseen examples.

Numbers only, through the same trials as the strategy; `why.py` puts the result into a sentence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

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
    Trial,
    Trials,
    gain,
    plain,
)
from .recording import RecordingTrials
from .why import explain


if TYPE_CHECKING:
    import numpy as np


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
    recording = RecordingTrials(searched)
    choice = strategy.choose(ingredients, cast("Trials", recording))
    mixture = choice.mixture
    score = searched.score(mixture)
    reference: dict[str, float] = {}
    why = ""
    knows_best = bool(choice.trials)
    if not choice.trials:
        choice = replace(choice, trials=recording.recorded(mixture))
        # a soup is compared with the best single ingredient, which what was scored need not say
        knows_best = bool(choice.trials) and _all_scored(choice.trials, ingredients)
    if knows_best:
        ranked = _ranked(choice.trials, ingredients)
        reference = _reference(choice.trials, ranked, searched, score)
        with contextlib.suppress(EvaluationError):  # as of a midpoint that gives NaN
            why = explain(choice, score, ranked, searched)
    by_holdout, rows = None, None
    if held_back is not None:
        by_holdout = _score_held_back(mixture, score, held_back)
        rows = searched.examples
    by_folds = None
    if folds is not None:
        by_folds = _cross_validate(strategy, ingredients, searched, folds, seed, score)
    # The split is asked of all trials: those of the search may be on a part of it, and say so in its name.
    split = trials.score(mixture).split or "validation"
    return mixture, Selection(
        strategy=strategy.name,
        params=plain(strategy.params),
        metric=score.metric,
        higher_is_better=score.higher_is_better,
        split=split,
        score=score.value,
        trials=choice.trials,
        alpha=choice.alpha,
        temperature=choice.temperature,
        reference=reference,
        why=why,
        holdout=by_holdout,
        rows=rows,
        folds=by_folds,
    )


def _split(trials: Trials, holdout: float, seed: int) -> tuple[Trials, Trials]:
    """The examples to search on, and those that are held back."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(trials.examples)
    count = 0
    if 0 < holdout < 1:  # neither NaN nor infinity, which cannot be rounded
        count = round(holdout * len(order))
    if not 0 < count < len(order):
        raise RecipeError(f"holdout is {holdout}: of {len(order)} examples some are to select by, some to report.")
    return trials.subset(order[count:]), trials.subset(order[:count])


def _score_held_back(mixture: Mixture, score: Score, held_back: Trials) -> Holdout:
    """What the choice scores on the examples that were held back."""
    unseen = held_back.score(mixture)
    return Holdout(rows=held_back.examples, score=unseen.value, optimism=score.gain_over(unseen))


def _cross_validate(
    strategy: Strategy, ingredients: Sequence[Ingredient], trials: Trials, folds: int, seed: int, score: Score
) -> Folds:
    """Search without each fold, and score the result on it."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(trials.examples)
    examples_by_fold: list[np.ndarray] = np.array_split(order, folds)
    scores = []
    for fold in progress_bar(range(folds), desc="Searching without each fold", unit="fold"):
        other_folds = examples_by_fold[:fold] + examples_by_fold[fold + 1 :]
        choice = strategy.choose(ingredients, trials.subset(np.concatenate(other_folds)))
        scores.append(trials.subset(examples_by_fold[fold]).score(choice.mixture).value)
    mean = fmean(scores)
    return Folds(folds, tuple(scores), mean, gain(score.value, mean, score.higher_is_better))


def _reference(tried: Sequence[Trial], ranked: Sequence[Ingredient], trials: Trials, score: Score) -> dict[str, float]:
    """What the soup has to be compared with: the best single ingredient, all averaged, and all run."""
    reference = {}
    single_scores = []
    for trial in tried:
        if trial.ingredient is not None and trial.score is not None:
            single_scores.append(replace(score, value=trial.score))
    if single_scores:
        reference["best single ingredient"] = max(single_scores, key=lambda single: single.rank_key).value
    if len(ranked) > 1:
        everything = Mixture.equal(ranked)
        with contextlib.suppress(EvaluationError):  # no strategy need have searched there
            reference[UNIFORM] = trials.score(everything).value
        with contextlib.suppress(EvaluationError):  # of a function of a model, or of texts
            reference["ensemble"] = trials.ensemble(everything).value
    return reference


def _all_scored(tried: Sequence[Trial], ingredients: Sequence[Ingredient]) -> bool:
    """Whether it is known what each ingredient scores alone, or that a strategy has ruled it out."""
    return {item.name for item in ingredients} <= {trial.ingredient for trial in tried}


def _ranked(tried: Sequence[Trial], ingredients: Sequence[Ingredient]) -> list[Ingredient]:
    """Best single score first, as the trials have them; those that were not scored last."""
    place_by_name: dict[str, int] = {}
    for place, trial in enumerate(tried):
        if trial.ingredient is not None:
            place_by_name[trial.ingredient] = place
    return sorted(ingredients, key=lambda item: place_by_name.get(item.name, len(tried)))
