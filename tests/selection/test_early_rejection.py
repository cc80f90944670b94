"""Early rejection never changes a selection, for random answers, items, batches, subsets, ties and resumed searches.

The expected results are computed here by brute force: mixtures are scored in full, and each trial may stop at the
first item after which it would miss the threshold even if all remaining items were right.
"""

import zlib
from fractions import Fraction
from typing import NamedTuple

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_soup import plugins
from hf_soup.checkpoints.check import CheckReport
from hf_soup.checkpoints.checkpoint import Checkpoint
from hf_soup.evaluation.evaluator import Evaluator
from hf_soup.evaluation.model_maker import ModelMaker
from hf_soup.evaluation.outputs import Outputs
from hf_soup.merging.agreement import Agreement
from hf_soup.merging.averaging import bind_averaging
from hf_soup.merging.setup import MergeSetup
from hf_soup.metrics.predictions import Predictions
from hf_soup.selection.trials import ModelTrials
from hf_soup.types import Choice, Ingredient, Mixture, Rejected, Score, Threshold


SEARCHES = ["greedy", "greedy_best_first", "pruned", "exhaustive", "diverse"]


@pytest.fixture(autouse=True, scope="module")
def _no_models():
    """Use the mixture itself as its model, which the evaluator below can run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelMaker, "model", lambda self, mixture: mixture)
        yield


class Answers:
    """Answers determined by the names and weights of a mixture and a seed; rows may have any number of items."""

    def __init__(self, seed, rows, items):
        self.seed, self.rows = seed, rows
        self.row_of = np.sort(np.random.default_rng(seed).integers(rows, size=items)) if items else np.arange(rows)

    def right(self, mixture):
        """Whether a mixture is right on each item."""
        rng = np.random.default_rng([self.seed, zlib.crc32(repr((mixture.names, mixture.weights_by_module)).encode())])
        return rng.random(len(self.row_of)) < rng.choice([0.3, 0.6, 0.9])

    def predictions(self, mixture, rows):
        """The predictions on some rows, in the order of the data."""
        chosen = np.isin(self.row_of, rows)
        right = self.right(mixture)[chosen]
        logits = np.stack([~right, right], axis=1).astype(np.float32)
        return Predictions(logits, np.ones(len(right), int), self.row_of[chosen])


class MadeUp(Evaluator):
    """An evaluator that runs mixtures in batches of a fixed size and records the rows of each batch."""

    def __init__(self, answers, size):
        rows = {"text": ["x"] * answers.rows, "label": [1] * answers.rows}
        data = datasets.Dataset.from_dict(rows)
        super().__init__(data, task="text-classification", metric="accuracy", cache=False)
        self.__dict__.update(answers=answers, size=size, batches={})

    def run(self, model, *, first=None, done=None, enough=None):
        """Run a mixture as an evaluator runs a model."""
        order = [] if first is None else first.tolist()
        order += [row for row in range(self.answers.rows) if row not in order]
        waiting = [row for row in order if done is None or row not in done]
        batches = self.batches.setdefault((model.names, model.weights), [])
        ran = []
        while waiting:
            batch, waiting = waiting[: self.size], waiting[self.size :]
            batches.append(batch)
            ran += batch
            if enough is not None and enough(self.answers.predictions(model, batch)):
                break
        return Outputs(self.answers.predictions(model, ran), np.array(ran), not waiting)

    def ran(self):
        """The number of rows run, over all mixtures."""
        return sum(len(batch) for batches in self.batches.values() for batch in batches)


class Call(NamedTuple):
    """A question to the trials, the answer, and how many batches of the mixture had been run before and after it."""

    mixture: Mixture
    threshold: Threshold | None
    answer: Score | Rejected
    batches_before: int
    batches_after: int


class Watched(ModelTrials):
    """Trials that record their questions and answers."""

    calls: list[Call]

    def score(self, mixture, beat=None):
        """Score one mixture."""
        return self.map([mixture], beat)[0]

    def map(self, mixtures, beat=None):
        """Score several mixtures and record the calls."""
        before = [self._count(mixture) for mixture in mixtures]
        answers = super().map(mixtures, beat)
        for mixture, count, answer in zip(mixtures, before, answers, strict=True):
            self.calls.append(Call(mixture, beat, answer, count, self._count(mixture)))
        return answers

    def _count(self, mixture):
        return len(self._evaluator.batches.get((mixture.names, mixture.weights), []))


class Whole:
    """Trials by brute force: a mixture is run on all rows, and its score is the share of right items."""

    def __init__(self, answers, rows):
        self.answers, self.rows = answers, rows

    def score(self, mixture, beat=None):
        """Return the share of right items, regardless of the threshold."""
        right = self.answers.right(mixture)[np.isin(self.answers.row_of, self.rows)].tolist()
        return Score("accuracy", sum(right) / len(right), split="validation")

    def map(self, mixtures, beat=None):
        """Score the mixtures one after another."""
        return [self.score(mixture) for mixture in mixtures]

    def logits(self, ingredient):
        """Return the predictions of a single ingredient."""
        return self.answers.predictions(Mixture.equal([ingredient]), self.rows)

    def difference(self, mixture, other):
        """Return `None`: the difference is not known."""


def trials_of(answers, names, size, *, stop_early=True):
    """Trials with made-up models, and their ingredients."""
    candidates = tuple(Checkpoint(Ingredient(name, name), {}, {}) for name in names)
    report = CheckReport(tuple(names), "", 0, 0, 0, (), (), (), ())
    setup = MergeSetup(candidates, Agreement(), report, bind_averaging("linear", {}), "linear", {})
    with Watched(setup, MadeUp(answers, size), stop_early=stop_early) as trials:
        trials.calls = []
    return trials, [item.ingredient for item in candidates]


def reached(right, n, threshold):
    """Whether `right` of `n` items reach the threshold, in exact arithmetic."""
    share, best = Fraction(right, n), Fraction(round(threshold.score.value * n), n)
    tolerance = Fraction(str(threshold.tolerance))
    return share >= best - tolerance if threshold.ties or tolerance else share > best


def first_hopeless(right, threshold):
    """The number of items after which a trial may stop, because it misses the threshold even if all remaining items
    are right, or `None` if there is no such number. `right` is in the order in which items are run.
    """
    n = len(right)
    for count in range(n + 1):
        if not reached(sum(right[:count]) + n - count, n, threshold):
            return count
    return None


def check_call(call, trials, answers, rows):
    """Check that an answer agrees with brute force and took no more batches than necessary."""
    batches = trials._evaluator.batches.get((call.mixture.names, call.mixture.weights), [])[: call.batches_after]
    right, n = answers.right(call.mixture), int(np.isin(answers.row_of, rows).sum())
    in_turn = [right[answers.row_of == row].tolist() if row in rows else [] for batch in batches for row in batch]
    items = [item for of_row in in_turn for item in of_row]
    hopeless = None
    if call.threshold is not None and trials._stop_early:
        unknown = [True] * (n - len(items))  # items that were not run and do not affect the decision
        hopeless = first_hopeless(items + unknown, call.threshold)
    if hopeless is None:
        assert len(items) == n
        assert call.answer.value == sum(items) / n
        return
    assert call.answer == Rejected(sum(items[:hopeless]) + n - hopeless, n, hopeless)
    if call.batches_after > call.batches_before:
        rows_before = [row for batch in batches[:-1] for row in batch]
        assert sum(int((answers.row_of == row).sum()) for row in rows_before if row in rows) < hopeless


@pytest.mark.parametrize("strategy", SEARCHES)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 12),
    several=st.booleans(),
    size=st.integers(1, 5),
    k=st.integers(1, 4),
    accept=st.sampled_from([">=", ">"]),
    tolerance=st.sampled_from([0.0, 0.1, 0.34]),
    in_subset=st.booleans(),
)
def test_the_selection_is_that_of_the_full_search(
    strategy, seed, rows, several, size, k, accept, tolerance, in_subset
):
    """The mixture and kept trials are those of a full search, each trial ends where brute force says, no stopped trial
    could have been kept, and no row is run twice.
    """
    answers = Answers(seed, rows, rows + seed % 5 if several else 0)
    subset = np.random.default_rng(seed).permutation(rows)[: max(1, rows // 2)] if in_subset else np.arange(rows)
    if not np.isin(answers.row_of, subset).any():
        return  # rows without items have no score
    names = [f"run-{index}" for index in range(k)]
    options = {} if strategy == "exhaustive" else {"accept": accept, "tolerance": tolerance}
    search = plugins.load_function("strategy", strategy)
    choices, ran = {}, {}
    for stop_early in (True, False):
        trials, ingredients = trials_of(answers, names, size, stop_early=stop_early)
        searched = trials.subset(subset) if in_subset else trials
        choices[stop_early] = search(ingredients, searched, **options)
        ran[stop_early] = trials._evaluator.ran()
        assert isinstance(choices[stop_early], Choice)
        assert search(ingredients, searched, **options) == choices[stop_early]
        assert trials._evaluator.ran() == ran[stop_early]  # repeating the search runs nothing
        for batches in trials._evaluator.batches.values():
            rows_run = [row for batch in batches for row in batch]
            assert len(set(rows_run)) == len(rows_run)
        for call in trials.calls:
            check_call(call, trials, answers, subset.tolist())
    by_hand = search(ingredients, Whole(answers, np.sort(subset)), **options)
    for choice in choices.values():
        assert choice.mixture == by_hand.mixture
        assert [(trial.tried, trial.kept) for trial in choice.trials] == [
            (trial.tried, trial.kept) for trial in by_hand.trials
        ]
    assert ran[True] <= ran[False]
    assert [trial.score for trial in choices[False].trials] == [trial.score for trial in by_hand.trials]
    for early, whole in zip(choices[True].trials, by_hand.trials, strict=True):
        if early.at_most is None:
            assert early.score == whole.score
        else:
            assert whole.score <= early.at_most + 1e-12
            assert early.score is None


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(2, 12), sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_what_a_trial_says_does_not_depend_on_batches_or_on_what_was_run_before(seed, rows, sizes):
    """The answer to a trial does not depend on the batch size or on what was run before."""
    answers, results = Answers(seed, rows, 0), set()
    for size, before in ((sizes[0], None), (sizes[1], None), (sizes[0], "whole"), (sizes[1], "another threshold")):
        trials, ingredients = trials_of(answers, ["a", "b", "c"], size)
        singles = trials.map([Mixture.equal([item]) for item in ingredients])
        mixture, best = Mixture.equal(ingredients), max(singles, key=lambda score: score.value)
        if before == "whole":
            trials.score(mixture)
        if before == "another threshold":
            trials.score(mixture, beat=Threshold(singles[0], tolerance=0.4))
        result = trials.score(mixture, beat=Threshold(best, ties=False))
        for call in trials.calls:
            check_call(call, trials, answers, range(rows))
        results.add(str(result) if isinstance(result, Rejected) else result.value)
    assert len(results) == 1
