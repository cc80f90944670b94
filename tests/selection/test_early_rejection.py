"""A trial that is stopped changes no selection: random answers, items, batches, parts, ties and resumed searches.

What is expected is counted here: whole runs scored by hand, and for each trial the first item after which even a run
that is right from there on would miss the threshold.
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
    """The model of a mixture is the mixture itself, which the evaluator below knows how to run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelMaker, "model", lambda self, mixture: mixture)
        yield


class Answers:
    """What mixtures are right on: names, weights and a seed decide. A row has one item, or any number of items."""

    def __init__(self, seed, rows, items):
        self.seed, self.rows = seed, rows
        self.row_of = np.sort(np.random.default_rng(seed).integers(rows, size=items)) if items else np.arange(rows)

    def right(self, mixture):
        """Item by item, whether a mixture is right."""
        rng = np.random.default_rng([self.seed, zlib.crc32(repr((mixture.names, mixture.weights_by_module)).encode())])
        return rng.random(len(self.row_of)) < rng.choice([0.3, 0.6, 0.9])

    def predictions(self, mixture, rows):
        """Those on some rows, which are in the order of the data."""
        chosen = np.isin(self.row_of, rows)
        right = self.right(mixture)[chosen]
        logits = np.stack([~right, right], axis=1).astype(np.float32)
        return Predictions(logits, np.ones(len(right), int), self.row_of[chosen])


class MadeUp(Evaluator):
    """Runs mixtures over rows in batches of one size, and writes down which rows it ran."""

    def __init__(self, answers, size):
        rows = {"text": ["x"] * answers.rows, "label": [1] * answers.rows}
        data = datasets.Dataset.from_dict(rows)
        super().__init__(data, task="text-classification", metric="accuracy", cache=False)
        self.__dict__.update(answers=answers, size=size, batches={})

    def run(self, model, *, first=None, done=None, enough=None):
        """As an evaluator does with a model."""
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
        """How many rows were run, of all mixtures together."""
        return sum(len(batch) for batches in self.batches.values() for batch in batches)


class Call(NamedTuple):
    """What trials were asked, what they answered, and how many batches of the mixture had been run before."""

    mixture: Mixture
    threshold: Threshold | None
    answer: Score | Rejected
    batches_before: int
    batches_after: int


class Watched(ModelTrials):
    """Trials that write down what they are asked and what they answer."""

    calls: list[Call]

    def score(self, mixture, beat=None):
        """One mixture."""
        return self.map([mixture], beat)[0]

    def map(self, mixtures, beat=None):
        """Several."""
        before = [self._count(mixture) for mixture in mixtures]
        answers = super().map(mixtures, beat)
        for mixture, count, answer in zip(mixtures, before, answers, strict=True):
            self.calls.append(Call(mixture, beat, answer, count, self._count(mixture)))
        return answers

    def _count(self, mixture):
        return len(self._evaluator.batches.get((mixture.names, mixture.weights), []))


class Whole:
    """Trials by hand: every mixture is run on every row that counts, and its score is the share of right items."""

    def __init__(self, answers, rows):
        self.answers, self.rows = answers, rows

    def score(self, mixture, beat=None):
        """The share, whatever it has to beat."""
        right = self.answers.right(mixture)[np.isin(self.answers.row_of, self.rows)].tolist()
        return Score("accuracy", sum(right) / len(right), split="validation")

    def map(self, mixtures, beat=None):
        """One after the other."""
        return [self.score(mixture) for mixture in mixtures]

    def logits(self, ingredient):
        """Of an ingredient alone."""
        return self.answers.predictions(Mixture.equal([ingredient]), self.rows)

    def difference(self, mixture, other):
        """Not known."""


def trials_of(answers, names, size, *, stop_early=True):
    """Trials whose models are made up, and the ingredients."""
    candidates = tuple(Checkpoint(Ingredient(name, name), {}, {}) for name in names)
    report = CheckReport(tuple(names), "", 0, 0, 0, (), (), (), ())
    setup = MergeSetup(candidates, Agreement(), report, bind_averaging("linear", {}), "linear", {})
    with Watched(setup, MadeUp(answers, size), stop_early=stop_early) as trials:
        trials.calls = []
    return trials, [item.ingredient for item in candidates]


def reached(right, n, threshold):
    """Whether `right` of `n` are enough, in whole numbers: within the tolerance, or better than the threshold."""
    share, best = Fraction(right, n), Fraction(round(threshold.score.value * n), n)
    tolerance = Fraction(str(threshold.tolerance))
    return share >= best - tolerance if threshold.ties or tolerance else share > best


def first_hopeless(right, threshold):
    """After how many items a trial may stop, right or wrong in the order in which they are run: as soon as it misses
    the threshold even if all that remain are right. `None` if there is no such item.
    """
    n = len(right)
    for count in range(n + 1):
        if not reached(sum(right[:count]) + n - count, n, threshold):
            return count
    return None


def check_call(call, trials, answers, rows):
    """One answer is what brute force says, and it took no more batches than it needed."""
    batches = trials._evaluator.batches.get((call.mixture.names, call.mixture.weights), [])[: call.batches_after]
    right, n = answers.right(call.mixture), int(np.isin(answers.row_of, rows).sum())
    in_turn = [right[answers.row_of == row].tolist() if row in rows else [] for batch in batches for row in batch]
    items = [item for of_row in in_turn for item in of_row]
    hopeless = None
    if call.threshold is not None and trials._stop_early:
        unknown = [True] * (n - len(items))  # which were not run, so that they decide nothing
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
    """Mixture and kept trials are those of whole runs by hand, each trial ends where brute force says, a stopped trial
    could not have been kept, and nothing is run twice.
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
        assert trials._evaluator.ran() == ran[stop_early]  # and nothing is run for it
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
    """The same bound after the same item, whatever the batches, also when all is known or part of it."""
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
