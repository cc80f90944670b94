"""The reason, the references, the validation and the display of a selection."""

import numpy as np
import pytest

import hf_soup
from hf_soup import plugins
from hf_soup.errors import EvaluationError, RecipeError
from hf_soup.formats.records import read_selection
from hf_soup.selection.select import Strategy, select
from hf_soup.testing import FakeTrials
from hf_soup.types import Folds, Holdout, Ingredient, Mixture, Score, Selection, Trial


RUNS = tuple(Ingredient(f"run-{index}", f"runs/{index}") for index in range(8))
BASE = Ingredient("start", "runs/start")


class Paired(FakeTrials):
    """Trials that score by a table of joined names and give differences intervals of a fixed half width."""

    def __init__(self, table, half=None, **settings):
        super().__init__(lambda recipe: table["+".join(recipe.names).replace("run-", "")], **settings)
        self.half = half

    def difference(self, recipe, other):
        """The interval around the difference of the scores."""
        if self.half is None:
            return None
        between = self._value(recipe) - self._value(other)
        return between - self.half, between + self.half


def chosen(name, trials, count=3, **params):
    """The selection of a strategy among the first runs."""
    return select(strategy(name, **params), RUNS[:count], trials)[1]


def strategy(name, **params):
    """A strategy found by its name."""
    return Strategy(name, plugins.load_function("strategy", name), params, {})


def mirrored(table, sign):
    """A table of scores, or with sign -1 of equivalent losses."""
    return {key: sign * value for key, value in table.items()}


# --- reason

KEPT = {"0": 0.9, "1": 0.8, "2": 0.7, "0+1": 0.92, "0+1+2": 0.85, "0+2": 0.8}


def test_why_of_one_ingredient():
    """The reason says that there was only one ingredient."""
    assert chosen("greedy", Paired({"0": 0.5}), 1).why == "There was one ingredient: the soup is run-0."


@pytest.mark.parametrize(
    ("sign", "half", "end"),
    [
        (1, None, "."),
        (-1, None, "."),
        (
            1,
            0.01,
            " on the 100 examples that it was chosen on (95 % interval +0.0100 to +0.0300); only other examples "
            "can show whether it is a gain.",
        ),
        (
            -1,
            0.01,
            " on the 100 examples that it was chosen on (95 % interval -0.0300 to -0.0100); only other examples "
            "can show whether it is a gain.",
        ),
        (1, 0.05, ", which 100 examples cannot tell from nothing (95 % interval -0.0300 to +0.0700)."),
    ],
)
def test_why_of_a_better_soup(sign, half, end):
    """The reason gives the number of ingredients, the gain over the best one, and whether it is significant."""
    why = chosen("greedy", Paired(mirrored(KEPT, sign), half, higher_is_better=sign == 1)).why
    who = "2 of 3 ingredients are in the soup; it is better than the best single ingredient, run-0"
    assert why == f"{who} ({sign * 0.9:.4f}) by 0.0200{end}"


@pytest.mark.parametrize("sign", [1, -1])
def test_why_of_a_worse_soup(sign):
    """The reason says that a soup is worse than the best ingredient, whichever direction the metric has."""
    trials = Paired(mirrored(KEPT, sign), higher_is_better=sign == 1)
    why = chosen("performance", trials, scheme="rank").why
    who = "3 of 3 ingredients are in the soup; it is worse than the best single ingredient, run-0"
    assert why == f"{who} ({sign * 0.9:.4f}) by 0.0500."


def test_why_of_a_soup_that_is_as_good():
    """The reason reports a tie without an interval."""
    why = chosen("greedy", Paired({"0": 0.9, "1": 0.8, "0+1": 0.9}, half=0.01), 2).why
    assert why == "2 of 2 ingredients are in the soup; it is as good as the best single ingredient, run-0 (0.9000)."


