"""The choices of strategies, checked by hand and by properties: ingredients, weights and records of trials."""

import itertools
import math
import sys
import zlib
from dataclasses import replace

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from hf_soup import plugins
from hf_soup.errors import MissingExtraError, RecipeError
from hf_soup.metrics.predictions import Predictions
from hf_soup.strategies.learned import AdamW
from hf_soup.strategies.soce import _experts
from hf_soup.testing import FakeTrials
from hf_soup.types import Choice, Gradient, Ingredient, Mixture, Rejected, Score, Threshold


RUNS = tuple(Ingredient(f"run-{index}", f"runs/{index}") for index in range(5))
BASE = Ingredient("start", "runs/start")
MODULES = ("embeddings", "encoder.layer.0", "encoder.layer.1", "classifier")  # those of FakeTrials
NEVER_WORSE = [
    name
    for name in plugins.names("strategy")
    if plugins.strategy_traits(plugins.load_function("strategy", name)).never_worse
]

often = hypothesis.settings(max_examples=80, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def choose(name, trials, count=3, *, items=None, **params):
    """The choice of a strategy among the first runs, with the base model or weights if it needs them."""
    function = plugins.load_function("strategy", name)
    items = RUNS[:count] if items is None else items
    if plugins.asks_for(function, "base"):
        params = {"base": BASE, **params}
    if name == "weighted":
        params = {"weights": [1] * len(items), **params}
    result = function(items, trials, **params)
    return result if isinstance(result, Choice) else Choice(result)


def run(*args, **params):
    """The mixture that a strategy chooses among the first runs."""
    return choose(*args, **params).mixture


def trials_of(table, **settings):
    """Trials that score a recipe by a table of its names, joined by + and without `run-`."""
    return FakeTrials(lambda recipe: table["+".join(recipe.names).replace("run-", "")], **settings)


def drawn(recipe, seed):
    """A random generator determined by the seed and the ingredients with their weights."""
    return np.random.default_rng(
        zlib.crc32(repr((seed, recipe.names, sorted(recipe.weights_by_module.items()))).encode())
    )


def at_random(seed, n, share=0.7):
    """A function that is right on random examples for each recipe; for small n, scores often tie."""
    return lambda recipe: drawn(recipe, seed).random(n) < share


def mixed(worth, bonus=0.3):
    """A smooth score: weighted values of the ingredients plus a bonus for mixing, averaged over rows of weights."""

    def score(recipe):
        total = 0.0
        for row in recipe.weights_by_module.values():
            shares = [weight / sum(row) for weight in row]
            total += sum(s * worth[name] + bonus * s * (1 - s) for s, name in zip(shares, recipe.names, strict=True))
        return total / len(recipe.weights_by_module)

    return score


def in_module(recipe, module):
    """The names with a nonzero weight in one module."""
    row = recipe.weights_by_module.get(module, recipe.weights_by_module.get(""))
    return frozenset(name for name, weight in zip(recipe.names, row, strict=True) if weight)


def tried(choice):
    """The trials other than single ingredients, and whether they were kept."""
    return [(trial.tried, trial.kept) for trial in choice.trials if trial.ingredient is None]


# --- all strategies


@pytest.mark.parametrize("name", plugins.names("strategy"))
def test_one_ingredient_is_the_soup(name):
    """With one ingredient every strategy returns that ingredient; `interpolate` adds the base model."""
    recipe = run(name, FakeTrials(lambda recipe: 0.5), count=1)
    assert recipe.names == (("run-0", "start") if name == "interpolate" else ("run-0",))
    if name != "interpolate":
        assert recipe.weights == (1,)


@pytest.mark.parametrize("name", plugins.names("strategy"))
@often
@hypothesis.given(seed=seeds)
def test_a_loss_is_a_score_turned_round(name, seed):
    """With negated scores, and lower is better, a strategy finds the same soup and keeps the same trials."""
    worth = dict(zip([item.name for item in (*RUNS, BASE)], drawn(Mixture.equal(RUNS), seed).random(6), strict=True))
    params = {"learned": {"epochs": 2}, "search": {"budget": 9}}.get(name, {})
    up = choose(name, FakeTrials(mixed(worth)), **params)
    down = choose(name, FakeTrials(lambda recipe: -mixed(worth)(recipe), higher_is_better=False), **params)
    assert down.mixture == up.mixture
    if up.trials:
        assert tried(down) == tried(up)


@pytest.mark.parametrize("name", NEVER_WORSE)
@often
@hypothesis.given(seed=seeds, n=st.integers(1, 30), count=st.integers(1, 4))
def test_never_worse_than_the_best_alone(name, seed, n, count):
    """A strategy with the trait `never_worse` scores at least as high as the best single ingredient."""
    params = {"budget": 9} if name == "search" else {}
    right = at_random(seed, n)
    recipe = run(name, FakeTrials(right=right), count, **params)
    assert right(recipe).mean() >= max(right(Mixture.equal([item])).mean() for item in RUNS[:count])


@often
@hypothesis.given(seed=seeds, order=st.permutations(RUNS), params=st.sampled_from([{}, {"order": "random"}]))
def test_ties_are_broken_by_name(seed, order, params):
    """With many ties, greedy makes the same choice for any order of the ingredients."""
    settings = {"right": at_random(seed, 3)}
    assert choose("greedy", FakeTrials(**settings), items=order, **params) == choose(
        "greedy", FakeTrials(**settings), 5, **params
    )


# --- stopping early


class Watched(FakeTrials):
    """Trials that record which trials were stopped and their thresholds."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.stopped = []

    def score(self, recipe, beat=None):
        """Score as usual, and record a rejected trial."""
        score = super().score(recipe, beat)
        if isinstance(score, Rejected):
            self.stopped.append((recipe, beat, score))
        return score


LIMITS = st.fixed_dictionaries(
    {"accept": st.sampled_from([">=", ">"]), "tolerance": st.sampled_from([0.0, 0.05, 1 / 12, 0.25, 0.5])}
)
EARLY = {
    "greedy": LIMITS,
    "greedy_best_first": LIMITS,
    "pruned": LIMITS,
    "diverse": LIMITS,
    "exhaustive": st.just({}),
    "layerwise": st.builds(
        lambda limits, mode, start: {**limits, "mode": mode, "start": start},
        LIMITS,
        st.sampled_from(["selective", "greedy"]),
        st.sampled_from(["best", "greedy"]),
    ),
}


@pytest.mark.parametrize("name", EARLY)
@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(data=st.data(), seed=seeds, n=st.integers(1, 12), count=st.integers(1, 5))
def test_stopping_early_changes_nothing_but_the_work(name, data, seed, n, count):
    """A search with early stopping finds the same recipe as a full search, without running more examples."""
    params, right = data.draw(EARLY[name]), at_random(seed, n, data.draw(st.sampled_from([0.5, 0.8])))
    early, full = FakeTrials(right=right), FakeTrials(right=right, stop_early=False)
    choice, expected = (choose(name, trials, count, **params) for trials in (early, full))
    assert choice.mixture == expected.mixture
    assert tried(choice) == tried(expected)
    assert [(a.names, a.weights) for a in early.asked] == [(a.names, a.weights) for a in full.asked]
    assert early.passes <= full.passes == len(full.asked)


@pytest.mark.parametrize("name", EARLY)
@often
@hypothesis.given(data=st.data(), seed=seeds, n=st.integers(1, 12))
def test_a_stopped_trial_is_no_score(name, data, seed, n):
    """The row of a stopped trial has no score, but an upper bound that no full count exceeds, also in its reason."""
    right = at_random(seed, n)
    trials = Watched(right=right)
    choice = choose(name, trials, 4, **(data.draw(EARLY[name]) | ({"start": "best"} if name == "layerwise" else {})))
    rows = [row for row in choice.trials if row.at_most is not None]
    assert len(rows) == len(trials.stopped)
    for row, (recipe, threshold, stopped) in zip(rows, trials.stopped, strict=True):
        assert right(recipe).sum() <= stopped.right < threshold.needed(n)
        assert 0 < stopped.after <= stopped.n == n
        assert row.why == f"at most {stopped.right} of {n}, after {stopped.after}"
        assert row.at_most == stopped.right / n
        assert not row.kept
        assert row.score is None
        assert row.difference is None


@pytest.mark.parametrize("name", ["greedy", "greedy_best_first", "exhaustive"])
def test_hopeless_trials_cost_little(name):
    """A soup that is wrong where the best ingredient is right is stopped before all examples are run."""
    trials = FakeTrials(right=lambda recipe: np.arange(100) < (90 if len(recipe.names) == 1 else 10))
    run(name, trials)
    assert trials.passes < 3 + 0.3 * (len(trials.asked) - 3)


@often
@hypothesis.given(n=st.integers(1, 60), data=st.data(), ties=st.booleans())
def test_what_is_needed_to_reach_a_bar(n, data, ties):
    """The number needed is the best minus the tolerance, or one more than the best if ties do not count."""
    top = data.draw(st.integers(0, n))
    within = data.draw(st.integers(0, n))
    threshold = Threshold(Score("accuracy", top / n), ties, within / n)
    needed = threshold.needed(n)
    assert needed == (max(top - within, 0) if ties or within else top + 1)
    enough = [right for right in range(n + 1) if threshold.reached_by(Score("accuracy", right / n))]
    assert enough == list(range(needed, n + 1))


@often
@hypothesis.given(value=st.floats(-0.2, 1.2), n=st.integers(1, 60), ties=st.booleans(), tolerance=st.floats(0, 0.5))
def test_what_is_needed_is_what_brute_force_finds(value, n, ties, tolerance):
    """For any score the number needed is the smallest whose share reaches the threshold, or n + 1."""
    threshold = Threshold(Score("accuracy", value), ties, tolerance)
    reached = [right for right in range(n + 1) if threshold.reached_by(Score("accuracy", right / n))]
    assert threshold.needed(n) == min(reached, default=n + 1)


def test_a_stopped_trial_reaches_no_bar():
    """A stopped trial never reaches a threshold, however low it is."""
    assert not Threshold(Score("accuracy", 0.0), tolerance=1.0).reached_by(Rejected(9, 10, 5))


# --- greedy

FALLING = {"0": 0.9, "1": 0.8, "2": 0.7, "0+1": 0.895, "0+1+2": 0.89, "0+2": 0.892}


@pytest.mark.parametrize("metric", [1, -1])
def test_greedy_is_recipe_1(metric):
    """Greedy adds each candidate, best first, and keeps it if the score does not get worse, also for a loss."""
    table = {"0": 0.7, "1": 0.9, "2": 0.8, "3": 0.85, "1+3": 0.89, "1+2": 0.92, "1+2+0": 0.92}
    trials = trials_of({key: metric * value for key, value in table.items()}, higher_is_better=metric == 1)
    choice = choose("greedy", trials, 4)
    recipe = choice.mixture
    assert recipe.names == ("run-1", "run-2", "run-0")
    assert recipe.weights == (1, 1, 1)
    assert tried(choice) == [("+ run-3", False), ("+ run-2", True), ("+ run-0", True)]


def test_greedy_marks_who_is_inside():
    """The rows of single ingredients are marked as kept if they are in the soup."""
    rows = choose("greedy", trials_of(FALLING), tolerance=0.005).trials
    assert [(row.ingredient, row.kept) for row in rows[:3]] == [("run-0", True), ("run-1", True), ("run-2", 0)]


def test_a_tolerance_does_not_drift():
    """The tolerance applies to the best score so far, so small losses do not accumulate."""
    assert run("greedy", trials_of(FALLING), tolerance=0.006).names == ("run-0", "run-1")
    assert run("greedy", trials_of(FALLING), tolerance=0.004).names == ("run-0",)
    assert run("greedy", trials_of(FALLING), tolerance=0.02).names == ("run-0", "run-1", "run-2")


def test_a_tolerance_holds_its_edge():
    """A score exactly at the tolerance is accepted despite rounding, as 0.895 is for 0.9 and 0.005."""
    assert 0.9 - 0.005 > 0.895 - 1e-15
    for accept in (">=", ">"):
        assert run("greedy", trials_of(FALLING), 2, tolerance=0.005, accept=accept).names == ("run-0", "run-1")


@pytest.mark.parametrize("name", ["greedy", "greedy_best_first", "pruned", "diverse", "layerwise"])
def test_a_tolerance_is_not_negative(name):
    """A tolerance that is negative or NaN raises a RecipeError."""
    for wrong in (-0.1, math.nan):
        with pytest.raises(RecipeError, match=r"tolerance is how far a score may fall.* 0 or more"):
            run(name, FakeTrials(lambda recipe: 0.5), tolerance=wrong)


@pytest.mark.parametrize("name", ["greedy", "greedy_best_first", "diverse"])
def test_max_ingredients_is_a_limit(name):
    """A soup stops growing at `max_ingredients`, and a limit below one raises a RecipeError."""
    params = {"accept": ">="}
    for most in (1, 2, 3):
        choice = choose(name, FakeTrials(lambda recipe: 0.5), 5, max_ingredients=most, **params)
        recipe = choice.mixture
        assert recipe.names == ("run-0", "run-1", "run-2")[:most] or name == "diverse"
        assert len(recipe.names) == most
        assert sum(kept for _, kept in tried(choice)) == most - 1
    with pytest.raises(RecipeError, match="max_ingredients is 0"):
        run(name, FakeTrials(lambda recipe: 0.5), max_ingredients=0)


def test_greedy_at_random_is_by_its_seed():
    """A random order depends only on the seed, and other seeds give other orders."""

    def order(seed):
        return run("greedy", FakeTrials(lambda recipe: 0.5), 5, order="random", seed=seed).names

    assert order(3) == order(3)
    assert len({order(seed) for seed in range(20)}) > 10


def test_greedy_as_given_begins_with_the_first():
    """With `order="given"` the search begins with the first ingredient regardless of its score."""
    trials, items = FakeTrials(mixed({"run-0": 0.9, "run-1": 0.1, "run-2": 0.5})), (RUNS[1], RUNS[0], RUNS[2])
    assert run("greedy", trials, items=items).names == ("run-0",)
    given = choose("greedy", trials, items=items, order="given")
    assert given.mixture.names == ("run-1", "run-0", "run-2")
    whys = {row.ingredient: row.why for row in given.trials if row.ingredient is not None}
    assert whys == {"run-0": "best single ingredient", "run-1": "where the search begins", "run-2": "a candidate"}


class Ensembles(FakeTrials):
    """Trials in which ensembles are scored by a table of their own."""

    def __init__(self, score, ensembles, **settings):
        super().__init__(score, **settings)
        self.ensembles = ensembles

    def ensemble(self, recipe):
        """Look up the score of an ensemble by its names, as in `trials_of`."""
        return self._scored(self.ensembles["+".join(recipe.names).replace("run-", "")])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", ["greedy", "greedy_best_first"])
def test_what_the_ensemble_rules_out_is_not_cooked(name, sign):
    """With `prescreen="ensemble"` a candidate that makes the ensemble worse is not scored, and its row says why."""
    ensembles = {"0": 0.9, "0+1": 0.85, "0+2": 0.95, "0+2+1": 0.94}
    trials = Ensembles(
        lambda recipe: sign * (0.8 + 0.01 * len(recipe.names) - 0.001 * int(recipe.names[-1][-1])),
        {key: sign * value for key, value in ensembles.items()},
        higher_is_better=sign == 1,
    )
    choice = choose(name, trials, prescreen="ensemble")
    recipe = choice.mixture
    assert recipe.names == ("run-0", "run-2")
    assert {asked.names for asked in trials.asked} == {("run-0",), ("run-1",), ("run-2",), ("run-0", "run-2")}
    row = next(row for row in choice.trials if row.tried.endswith("+ run-1"))
    assert row.why == f"ruled out: the ensemble goes from {sign * 0.9:.4f} to {sign * 0.85:.4f}"
    assert row.score is None
    assert len(run(name, trials).names) == 3


# --- greedy_best_first, exhaustive, pruned


def test_best_first_takes_the_best_of_each_round():
    """Each round tries all remaining candidates and keeps the best; the search stops if there is no gain."""
    table = {"0": 0.9, "1": 0.8, "2": 0.7, "3": 0.6, "0+1": 0.91, "0+2": 0.93, "0+3": 0.92, "0+2+1": 0.93}
    table |= {"0+2+3": 0.92, "0+2+1+3": 0.90}
    choice = choose("greedy_best_first", trials_of(table), 4)
    recipe = choice.mixture
    assert recipe.names == ("run-0", "run-2")
    assert tried(choice) == [
        ("1: + run-1", False),
        ("1: + run-2", True),
        ("1: + run-3", False),
        ("2: + run-1", False),
        ("2: + run-3", False),
    ]
    assert run("greedy_best_first", trials_of(table), 4, accept=">=").names == ("run-0", "run-2", "run-1")


@often
@hypothesis.given(seed=seeds, n=st.integers(1, 8), count=st.integers(1, 5))
def test_exhaustive_is_brute_force(seed, n, count):
    """Of all subsets the best is chosen; in a tie the smallest, and then the one with the best ingredients."""
    right = at_random(seed, n)
    ranked = sorted(RUNS[:count], key=lambda item: (-right(Mixture.equal([item])).sum(), item.name))
    groups = [group for size in range(1, count + 1) for group in itertools.combinations(ranked, size)]
    best = max(groups, key=lambda group: right(Mixture.equal(group)).sum())  # the first one in a tie
    trials = FakeTrials(right=right)
    recipe = run("exhaustive", trials, count)
    assert recipe.ingredients == best
    assert recipe.weights == (1,) * len(best)
    assert len(trials.asked) == 2**count - 1


def test_exhaustive_refuses_too_many():
    """More candidates than the limit raise a RecipeError with the number of subsets before anything is scored."""
    trials = FakeTrials(lambda recipe: 0.5)
    items = [Ingredient(f"run-{index}", "runs") for index in range(11)]
    with pytest.raises(RecipeError, match=r"11 ingredients have 2,047 subsets, and max_candidates is 10"):
        run("exhaustive", trials, items=items)
    assert not trials.asked
    assert len(run("exhaustive", trials, 3, max_candidates=3).names) == 1
    with pytest.raises(RecipeError, match="7 subsets"):
        run("exhaustive", trials, 3, max_candidates=2)


def test_pruned_drops_the_harmful_ones():
    """Ingredients without which the score rises are removed, worst first; the others are listed best first."""
    worth = {"run-0": 0.9, "run-1": 0.8, "run-2": 0.85, "run-3": 0.1, "run-4": 0.2}
    choice = choose("pruned", FakeTrials(mixed(worth)), 5)
    recipe = choice.mixture
    assert recipe.names == ("run-0", "run-2", "run-1")
    assert recipe.weights == (1, 1, 1)
    assert tried(choice)[:4] == [("all", True), ("- run-3", True), ("- run-4", True), ("- run-1", False)]


def test_pruned_asks_again():
    """Remaining ingredients are tried again after one has been removed."""
    table = {"0": 0.7, "1": 0.3, "2": 0.2, "0+1+2": 0.5, "0+1": 0.4, "0+2": 0.6}
    choice = choose("pruned", trials_of(table))
    recipe = choice.mixture
    assert recipe.names == ("run-0",)
    assert tried(choice) == [("all", 1), ("- run-2", 0), ("- run-1", 1), ("- run-0", 0), ("- run-2", 1)]


def test_pruned_keeps_somebody():
    """At least one ingredient remains; with `>` only those whose removal raises the score are removed."""
    trials = FakeTrials(lambda recipe: 0.5)
    assert run("pruned", trials).names == ("run-0",)
    assert run("pruned", trials, accept=">").names == ("run-0", "run-1", "run-2")


# --- weighted, performance


def test_weights_are_given():
    """Weights given as a list, by name or by module are used as they are; ingredients without a name get 0."""
    assert run("weighted", None, weights=[2, 1, 0.5]).weights == (2, 1, 0.5)
    assert run("weighted", None, weights={"run-2": 3, "run-0": 1}).weights == (1, 0, 3)
    rows = {"": [1, 1, 1], "classifier": [0, 0, 1]}
    assert run("weighted", None, weights=rows).weights == {"": (1, 1, 1), "classifier": (0, 0, 1)}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (None, r"needs weights, such as weights=\[2, 1, 1\]"),
        ([1, 2], "the weights are 2 .* for 3 ingredients"),
        ({"": [1, 1, 1], "encoder": [1]}, "the weights of 'encoder' are 1 .* for 3 ingredients"),
        ({"run-9": 1}, r'there is no ingredient "run-9"\. Known: run-0, run-1, run-2'),
        ({"run-0": 0}, "all zero"),
        ({}, "all zero"),
        ([1, "a lot", 1], "weights are a sequence of numbers"),
        ([1, math.inf, 1], "not finite"),
    ],
)
def test_wrong_weights_are_told(weights, message):
    """Missing, invalid or too few weights, or those of unknown ingredients, raise a RecipeError."""
    with pytest.raises(RecipeError, match=message):
        run("weighted", None, weights=weights)


@pytest.mark.parametrize(
    ("scores", "higher", "params", "expected"),
    [
        ([0.9, 0.6, 0.3], True, {"scheme": "proportional"}, [3, 2, 1]),
        ([2.0, 0.5, 1.0], False, {"scheme": "proportional"}, [1, 4, 2]),
        ([0.50, 0.51, 0.53], True, {}, [1, math.e, math.e**3]),
        ([0.50, 0.51, 0.53], False, {}, [math.e**3, math.e**2, 1]),
        ([0.5, 0.6, 0.7], True, {"temperature": 0.2}, [1, math.e**0.5, math.e]),
        ([0.5, 0.9, 0.7], True, {"scheme": "rank"}, [1, 3, 2]),
        ([0.5, 0.9, 0.7], False, {"scheme": "rank"}, [3, 1, 2]),
        ([0.5, 0.9, 0.5], True, {"scheme": "rank"}, [1.5, 3, 1.5]),
        ([-0.5, 0.9, 0.0], True, {"scheme": "rank"}, [1, 3, 2]),
    ],
)
def test_weights_by_performance(scores, higher, params, expected):
    """Each scheme gives weights in the proportions of its definition."""
    table = {str(index): score for index, score in enumerate(scores)}
    trials = FakeTrials(lambda recipe: table.get(recipe.names[0][-1]), higher_is_better=higher)
    recipe = run("performance", trials, **params)
    weight_of = dict(zip(recipe.names, recipe.weights, strict=True))
    shares = np.array([weight_of[f"run-{index}"] for index in range(3)]) / sum(recipe.weights)
    assert np.allclose(shares, np.array(expected) / sum(expected), rtol=1e-9)


def test_performance_scores_what_it_gives():
    """The soup itself is scored once, and its row names the scheme."""
    trials = FakeTrials(mixed({"run-0": 0.5, "run-1": 0.7, "run-2": 0.6}))
    choice = choose("performance", trials, scheme="rank")
    recipe = choice.mixture
    assert recipe.names == ("run-1", "run-2", "run-0")
    assert [asked.weights for asked in trials.asked[3:]] == [(3, 2, 1)]
    assert tried(choice) == [("all, by rank", True)]


@pytest.mark.parametrize(
    ("scores", "higher"), [([-0.1, 0.5, 0.5], True), ([0.0, 0.0, 0.0], True), ([0.0, 0.5, 0.5], False)]
)
def test_scores_that_cannot_be_weights(scores, higher):
    """Proportional weights of negative or zero scores raise a RecipeError that suggests other schemes."""
    table = dict(zip(["0", "1", "2"], scores, strict=True))
    with pytest.raises(RecipeError, match=r"cannot be weights; use scheme='softmax' or scheme='rank'"):
        run("performance", trials_of(table, higher_is_better=higher), scheme="proportional")


def test_a_temperature_is_positive():
    """A temperature that is not positive raises a RecipeError; a very low one gives the best all the weight."""
    for wrong in (0, -1, math.nan):
        with pytest.raises(RecipeError, match="temperature has to be greater than 0"):
            run("performance", FakeTrials(lambda recipe: 0.5), temperature=wrong)
    cold = run("performance", FakeTrials(mixed({"run-0": 0.5, "run-1": 0.7, "run-2": 0.6})), temperature=1e-6)
    assert (cold.names[0], cold.weights) == ("run-1", (1, 0, 0))


# --- diverse


class Deciding(FakeTrials):
    """Trials in which a string of digits gives each ingredient's decision for each example."""

    def __init__(self, score, digits):
        super().__init__(score, examples=len(next(iter(digits.values()))))
        self.digits = digits

    def logits(self, ingredient):
        """Predictions with a logit of one for the class of the decision."""
        classes = np.array([int(digit) for digit in self.digits[ingredient.name]])
        rows = np.arange(len(classes))
        return Predictions(np.eye(2)[classes], np.zeros(len(classes), int), rows)


DIGITS = {"run-0": "0000", "run-1": "0001", "run-2": "1110", "run-3": "1111", "run-4": "0000"}
WORTH = {"run-0": 0.9, "run-1": 0.8, "run-2": 0.7, "run-3": 0.6, "run-4": 0.5}


@pytest.mark.parametrize(
    ("diversity", "expected"),
    [
        (0.0, ["1, which differs in 25.0%", "2, which differs in 87.5%", "3, which differs in 66.7%"]),
        # run-3 differs most from run-0; 1, 2 and 4 differ in half from these two, so scores decide
        (1.0, ["3, which differs in 100.0%", "1, which differs in 50.0%", "2, which differs in 66.7%"]),
        # ranks by score 0 1 2 3 and by difference 2 1 0 3: the first three tie, so the best one is next
        (0.5, ["1, which differs in 25.0%", "2, which differs in 87.5%", "3, which differs in 66.7%"]),
        (0.6, ["3, which differs in 100.0%", "1, which differs in 50.0%", "2, which differs in 66.7%"]),
    ],
)
def test_diverse_goes_by_score_and_difference(diversity, expected):
    """The next candidate has the best mean of its ranks by score and by mean difference from those chosen so far."""
    trials = Deciding(lambda recipe: WORTH[recipe.names[0]], DIGITS)
    choice = choose("diverse", trials, 5, diversity=diversity)
    assert tried(choice) == [(f"+ run-{what}", True) for what in [*expected, "4, which differs in 50.0%"]]


@often
@hypothesis.given(seed=seeds, n=st.integers(1, 6), accept=st.sampled_from([">=", ">"]))
def test_diverse_by_score_alone_is_greedy(seed, n, accept):
    """With diversity 0 the soup is that of greedy."""
    diverse, greedy = (
        run(name, FakeTrials(right=at_random(seed, n)), 5, accept=accept, **params)
        for name, params in (("diverse", {"diversity": 0}), ("greedy", {}))
    )
    assert (diverse.ingredients, diverse.weights) == (greedy.ingredients, greedy.weights)


@pytest.mark.parametrize("diversity", [-0.1, 1.1, math.nan])
def test_diversity_is_a_share(diversity):
    """A diversity outside 0 to 1 raises a RecipeError."""
    with pytest.raises(RecipeError, match="diversity is between 0 and 1"):
        run("diverse", FakeTrials(lambda recipe: 0.5), diversity=diversity)


# --- layerwise


def by_module(worth, default=0.5):
    """The mean over modules of a value for the set of ingredients, written as digits, in each module."""

    def score(recipe):
        digits = ["".join(sorted(name[-1] for name in in_module(recipe, module))) for module in MODULES]
        values = [worth.get((m, who), worth.get(who, default)) for m, who in zip(MODULES, digits, strict=True)]
        return sum(values) / len(MODULES)

    return score


def inside(recipe):
    """The ingredients with a nonzero weight in each module, as digits, from the bottom up."""
    return ["".join(name[-1] for name in recipe.names if name in in_module(recipe, m)) for m in MODULES]


@pytest.mark.parametrize("mode", ["selective", "greedy"])
@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, MODULES[::-1]),
        ({"module_order": "bottom_up"}, MODULES),
        ({"modules": ["encoder"]}, ("encoder.layer.1", "encoder.layer.0")),
        ({"modules": ["encoder", "embeddings"], "module_order": "bottom_up"}, MODULES[:3]),
        (
            {"modules": ["classifier", "encoder", "embeddings", "encoder.layer.1"], "module_order": "given"},
            ("classifier", "encoder.layer.0", "encoder.layer.1", "embeddings"),
        ),
    ],
)
def test_layerwise_asks_module_by_module(mode, params, expected):
    """Modules are tried from the head down, from the bottom up or as given; a prefix stands for all below it."""
    trials = FakeTrials(lambda recipe: float(len(recipe.names) == 1))
    choice = choose("layerwise", trials, 2, mode=mode, **params)
    recipe = choice.mixture
    what = "of all" if mode == "selective" else "+ run-1"
    assert tried(choice) == [(f"{module} {what}", False) for module in expected]
    rows = [{module: (1, float(module == which)) for module in MODULES} for which in expected]
    assert [asked.weights for asked in trials.asked[2:]] == rows
    assert (recipe.names, recipe.weights) == (("run-0",), (1,))


