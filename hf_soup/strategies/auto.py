"""Several simple candidates, compared on examples that they were not chosen on."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import PurePath
from statistics import fmean
from typing import NamedTuple

from ..checkpoints.folder import checkpoints_by_step
from ..errors import EvaluationError
from ..plugins import strategy
from ..types import Choice, Ingredient, Mixture, Score, Trial, Trials, gain
from ._search import Search, standard_error
from .ensemble_weights import ensemble_weights
from .greedy import greedy


SHRINK_FOLDS = 5  # of the ensemble weights, as far as there are examples
SNAPSHOTS = 3  # of each run that are averaged first


class Candidate(NamedTuple):
    """One way to choose, with what it is worth on unseen examples.

    Args:
        name (`str`):
            Name of the candidate in the table of trials.
        choose (`Callable[[Trials], Mixture]`):
            Chooses a mixture on some examples.
        chosen (`list[Mixture]`):
            The mixtures that it chose on each half of the examples.
        scores (`list[Score]`):
            Their scores on the other half.
    """

    name: str
    choose: Callable[[Trials], Mixture]
    chosen: list[Mixture]
    scores: list[Score]

    @property
    def estimate(self) -> float:
        """The mean of the scores on unseen examples."""
        return fmean(score.value for score in self.scores)


@strategy(linear_only=True)
def auto(ingredients: Sequence[Ingredient], trials: Trials, *, seed: int = 0) -> Choice:
    """Compare a few candidates on examples that they were not chosen on, and take the simplest of the best.

    The candidates are the uniform soup (of several snapshots of each run: that of the last ones, and that of the means
    of the last three), fitted [`ensemble_weights`], the mean of the greedy and the uniform soup, the
    [`greedy`] soup, and the best single ingredient. Each is chosen on one half of the validation examples and scored
    on the other, and the other way round. Of the candidates within one standard error of the best, the first in this
    order is taken, so that a mean is preferred to a single ingredient and a simple choice to a search. It is chosen
    again on all examples, and passed over if it then scores more than one standard error below the best single
    ingredient. This takes about twice the forward passes of a greedy soup.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The candidates, in any order.
        trials ([`Trials`]):
            Scorer of mixtures on validation.
        seed (`int`, *optional*, defaults to 0):
            Seed of the split into halves and of the bootstrap samples. The merge passes its own.

    Returns:
        [`Choice`]: the choice of the best candidate, highest single score first.
    """
    import numpy as np

    order = np.random.default_rng(seed).permutation(trials.examples)  # first, because a function has no examples
    search = Search(ingredients, trials)
    if len(search.ranked) == 1:
        return search.result()
    candidates = _candidates(search.ranked, seed)
    halves = np.array_split(order, 2)
    unseen = [trials.subset(half) for half in halves]
    for candidate in candidates:
        with contextlib.suppress(EvaluationError):  # such as a correlation of an average that predicts one value
            for seen_half, held_out in ((halves[1], unseen[0]), (halves[0], unseen[1])):
                mixture = candidate.choose(trials.subset(seen_half))
                candidate.chosen.append(mixture)
                candidate.scores.append(held_out.score(mixture))
    candidates = [candidate for candidate in candidates if len(candidate.scores) == len(unseen)]
    if not candidates:  # too few examples for halves
        return search.result()
    higher_is_better = search.score.higher_is_better
    best = max(candidates, key=lambda candidate: gain(candidate.estimate, 0.0, higher_is_better))
    single = search.mixture
    taken, mixture = candidates[-1], single  # the last candidate is the best single ingredient
    for candidate in _near(best, candidates, unseen):
        chosen = candidate.choose(trials)
        if not _is_below(chosen, single, trials):
            taken, mixture = candidate, chosen
            break
    for candidate in candidates:
        search.tried.append(_trial(candidate, candidate is taken, best))
    search.take(mixture, trials.score(mixture))
    return search.result()


def _candidates(ranked: Sequence[Ingredient], seed: int) -> list[Candidate]:
    """All candidates, in the order in which they are preferred."""

    def of_greedy(trials: Trials) -> Mixture:
        return greedy(ranked, trials, accept="loss").mixture

    def fitted(trials: Trials) -> Mixture:
        folds = min(SHRINK_FOLDS, trials.examples)
        if folds < 2:
            return Mixture.equal(ranked)
        return ensemble_weights(ranked, trials, shrink_folds=folds, seed=seed).mixture

    def shrunk(trials: Trials) -> Mixture:
        kept = of_greedy(trials).names
        share = len(ranked) / len(kept)  # so that the weights of both soups have the same sum
        return Mixture(tuple(ranked), tuple(1 + share * (item.name in kept) for item in ranked))

    def single(trials: Trials) -> Mixture:
        scores = trials.map([Mixture.equal([item]) for item in ranked])
        return Mixture.equal([max(zip(scores, ranked, strict=True), key=lambda pair: pair[0].rank_key)[1]])

    def mean(mixture: Mixture) -> Callable[[Trials], Mixture]:
        return lambda trials: mixture

    ways: dict[str, Callable[[Trials], Mixture]] = {
        **{name: mean(mixture) for name, mixture in _means(ranked).items()},
        "ensemble weights": fitted,
        "greedy and uniform": shrunk,
        "greedy soup": of_greedy,
        "best single": single,
    }
    return [Candidate(name, choose, [], []) for name, choose in ways.items()]


def _means(ranked: Sequence[Ingredient]) -> dict[str, Mixture]:
    """The means of all ingredients. Of several snapshots of a run, the early ones are left out."""
    runs = _snapshots_by_run(ranked)
    if len(runs) == len(ranked):
        return {"uniform soup": Mixture.equal(ranked)}
    last: list[Ingredient] = []
    late: list[Ingredient] = []
    weights: list[float] = []
    for snapshots in runs:
        of_run = snapshots[-SNAPSHOTS:]
        last.append(of_run[-1])
        late += of_run
        weights += [1 / len(of_run)] * len(of_run)
    return {
        "uniform soup of the last snapshots": Mixture.equal(last),
        f"uniform soup of the means of the last {SNAPSHOTS} snapshots": Mixture(tuple(late), tuple(weights)),
    }


def _snapshots_by_run(ingredients: Sequence[Ingredient]) -> list[list[Ingredient]]:
    """The snapshots of each run in the order of their steps, the run itself last.

    A snapshot is a folder `checkpoint-N` of a Trainer; every other ingredient is a run by itself.
    """
    # folder of a run with snapshots -> its snapshots by name, and the run itself by ""
    folders: dict[tuple[PurePath, str | None], dict[str, Ingredient]] = {}
    for item in ingredients:
        place = PurePath(item.source)
        if checkpoints_by_step([place.name]):
            folders.setdefault((place.parent, item.revision), {})[place.name] = item
    single = []
    for item in ingredients:
        place = PurePath(item.source)
        if checkpoints_by_step([place.name]):
            continue
        if (place, item.revision) in folders:
            folders[place, item.revision][""] = item
        else:
            single.append([item])
    runs = []
    for snapshots in folders.values():
        in_order = [snapshots[name] for name in checkpoints_by_step(snapshots)]
        runs.append(in_order + ([snapshots[""]] if "" in snapshots else []))
    return [*runs, *single]


def _near(best: Candidate, candidates: Sequence[Candidate], unseen: Sequence[Trials]) -> list[Candidate]:
    """The candidates that are within one standard error of the best on the unseen examples, the simplest first."""
    near = []
    for candidate in candidates:
        deficits = [b.gain_over(c) for b, c in zip(best.scores, candidate.scores, strict=True)]
        if candidate is best or fmean(deficits) <= _standard_error(best, candidate, unseen):
            near.append(candidate)
    return near


def _is_below(mixture: Mixture, single: Mixture, trials: Trials) -> bool:
    """Whether a mixture scores more than one standard error below the best single ingredient on all examples."""
    deficit = trials.score(single).gain_over(trials.score(mixture))
    return deficit > standard_error(trials, mixture, single)


def _standard_error(best: Candidate, candidate: Candidate, unseen: Sequence[Trials]) -> float:
    """The standard error of the mean difference between two candidates; 0 where examples are not known."""
    variance = 0.0
    for trials, first, second in zip(unseen, best.chosen, candidate.chosen, strict=True):
        variance += standard_error(trials, first, second) ** 2
    return math.sqrt(variance) / len(unseen)


def _trial(candidate: Candidate, is_taken: bool, best: Candidate) -> Trial:
    """The row of a candidate in the table of trials."""
    why = "on the halves that it was not chosen on"
    if is_taken and candidate is best:
        why += ": the best"
    elif is_taken:
        why += f": within one standard error of {best.name}, and simpler"
    difference = candidate.estimate - best.estimate
    return Trial(candidate.name, is_taken, why, candidate.estimate, difference)
