"""Tests of `compare`: all models are scored on the same examples, and test sets seen by selection are refused."""

import json
from dataclasses import replace

import datasets
import numpy as np
import pytest

import hf_soup
from hf_soup import plugins, testing
from hf_soup.comparison.comparison import Calibrated, Difference
from hf_soup.comparison.verdict import doubts_of_confidence, headline, summarise, verdict
from hf_soup.display.tables import align
from hf_soup.errors import EvaluationError, RecipeError
from hf_soup.evaluation import cache, model_maker
from hf_soup.merging.refill import Refill
from hf_soup.metrics import calibration


METRICS, SINGLE = ["accuracy", "f1_macro"], ["run-0", "run-1", "run-2"]


@pytest.fixture(scope="module")
def parts():
    """Validation, test and two shifted sets without common rows."""
    names = ("validation", "test", "other", "third")
    return {name: testing.tiny_texts(60, seed=seed) for seed, name in enumerate(names)}


@pytest.fixture(scope="module")
def comparison(text_runs, parts):
    """A comparison of a greedy soup of the tiny runs."""
    soup = hf_soup.merge(text_runs, strategy="greedy", evaluator=parts["validation"])
    sets = {}
    for name, data in parts.items():
        sets[name] = hf_soup.Evaluator(data, split=name, metric=["accuracy", "f1_macro"])
    validation, test = sets.pop("validation"), sets.pop("test")
    return hf_soup.compare(soup, test=test, shifted=sets, validation=validation)


def drawn_rows(comparison):
    """The rows that pictures show: models, without the mean and the oracle."""
    return [row for row in comparison.models if row.role not in ("mean", "oracle")]


def named(comparison, name):
    """The row of a model."""
    return next(row for row in comparison.models if row.name == name)


def test_every_model_is_there(comparison):
    """Each ingredient, soup and ensemble has scores on every set, and its cost."""
    kinds = [(row.name, row.role) for row in comparison.models]
    ensembles = ["logit ensemble", "probability ensemble", "majority vote", "learned mixture"]
    over = ["mean of ingredients", "best of each set (oracle)"]
    assert [name for name, _ in kinds] == [*SINGLE, *over, "uniform soup", "greedy soup", *ensembles]
    assert [kind for _, kind in kinds].count("chosen") == 1
    assert [row.passes for row in comparison.models] == [1] * 7 + [3] * 4
    size = testing.tiny_text_model(0).num_parameters()
    assert [row.parameters for row in comparison.models] == [size] * 7 + [3 * size] * 4
    assert all(row.latency > 0 for row in comparison.models if row.name not in over)
    assert list(comparison.sizes) == ["validation", "test", "other", "third", "mean of shifts"]
    assert all(list(row.scores) == list(comparison.sizes) for row in comparison.models)
    assert all(list(scores) == METRICS for row in comparison.models for scores in row.scores.values())