def test_layerwise_keeps_what_helps():
    """A module is averaged over all ingredients if the score does not drop, and otherwise stays that of the best."""
    worth = {"0": 0.8, "1": 0.7, "2": 0.6, ("classifier", "012"): 0.9, ("embeddings", "012"): 0.8}
    recipe = run("layerwise", FakeTrials(by_module(worth)))
    assert inside(recipe) == ["012", "0", "0", "012"]
    assert recipe.weights == {m: (1, 1, 1) if m in ("classifier", "embeddings") else (1, 0, 0) for m in MODULES}
    assert inside(run("layerwise", FakeTrials(by_module(worth)), accept=">")) == ["0", "0", "0", "012"]


def test_layerwise_of_everything_is_one_row():
    """If every module is averaged over all ingredients, the recipe is the uniform soup."""
    recipe = run("layerwise", FakeTrials(lambda recipe: 0.5))
    assert recipe.weights == (1, 1, 1)


def test_layerwise_greedy_has_a_soup_in_each_module():
    """In greedy mode each module gets the ingredients with which, one by one, the score does not drop."""
    worth = {"0": 0.8, "1": 0.7, "2": 0.6, ("classifier", "01"): 0.9, ("embeddings", "02"): 0.8}
    worth |= {("encoder.layer.1", "01"): 0.85, ("encoder.layer.1", "012"): 0.86}
    choice = choose("layerwise", FakeTrials(by_module(worth)), mode="greedy")
    recipe = choice.mixture
    assert inside(recipe) == ["02", "0", "012", "01"]
    assert [what for what, kept in tried(choice) if kept] == [
        "classifier + run-1",
        "encoder.layer.1 + run-1",
        "encoder.layer.1 + run-2",
        "embeddings + run-2",
    ]


