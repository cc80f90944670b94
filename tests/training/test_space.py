"""Spaces: grids, lists and reproducible draws."""

import itertools
import json
import tracemalloc

import numpy as np
import pytest

from hf_soup.errors import RecipeError
from hf_soup.training.space import MOST_RUNS, expand_space, share_single_values


def test_a_grid_is_every_combination():
    """Sequences, ranges and single values are combined in the order in which they are written."""
    space = {"learning_rate": [1e-5, 3e-5], "seed": range(2), "weight_decay": 0.1, "augment": {"rotate": 5}}
    runs = expand_space(space)
    assert [(run["learning_rate"], run["seed"]) for run in runs] == [(1e-5, 0), (1e-5, 1), (3e-5, 0), (3e-5, 1)]
    assert all(run["weight_decay"] == 0.1 and run["augment"] == {"rotate": 5} for run in runs)
    assert expand_space({"seed": {"range": 3}}) == [{"seed": 0}, {"seed": 1}, {"seed": 2}]


def test_draws_are_within_bounds_different_and_repeatable():
    """Draws lie within their bounds, differ from each other and depend only on the seed."""
    ends = {"learning_rate": {"loguniform": [1e-5, 1e-3]}, "weight_decay": {"uniform": [0, 0.1]}}
    space = {**ends, "seed": {"range": 4}}
    runs = expand_space(space, n_runs=50, seed=3)
    assert len({str(run) for run in runs}) == 50
    assert all(1e-5 <= run["learning_rate"] <= 1e-3 for run in runs)
    assert all(0 <= run["weight_decay"] <= 0.1 and run["seed"] in range(4) for run in runs)
    assert sum(run["learning_rate"] < 1e-4 for run in runs) in range(15, 36)  # half of them, on a log scale
    assert expand_space(space, n_runs=50, seed=3) == runs != expand_space(space, n_runs=50, seed=4)
    assert len(expand_space({"seed": [0, 1, 2]}, n_runs=3)) == 3


def test_distributions_and_numpy():
    """`choice` and `integers` draw the values they name, including both ends; numpy values become plain ones."""
    space = {
        "seed": {"integers": [3, 6]},
        "optimizer": {"choice": ["sgd", "adam"]},
        "weight_decay": np.array([0.0, 0.5]),
    }
    runs = expand_space(space, n_runs=16)
    assert {run["seed"] for run in runs} == {3, 4, 5, 6}
    assert {run["optimizer"] for run in runs} == {"sgd", "adam"}
    assert json.loads(json.dumps(runs)) == runs
    assert expand_space({"seed": np.arange(2), "learning_rate": np.float64(0.1)}) == [
        {"seed": 0, "learning_rate": 0.1},
        {"seed": 1, "learning_rate": 0.1},
    ]
    with pytest.raises(RecipeError, match="only 16 different settings"):
        expand_space(space, n_runs=17)


@pytest.mark.parametrize(
    ("space", "n_runs", "message"),
    [
        ({"learning_rate": []}, None, "space is empty"),
        (["a"], None, "space is a mapping of names to values"),
        (None, None, "space is a mapping of names to values"),
        ([], None, "space is empty"),
        ([{"seed": 1}, {"seed": 1}], None, "is given twice"),
        ({"learning_rate": {"loguniform": [1e-5, 1e-3]}}, None, "need `n_runs`"),
        ({"learning_rate": {"loguniform": [1e-3, 1e-5]}}, 3, "lower end below"),
        ({"learning_rate": {"lognormal": [1e-5, 1e-3]}}, 3, 'unknown distribution; did you mean "loguniform"'),
        ({"seed": [0, 1]}, 3, "only 2 different settings"),
        ({"seed": [0, 1]}, 0, "at least one run"),
        ({"seed": [0, 0, 1]}, 3, "only 2 different settings"),
        ({"seed": {"range": "8"}}, 3, "write {range: 8 or"),
        ({"weight_decay": {"uniform": 3}}, 3, "write {uniform: "),
        ({"seed": {"integers": [4, 2]}}, 3, "lower end below"),
        ({"seed": {"choice": 4}}, 3, "write {choice: "),
        ({"seed": {"integers": [0, 4]}}, None, "need `n_runs`"),
        ({"weight_decay": {"loguniform": [1e-5]}}, 3, "write {loguniform: "),
    ],
)
def test_spaces_that_make_no_sense(space, n_runs, message):
    """Empty spaces, repeated settings and invalid distributions raise a RecipeError."""
    with pytest.raises(RecipeError, match=message):
        expand_space(space, n_runs=n_runs)


def test_a_grid_is_not_built_to_draw_of_it():
    """Draws from huge grids and ranges take little memory and are the same as from lists."""
    values = list(range(1, 101))
    space = dict.fromkeys("abcde", values)
    tracemalloc.start()
    try:
        runs = expand_space(space, n_runs=8)
        seeds = expand_space({"seed": {"range": 10**12}}, n_runs=3) + expand_space({"seed": range(10**12)}, n_runs=3)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
    assert list(runs[0].values()) == [86, 64, 52, 27, 31]  # must not change, so that a sweep finds its runs again
    assert list(runs[7].values()) == [55, 9, 30, 49, 43]
    assert seeds[:3] == seeds[3:]
    assert expand_space({"seed": range(50)}, n_runs=9) == expand_space({"seed": list(range(50))}, n_runs=9)
    assert share_single_values({"seed": {"range": 1}, "a": [1, 2]}) == ({"a": [1, 2]}, {"seed": 0})


@pytest.mark.parametrize(
    ("space", "n_runs", "message"),
    [
        ({name: range(100) for name in "abcde"}, None, "10,000,000,000 runs, .* draw some, with `n_runs`"),
        ({"learning_rate": {"uniform": [0, 1]}}, 10**9, "1,000,000,000 runs"),
        (({"seed": seed} for seed in itertools.count()), None, "more than 10,000 runs"),
        ({"seed": itertools.count()}, 3, "more than 1,000,000 values"),
        ({"seed": {"range": 10**30}}, 3, "more than 2.63 values"),
        ({"seed": range(10**30)}, 3, "more than 2.63 values"),
        ({"seed": {"range": [0, 5, 0]}}, 3, "write {range: 8 or"),
        ({"seed": {"integers": [0, 2**70]}}, 3, "too wide a range to draw"),
        ({"seed": {"integers": [0, float("inf")]}}, 3, "write {integers: "),
        ({"weight_decay": {"uniform": [0, float("inf")]}}, 3, "too wide a range to draw"),
        ({"weight_decay": {"uniform": [1, 1 + 3e-16]}}, 9, "only 2 different settings could be drawn"),
        ({"seed": [0, 1, 2]}, 2.0, "n_runs is a whole number, not 2.0"),
        ({"seed": [0, 1, 2]}, True, "n_runs is a whole number, not True"),
        ([{"seed": 0}, 3], None, "not of 3"),
    ],
)
def test_spaces_without_end(space, n_runs, message):
    """Too many runs or values, and ranges that are too wide or too narrow, raise a RecipeError."""
    with pytest.raises(RecipeError, match=message):
        expand_space(space, n_runs=n_runs)


def test_lists_may_be_generators():
    """A space may be a generator, even an infinite one if `n_runs` is given."""
    assert expand_space(({"seed": seed} for seed in itertools.count()), n_runs=2) == [{"seed": 0}, {"seed": 1}]
    assert len(expand_space({"seed": seed} for seed in range(MOST_RUNS))) == MOST_RUNS