def test_scores_are_those_of_an_evaluator(comparison, text_runs, parts):
    """The score of the uniform soup equals the evaluator's and lies in its interval."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(text_runs[0])
    score = hf_soup.Evaluator(parts["test"], processing_class=tokenizer)(hf_soup.merge(text_runs).model)
    score_in_table = named(comparison, "uniform soup").scores["test"]["accuracy"]
    assert score_in_table.value == pytest.approx(score.value)
    assert score_in_table.low <= score_in_table.value <= score_in_table.high


def test_the_chosen_one_is_best_on_validation(comparison):
    """The single model to beat is chosen by validation, not by test."""
    single = [row for row in comparison.models if row.role in ("ingredient", "chosen")]
    values = {row.name: row.scores["validation"]["accuracy"].value for row in single}
    assert values[next(row.name for row in single if row.role == "chosen")] == max(values.values())


def test_table_picture_and_files(comparison, tmp_path):
    """Tables are complete, and tables, numbers and pictures are written and can be read back."""
    *tables, weights, summary = comparison.table().split("\n\n")
    assert weights.startswith("The learned mixture has the weights ")
    assert summary == comparison.summary
    heights = [len(table.splitlines()) - 2 for table in tables]
    models = len(comparison.models)
    assert heights == [models, models, 2 * 2 * 4, models - 2]  # soups x rivals x sets; mean and oracle have no cost
    table = tables[0].splitlines()
    assert all(len({len(line) for line in lines.splitlines()}) == 1 for lines in tables)
    folder = comparison.save(tmp_path / "report")
    assert (folder / "comparison.md").read_text().startswith(table[0])
    again = hf_soup.Comparison.from_dict(json.loads((folder / "comparison.json").read_text()))
    assert again == comparison
    for name in ("comparison.png", "shifts.png", "reliability.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_the_picture_shows_every_number(comparison):
    """Each set but validation has a panel with every model's difference in points from the best on validation."""
    figure = comparison.plot()
    names = ["test", "other", "third", "mean of shifts"]
    single = next(row for row in comparison.models if row.role == "chosen")
    for panel, name in zip(figure.axes, names, strict=True):
        level = single.scores[name]["accuracy"].value
        assert panel.get_title(loc="left").startswith(name)
        assert panel.get_title(loc="left").endswith(f": {100 * level:.1f} %")
        drawn = np.concatenate([np.atleast_1d(line.get_xdata()) for line in panel.get_lines()]).astype(float)
        for row in drawn_rows(comparison):
            assert np.isclose(drawn, 100 * (row.scores[name]["accuracy"].value - level)).any()
        for soup in comparison.differences.values():
            assert np.isclose(drawn, 100 * soup[name]["single"].low).any()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:2] == ["each ingredient", "best on validation"]
    assert set(labels[2:]) == {row.name for row in drawn_rows(comparison)} - set(SINGLE)
    assert single.name in figure.get_supxlabel()
    assert "\n" not in figure.get_suptitle()
    assert not figure.legends


def test_without_a_best_model_the_picture_shows_scores(comparison):
    """Without a best ingredient, the picture shows scores in percent with their own intervals."""
    models = [replace(row, role="ingredient") if row.role == "chosen" else row for row in comparison.models]
    panel = replace(comparison, models=tuple(models), differences={}).plot().axes[0]
    drawn = np.concatenate([np.atleast_1d(line.get_xdata()) for line in panel.get_lines()]).astype(float)
    score = named(comparison, "uniform soup").scores["test"]["accuracy"]
    for value in (score.value, score.low, score.high):
        assert np.isclose(drawn, 100 * value).any()
    assert panel.get_title(loc="left") == "test (n=60)"


@pytest.mark.parametrize(
    ("difference", "higher", "title"),
    [
        (Difference(0.024, 0.01, 0.03), True, "Greedy soup: better by 2.4 points of accuracy on 60 test examples"),
        (Difference(0.024, 0.01, 0.03), False, "Greedy soup: worse by 2.4 points of accuracy on 60 test examples"),
        (Difference(0.024, -0.01, 0.03), True, "Greedy soup: no visible difference in accuracy on 60 test examples"),
        (Difference(0.024), True, "Greedy soup: +2.4 points of accuracy on 60 test examples"),
    ],
)
def test_the_title_of_the_picture_is_one_line_that_says_what_was_found(comparison, difference, higher, title):
    """The title is one line that states a gain, a loss or no visible difference; a long name is cut in the middle."""
    found = {"greedy soup": {"test": {"single": difference}}}
    result = replace(comparison, metrics={"accuracy": higher}, differences=found)
    assert headline(result, most=80) == title
    long = replace(result, differences={"x" * 100 + " of 4": found["greedy soup"]})
    assert len(headline(long, most=80)) <= 80
    assert " of 4: " in headline(long, most=80)


def test_the_scatter_and_the_reliability_diagram_show_every_number(comparison):
    """The scatter has test and mean of shifts for every model, the reliability diagram the soups and their rivals."""
    lines = comparison.plot("shifts").axes[0].get_lines()
    drawn = {pair for line in lines for pair in zip(*map(tuple, line.get_data()), strict=True)}
    for row in drawn_rows(comparison):
        assert tuple(100 * row.scores[part]["accuracy"].value for part in ("test", "mean of shifts")) in drawn
    above, below = comparison.plot("reliability").axes
    curves = [comparison.curves[row.name] for row in comparison.models if row.name in comparison.curves]
    assert len(curves) == 4  # the best single model, two soups, the logit ensemble
    for line, curve in zip(above.get_lines()[1:], curves, strict=True):
        assert np.array_equal(line.get_ydata(), curve["accuracy"])
    shares = [sum(line.get_ydata()) for line in below.get_lines()]
    assert shares == pytest.approx([1] * 4)
    with pytest.raises(RecipeError, match='no picture "reliabilty"; did you mean "reliability"'):
        comparison.plot("reliabilty")