def test_layerwise_may_begin_with_a_greedy_soup():
    """With `start="greedy"` all modules start as the greedy soup, which has a row of its own."""
    worth = {"0": 0.8, "1": 0.7, "2": 0.6, "01": 0.85, ("classifier", "012"): 0.9}
    choice = choose("layerwise", FakeTrials(by_module(worth)), start="greedy")
    recipe = choice.mixture
    assert inside(recipe) == ["01", "01", "01", "012"]
    assert tried(choice)[:4] == [
        ("+ run-1", True),
        ("+ run-2", False),
        ("greedy soup of run-0, run-1", True),
        ("classifier of all", True),
    ]


@pytest.mark.parametrize(
    ("params", "averaged"),
    [
        ({"mode": "heads"}, MODULES[3:]),
        ({"mode": "body"}, MODULES[:3]),
        ({"mode": "heads", "modules": ["encoder.layer.1"]}, ("encoder.layer.1",)),
        ({"mode": "body", "modules": ["embeddings", "encoder"]}, MODULES[:3]),
    ],
)
def test_layerwise_as_told(params, averaged):
    """Heads, body or named modules are averaged over all ingredients whatever the score; the rest is the best's."""
    choice = choose("layerwise", FakeTrials(mixed({"run-0": 0.1, "run-1": 0.9, "run-2": 0.5}, bonus=-1)), **params)
    recipe = choice.mixture
    assert recipe.names == ("run-1", "run-2", "run-0")
    assert recipe.weights == {m: (1, 1, 1) if m in averaged else (1, 0, 0) for m in MODULES}
    assert tried(choice) == [(f"{', '.join(averaged)} of all", True)]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"modules": ["classifer"]}, r'the model has no module "classifer"; did you mean "classifier"\?'),
        ({"modules": ["enc"]}, 'the model has no module "enc"'),
        ({"modules": []}, "modules is an empty list"),
        ({"modules": "encoder"}, r"modules is a list of names: write \['encoder'\]"),
        ({"mode": "heads"}, r"no head apart from its body; name modules=\[\.\.\.\]"),
        ({"mode": "body"}, "no head apart from its body"),
    ],
)
def test_layerwise_says_what_is_wrong(params, message):
    """Unknown modules raise a RecipeError with the nearest name, models without a separate head one with advice."""
    with pytest.raises(RecipeError, match=message):
        run("layerwise", FakeTrials(lambda recipe: 0.5, heads=()), **params)


