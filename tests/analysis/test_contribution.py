"""Tests of contributions: games with known values, and the soups of subsets behind the numbers."""

import itertools
import math

import numpy as np
import pytest

import hf_soup
from hf_soup import testing
from hf_soup.analysis.by_module import measure_modules
from hf_soup.analysis.contribution import contribution_cost, exact_shapley, measure_contribution, sampled_shapley
from hf_soup.analysis.points import Scorer
from hf_soup.checkpoints.source import open_all
from hf_soup.errors import RecipeError


NAMES = ("a", "b", "c", "d")


def additive(members):
    """An additive game: each player is worth the same in every coalition."""
    return sum({"a": 1.0, "b": 2.0, "c": -1.0, "d": 0.0}[name] for name in members)


def glove(members):
    """The glove game: a pair is worth 1; `a` has the only left glove, the others have right ones."""
    return float("a" in members and len(members) > 1)


def odd(members):
    """A game without symmetry."""
    return math.sin(sum(1 + 3 * NAMES.index(name) for name in members)) * len(members)


def test_games_with_known_values():
    """Values are the players' own in the additive game, and 3/4 (left) and 1/12 (each right) in the glove game."""
    shapley = exact_shapley(NAMES, additive)
    assert {name: value for name, (value, _) in shapley.items()} == pytest.approx({"a": 1, "b": 2, "c": -1, "d": 0})
    shapley = exact_shapley(NAMES, glove)
    assert shapley["a"][0] == pytest.approx(3 / 4)
    assert shapley["c"][0] == pytest.approx(1 / 12)
    assert all(error == 0 for _, error in shapley.values())


@pytest.mark.parametrize("value", [additive, glove, odd])
def test_values_are_means_over_all_orders_and_sum_to_the_whole(value):
    """Exact values match the definition by orders, and their sum is the gain of the full coalition."""
    shapley = exact_shapley(NAMES, value)
    orders = list(itertools.permutations(NAMES))
    for name in NAMES:
        gains = [value(o[: o.index(name) + 1]) - value(o[: o.index(name)]) for o in orders]
        assert shapley[name][0] == pytest.approx(np.mean(gains))
    assert sum(v for v, _ in shapley.values()) == pytest.approx(value(NAMES) - value(()))


def test_drawn_orders_come_near_with_an_honest_error():
    """Sampled values are within three standard errors, which shrink with more orders, and sum to the total."""
    truth = exact_shapley(NAMES, odd)
    few, many = (sampled_shapley(NAMES, odd, samples=n, seed=1) for n in (40, 1000))
    for name in NAMES:
        value, error = many[name]
        assert abs(value - truth[name][0]) < 3 * error + 1e-9
    assert sum(error for _, error in many.values()) < sum(error for _, error in few.values())
    assert sum(v for v, _ in few.values()) == pytest.approx(odd(NAMES) - odd(()))
    assert sampled_shapley(NAMES, odd, samples=40, seed=1) == few
    assert math.isnan(sampled_shapley(NAMES, odd, samples=2, seed=1)["a"][1])


def test_scores_are_those_of_soups(text_runs):
    """Left-out, added and Shapley values are differences of scores of uniform soups, at the predicted cost."""
    examples = testing.tiny_texts(24, seed=9)
    scorer = Scorer(open_all(text_runs), hf_soup.Evaluator(examples, metric="accuracy"))
    contribution = measure_contribution(scorer)
    assert contribution.evaluations == contribution_cost(3) == 7
    evaluator = hf_soup.Evaluator(examples).bound(str(text_runs[0]), "text-classification")
    names = [f"run-{i}" for i in range(3)]

    def value(members):
        if not members:
            return np.mean([value([name]) for name in names])
        return evaluator(hf_soup.merge([text_runs[int(name[-1])] for name in sorted(members)]).model).value

    truth = exact_shapley(names, value)
    best = max(names, key=lambda name: value([name]))
    for share in contribution.shares:
        others = [name for name in names if name != share.name]
        rival = max(others, key=lambda name: value([name]))
        assert share.single_score == pytest.approx(value([share.name]))
        assert share.left_out == pytest.approx(value(names) - value(others))
        assert share.added == pytest.approx(value([rival, share.name]) - value([rival]))
        assert share.shapley == pytest.approx(truth[share.name][0])
        assert share.error == 0
    assert best in [share.name for share in contribution.shares]
    assert "Shapley" in contribution.table()
    assert contribution.plot().get_axes()[0].get_xlabel()