def test_a_data_frame_has_a_line_for_each_number(comparison):
    """The data frame has a row for each model, set and metric, with the numbers of the table."""
    frame = comparison.to_pandas()
    assert len(frame) == len(comparison.models) * len(comparison.sizes) * 2
    one = frame[(frame.model == "greedy soup") & (frame.set == "test") & (frame.metric == "f1_macro")]
    assert one.value.item() == named(comparison, "greedy soup").scores["test"]["f1_macro"].value


def test_mean_and_oracle_sum_up_the_ingredients(comparison):
    """The mean of the ingredients has an interval of its own, and the oracle the score of the best on each set."""
    for part in comparison.sizes:
        for metric in METRICS:
            scores = [named(comparison, name).scores[part][metric] for name in SINGLE]
            mean = named(comparison, "mean of ingredients").scores[part][metric]
            assert mean.value == pytest.approx(np.mean([score.value for score in scores]))
            assert mean.low < mean.value < mean.high
            best = named(comparison, "best of each set (oracle)").scores[part][metric]
            assert best in scores
            assert best.value == max(score.value for score in scores)


def test_the_mean_of_shifts_is_their_plain_mean(comparison):
    """The mean of shifts is the mean of the values, with an interval narrower than the widest of theirs."""
    for row in drawn_rows(comparison):
        mean, other, third = (row.scores[name]["accuracy"] for name in ("mean of shifts", "other", "third"))
        assert mean.value == pytest.approx((other.value + third.value) / 2)
        assert mean.high - mean.low < max(other.high - other.low, third.high - third.low)


def test_differences_are_of_the_scores_and_tested(comparison):
    """Differences from the best on validation and the logit ensemble have intervals, and p on single sets."""
    rivals = {
        "single": next(row.name for row in comparison.models if row.role == "chosen"),
        "ensemble": "logit ensemble",
    }
    assert set(comparison.differences) == {"greedy soup", "uniform soup"}
    for soup, sets in comparison.differences.items():
        assert list(sets) == ["test", "other", "third", "mean of shifts"]
        for part, by_rival in sets.items():
            for key, rival in rivals.items():
                own, other = (named(comparison, name).scores[part]["accuracy"].value for name in (soup, rival))
                difference = by_rival[key]
                assert difference.value == pytest.approx(own - other)
                assert difference.low <= difference.value <= difference.high
                assert (difference.p is None) == (part == "mean of shifts")