# --- interpolate


def by_alpha(scores):
    """A function that scores points by their alpha in a table, and ingredients by 0.5."""

    def score(recipe):
        row = recipe.weights_by_module.get("", recipe.weights)
        return scores[round(1 - row[-1], 6)] if recipe.names[-1] == "start" else scores.get(1.0, 0.5)

    return score


@pytest.mark.parametrize("sign", [1, -1])
def test_interpolate_takes_the_best_point(sign):
    """Every alpha has a row with its score; the best point is the soup, with 1 - alpha on the base model."""
    table = {0.0: 0.3, 0.25: 0.6, 0.75: 0.8, 1.5: 0.1}
    trials = FakeTrials(lambda recipe: sign * by_alpha(table)(recipe), higher_is_better=sign == 1)
    choice = choose("interpolate", trials, 3, alphas=[0, 0.25, 0.75, 1, 1.5])
    recipe = choice.mixture
    assert recipe.names == ("run-0", "run-1", "run-2", "start")
    assert recipe.weights == (0.25, 0.25, 0.25, 0.25)
    rows = [row for row in choice.trials if row.alpha is not None]
    assert {row.alpha: row.score * sign for row in rows} == {**table, 1: 0.5}
    assert [row.alpha for row in rows if row.kept] == [choice.alpha] == [0.75]
    assert trials.asked[-1].weights == (0.5, 0.5, 0.5, -0.5)