@pytest.mark.parametrize(
    ("n", "samples", "most"), [(3, None, 7), (8, None, 255), (9, None, 27), (9, 10, 87), (9, 0, 27), (3, 0, 7)]
)
def test_cost(n, samples, most):
    """Up to 8 models the cost covers all subsets; beyond that, Shapley values cost more only if orders are sampled."""
    assert contribution_cost(n, samples) == most


def test_ctrl_c_keeps_what_is_known(text_runs, monkeypatch, tmp_path):
    """After Ctrl-C the table and the picture are still available; Shapley values are unknown."""
    fourth = testing.save_text_model(testing.tiny_text_model(3), tmp_path / "run-3")
    scorer = Scorer(open_all([*text_runs, fourth]), testing.tiny_texts(10, seed=9))
    point, calls = scorer.point, []

    def interrupted(weights):
        calls.append(weights)
        if len(calls) > 10:
            raise KeyboardInterrupt
        return point(weights)

    monkeypatch.setattr(scorer, "point", interrupted)
    contribution = measure_contribution(scorer)
    assert not contribution.complete
    assert all(share.shapley is None for share in contribution.shares)
    assert contribution.table()
    assert contribution.plot()


def test_modules_by_hand(text_runs):
    """The effects of averaging one module alone, or all but one, are those of soups with these weights by module."""
    examples, opened = testing.tiny_texts(24, seed=9), open_all(text_runs)
    modules = measure_modules(Scorer(opened, examples), opened[0])
    evaluator = hf_soup.Evaluator(examples).bound(str(text_runs[0]), "text-classification")
    at = int(modules.best[-1])
    row = [float(i == at) for i in range(3)]
    effects = {effect.module: effect for effect in modules.effects}
    assert set(effects) == {module.name for module in hf_soup.modules(text_runs[0])}
    for module in ("classifier", "embeddings"):
        only = evaluator(hf_soup.merge(text_runs, weights={"": row, module: [1, 1, 1]}).model).value
        without = evaluator(hf_soup.merge(text_runs, weights={"": [1, 1, 1], module: row}).model).value
        assert effects[module].only == pytest.approx(only - modules.single_score)
        assert effects[module].without == pytest.approx(without - modules.soup)
    assert [effect.module for effect in modules.effects][-1] == "classifier"
    assert modules.plot().get_axes()[0].get_yticklabels()


def test_ctrl_c_keeps_whole_modules(text_runs, monkeypatch):
    """After Ctrl-C a module with only one of its two models scored is left out."""
    opened = open_all(text_runs)
    scorer = Scorer(opened, testing.tiny_texts(10, seed=9))
    point, calls = scorer.point, []

    def interrupted(weights):
        calls.append(weights)
        if len(calls) > 3 + 1 + 3:  # single models, the soup, and one and a half modules
            raise KeyboardInterrupt
        return point(weights)

    monkeypatch.setattr(scorer, "point", interrupted)
    effects = measure_modules(scorer, opened[0])
    assert not effects.complete
    assert [effect.module for effect in effects.effects] == ["embeddings"]


def test_too_few_orders_are_refused(text_runs):
    """`measure_contribution` refuses fewer than 4 sampled orders."""
    scorer = Scorer(open_all(text_runs), testing.tiny_texts(10, seed=9))
    with pytest.raises(RecipeError, match="4 or more"):
        measure_contribution(scorer, samples=1)
    with pytest.raises(RecipeError, match="4 or more"):
        measure_contribution(scorer, samples=-5)