def test_calibration_is_of_classifiers_and_their_temperature_of_validation(comparison, text_runs, parts):
    """Calibration equals that of `calibrate` before and after the temperature of validation; votes have none."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(text_runs[0])
    model = hf_soup.merge(text_runs).model
    validation, test = (
        hf_soup.Evaluator(parts[name], processing_class=tokenizer).predict(model) for name in ("validation", "test")
    )
    temperature = calibration.fit_temperature(validation)
    calibrated = named(comparison, "uniform soup").calibration["test"]
    assert calibrated.ece == pytest.approx(calibration.calibrate(test).ece)
    assert calibrated.temperature == pytest.approx(temperature, rel=1e-3)
    scaled = calibration.calibrate(calibration.with_temperature(test, temperature))
    assert (calibrated.ece_scaled, calibrated.nll_scaled) == pytest.approx((scaled.ece, scaled.nll), abs=1e-4)
    assert not named(comparison, "majority vote").calibration


def test_the_mixture_is_reported_with_its_weights(comparison):
    """The learned mixture reports a weight for each ingredient, with sum 1."""
    weights = named(comparison, "learned mixture").weights
    assert list(weights) == ["run-0", "run-1", "run-2"]
    assert sum(weights.values()) == pytest.approx(1)


def test_a_test_set_that_selected_is_refused(text_runs, parts):
    """The rows of validation are refused as a test or shifted set, in any order, given as validation or not."""
    soup = hf_soup.merge(text_runs, strategy="greedy", evaluator=parts["validation"])
    with pytest.raises(EvaluationError, match="used for selection"):
        hf_soup.compare(soup, test=parts["validation"].shuffle(seed=1))
    with pytest.raises(EvaluationError, match="'again' has the same rows"):
        hf_soup.compare(
            soup, test=parts["test"], shifted={"again": parts["validation"]}, validation=parts["validation"]
        )


def test_shared_rows_are_counted(text_runs, parts):
    """A test set that shares more than 1 % of its rows with validation gives a warning with their number."""
    mixed = datasets.concatenate_datasets([parts["test"], parts["validation"].select(range(5))])
    soup = hf_soup.merge(text_runs)
    with pytest.warns(UserWarning, match=r"\d+ of the \d+ rows of 'test' are also"):
        hf_soup.compare(soup, test=mixed, validation=parts["validation"])


def test_summary_says_what_the_interval_shows(comparison):
    """For each soup the summary has a line on test and one on shifts, and claims no more than the intervals show."""
    lines = comparison.summary.splitlines()
    for soup, sets in comparison.differences.items():
        on_test, shifted = (line for line in lines if line.startswith((f"The {soup}", soup)))
        assert "on shifted sets" in shifted
        interval = sets["test"]["single"]
        value, low, high = interval.value, interval.low, interval.high
        nothing = value == low == high == 0
        assert (f"{value * 100:+.1f} [{low * 100:+.1f}, {high * 100:+.1f}]" in on_test) or nothing
        assert ("no difference at all" in on_test) == nothing
        assert ("no difference that 60 test examples can show" in on_test) == (low <= 0 <= high and low != high)
        assert ("of the ensemble's cost" in on_test) == (low > 0)
        assert ("is worse" in on_test) == (high < 0)
        assert f"other {sets['other']['single'].value * 100:+.1f}" in shifted


@pytest.mark.parametrize(
    ("difference", "higher", "words"),
    [
        (Difference(0.02, 0.01, 0.03), True, "is +2.0 [+1.0, +3.0] points of accuracy over b"),
        (Difference(-0.02, -0.03, -0.01), False, "at 1/6 of the ensemble's cost"),
        (Difference(-0.02, -0.03, -0.01), True, "is worse: -2.0 [-3.0, -1.0]"),
        (Difference(0.02, 0.01, 0.03), False, "is worse: +2.0"),
        (Difference(0.02, -0.01, 0.05), True, "no difference that 500 test examples can show"),
        (Difference(0.0, 0.0, 0.0), True, "no difference at all"),
        (Difference(0.02), True, "without an interval"),
    ],
)
def test_the_verdict_claims_no_more_than_the_interval(difference, higher, words):
    """The verdict states a gain, a loss or no visible difference, whether higher or lower is better."""
    assert words in verdict("the greedy soup of 4", difference, "accuracy", higher, "b", 500, 6)


def test_two_of_a_name_are_refused(text_runs, parts):
    """A soup named like an ingredient, and a shifted set named like test or validation, are refused."""
    soup = hf_soup.merge(text_runs)
    with pytest.raises(RecipeError, match='two models to compare are called "run-0"'):
        hf_soup.compare({"run-0": soup}, test=parts["test"])
    for name in ("test", "validation"):
        with pytest.raises(RecipeError, match=f'two sets to compare are called "{name}"'):
            hf_soup.compare(soup, test=parts["test"], shifted={name: parts["other"]})


def test_every_soup_is_asked_what_it_has_seen(text_runs, parts):
    """With two soups, the data that selected the second one are refused as a test set too."""
    soups = {
        name: hf_soup.merge(text_runs, strategy="greedy", evaluator=parts[part])
        for name, part in (("one", "validation"), ("two", "other"))
    }
    with pytest.raises(EvaluationError, match="used for selection"):
        hf_soup.compare(soups, test=parts["other"])


def test_nothing_to_compare(text_runs, parts):
    """No soup, an unknown ensemble, and a mixture without validation are errors."""
    with pytest.raises(RecipeError, match="nothing to compare"):
        hf_soup.compare({}, test=parts["test"])
    with pytest.raises(RecipeError, match='no ensemble "logit"; did you mean "logits"'):
        hf_soup.compare(hf_soup.merge(text_runs), test=parts["test"], ensembles=["logit"])
    with pytest.raises(RecipeError, match="mixture is fitted on validation"):
        hf_soup.compare(hf_soup.merge(text_runs), test=parts["test"], ensembles=["mixture"])


def test_votes_are_no_probabilities(text_runs, parts):
    """The majority vote has no metrics that need probabilities, but has accuracy."""
    metrics = ["nll", "ece", "brier", "loss", "accuracy"]
    test = hf_soup.Evaluator(parts["test"], split="test", metric=metrics)
    comparison = hf_soup.compare(hf_soup.merge(text_runs), test=test)
    assert list(named(comparison, "majority vote").scores["test"]) == ["accuracy"]
    assert list(named(comparison, "logit ensemble").scores["test"]) == metrics
    assert comparison.table()


def test_rows_are_known_by_what_the_model_sees(text_runs, parts):
    """Validation rows are recognised despite other column names, an id column or labels as text."""
    soup = hf_soup.merge(text_runs, strategy="greedy", evaluator=parts["validation"])
    plain = parts["validation"].rename_column("text", "sentence").add_column("idx", range(60))
    spelt = datasets.Dataset.from_dict(
        {"text": plain["sentence"][:], "label": [["negative", "positive"][label] for label in plain["label"]]}
    )
    for data in (plain, spelt):
        with pytest.raises(EvaluationError, match="used for selection"):
            hf_soup.compare(soup, test=data)
    with pytest.warns(UserWarning, match=r"\d+ of the \d+ rows of 'test' are also"):
        hf_soup.compare(soup, test=plain.select(range(30)), validation=parts["validation"])


def test_any_function_can_score_a_comparison(text_runs, parts):
    """A function of a model gives scores and differences without interval, and no ensembles on its set."""
    soup = hf_soup.merge(text_runs)

    def norm(model):
        return {"size": 1, "loss": float(model.classifier.weight.detach().norm())}

    by_loss = hf_soup.Evaluator(norm, metric="loss", higher_is_better=False)
    texts = hf_soup.Evaluator(parts["test"], split="texts", metric="loss")
    sets = {"test": by_loss, "shifted": {"texts": texts}, "validation": by_loss}
    comparison = hf_soup.compare({"soup": soup}, **sets)
    assert [row.name for row in drawn_rows(comparison)][:5] == [*SINGLE, "uniform soup", "soup"]
    assert comparison.metrics == {"loss": False, "size": None}  # the direction of other values is unknown
    chosen = next(row for row in comparison.models if row.role == "chosen")
    assert chosen.scores["test"]["loss"].value == min(
        row.scores["test"]["loss"].value for row in comparison.models[:3]
    )
    assert set(named(comparison, "logit ensemble").scores) == {"texts"}
    assert comparison.differences["soup"]["test"]["single"].low is None
    assert "without an interval" in comparison.summary
    assert comparison.table()


def test_functions_alone_can_score_shifted_sets(text_runs):
    """If functions score all shifted sets, their mean has no interval."""
    comparison = hf_soup.compare(
        hf_soup.merge(text_runs), test=lambda m: 0.5, shifted=dict.fromkeys("ab", lambda m: 0.25)
    )
    assert named(comparison, "uniform soup").scores["mean of shifts"]["score"].value == 0.25
    assert comparison.table()


def test_the_vote_alone_is_drawn_and_saved(text_runs, parts, tmp_path):
    """An ensemble without probabilities is left out of the reliability diagram."""
    comparison = hf_soup.compare(hf_soup.merge(text_runs), test=parts["test"], ensembles=["vote"])
    assert "majority vote" not in comparison.curves
    assert (comparison.save(tmp_path / "report") / "reliability.png").exists()


def test_texts_that_models_write_are_compared(tmp_path):
    """With a metric of generated texts every model has a score, except for ensembles, which generate no text."""
    task = plugins.load_module("task", "text2text-generation")
    folders = [testing.save_model_for(task, tmp_path / f"run-{seed}", seed) for seed in range(2)]
    options = {"max_new_tokens": 3, "num_beams": 1}
    test = hf_soup.Evaluator(
        testing.example_of(task),
        metric=[lambda made: float(np.mean([len(text) for text in made.predictions])), "loss"],
        generate=options,
    )
    comparison = hf_soup.compare(hf_soup.merge(folders), test=test)
    assert comparison.metric == "<lambda>"
    for row in comparison.models:
        assert ("<lambda>" in row.scores["test"]) == (row.role != "ensemble")
    assert "loss" in named(comparison, "probability ensemble").scores["test"]
    assert comparison.table()


def test_saved_soups_are_compared_like_others(text_runs, parts, tmp_path):
    """A folder is compared like the soup saved in it, and data used for its selection are refused."""
    soup = hf_soup.merge(text_runs, strategy="greedy", evaluator=parts["validation"])
    folder = soup.save_pretrained(tmp_path / "soup")
    there, here = (
        hf_soup.compare({"one": source}, ingredients=text_runs, test=parts["test"], validation=parts["validation"])
        for source in (folder, soup)
    )
    assert there.to_pandas().equals(here.to_pandas())
    assert there.summary == here.summary
    with pytest.raises(EvaluationError, match="used for selection"):
        hf_soup.compare(folder, ingredients=text_runs, test=parts["validation"])
    members = [
        row.name for row in hf_soup.compare(folder, test=parts["test"]).models if row.role in ("ingredient", "chosen")
    ]
    assert sorted(members) == sorted(soup.recipe.names)  # the ingredients of the soup


def test_a_saved_soup_that_is_the_uniform_soup_is_told_once(text_runs, parts, tmp_path):
    """A saved soup with the outputs of the uniform soup shares its verdict; a rounded one does not."""
    data = {"test": parts["test"], "validation": parts["validation"]}
    folder = hf_soup.merge(text_runs).save_pretrained(tmp_path / "soup")
    lines = hf_soup.compare({"one": folder}, **data).summary.split("\n")
    assert lines[1:] == ["The uniform soup of 3 gives the same outputs as one (3 models)."]
    rounded = hf_soup.merge(text_runs, dtype="float16").save_pretrained(tmp_path / "rounded")
    lines = hf_soup.compare({"one": rounded}, **data).summary.split("\n")
    assert "same outputs" not in lines[1]


def test_without_validation_the_recipe_says_who_was_best(text_runs, parts):
    """Without validation the best single model comes from the soup's trials, or the summary says there is none."""
    soup = hf_soup.merge(text_runs, strategy="greedy", evaluator=parts["validation"])
    comparison = hf_soup.compare(soup, test=parts["test"])
    best = max(soup.scores, key=lambda name: soup.scores[name].rank_key)
    assert next(row.name for row in comparison.models if row.role == "chosen") == best
    plain = hf_soup.compare(hf_soup.merge(text_runs), test=parts["test"])
    assert not any(row.role == "chosen" for row in plain.models)
    assert "no validation set says which single model is best" in plain.summary
    assert not any(row.name == "learned mixture" for row in plain.models)