@pytest.mark.parametrize("alphas", [(0.5, 0, 1), (0, 1), (1, 0.5), (2.0,)])
def test_interpolate_keeps_the_first_of_equals(alphas):
    """Of points with equal scores the first is kept; at alpha 1 the base model is not in the recipe."""
    choice = choose("interpolate", FakeTrials(lambda recipe: 0.5), 2, alphas=alphas)
    recipe = choice.mixture
    assert choice.alpha == alphas[0]
    assert recipe.names == (("run-0", "run-1") if alphas[0] == 1 else ("run-0", "run-1", "start"))


def test_interpolate_gives_what_the_base_lacks():
    """A module missing from the base model is that of the end at every point, even at alpha 0."""
    for alpha in (0.0, 0.4, 1.5):
        trials = FakeTrials(lambda recipe: 0.5, lacks=["classifier"])
        recipe = run("interpolate", trials, 2, alphas=[alpha])
        assert recipe.weights == {"": (alpha / 2, alpha / 2, 1 - alpha), "classifier": (1, 1, 0)}


@pytest.mark.parametrize(("end", "expected"), [("uniform", "102"), ("greedy", "10"), ("best", "1")])
def test_interpolate_ends_where_told(end, expected):
    """The end of the interpolation is the uniform soup, a greedy soup or the best ingredient."""
    worth = {"run-0": 0.85, "run-1": 0.9, "run-2": 0.1, "start": 0.5}
    recipe = run("interpolate", FakeTrials(mixed(worth)), 3, end=end, alphas=[0.5])
    assert "".join(name[-1] for name in recipe.names[:-1]) == expected
    assert recipe.weights[-1] == 0.5


