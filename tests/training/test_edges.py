"""A sweep whose best run lies at the edge of its space says so in its table."""

import json

import pytest

from hf_soup.training.edges import edge_notes
from hf_soup.training.records import Run


def runs_of(folder, table, evaluations=None):
    """Runs with these learning rates and scores on 400 examples, and the scores of their evaluations."""
    runs = []
    for index, (rate, value) in enumerate(table.items()):
        run = folder / f"run-{index}"
        run.mkdir()
        history = [{"eval_accuracy": score, "epoch": epoch} for epoch, score in enumerate(evaluations or [value])]
        (run / "trainer_state.json").write_text(json.dumps({"log_history": history}))
        score = {"metric": "accuracy", "value": value, "higher_is_better": True, "split": "validation", "n": 400}
        runs.append(Run({"learning_rate": rate, "seed": 9}, 9, run, {"run": run.name, "score": score}))
    return runs, max(runs, key=lambda run: run.score.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({1e-5: 0.7, 3e-5: 0.8, 1e-4: 0.9}, "its learning_rate, 0.0001, is the highest that was tried"),
        ({1e-5: 0.9, 3e-5: 0.8, 1e-4: 0.7}, "its learning_rate, 1e-05, is the lowest that was tried"),
        ({1e-5: 0.8, 3e-5: 0.9, 1e-4: 0.7}, None),
        ({1e-5: 0.7, 1e-4: 0.9}, None),  # of two values each is at an edge
        ({1e-5: 0.9, 3e-5: 0.9, 1e-4: 0.7}, None),  # a run in the middle is as good
    ],
)
def test_an_edge_is_reported(tmp_path, table, words):
    """The setting at the edge is named, and what to do."""
    notes = edge_notes(*runs_of(tmp_path, table))
    if words is None:
        assert notes == []
    else:
        assert words in notes[0]
        assert "widen the space" in notes[0]
        assert "seed" not in notes[0]


@pytest.mark.parametrize(
    ("evaluations", "rises"), [([0.7, 0.8, 0.9], True), ([0.7, 0.9, 0.9], False), ([0.895, 0.9], False)]
)
def test_scores_that_still_rise_are_reported(tmp_path, evaluations, rises):
    """A rise by more than one standard error in the last evaluation is a reason to train longer."""
    notes = edge_notes(*runs_of(tmp_path, {1e-5: 0.8, 3e-5: 0.9, 1e-4: 0.7}, evaluations))
    assert any("train longer" in note for note in notes) == rises