def test_names_do_not_break_the_table():
    """A pipe in a name is escaped in the table."""
    assert align([["a", "b"], ["x|y", "1"]]).splitlines()[2] == "| x\\|y | 1 |"


def test_a_table_refuses_lines_of_other_lengths():
    """A row with too few or too many cells raises a ValueError with its length."""
    for line in (["x"], ["x", "1", "2"]):
        with pytest.raises(ValueError, match=rf"a table of \['a', 'b'\] has a line of {len(line)} cells"):
            align([["a", "b"], ["y", "1"], line])


def test_averaged_statistics_are_told(resnet_runs):
    """`compare` warns about averaged BatchNorm statistics."""
    soup = hf_soup.merge(resnet_runs[:2])
    with pytest.warns(UserWarning, match="BatchNorm"):
        hf_soup.compare(soup, test=testing.tiny_images(8))


def test_functions_share_a_model(text_runs, monkeypatch):
    """A model is averaged once, however many functions score it."""
    made = []
    monkeypatch.setattr(model_maker, "Refill", lambda device: made.append(Refill(device)) or made[-1])
    hf_soup.compare(hf_soup.merge(text_runs), test=lambda model: 0.5, validation=lambda model: 0.5)
    assert len(made) == len(text_runs) + 1


def test_large_predictions_are_kept(text_runs, monkeypatch):
    """A repeated comparison runs no model, however large the predictions are."""
    monkeypatch.setattr(cache, "LARGE", 10)
    test = testing.tiny_texts(24, seed=81)
    soup = hf_soup.merge(text_runs)
    first = hf_soup.compare(soup, test=test)
    monkeypatch.setattr(hf_soup.Evaluator, "run", None)
    again = hf_soup.compare(soup, test=test)
    assert [row.scores for row in again.models] == [row.scores for row in first.models]