def test_interpolate_needs_a_point():
    """An empty list of alphas raises a RecipeError."""
    with pytest.raises(RecipeError, match="alphas is empty; it lists the points to score"):
        run("interpolate", FakeTrials(lambda recipe: 0.5), alphas=[])


# --- learned, search

VALUE = {"run-0": 0.0, "run-1": 1.0, "run-2": 0.6}


def means(recipe, values=VALUE):
    """For each module, the weighted mean of one number per ingredient."""
    rows = [recipe.weights_by_module.get(module, recipe.weights_by_module.get("")) for module in MODULES]
    numbers = [values[name] for name in recipe.names]
    return np.array([np.dot(row, numbers) / sum(row) for row in rows])


def misses(target):
    """A smooth score: minus the squared distance between the means of the modules and their targets."""
    return lambda recipe: -float(np.square(means(recipe) - target).mean())


def shares(recipe):
    """The weights by name, which sum to one."""
    return dict(zip(recipe.names, np.divide(recipe.weights, sum(recipe.weights)), strict=True))


def test_learned_finds_the_optimum_of_a_model():
    """For two ingredients with values 0 and 1 and target 0.3, the learned weights are 0.7 and 0.3."""
    for seed in range(3):
        recipe = run("learned", FakeTrials(misses(0.3)), 2, epochs=60, patience=60, train_batch_size=100, seed=seed)
        assert shares(recipe) == pytest.approx({"run-0": 0.7, "run-1": 0.3}, abs=0.01)


def test_learned_finds_the_optimum_of_each_module():
    """With weights by module each module reaches its own target, which weights by model cannot."""
    target, params = np.array([0.2, 0.4, 0.6, 0.8]), {"epochs": 80, "patience": 80, "train_batch_size": 100}
    recipe = run("learned", FakeTrials(misses(target)), by="module", **params)
    assert set(recipe.weights_by_module) == set(MODULES)
    assert means(recipe) == pytest.approx(target, abs=0.02)
    assert means(run("learned", FakeTrials(misses(target)), **params)) == pytest.approx(np.full(4, 0.5), abs=0.02)


class Tempered(FakeTrials):
    """Trials in which the loss has a constant derivative by the scale of the logits."""

    def gradient(self, recipe, rows, scale=1.0):
        """Return the usual gradient, with a derivative by the scale."""
        gradient = super().gradient(recipe, rows, scale)
        return Gradient(gradient.loss, gradient.weights, 0.25)


def test_the_first_step_is_the_learning_rate():
    """One step of AdamW changes each parameter by the learning rate: weights e^-0.1 and e^0.1, temperature e^0.1."""
    choice = choose("learned", Tempered(misses(1.0)), 2, epochs=1, train_batch_size=100)
    recipe = choice.mixture
    assert shares(recipe) == pytest.approx({"run-1": 1 / (1 + math.exp(-0.2)), "run-0": 1 / (1 + math.exp(0.2))})
    assert choice.temperature == pytest.approx(math.exp(0.1))


class Counted(FakeTrials):
    """Trials that count the requests for a gradient."""

    steps = 0

    def gradient(self, recipe, rows, scale=1.0):
        """Count the request and return the usual gradient."""
        self.steps += 1
        return super().gradient(recipe, rows, scale)


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_learning_stops_where_nothing_is_gained(patience):
    """Starting at the optimum, learning continues for `patience` epochs and keeps the starting weights."""
    trials = Counted(misses(0.5))
    recipe = run("learned", trials, 2, epochs=9, patience=patience, train_batch_size=30)
    assert recipe.weights == (0.5, 0.5)
    assert trials.steps == patience * math.ceil(80 / 30)


def test_adamw_is_its_formula():
    """Ten steps with weight decay agree with algorithm 2 of the paper, computed number by number."""
    rng = np.random.default_rng(0)
    values, rate, decay = rng.normal(size=(2, 3)), 0.05, 0.1
    expected, m, v = values.copy(), np.zeros((2, 3)), np.zeros((2, 3))
    optimizer = AdamW((2, 3), rate, decay)
    for t in range(1, 11):
        gradient = rng.normal(size=(2, 3))
        optimizer.step(values, gradient)
        for i in np.ndindex(2, 3):
            m[i] = 0.9 * m[i] + (1 - 0.9) * gradient[i]
            v[i] = 0.999 * v[i] + (1 - 0.999) * gradient[i] ** 2
            step = m[i] / (1 - 0.9**t) / (math.sqrt(v[i] / (1 - 0.999**t)) + 1e-8)
            expected[i] = expected[i] - rate * step - rate * decay * expected[i]
    assert np.allclose(values, expected, rtol=1e-12)


@pytest.mark.parametrize("by", ["model", "module"])
@pytest.mark.parametrize("learning_rate", [1e-9, 1.0, 1e3])
def test_learned_weights_are_numbers(by, learning_rate):
    """At any learning rate the weights are finite and do not depend on the order of the ingredients."""
    trials, params = FakeTrials(misses(0.3)), {"by": by, "learning_rate": learning_rate}
    recipe = run("learned", trials, **params)
    assert all(math.isfinite(weight) for row in recipe.weights_by_module.values() for weight in row)
    assert run("learned", trials, items=RUNS[2::-1], **params) == recipe