def test_why_of_a_point_on_the_way():
    """The reason of an interpolation names the best point."""
    table = {"0": 0.9, "1": 0.8, "0+1+start": 0.95, "0+1": 0.85}
    why = chosen("interpolate", Paired(table), 2, base=BASE, alphas=[0.25, 1]).why
    who = "The best point on the way from the base model is alpha 0.25; it is better than the best single ingredient"
    assert why == f"{who}, run-0 (0.9000) by 0.0500."


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("halfway", "half", "reason"),
    [
        (0.3, None, "the next best lies across a barrier; "),
        (0.3, 0.2, "the next best lies across a barrier; "),
        (0.85, 0.2, "validation is too small to tell; with 100 examples differences below 0.2000 are noise"),
        (0.79, 0.2, "validation is too small to tell; with 100 examples differences below 0.2000 are noise"),
        (0.85, 0.06, "the others add nothing that 100 examples can show; "),
        (0.85, 0.01, "the others cost more than they bring; "),
        (0.85, None, "the others cost more than they bring; "),
    ],
)
def test_why_only_one_was_kept(halfway, half, reason, sign):
    """The reason for a single ingredient is a barrier, noise, no gain or a cost, judged by the halfway point."""
    table = mirrored({"0": 0.9, "1": 0.8, "0+1": halfway}, sign)
    why = chosen("greedy", Paired(table, half, higher_is_better=sign == 1), 2).why
    said = f"halfway to run-1, made_up is {sign * halfway:.4f} against {sign * 0.9:.4f}"
    if "barrier" in reason:
        reason += f"{said} and {sign * 0.8:.4f} at the two ends"
    elif "noise" in reason:
        reason += ", and the ingredients differ by 0.1000"
    else:
        reason += said
    assert why == f"Only run-0 was kept: {reason}."


@pytest.mark.parametrize(
    "selection",
    [
        {"strategy": "greedy", "trials": [{"candidate": "a", "alone": 0.5, "soup": 0.5, "kept": True, "reason": ""}]},
        {
            "strategy": "greedy",
            "trials": ["row", None, {"tried": 1, "kept": "yes", "why": []}],
            "reference": {"a": "b"},
        },
        {"strategy": "greedy", "trials": "none", "score": "high", "folds": {"k": "x"}, "why": 3, "dataset": "here"},
        {"strategy": "greedy", "trials": [{"tried": "a", "kept": True, "why": "", "score": "0.5", "ingredient": "a"}]},
    ],
    ids=["of an older version", "rows of others", "no list at all", "a score that is none"],
)
def test_a_selection_that_others_wrote_breaks_nothing(selection):
    """Unreadable parts of a selection are ignored."""
    found = read_selection(selection)
    assert found.strategy == "greedy"
    assert found.table().startswith("greedy, by score on validation")
    assert found.scores == {}


def test_a_barrier_is_one_to_all():
    """A barrier is the reason only if it separates the best ingredient from all the others that are examined."""
    table = {"0": 0.9, "1": 0.8, "2": 0.7, "0+1": 0.3, "0+2": 0.75, "0+1+2": 0.1}
    assert "cost more than they bring" in chosen("greedy", Paired(table)).why
    assert "the 2 next best lie across a barrier" in chosen("greedy", Paired(table | {"0+2": 0.2})).why


def test_the_reason_costs_few_soups():
    """To find the reason, only the three next best ingredients are examined."""
    trials = FakeTrials(lambda recipe: 1.0 - int(recipe.names[0][-1]) / 10 if len(recipe.names) == 1 else 0.0)
    find = plugins.load_function("strategy", "greedy")
    find(RUNS, trials)
    before = {recipe.names for recipe in trials.asked}
    select(Strategy("first", lambda ingredients, trials: find(ingredients[:1], trials), {}, {}), RUNS, trials)
    after = [recipe.names for recipe in trials.asked[len(before) :] if len(recipe.names) == 2]
    assert after == [("run-0", f"run-{index}") for index in range(1, 4)]


# --- references