def test_soups_that_are_one_model_run_once_and_are_told_once(text_runs, parts, monkeypatch):
    """Soups with the same mixture, in another order or scale of weights, run once and share one verdict."""
    filled = []
    fill = model_maker.ModelMaker.fill
    monkeypatch.setattr(
        model_maker.ModelMaker, "fill", lambda maker, *given: filled.append(given[0]) or fill(maker, *given)
    )
    all_three = hf_soup.merge(text_runs)
    reordered = hf_soup.merge(list(reversed(text_runs)), weights=[2, 2, 2])
    heavier = hf_soup.merge(text_runs, weights=[2, 1, 1])
    soups = {"a": all_three, "b": reordered, "c": heavier}
    data = {"test": testing.tiny_texts(24, seed=91), "validation": testing.tiny_texts(24, seed=92)}
    result = hf_soup.compare(soups, **data)
    assert len([mixture for mixture in filled if len(mixture.used) > 1]) == 2
    lines = result.summary.split("\n")
    starts = ["a (3 models)", "b (3 models)", "c (3 models)", "The uniform soup of 3"]
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == [True] * 4
    assert lines[1] == "b (3 models) gives the same outputs as a (3 models)."
    assert lines[3] == "The uniform soup of 3 gives the same outputs as a (3 models)."
    assert named(result, "a").scores == named(result, "b").scores == named(result, "uniform soup").scores