@pytest.mark.parametrize("params", [{"held_back": x} for x in (0, 1, -0.5, 0.001)] + [{"epochs": 0}, {"patience": 0}])
def test_learned_says_what_is_out_of_range(params):
    """Invalid values of `held_back`, `epochs` and `patience` raise a RecipeError before anything is scored."""
    trials = FakeTrials(misses(0.3))
    with pytest.raises(RecipeError, match=r"held_back is .*of 100 examples|are 1 or more"):
        run("learned", trials, **params)
    assert not trials.asked


@pytest.mark.parametrize("by", ["model", "module"])
def test_search_is_never_worse_and_keeps_its_budget(by):
    """The number of soups scored equals the budget, the best one scored is returned, and the seed decides."""
    for budget in (1, 2, 13, 40):
        trials = FakeTrials(misses(0.3))
        choice = choose("search", trials, by=by, budget=budget, seed=1)
        recipe = choice.mixture
        assert len(trials.asked) == 3 + budget
        assert len(tried(choice)) == budget
        scores = [misses(0.3)(asked) for asked in trials.asked]
        assert misses(0.3)(recipe) == max(scores) == max(row.score for row in choice.trials)
        assert run("search", FakeTrials(misses(0.3)), by=by, budget=budget, seed=1) == recipe
    assert run("search", FakeTrials(misses(0.3)), by=by, budget=40, seed=2) != recipe


def test_search_finds_the_optimum():
    """With a budget of 300 soups each module gets close to its own target."""
    target = np.array([0.2, 0.4, 0.6, 0.8])
    recipe = run("search", FakeTrials(misses(target)), by="module", budget=300)
    assert means(recipe) == pytest.approx(target, abs=0.1)


@pytest.mark.parametrize("score", [lambda recipe: 0.5, lambda recipe: recipe.weights[0] / sum(recipe.weights)])
def test_search_keeps_the_best_alone_where_nothing_is_better(score):
    """If no soup is better than the best ingredient, the result is that ingredient."""
    recipe = run("search", FakeTrials(score), budget=400)
    assert (recipe.names, recipe.weights) == (("run-0",), (1,))


def test_search_needs_a_budget_and_cmaes(monkeypatch):
    """A budget or sigma of zero raises a RecipeError; a missing cmaes raises an error with the pip command."""
    for wrong in ({"budget": 0}, {"sigma": 0}):
        with pytest.raises(RecipeError, match="budget and sigma have to be greater than 0"):
            run("search", FakeTrials(misses(0.3)), **wrong)
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hf-soup\[search\]'"):
        run("search", FakeTrials(misses(0.3)))


class WithPredictions(FakeTrials):
    """Trials with predictions of two classes, with losses and with standard errors."""

    def __init__(self, score, logits, *, losses=None, half_width=None):
        super().__init__(score, examples=len(next(iter(logits.values()))))
        self._logits, self._losses, self._half_width = logits, losses, half_width

    def logits(self, ingredient):
        """The given ones; every label is 1."""
        logits = np.asarray(self._logits[ingredient.name], dtype=np.float32)
        return Predictions(np.stack([-logits, logits], axis=1), np.ones(len(logits), np.int64), np.arange(len(logits)))

    def loss(self, mixture):
        """The loss of the table, by the number of ingredients."""
        return None if self._losses is None else self._losses[len(mixture.names)]

    def difference(self, mixture, other):
        """The difference of the scores, with an interval of a fixed width."""
        if self._half_width is None:
            return None
        value = self._value(mixture) - self._value(other)
        return value - self._half_width, value + self._half_width


def test_ensemble_weights_leave_out_what_only_harms():
    """An ingredient that contradicts every label gets no weight, and equal predictions get equal weights."""
    good, bad = np.linspace(-0.2, 2, 50), np.full(50, -3.0)
    logits = {"run-0": good, "run-1": good, "run-2": bad}
    mixture = run("ensemble_weights", WithPredictions(lambda mixture: len(mixture.names), logits))
    assert set(mixture.names) == {"run-0", "run-1"}
    assert mixture.totals[0] == pytest.approx(mixture.totals[1], rel=1e-4)


def test_ensemble_weights_are_equal_where_nothing_tells_the_models_apart():
    """With the same predictions of all ingredients the whole share is that of equal weights."""
    same = np.linspace(-0.2, 2, 50)
    mixture = run("ensemble_weights", WithPredictions(lambda mixture: 1.0, {f"run-{n}": same for n in range(3)}))
    assert mixture.totals == pytest.approx([1 / 3] * 3)


def test_bagged_greedy_counts_its_selections():
    """In one bag of all, the two best are selected first, and the one that lowers the loss further is added again."""
    logits = {"run-0": np.full(40, 2.0), "run-1": np.full(40, 1.0), "run-2": np.full(40, -1.0)}
    trials = WithPredictions(lambda mixture: 0.5, logits)
    choice = choose("bagged_greedy", trials, bags=1, fraction=1.0, start=2, steps=3)
    # run-0 and run-1 begin; each step then adds run-0, with which the mean logit rises most
    assert dict(zip(choice.mixture.names, choice.mixture.totals, strict=True)) == {"run-0": 4, "run-1": 1}
    assert [trial.tried for trial in choice.trials][-1] == "counts of 1 bags"


@pytest.mark.parametrize(("losses", "kept"), [({1: 0.5, 2: 0.4, 3: 0.3}, 3), ({1: 0.5, 2: 0.6, 3: 0.6}, 1)])
def test_greedy_decides_ties_by_loss(losses, kept):
    """With `accept="loss"` an ingredient that leaves the score unchanged is kept only if the loss does not rise."""
    logits = {f"run-{n}": np.zeros(4) for n in range(3)}
    trials = WithPredictions(lambda mixture: 0.5, logits, losses=losses)
    assert len(run("greedy", trials, accept="loss").names) == kept
    assert len(run("greedy", trials).names) == 3


@pytest.mark.parametrize(("half_width", "kept"), [(0.0, 1), (0.0196, 2), (0.06, 3)])
def test_greedy_allows_one_standard_error(half_width, kept):
    """A soup that scores lower is accepted if it lacks at most one standard error of the difference to the best."""
    worth = {1: 0.9, 2: 0.89, 3: 0.88}
    logits = {f"run-{n}": np.zeros(4) for n in range(3)}
    trials = WithPredictions(lambda mixture: worth[len(mixture.names)], logits, half_width=half_width)
    assert len(run("greedy", trials, one_standard_error=True).names) == kept
    assert len(run("greedy", trials).names) == 1


def test_auto_prefers_the_mean_within_a_standard_error():
    """If the best single ingredient leads by less than a standard error, the uniform soup is taken."""
    logits = {f"run-{n}": np.zeros(40) for n in range(3)}
    worth = {1: 0.9, 2: 0.88, 3: 0.89}
    for half_width, names in ((0.1, 3), (0.001, 1)):
        trials = WithPredictions(lambda mixture: worth[len(mixture.names)], logits, half_width=half_width)
        choice = choose("auto", trials)
        assert len(choice.mixture.names) == names
        kept = [trial.tried for trial in choice.trials if trial.kept and not trial.ingredient]
        assert kept == (["uniform soup"] if names == 3 else ["greedy soup"])  # greedy keeps the best single one here


