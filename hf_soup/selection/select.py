"""Runs a strategy, compares its choice with reference models, and scores it on unseen examples.

The numbers come from the same trials as those of the strategy; `why.py` puts the result into a sentence.
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
    SINGLE,
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
            Name of the strategy in recipes.
        function (`Callable`):
            Function that implements the strategy.
        params (`Mapping`, *optional*):
            Parameters of the strategy, which the recipe records.
        provided (`Mapping`, *optional*):
            Other arguments that the merge provides: `base`, `seed`.
    """

    name: str
    function: Callable[..., Mixture | Choice]
    params: Mapping[str, Any]
    provided: Mapping[str, Any]

    def choose(self, ingredients: Sequence[Ingredient], trials: Trials) -> Choice:
        """Run the strategy.

        Raises:
            [`RecipeError`]: if it returns neither a mixture nor a choice.
        """
        result = self.function(ingredients, trials, **self.params, **self.provided)
        if isinstance(result, Mixture):
            return Choice(result)
        if not isinstance(result, Choice):
            raise RecipeError(
                f"the strategy {self.name!r} returned a {type(result).__name__}; it has to return a Mixture of "
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
    """Find a mixture, and estimate how good the choice is.

    Args:
        strategy ([`Strategy`]):
            Strategy that chooses.
        ingredients (`Sequence[Ingredient]`):
            Candidates to choose from.
        trials ([`Trials`]):
            Trials, which score mixtures on validation data.
        folds (`int`, *optional*):
            Number of cross-validation folds used to estimate selection optimism: the search is repeated without each
            fold, and its result is scored on that fold.
        holdout (`float`, *optional*):
            Fraction of validation data held out from the search, on which its result is scored.
        seed (`int`, *optional*, defaults to 0):
            Random seed for splitting the examples into folds or held-out data.

    Returns:
        `tuple[Mixture, Selection]`: the chosen mixture, and how it was chosen.

    Raises:
        [`RecipeError`]: if there are not enough examples for the folds or the held-out data.
    """
    seed = check_seed(seed)
    searched, held_back = trials, None
    if holdout is not None:
        searched, held_back = _split(trials, holdout, seed)
    if folds is not None and not 2 <= folds <= searched.examples:
        raise RecipeError(f"folds is {folds}; it has to be from 2 to {searched.examples}, the number of examples.")
    recording = RecordingTrials(searched)
    choice = strategy.choose(ingredients, cast("Trials", recording))
    mixture = choice.mixture
    score = searched.score(mixture)
    reference: dict[str, float] = {}
    why = ""
    knows_best = bool(choice.trials)
    if not choice.trials:
        choice = replace(choice, trials=recording.recorded(mixture))
        # a soup is compared with the best single ingredient, which may not be among the scored mixtures
        knows_best = bool(choice.trials) and _all_scored(choice.trials, ingredients)
    if knows_best:
        ranked = _ranked(choice.trials, ingredients)
        reference = _reference(choice.trials, ranked, searched, score)
        with contextlib.suppress(EvaluationError):  # for example a midpoint that gives NaN
            why = explain(choice, score, ranked, searched)
    by_holdout, rows = None, None
    if held_back is not None:
        by_holdout = _score_held_back(mixture, score, held_back)
        rows = searched.examples
    by_folds = None
    if folds is not None:
        by_folds = _cross_validate(strategy, ingredients, searched, folds, seed, score)
    # The split comes from all trials, because the search may be on a part of it with another name.
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
    """The trials on the examples to search on, and those on held-out examples."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(trials.examples)
    count = 0
    if 0 < holdout < 1:  # excludes NaN and infinity, which cannot be rounded
        count = round(holdout * len(order))
    if not 0 < count < len(order):
        raise RecipeError(
            f"holdout is {holdout}: of {len(order)} examples some are needed to select by, some to test."
        )
    return trials.subset(order[count:]), trials.subset(order[:count])


def _score_held_back(mixture: Mixture, score: Score, held_back: Trials) -> Holdout:
    """The score of the choice on the held-out examples."""
    unseen = held_back.score(mixture)
    return Holdout(rows=held_back.examples, score=unseen.value, optimism=score.gain_over(unseen))


def _cross_validate(
    strategy: Strategy, ingredients: Sequence[Ingredient], trials: Trials, folds: int, seed: int, score: Score
) -> Folds:
    """Search without each fold, and score the result on that fold."""
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
    """Scores to compare the soup with: the best single ingredient, the uniform soup, and the ensemble."""
    reference = {}
    single_scores = []
    for trial in tried:
        if trial.ingredient is not None and trial.score is not None:
            single_scores.append(replace(score, value=trial.score))
    if single_scores:
        reference[SINGLE] = max(single_scores, key=lambda single: single.rank_key).value
    if len(ranked) > 1:
        everything = Mixture.equal(ranked)
        # the uniform soup may give NaN, or the method may not combine all ingredients
        with contextlib.suppress(EvaluationError, RecipeError):
            reference[UNIFORM] = trials.score(everything).value
        with contextlib.suppress(EvaluationError):  # no ensemble for functions of a model and generated texts
            reference["ensemble"] = trials.ensemble(everything).value
    return reference


def _all_scored(tried: Sequence[Trial], ingredients: Sequence[Ingredient]) -> bool:
    """Whether each ingredient was scored alone or was ruled out by the strategy."""
    return {item.name for item in ingredients} <= {trial.ingredient for trial in tried}


def _ranked(tried: Sequence[Trial], ingredients: Sequence[Ingredient]) -> list[Ingredient]:
    """The ingredients by their single scores in the trials, best first; those without a score come last."""
    place_by_name: dict[str, int] = {}
    for place, trial in enumerate(tried):
        if trial.ingredient is not None:
            place_by_name[trial.ingredient] = place
    return sorted(ingredients, key=lambda item: place_by_name.get(item.name, len(tried)))