@pytest.mark.parametrize("sign", [1, -1])
def test_references_are_what_a_soup_is_compared_with(sign):
    """The best ingredient, the uniform soup and the ensemble are scored as references."""
    table = {"1": 0.9, "0": 0.8, "2": 0.7, "1+0": 0.92, "1+0+2": 0.85}
    trials = Paired(mirrored(table, sign), higher_is_better=sign == 1)
    trials.ensemble = lambda recipe: Score("made_up", sign * (0.97 if recipe.names[0] == "run-1" else 0.0))
    selection = chosen("greedy", trials)
    assert selection.score == sign * 0.92
    assert selection.reference == {
        "best single ingredient": sign * 0.9,
        "uniform soup": sign * 0.85,
        "ensemble": sign * 0.97,
    }


def test_references_that_there_are():
    """References that do not exist, such as an ensemble without examples, are left out."""

    def no_examples(recipe):
        raise EvaluationError("a function of a model has no examples")

    trials = Paired(KEPT)
    trials.ensemble = no_examples
    assert set(chosen("greedy", trials).reference) == {"best single ingredient", "uniform soup"}
    assert set(chosen("greedy", Paired(KEPT), 1).reference) == {"best single ingredient"}


def test_what_chose_nothing_has_no_reason():
    """A strategy that scores nothing has a score, but neither references nor a reason."""
    selection = chosen("weighted", Paired(KEPT), weights=[2, 1, 1])
    assert (selection.score, selection.trials, selection.reference, selection.why) == (0.85, (), {}, "")


# --- examples that selection has not seen


class OfExamples(FakeTrials):
    """Trials on rows of a table of right and wrong answers that record the subsets requested."""

    def __init__(self, table, rows=None, parts=None, *, sign=1):
        self.table, self.parts = table, [] if parts is None else parts
        self.rows = np.arange(len(next(iter(table.values())))) if rows is None else rows
        super().__init__(self.value, higher_is_better=sign == 1, examples=len(self.rows))
        self.sign = sign

    def value(self, recipe):
        """The share of ones of the first ingredient, or of zeros if lower is better."""
        digits = np.array([int(digit) for digit in self.table[recipe.names[0]]])[self.rows]
        return float((digits == (self.sign == 1)).mean())

    def subset(self, examples):
        """Trials on some of these rows."""
        self.parts.append(self.rows[examples])
        return OfExamples(self.table, self.rows[examples], self.parts, sign=self.sign)


def best(ingredients, trials):
    """The best single ingredient, the first one in a tie."""
    scores = [trials.score(Mixture.equal([item])).rank_key for item in ingredients]
    return Mixture.equal([ingredients[scores.index(max(scores))]])


BEST = Strategy("best", best, {}, {})


@pytest.mark.parametrize("sign", [1, -1])
def test_folds_show_how_much_a_choice_flatters(sign):
    """Folds reveal optimism: three ingredients, each right once, score 1/3 when chosen and 0 on the fold left out."""
    trials = OfExamples({"run-0": "100", "run-1": "010", "run-2": "001"}, sign=sign)
    _, selection = select(BEST, RUNS[:3], trials, folds=3)
    unseen = 0.0 if sign == 1 else 1.0
    assert selection.folds == Folds(3, (unseen,) * 3, unseen, pytest.approx(1 / 3))
    assert selection.score == pytest.approx(1 / 3 if sign == 1 else 2 / 3)