def test_auto_averages_the_last_snapshots_of_each_run():
    """Of runs with several snapshots, the last ones are averaged, or the means of the last three of each run; the
    first snapshots are in neither mean.
    """
    places = [f"a/checkpoint-{step}" for step in (90, 100, 110, 120)] + ["b/checkpoint-90", "b"]
    items = [Ingredient(place, place) for place in places]
    logits = {place: np.zeros(40) for place in places}
    for best, shares in ((2, {"a/checkpoint-120": 1 / 2, "b": 1 / 2}), (5, {"b": 1 / 4, "a/checkpoint-100": 1 / 6})):
        trials = WithPredictions(lambda mixture, best=best: float(len(mixture.names) == best), logits, half_width=0.01)
        mixture = choose("auto", trials, items=items).mixture
        assert len(mixture.names) == best
        weights = dict(zip(mixture.names, mixture.totals, strict=True))
        assert {name: weights[name] / sum(weights.values()) for name in shares} == pytest.approx(shares)


@pytest.mark.parametrize(
    "items",
    [
        [Ingredient(f"model-{number}", "memory") for number in range(3)],
        [
            Ingredient("one", "me/model", "a" * 40),
            Ingredient("two", "me/model", "b" * 40),
            Ingredient("other", "me/o"),
        ],
    ],
)
def test_auto_averages_models_of_one_source(items):
    """Models in memory, and several revisions of a repository, are models of their own and no snapshots."""
    trials = WithPredictions(lambda mixture: 0.5, {item.name: np.zeros(40) for item in items}, half_width=0.1)
    assert len(choose("auto", trials, items=items).mixture.names) == 3


def test_auto_costs_at_most_three_times_greedy():
    """For any number of ingredients, the requested scores of different mixtures are at most three times greedy's."""
    for count in (2, 3, 5):
        asked = {}
        for name in ("greedy", "auto"):
            trials = FakeTrials(mixed({item.name: 0.1 * index for index, item in enumerate(RUNS)}))
            choose(name, trials, count)
            asked[name] = len({(mixture.names, mixture.totals) for mixture in trials.asked})
        assert asked["auto"] <= 3 * asked["greedy"]


def test_auto_passes_over_what_is_below_the_best_single_one():
    """A mean that is as good on the halves, but visibly below the best single ingredient on all, is not taken."""
    logits = {f"run-{n}": np.zeros(40) for n in range(3)}

    class OnHalves(WithPredictions):
        """On a part of the examples every mixture scores alike."""

        def subset(self, examples):
            """Trials that tell nothing apart."""
            return WithPredictions(lambda mixture: 0.5, logits, half_width=0.1)

    worth = {1: 0.9, 2: 0.8, 3: 0.7}
    choice = choose("auto", OnHalves(lambda mixture: worth[len(mixture.names)], logits, half_width=0.02))
    assert len(choice.mixture.names) == 1
    near = choose("auto", OnHalves(lambda mixture: worth[len(mixture.names)], logits, half_width=0.5))
    assert len(near.mixture.names) == 3


# --- soce


class Categories(FakeTrials):
    """Trials with values of categories: those of a mixture are the weighted means of those of its ingredients."""

    def __init__(self, table, **settings):
        self.table = table
        super().__init__(lambda mixture: float(np.mean(list(self.values(mixture).values()))), **settings)

    def values(self, mixture):
        """The value of each category, where weak ones count more than in proportion."""
        shares = np.array(mixture.weights) / sum(mixture.weights)
        rows = np.array([self.table[name] for name in mixture.names])
        values = np.sqrt(shares @ rows**2)
        return dict(zip("abcd"[: len(values)], values, strict=True))

    def score(self, mixture, beat=None):
        """The mean, with the categories beside it."""
        found = super().score(mixture, beat) if beat is not None else super().score(mixture)
        return replace(found, others=self.values(mixture)) if isinstance(found, Score) else found

    def map(self, mixtures, beat=None):
        """One after the other."""
        return [self.score(mixture, beat) for mixture in mixtures]


EXPERTS = {  # a and b go together, and so do c and d
    "run-0": [0.9, 0.9, 0.1, 0.2],
    "run-1": [0.8, 0.85, 0.2, 0.1],
    "run-2": [0.1, 0.2, 0.9, 0.8],
    "run-3": [0.5, 0.5, 0.45, 0.5],
}


def test_soce_averages_the_expert_of_each_group():
    """One expert of the categories that go together, the other of the rest, with the best weights of the grid."""
    choice = choose("soce", Categories(EXPERTS), 4)
    assert choice.mixture.names == ("run-0", "run-2")
    trials, table = Categories(EXPERTS), {}
    for share in np.arange(1, 10) / 10:
        table[share] = trials.score(Mixture(RUNS[0:3:2], (share, 1 - share))).value
    best = max(table, key=table.get)
    assert choice.mixture.weights == pytest.approx((best, 1 - best))
    assert len(tried(choice)) == 9
    assert "0.5 run-0 + 0.5 run-2" in dict(tried(choice))
    coarse = choose("soce", Categories(EXPERTS), 4, step=0.5)
    assert coarse.mixture.weights == (0.5, 0.5)


def test_soce_without_categories_that_differ():
    """One group of categories, equal values, or none at all: the best single ingredient."""
    assert run("soce", Categories({name: row[:2] for name, row in EXPERTS.items()}), 4).names == ("run-0",)
    assert run("soce", Categories({name: [0.5, 0.5] for name in EXPERTS}), 4).names == ("run-0",)
    assert run("soce", FakeTrials(lambda mixture: 0.1 * len(mixture.names)), 4).names == ("run-0",)


@pytest.mark.parametrize("higher", [True, False])
def test_soce_goes_by_the_direction_of_the_metric(higher):
    """Where lower is better, the expert of a category has the lowest value."""
    table = EXPERTS if higher else {name: [1 - value for value in row] for name, row in EXPERTS.items()}
    assert set(run("soce", Categories(table, higher_is_better=higher), 3).names) <= {"run-0", "run-1", "run-2"}
    experts = _experts(RUNS[:3], {name: dict(zip("abcd", table[name], strict=True)) for name in table}, 0.5, higher)
    assert [item.name for item in experts] == ["run-0", "run-2"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"together": 2}, "together is a correlation from -1 to 1, not 2"),
        ({"step": 0}, "step is a part of the whole weight"),
        ({"step": 0.001}, "2 experts have more than 500 mixtures in steps of 0.001"),
    ],
)
def test_soce_refuses(params, message):
    """Parameters out of range, and grids that take too long."""
    with pytest.raises(RecipeError, match=message):
        run("soce", Categories(EXPERTS), 4, **params)