def calibrated(ece, nll, *scaled):
    """A calibration with these errors and, if given, those after a temperature of 1.4."""
    ece_scaled, nll_scaled = scaled or (None, None)
    temperature = 1.4 if scaled else None
    return Calibrated(ece, ece, ece, 0.1, nll, temperature, ece_scaled, nll_scaled)


@pytest.mark.parametrize(
    ("soup", "sentence"),
    [
        (calibrated(0.07, 0.31), ""),
        (calibrated(0.04, 0.38), ""),
        (
            calibrated(0.254, 0.31, 0.03, 0.29),
            " Its calibration is worse: ECE 25.4 % against 3.8 %; divide its logits by 1.40, the temperature fitted "
            "on validation (ECE 3.0 %, NLL 0.290 then).",
        ),
        (
            calibrated(0.04, 0.6),
            " Its calibration is worse: NLL 0.600 against 0.300; give validation data, on which a temperature for its "
            "logits is fitted.",
        ),
        (
            calibrated(0.254, 0.6, 0.3, 0.7),
            " Its calibration is worse: ECE 25.4 % against 3.8 %, NLL 0.600 against 0.300; the temperature fitted on "
            "validation does not help (ECE 30.0 %, NLL 0.700 with it).",
        ),
    ],
)
def test_much_worse_calibration_is_told_with_what_to_do(soup, sentence):
    """A warning follows if the ECE more than doubles and rises by 5 points, or the NLL rises by half."""
    assert doubts_of_confidence(soup, calibrated(0.038, 0.3)) == sentence
    assert doubts_of_confidence(None, calibrated(0.038, 0.3)) == ""


def test_calibration_is_told_only_where_the_score_held():
    """Calibration is mentioned only if the soup's score is not worse."""
    told = {"soup": calibrated(0.3, 0.9), "best": calibrated(0.02, 0.3)}
    for difference, is_told in ((Difference(0.0, -0.01, 0.01), True), (Difference(-0.05, -0.07, -0.02), False)):
        summary = summarise(
            {"soup": {"test": {"single": difference}}},
            titles={"soup": "soup"},
            sizes={"test": 500},
            metric="accuracy",
            higher_is_better=True,
            single="best",
            ensemble=None,
            members=3,
            calibrations=told,
        )
        assert ("calibration is worse" in summary) == is_told
