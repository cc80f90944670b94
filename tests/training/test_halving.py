"""Successive halving stops the runs of a space that are in the lower half after a part of the training."""

import json
import math
from types import SimpleNamespace

import pytest

import hf_soup
from hf_soup import testing
from hf_soup.errors import RecipeError
from hf_soup.metrics.load import Metric
from hf_soup.training.halving import StopLowerHalf
from hf_soup.training.records import StoppedError
from hf_soup.training.refinement import read_refinement


DATA = testing.tiny_texts(48), testing.tiny_texts(24, seed=1)
SPACE = {"learning_rate": [2e-3, 1e-9, 5e-3, 3e-2]}


def state_of(*scores, steps=8):
    """The state of a Trainer after some evaluations, every second step of eight."""
    history = [{"loss": 1.0, "step": 1}]
    for number, score in enumerate(scores, start=1):
        history.append({"eval_accuracy": score, "step": 2 * number})
    return {"log_history": history, "max_steps": steps, "global_step": 2 * len(scores)}


def is_stopped(folder, others, own, *, higher_is_better=True):
    """Whether a run with these scores stops beside others that are complete."""
    for number, scores in enumerate(others):
        (folder / f"run-{number}").mkdir()
        (folder / f"run-{number}" / "trainer_state.json").write_text(json.dumps(state_of(*scores)))
    (folder / "run-9").mkdir()
    callback = StopLowerHalf(folder / "run-9", Metric("accuracy", dict, higher_is_better=higher_is_better))
    state = SimpleNamespace(
        **state_of(*own), is_world_process_zero=True, save_to_json=lambda path: open(path, "w").close()
    )
    try:
        callback.on_evaluate(None, state, None)
    except StoppedError:
        return True
    return False


@pytest.mark.parametrize(
    ("others", "own", "stops"),
    [
        ([], [0.1], False),  # the first run
        ([[0.5, 0.6, 0.7, 0.8]], [0.4], True),  # one of two
        ([[0.5, 0.6, 0.7, 0.8]], [0.5], False),  # as good
        ([[0.5, 0.6], [0.3]], [0.4], False),  # the second of three
        ([[0.5, 0.6], [0.3]], [0.2], True),
        ([[0.5, 0.6], [0.3]], [0.4, 0.5], True),  # half of the way, that only one other has come
        ([[0.5, 0.6, 0.7]], [0.6, 0.7, 0.1], False),  # between two rungs
        ([[0.5, 0.6, 0.7, 0.8]], [0.4, 0.4, 0.4, 0.4], False),  # at the end
        ([[0.5]], [math.nan], True),
        ([[math.nan]], [0.1], False),
    ],
)
def test_the_lower_half_stops(tmp_path, others, own, stops):
    """A run stops at a quarter or half of its steps if at least half of the runs that have come as far are better."""
    assert is_stopped(tmp_path, others, own) == stops


def test_the_direction_of_the_metric_counts(tmp_path):
    """Of a metric for which lower is better, the higher half stops."""
    assert is_stopped(tmp_path, [[0.5]], [0.6], higher_is_better=False)


def test_damaged_histories_are_passed_over(tmp_path):
    """A history that is being written, or is none, is not compared with."""
    for number, text in enumerate(['{"log_hi', "[]", '{"log_history": 3, "max_steps": 8}']):
        folder = tmp_path / f"run-{number + 20}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(text)
    assert not is_stopped(tmp_path, [], [0.1])


def sweep(base, folder, **options):
    """Four learning rates, of which one trains nothing and one too fast, and one further run."""
    return hf_soup.sweep(
        base,
        DATA[0],
        validation=DATA[1],
        space=SPACE,
        metric="loss",
        refine={"runs": 1, "halving": True},
        training_args={"epochs": 4, "batch_size": 16},
        output_dir=folder,
        on_error="raise",
        **options,
    )


def test_stopped_runs_are_left_out_and_not_repeated(tmp_path):
    """Runs that were stopped are no failures: they are named in the table, left out, and not trained again; further
    runs are not stopped.
    """
    base = testing.save_text_model(testing.tiny_text_model(5), tmp_path / "base")
    runs = sweep(base, tmp_path / "runs")
    assert [run.params["learning_rate"] for run in runs][:2] == [2e-3, 5e-3]
    assert len(runs) == 3
    assert [(run.name, run.cause) for run in runs.failed] == [("run-1", "stopped"), ("run-3", "stopped")]
    assert "run-1 was stopped: its loss of" in runs.table()
    assert "after 3 of 12 steps was in the lower half of 2 runs" in runs.table()
    records = [tmp_path / "runs" / name for name in ("run-0/run.json", "run-1/failed.json", "run-4/run.json")]
    before = [path.stat().st_mtime_ns for path in records]
    assert len(sweep(base, tmp_path / "runs")) == 3
    assert [path.stat().st_mtime_ns for path in records] == before
    assert len(hf_soup.merge(runs).recipe.names) == 3
    every_folder = sorted((tmp_path / "runs").glob("run-*"))
    assert len(every_folder) == 5
    assert hf_soup.merge(every_folder).recipe.names == hf_soup.merge(runs).recipe.names


def test_halving_is_true_or_false():
    """Another value raises a RecipeError."""
    with pytest.raises(RecipeError, match="halving is true or false, not 2"):
        read_refinement({"runs": 1, "halving": 2})
