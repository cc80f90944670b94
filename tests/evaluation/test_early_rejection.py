"""A trial that is stopped changes no selection: random answers, items, batches, parts, ties and resumed searches."""

import zlib

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hf_soup
from hf_soup import lookup
from hf_soup.checkpoints.checkpoint import Checkpoint
from hf_soup.evaluation.evaluator import Outputs
from hf_soup.evaluation.trials import ModelTrials
from hf_soup.outputs import Predictions, joined
from hf_soup.types import Bar, Ingredient, Rejected


SEARCHES = ["greedy", "greedy_best_first", "pruned", "exhaustive", "diverse"]


class Answers:
    """Stands for cooking and running: names and a seed decide on what a recipe is right; batches have any size."""

    def __init__(self, seed, rows, items, size):
        self.seed, self.rows, self.size = seed, rows, size
        self.of = np.sort(np.random.default_rng(seed).integers(rows, size=items)) if items else np.arange(rows)
        self.run = 0

    def said(self, recipe):
        """What a recipe's model says on all rows."""
        rng = np.random.default_rng([self.seed, zlib.crc32(repr((recipe.names, recipe.rows)).encode())])
        right = rng.random(len(self.of)) < rng.choice([0.3, 0.6, 0.9])
        return Predictions(np.stack([~right, right], axis=1).astype(np.float32), np.ones(len(self.of), int), self.of)

    def answer(self, job):
        """What it says on the rows that it is run on, as a [`Taster`] would."""
        said, first = self.said(job.recipe), np.array([], int) if job.first is None else job.first
        order = np.concatenate([first, np.setdiff1d(np.arange(self.rows), first)]).astype(int)
        done = [] if job.known is None else [job.known]
        asked = np.array([], int) if job.known is None else job.known.asked
        seen, correct = job.limit.left(job.known.said) if job.limit and job.known else (0, 0)
        left = order[~np.isin(order, asked)]
        while len(left):
            batch, left = left[: self.size], left[self.size :]
            part = said.take(np.sort(batch))
            part = part._replace(rows=np.sort(batch)[part.rows])
            done.append(Outputs(part, batch, False))
            self.run += len(batch)
            if job.limit:
                more, good = job.limit.left(part)
                seen, correct = seen + more, correct + good
                if correct + job.limit.n - seen < job.limit.needed:
                    break
        return Outputs(joined([one.said for one in done]), np.concatenate([one.asked for one in done]), not len(left))


def trials_of(answers, names, stop_early):
    """Trials whose models are made up."""
    items = {name: Checkpoint(Ingredient(name, name), {}, {}) for name in names}
    data = datasets.Dataset.from_dict({"text": ["x"] * answers.rows, "label": [1] * answers.rows})
    evaluator = hf_soup.Evaluator(data, task="text-classification", metric="accuracy", cache=False)
    trials = ModelTrials(items, evaluator, lambda recipe: recipe, stop_early=stop_early)
    trials.close()
    trials._taster = type("Stub", (), {"checkpoints": items, "__call__": lambda self, job: answers.answer(job)})()
    return trials, [item.ingredient for item in items.values()]


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
    in_part=st.booleans(),
)
def test_the_selection_is_that_of_the_full_search(strategy, seed, rows, several, size, k, accept, tolerance, in_part):
    """Recipe and kept trials are the same, a stopped trial could not have been kept, and nothing is run twice."""
    items, names = (rows + seed % 5 if several else 0), [f"run-{index}" for index in range(k)]
    options = {} if strategy == "exhaustive" else {"accept": accept, "tolerance": tolerance}
    part = np.random.default_rng(seed).permutation(rows)[: max(1, rows // 2)]
    found = {}
    for stop_early in (True, False):
        answers = Answers(seed, rows, items, size)
        if several and in_part and not np.isin(answers.of, part).any():
            return  # a part without items
        if several and not len(answers.of):
            return
        trials, ingredients = trials_of(answers, names, stop_early)
        search = trials.part(part) if in_part else trials
        recipe = lookup.load_function("strategy", strategy)(ingredients, search, **options)
        found[stop_early] = recipe, answers.run
        ran = answers.run
        assert lookup.load_function("strategy", strategy)(ingredients, search, **options) == recipe
        assert answers.run == ran  # and nothing is run for it
    (early, fewer), (full, more) = found[True], found[False]
    assert (early.names, early.weights) == (full.names, full.weights)
    kept = [[(row["tried"], row["kept"]) for row in one.selection["trials"]] for one in (early, full)]
    assert kept[0] == kept[1]
    assert fewer <= more
    for quick, whole in zip(early.selection["trials"], full.selection["trials"], strict=True):
        if "at_most" in quick:
            assert whole["score"] <= quick["at_most"] + 1e-12
            assert "score" not in quick


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(2, 12), sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_what_a_trial_says_does_not_depend_on_batches_or_on_what_was_run_before(seed, rows, sizes):
    """The same bound after the same item, whatever the batches, also when all is known or part of it."""
    said = set()
    for size, before in ((sizes[0], None), (sizes[1], None), (sizes[0], "whole"), (sizes[1], "another bar")):
        trials, ingredients = trials_of(Answers(seed, rows, 0, size), ["a", "b", "c"], True)
        alone = trials.map([hf_soup.Recipe((item,), (1.0,)) for item in ingredients])
        recipe, bar = hf_soup.Recipe(tuple(ingredients), (1.0,) * 3), Bar(max(alone, key=lambda one: one.value), False)
        if before == "whole":
            trials.score(recipe)
        if before == "another bar":
            trials.score(recipe, beat=Bar(alone[0], tolerance=0.4))
        found = trials.score(recipe, beat=bar)
        said.add(str(found) if isinstance(found, Rejected) else found.value)
    assert len(said) == 1