@pytest.mark.parametrize(("n", "folds"), [(10, 2), (10, 3), (7, 7)])
def test_folds_part_the_examples(n, folds):
    """Each search sees all folds but one and is scored on that one; even folds cover all examples."""
    trials = OfExamples({"run-0": "1" * n, "run-1": "0" * n})
    _, selection = select(BEST, RUNS[:2], trials, folds=folds, seed=5)
    searched, judged = trials.parts[::2], trials.parts[1::2]
    assert len(searched) == len(judged) == folds == len(selection.folds.scores)
    for seen, unseen in zip(searched, judged, strict=True):
        assert sorted([*seen, *unseen]) == list(range(n))
    assert sorted(np.concatenate(judged)) == list(range(n))
    assert max(map(len, judged)) - min(map(len, judged)) <= 1
    again = OfExamples(trials.table)
    select(BEST, RUNS[:2], again, folds=folds, seed=5)
    assert all(map(np.array_equal, again.parts, trials.parts))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_holdout_is_not_searched(sign):
    """Examples that are held out are used only for the final score, and all other results refer to the rest."""
    table = {"run-0": "1101000110", "run-1": "1111111110"}
    trials = OfExamples(table, sign=sign)
    _, selection = select(BEST, RUNS[:2], trials, holdout=0.3, seed=2)
    seen, back = trials.parts
    assert (len(back), len(seen), selection.rows) == (3, 7, 7)
    assert sorted([*seen, *back]) == list(range(10))
    right = np.array([digit == "1" for digit in table["run-1"]])
    values = [float((right if sign == 1 else ~right)[rows].mean()) for rows in (seen, back)]
    assert selection.score == pytest.approx(values[0])
    optimism = pytest.approx(sign * (values[0] - values[1]))
    assert selection.holdout == Holdout(3, pytest.approx(values[1]), optimism)
    assert not any(len(asked.names) > 1 for asked in trials.asked)


def test_folds_are_of_what_is_not_held_back():
    """With a holdout and folds, the folds do not contain examples that are held out."""
    trials = OfExamples({"run-0": "1" * 10, "run-1": "0" * 10})
    select(BEST, RUNS[:2], trials, holdout=0.3, folds=7)
    back = set(trials.parts[1])
    assert len(trials.parts) == 2 + 2 * 7
    assert all(back.isdisjoint(rows) for rows in (trials.parts[0], *trials.parts[2:]))


@pytest.mark.parametrize("asked", [{"folds": 1}, {"folds": 0}, {"folds": 11}, {"holdout": 0.3, "folds": 8}])
def test_folds_have_examples(asked):
    """One fold, or more folds than examples, raises a RecipeError before anything is scored."""
    trials = OfExamples({"run-0": "1" * 10})
    with pytest.raises(RecipeError, match=f"folds is {asked['folds']}; it has to be from 2 to (10|7)"):
        select(BEST, RUNS[:1], trials, **asked)
    assert not trials.asked


@pytest.mark.parametrize("holdout", [0, 1, 0.01, -0.5, 1.5])
def test_a_holdout_leaves_both_sides_something(holdout):
    """A holdout that leaves no examples on either side raises a RecipeError."""
    with pytest.raises(RecipeError, match=r"holdout is .*: of 10 examples some are needed to select by"):
        select(BEST, RUNS[:1], OfExamples({"run-0": "1" * 10}), holdout=holdout)


# --- display


def selection_of(trials, **more):
    """A selection read from a recipe."""
    told = {"strategy": "greedy", "metric": "accuracy", "score": 0.92, "trials": trials, **more}
    return read_selection(told)


def many(count, ingredients=1):
    """Rows of a long search: single ingredients, then soups of which every tenth was kept."""
    alone = [
        {"tried": f"run-{i}", "kept": i == 0, "why": "", "score": 0.5, "ingredient": f"run-{i}"}
        for i in range(ingredients)
    ]
    return alone + [
        {"tried": f"soup {i}", "kept": i % 10 == 0, "why": "", "score": 0.5} for i in range(count - ingredients)
    ]


