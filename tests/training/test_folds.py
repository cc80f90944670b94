"""`folds`: each run trains on all examples but one fold, and is scored on this fold."""

import datasets
import numpy as np
import pytest
import transformers

import hf_soup
from hf_soup import testing
from hf_soup.errors import DataError, RecipeError
from hf_soup.formats.cook_file import load_cook_file
from hf_soup.training.folds import divide, with_folds


DATA = testing.tiny_texts(33), testing.tiny_texts(15, seed=1)
SHARED = {"epochs": 2, "batch_size": 16, "learning_rate": 3e-2}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny text classifier."""
    return testing.save_text_model(testing.tiny_text_model(5), tmp_path_factory.mktemp("base") / "base")


def sweep(base, folder, seeds, **options):
    """A small sweep with three folds."""
    given = {"validation": DATA[1], "space": {"seed": seeds}, "training_args": SHARED, "folds": 3, **options}
    return hf_soup.sweep(base, DATA[0], output_dir=folder, **given)


@pytest.fixture(scope="module")
def runs(base, tmp_path_factory):
    """Three runs, each with a fold of its own."""
    return sweep(base, tmp_path_factory.mktemp("folds") / "runs", [0, 1, 2])


def test_every_run_is_scored_on_its_own_fold(runs):
    """The score of a run is that of its model on its fold of all examples, and the folds have every example once."""
    everything = datasets.concatenate_datasets(DATA)
    rows = []
    for run in runs:
        fold = np.flatnonzero(divide(everything.rename_column("label", "labels"), 3) == run.params["fold"])
        rows += fold.tolist()
        model = transformers.AutoModelForSequenceClassification.from_pretrained(run.folder)
        evaluator = hf_soup.Evaluator(everything.select(fold), cache=False)
        assert evaluator.bound(str(run.folder), "text-classification")(model).value == run.score.value
        assert (run.score.n, run.score.split) == (len(fold), "out-of-fold")
        assert run.state["steps"] == 4  # two epochs of the other 32 examples
    assert sorted(rows) == list(range(48))
    assert [run.params["fold"] for run in runs] == [0, 1, 2]
    assert "folds=3" in runs.table()


def test_runs_keep_their_folds_when_a_space_grows(base, runs):
    """Runs that are there are not trained again if settings are added before them."""
    before = [(run.folder / "run.json").stat().st_mtime_ns for run in runs]
    more = sweep(base, runs.base_model.parent, [7, 0, 1, 2])
    assert {run.params["seed"]: run.params["fold"] for run in more} == {7: 0, 0: 0, 1: 1, 2: 2}
    assert [(run.folder / "run.json").stat().st_mtime_ns for run in runs] == before


def test_folds_are_stratified():
    """Every fold has the same share of each class, and rare classes or numbers are divided at random."""
    labels = [0] * 40 + [1] * 20
    folds = divide(datasets.Dataset.from_dict({"labels": labels}), 4)
    assert [np.bincount(folds[:40]).tolist(), np.bincount(folds[40:]).tolist()] == [[10] * 4, [5] * 4]
    for rare in ([0] * 10 + [1, 1], [float(row) for row in range(12)], [[0, 1]] * 12):
        assert np.bincount(divide(datasets.Dataset.from_dict({"labels": rare}), 4)).tolist() == [3] * 4


def test_refinement_goes_on_with_the_folds(base, tmp_path):
    """Further runs of the best settings take the next folds, and all runs of these settings are found."""
    space = [{"seed": 0, "learning_rate": 3e-2}, {"seed": 0, "learning_rate": 1e-7}]
    refined = sweep(base, tmp_path, None, space=space, training_args={"epochs": 4, "batch_size": 16}, refine=2)
    best = refined.best_settings()
    assert sorted(run.params["fold"] for run in best) == [0, 1, 2]
    assert len(best) == 3
    assert len({run.params["learning_rate"] for run in best}) == 1
    assert len(hf_soup.merge(best).recipe.names) == 3


def test_no_choice_by_examples_that_were_trained_on(runs):
    """A strategy refuses the validation examples that are in the folds, and takes others."""
    with pytest.raises(RecipeError, match="run-0 was trained on these validation examples"):
        hf_soup.merge(runs, strategy="greedy", evaluator=DATA[1])
    with pytest.raises(RecipeError, match="was trained on these"):
        hf_soup.merge([run.folder for run in runs], strategy="greedy", evaluator=DATA[1])
    assert hf_soup.merge(runs, strategy="greedy", evaluator=testing.tiny_texts(20, seed=2)).selection.score


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "2 or more, not 1"),
        ({"folds": True}, "2 or more, not True"),
        ({"folds": 90}, "folds=90: there are only 48 examples"),
        ({"refine": {"runs": 2, "learning_rate": 1.5}}, "gives every further run settings of its own"),
        ({"head": "probe"}, 'head="probe" would train the shared head on all folds'),
        ({"space": {"fold": [0, 1]}, "folds": None}, "pass folds to the sweep"),
        ({"training_args": {"folds": 3}, "folds": None}, "pass folds to the sweep"),
    ],
)
def test_wrong_folds_are_refused(base, tmp_path, options, message):
    """A wrong number of folds, or settings that the sweep makes itself, raise an error before anything is written."""
    with pytest.raises(RecipeError, match=message):
        sweep(base, tmp_path / "runs", [0], **options)
    assert not (tmp_path / "runs").exists()


def test_other_columns_cannot_be_joined(base, tmp_path):
    """Validation examples whose columns have other types cannot be joined with the training examples."""
    other = DATA[1].cast_column("label", datasets.Value("string"))
    with pytest.raises(DataError, match="which have different columns"):
        sweep(base, tmp_path / "runs", [0], validation=other)


def test_a_cook_file_averages_the_best_settings(base, tmp_path):
    """A cook file with folds averages the runs of the best settings, and refuses to choose by validation."""
    for name, data in (("train", DATA[0]), ("validation", DATA[1]), ("test", testing.tiny_texts(20, seed=3))):
        data.to_csv(tmp_path / "data" / f"{name}.csv")
    text = f"""
        base_model: {base}
        data: {{path: {tmp_path / "data"}}}
        sweep: {{space: {{learning_rate: [3.0e-2, 1.0e-7], seed: [0, 1]}}, training_args: {{epochs: 3}}, folds: 2}}
        merge: {{}}
        compare: {{}}
        output_dir: {tmp_path / "out"}
    """
    (tmp_path / "cook.yaml").write_text(text)
    cooked = hf_soup.cook(tmp_path / "cook.yaml")
    assert len(cooked.soup.recipe.names) == 2
    assert "no validation set says which single model is best" in cooked.comparison.table()
    with pytest.raises(RecipeError, match=r"leave `merge.strategy` out"):
        hf_soup.cook(tmp_path / "cook.yaml", overrides=["merge.strategy=greedy"])
    assert load_cook_file(tmp_path / "cook.yaml").merge.strategy is None


def test_the_runs_of_one_setting_leave_out_one_fold_after_the_other():
    """In a grid every setting has runs of all folds, whatever the order of its names, and begins with another fold."""
    runs = [{"seed": seed, "learning_rate": rate} for seed in range(3) for rate in (1, 2, 3)]
    folds = {}
    for own in with_folds(runs, 3, shared={}):
        folds.setdefault(own["learning_rate"], []).append(own["fold"])
    assert folds == {1: [0, 1, 2], 2: [1, 2, 0], 3: [2, 0, 1]}


def test_a_setting_that_moves_to_the_space_keeps_its_folds():
    """Runs are compared with the shared settings, so that a setting may move between the two."""
    existing = [{"seed": 0, "epochs": 2, "folds": 3, "fold": 2}]
    (own,) = with_folds([{"seed": 0, "epochs": 2}], 3, shared={}, existing=existing)
    assert own["fold"] == 2
    (own,) = with_folds([{"seed": 0}], 3, shared={"epochs": 2}, existing=existing)
    assert own["fold"] == 2
