"""The comparison: everybody on the same examples, and no test set that selection has seen."""

import json

import numpy as np
import pytest

import hf_soup
from hf_soup import testing
from hf_soup.tables import align


@pytest.fixture(scope="module")
def parts():
    """Validation, test and one shifted set without rows in common."""
    return {name: testing.tiny_texts(60, seed=seed) for seed, name in enumerate(("validation", "test", "other"))}


@pytest.fixture(scope="module")
def comparison(text_runs, parts):
    """A greedy soup of the tiny runs, compared."""
    soup = hf_soup.merge(text_runs, strategy="greedy", evaluator=parts["validation"])
    return hf_soup.compare(soup, test=parts["test"], shifted={"other": parts["other"]}, validation=parts["validation"])


def test_every_model_is_there(comparison):
    """Each ingredient, the uniform soup, the greedy soup and the ensemble, with what they cost, on every set."""
    kinds = [(row.name, row.kind) for row in comparison.rows]
    assert [name for name, _ in kinds] == ["run-0", "run-1", "run-2", "uniform soup", "greedy soup", "logit ensemble"]
    assert [kind for _, kind in kinds].count("chosen") == 1
    assert [row.cost for row in comparison.rows] == [1, 1, 1, 1, 1, 3]
    assert list(comparison.sizes) == ["validation", "test", "other"]
    assert all(set(row.scores) == set(comparison.sizes) for row in comparison.rows)


def test_scores_are_those_of_an_evaluator(comparison, text_runs, parts):
    """The uniform soup's row is what an evaluator says of its model, inside its own interval."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(text_runs[0])
    score = hf_soup.Evaluator(parts["test"], processing_class=tokenizer)(hf_soup.merge(text_runs).model)
    row = next(row for row in comparison.rows if row.name == "uniform soup").scores["test"]
    assert row.value == pytest.approx(score.value)
    assert row.low <= row.value <= row.high


def test_the_chosen_one_is_best_on_validation(comparison):
    """The single model to beat is chosen by validation, never by test."""
    single = [row for row in comparison.rows if row.kind in ("ingredient", "chosen")]
    best = max(row.scores["validation"].value for row in single)
    assert next(row for row in single if row.kind == "chosen").scores["validation"].value == best


def test_table_picture_and_files(comparison, tmp_path):
    """The table has a line for each model and the mean; table, numbers and picture are written and read back."""
    table = comparison.table().split("\n\n")[0].splitlines()
    assert len(table) == 2 + len(comparison.rows) + 1
    assert len({len(line) for line in table}) == 1
    folder = comparison.save(tmp_path / "report")
    assert (folder / "comparison.md").read_text().startswith(table[0])
    again = hf_soup.Comparison.from_dict(json.loads((folder / "comparison.json").read_text()))
    assert again == comparison
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_shows_every_number(comparison):
    """Every test score of every model is drawn where it belongs; validation is not."""
    axes = comparison.plot().axes[0]
    drawn = np.concatenate([line.get_ydata() for line in axes.get_lines()])
    for row in comparison.rows:
        for name in ("test", "other"):
            assert np.isclose(drawn, row.scores[name].value).any()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["test", "other"]


def test_a_test_set_that_selected_is_refused(text_runs, parts):
    """The very rows of validation, in any order and whether it is passed again or not, may not report."""
    soup = hf_soup.merge(text_runs, strategy="greedy", evaluator=parts["validation"])
    with pytest.raises(hf_soup.EvaluationError, match="selection has seen"):
        hf_soup.compare(soup, test=parts["validation"].shuffle(seed=1))
    with pytest.raises(hf_soup.EvaluationError, match="'again' has the very rows"):
        hf_soup.compare(
            soup, test=parts["test"], shifted={"again": parts["validation"]}, validation=parts["validation"]
        )


def test_shared_rows_are_counted(text_runs, parts):
    """More than 1 % of rows shared with validation is a warning with their number."""
    import datasets

    mixed = datasets.concatenate_datasets([parts["test"], parts["validation"].select(range(5))])
    soup = hf_soup.merge(text_runs)
    with pytest.warns(UserWarning, match=r"\d+ of the \d+ rows of 'test' are also"):
        hf_soup.compare(soup, test=mixed, validation=parts["validation"])


def test_summary_says_when_nothing_can_be_shown(comparison):
    """The summary claims on test what the interval shows, no more, and has the numbers of the shifted sets."""
    for soup, sets in comparison.differences.items():
        line, shifted = (line for line in comparison.summary.splitlines() if line.startswith(soup))
        interval = sets["test"]
        assert f"{interval.value * 100:+.1f} [{interval.low * 100:+.1f}, {interval.high * 100:+.1f}] points" in line
        assert ("the same examples" in line) == (interval.low == interval.high == 0)
        nothing = interval.low <= 0 <= interval.high and not interval.low == interval.high == 0
        assert ("no difference that 60 examples can show" in line) == nothing
        assert ("a gain" in line) == (interval.low > 0)
        assert ("it is worse" in line) == (interval.high < 0)
        assert f"other {sets['other'].value * 100:+.1f}" in shifted


def test_two_of_a_name_are_refused(text_runs, parts):
    """A soup called like an ingredient, or a shifted set like a part of the data, would overwrite its row."""
    soup = hf_soup.merge(text_runs)
    with pytest.raises(hf_soup.RecipeError, match='two models to compare are called "run-0"'):
        hf_soup.compare({"run-0": soup}, test=parts["test"])
    for name in ("test", "validation"):
        with pytest.raises(hf_soup.RecipeError, match=f'two sets to compare are called "{name}"'):
            hf_soup.compare(soup, test=parts["test"], shifted={name: parts["other"]})


def test_every_soup_is_asked_what_it_has_seen(text_runs, parts):
    """Of two soups, the data that selected the second is refused as well."""
    soups = {
        name: hf_soup.merge(text_runs, strategy="greedy", evaluator=parts[part])
        for name, part in (("one", "validation"), ("two", "other"))
    }
    with pytest.raises(hf_soup.EvaluationError, match="selection has seen"):
        hf_soup.compare(soups, test=parts["other"])


def test_nothing_to_compare(text_runs, parts):
    """No soup is an error, and so is a function where examples are needed."""
    with pytest.raises(hf_soup.RecipeError, match="nothing to compare"):
        hf_soup.compare({}, test=parts["test"])
    with pytest.raises(hf_soup.RecipeError, match="needs the examples themselves"):
        hf_soup.compare(hf_soup.merge(text_runs), test=lambda model: 0.5)


def test_names_do_not_break_the_table():
    """A pipe in a name stays in its cell."""
    assert align([["a", "b"], ["x|y", "1"]]).splitlines()[2] == "| x\\|y | 1 |"