def lines_of(table):
    """The names in the first column of a table, without its header."""
    return [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")][2:]


def test_a_table_has_every_trial_and_the_result():
    """A table has a row for every trial, followed by scores, reason, folds and holdout."""
    _, selection = select(strategy("greedy"), RUNS[:3], Paired(KEPT, 0.01), folds=3, holdout=0.2)
    table = selection.table()
    assert table.startswith("greedy, by made_up on validation (100 examples)\n\n| tried ")
    assert lines_of(table) == ["run-0", "run-1", "run-2", "+ run-1", "+ run-2"]
    cells = [cell.strip() for cell in table.splitlines()[7].split("|")[1:-1]]
    gain = "gains 0.0200 (0.9000 to 0.9200)"
    assert cells == ["+ run-1", "0.9200", "+0.0200", "[+0.0100, +0.0300]", "yes", gain]
    assert table.endswith(selection.summary)
    assert selection.summary.splitlines() == [
        "made_up 0.9200 on validation, the choice of 5 trials; best single ingredient 0.9000, uniform soup 0.8500, "
        "ensemble 0.8500.",
        selection.why,
        "Cross-validation: 0.9200 on average on the fold left out (3 searches), "
        "so the selection optimism of the score above is +0.0000.",
        "Held out: 0.9200 on 100 examples not used for selection, "
        "so the selection optimism of the score above is +0.0000.",
    ]


def test_a_long_table_is_shortened():
    """A table shows at most 60 of 200 trials: ingredients, kept ones and the last of the others."""
    selection = selection_of(many(200, ingredients=4))
    shown = lines_of(selection.table())
    assert len(shown) == 60
    assert [row.tried for row in selection.trials if (row.kept or row.ingredient) and row.tried not in shown] == []
    rejected = [row.tried for row in selection.trials if not (row.kept or row.ingredient)]
    assert [name for name in shown if name in rejected] == rejected[-36:]
    assert "... and 140 more trials, all in the recipe." in selection.table()
    assert "more trials" not in selection_of(many(60)).table()
    assert "... and 1 more trials" in selection_of(many(61)).table()


def test_a_table_of_many_ingredients_is_shortened():
    """If ingredients and kept trials fill the table, no other trials are shown."""
    selection = selection_of(many(500, ingredients=60))
    assert len(lines_of(selection.table())) == sum(row.kept or row.ingredient is not None for row in selection.trials)


def test_a_selection_reads_what_it_knows():
    """Unknown keys are ignored when a selection is read, and an empty one gives `None`."""
    row = {"tried": "run-0", "kept": True, "why": "best", "score": 0.9, "ingredient": "run-0", "colour": "red"}
    selection = selection_of([row], invented=1, dataset={"rows": 40, "fingerprint": "x"})
    assert selection.trials == (Trial("run-0", True, "best", 0.9, ingredient="run-0"),)
    assert selection.examples == 40
    assert selection_of([row], rows=30, dataset={"rows": 40}).examples == 30
    assert read_selection({}) is None


def test_scores_are_those_of_ingredients_alone():
    """`scores` has the scores of single ingredients, with the direction of the metric."""
    rows = [
        {"tried": "run-1", "kept": True, "why": "", "score": 0.9, "ingredient": "run-1"},
        {"tried": "run-0", "kept": False, "why": "", "score": 0.8, "ingredient": "run-0"},
        {"tried": "+ run-0", "kept": False, "why": "", "at_most": 0.7},
        {"tried": "+ run-2", "kept": False, "why": "", "score": 0.6},
    ]
    scores = selection_of(rows, higher_is_better=False, split="test").scores
    assert scores == {
        "run-1": Score("accuracy", 0.9, False, "test"),
        "run-0": Score("accuracy", 0.8, False, "test"),
    }


def test_what_was_not_scored_shows_no_number():
    """A selection without trials and score shows only its title."""
    assert Selection("weighted", metric="accuracy").table() == "weighted, by accuracy on validation"
    assert Selection("weighted").summary == ""


def test_a_function_that_names_no_split_scores_on_validation(text_runs):
    """If an evaluator function returns a score without a split, the split is `validation`."""
    soup = hf_soup.merge(text_runs, strategy="greedy", evaluator=lambda model: hf_soup.Score("mine", 0.5))
    assert "by mine on validation" in soup.selection.table()
    assert soup.selection.split == "validation"
