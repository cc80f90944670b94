"""`refine` trains further runs around the best settings of a sweep."""

import math
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import hf_soup
from hf_soup import testing
from hf_soup.cli import main
from hf_soup.errors import RecipeError
from hf_soup.formats.cook_file import load_cook_file
from hf_soup.training.records import Run
from hf_soup.training.refinement import read_refinement, settings_around_best


DATA = testing.tiny_texts(48), testing.tiny_texts(24, seed=1)
SPACE = {"learning_rate": [1e-4, 3e-2], "seed": [0, 5]}
SHARED = {"epochs": 2, "batch_size": 16}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny text classifier."""
    return testing.save_text_model(testing.tiny_text_model(5), tmp_path_factory.mktemp("base") / "base")


def sweep(base, folder, space=SPACE, **options):
    """A small sweep."""
    return hf_soup.sweep(
        base, DATA[0], validation=DATA[1], space=space, output_dir=folder, training_args=SHARED, **options
    )


@pytest.fixture(scope="module")
def refined(base, tmp_path_factory):
    """Four runs of a grid, and two further ones."""
    return sweep(base, tmp_path_factory.mktemp("refined") / "runs", refine=2)


def test_the_best_settings_get_new_seeds(refined):
    """The further runs have the settings with the best mean score, and seeds that no run has."""
    assert len(refined) == 6
    means = {}
    for rate in SPACE["learning_rate"]:
        of_rate = [run for run in refined[:4] if run.params["learning_rate"] == rate]
        losses = [run.state["metrics"]["eval_loss"] for run in of_rate]
        means[rate] = (sum(run.score.value for run in of_rate) / len(of_rate), -sum(losses) / len(losses))
    best = max(means, key=means.get)
    assert [(run.params["learning_rate"], run.seed) for run in refined[4:]] == [(best, 1), (best, 2)]


def test_they_are_the_runs_that_the_space_would_give(base, refined, tmp_path):
    """A further run has the same weights, to the bit, as a run of these settings in a list."""
    listed = sweep(base, tmp_path / "runs", space=[run.params for run in refined])
    for one, other in zip(refined, listed, strict=True):
        first, second = (load_file(run.folder / "model.safetensors") for run in (one, other))
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_repeated_call_trains_nothing(base, refined):
    """Complete runs are found again: their records are not written a second time."""
    records = [run.folder / "run.json" for run in refined]
    before = [path.stat().st_mtime_ns for path in records]
    again = sweep(base, refined[0].folder.parent, refine=2)
    assert [run.name for run in again] == [run.name for run in refined]
    assert [path.stat().st_mtime_ns for path in records] == before


def test_the_best_settings_are_those_that_were_refined(refined):
    """A single run that is good by chance does not make its settings the best: those with the most runs count."""
    lucky = Run({"learning_rate": 9.0}, 0, refined[0].folder, {**refined[0].state, "score": None})
    score = {**refined[0].state["score"], "value": 1.0}
    lucky = replace(lucky, state={**lucky.state, "score": score})
    best = replace(refined, runs=(*refined.runs, lucky)).best_settings()
    assert len(best) == 4
    assert {run.params["learning_rate"] for run in best} == {refined[-1].params["learning_rate"]}


def test_seeds_of_stopped_runs_are_taken(refined):
    """Further runs do not have the seeds of runs that were stopped or failed, which are there already."""
    further = settings_around_best(refined[:4], {}, read_refinement(2), seeds=[1, 2])
    assert [own["seed"] for own in further] == [3, 4]


def test_learning_rates_and_examples_vary(refined):
    """A mapping draws learning rates within a factor of the best one, and a fraction of the examples for each run."""
    refinement = read_refinement({"runs": 20, "learning_rate": 2, "bagging_fraction": 0.5})
    settings = settings_around_best(refined[:4], {}, refinement)
    best = settings_around_best(refined[:4], {}, read_refinement(1))[0]["learning_rate"]
    factors = [math.log2(own["learning_rate"] / best) for own in settings]
    assert -1 <= min(factors) < -0.3
    assert 0.3 < max(factors) <= 1
    assert {own["bagging_fraction"] for own in settings} == {0.5}
    assert len({own["seed"] for own in settings}) == 20


@pytest.mark.parametrize(
    ("refine", "message"),
    [
        (-1, "0 or more"),
        (True, "0 or more"),
        (1.5, "0 or more"),
        ({"learning_rate": 2}, "with runs"),
        ({"runs": 1, "learning_rat": 2}, 'no "learning_rat"; did you mean "learning_rate"'),
        ({"runs": 1, "learning_rate": 0.5}, "factor from 1"),
        ({"runs": 1, "bagging_fraction": 0}, "bagging_fraction is above 0"),
    ],
)
def test_wrong_values_are_refused_before_training(base, tmp_path, refine, message):
    """The error names the value, and no folder is made."""
    with pytest.raises(RecipeError, match=message):
        sweep(base, tmp_path / "runs", refine=refine)
    assert not (tmp_path / "runs").exists()


def test_the_shell_and_the_plan_show_it(base, tmp_path):
    """`--refine` is an option, and the summary of the plan counts the further runs."""
    for split, rows in zip(("train", "validation"), DATA, strict=True):
        rows.to_csv(tmp_path / f"{split}.csv")
    arguments = [
        "sweep",
        str(base),
        "--data",
        str(tmp_path),
        "--learning-rate",
        "1e-3,1e-2",
        "-o",
        str(tmp_path / "r"),
    ]
    shown = CliRunner().invoke(main, [*arguments, "--refine", "3", "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert "2 runs of 2 to train, then 3 around the best" in shown.output
    default = CliRunner().invoke(
        main, ["sweep", str(base), "--data", str(tmp_path), "-o", str(tmp_path / "r"), "--epochs", "2", "--dry-run"]
    )
    assert "4 runs of 4 to train, then 4 around the best" in default.output


@pytest.mark.parametrize(
    ("merge", "strategy"),
    [
        ("{}", "auto"),
        ("{strategy: uniform}", "uniform"),
        ("{weights: [1, 2]}", None),
        ("{method: median}", None),
    ],
)
def test_a_cook_file_that_names_no_strategy_has_auto(tmp_path, merge, strategy):
    """Where data is at hand to choose by; without data the soup is uniform."""
    (tmp_path / "cook.yaml").write_text(
        f"ingredients: [a, b]\ndata: {{path: my_data}}\nmerge: {merge}\ncompare: {{}}\n"
    )
    assert load_cook_file(tmp_path / "cook.yaml").merge.strategy == strategy
    (tmp_path / "cook.yaml").write_text(f"ingredients: [a, b]\nmerge: {merge}\n")
    assert load_cook_file(tmp_path / "cook.yaml").merge.strategy == (strategy if "uniform" in merge else None)


def test_a_mapping_in_a_cook_file(tmp_path):
    """The numbers of a mapping are read as they are meant."""
    text = "base_model: b\ndata: {path: d}\nsweep: {refine: {runs: 4, learning_rate: 1.5}}\n"
    (tmp_path / "cook.yaml").write_text(text)
    refinement = read_refinement(load_cook_file(tmp_path / "cook.yaml").sweep.refine_or_default)
    assert (refinement.runs, refinement.learning_rate) == (4, 1.5)


def test_the_default_space_leaves_what_is_shared(base, tmp_path):
    """A learning rate for all runs is not overridden by the default ones; then only seeds differ."""
    options = {"validation": DATA[1], "output_dir": tmp_path / "runs", "refine": 1}
    runs = hf_soup.sweep(base, DATA[0], training_args={**SHARED, "learning_rate": 1e-3}, **options)
    assert [run.params for run in runs] == [{"seed": 0}, {"seed": 1}]


def test_equal_scores_are_decided_by_loss(tmp_path):
    """Where a metric ties, the settings with the lower validation loss are refined."""
    score = {"metric": "accuracy", "value": 0.5, "higher_is_better": True, "split": "validation", "n": 9}
    runs = []
    for rate, loss in ((1e-5, 0.9), (3e-5, 0.7), (1e-4, 0.8)):
        state = {"run": "run", "score": score, "metrics": {"eval_loss": loss}}
        runs.append(Run({"learning_rate": rate, "seed": 0}, 0, tmp_path, state))
    (own,) = settings_around_best(runs, {}, read_refinement(1))
    assert own == {"learning_rate": 3e-5, "seed": 1}
