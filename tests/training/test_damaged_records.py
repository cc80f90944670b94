"""Damaged records of a sweep are ignored, so that runs are trained again, or raise one clear error."""

import contextlib
import json
import random

import pytest

import hf_soup
from hf_soup import testing
from hf_soup.errors import TrainingError
from hf_soup.training.manifest import check_start, start_digests


SCORE = {"metric": "accuracy", "value": 0.5, "higher_is_better": True, "split": "validation", "n": 5}
RUN = {
    "run": "run-0",
    "params": {"learning_rate": 0.001},
    "seed": 1,
    "metrics": {"eval_accuracy": 0.5},
    "score": SCORE,
    "train_loss": 0.1,
    "step": 3,
    "seconds": 1.0,
    "checkpoints": {"checkpoint-2": {"step": 2, "score": SCORE, "metrics": {}}},
}
MANIFEST = {
    "fixed": {"training_args": {"seed": 1}},
    "runs": {"run-0": {"learning_rate": 0.001}},
    "base_commit": None,
}
FAILED = {"params": {"learning_rate": 1}, "reason": "it diverged", "kind": "diverged"}
VALUES = (None, 5, "x", [], {}, [1], {"a": [1]}, "../../etc", 10**400)


@pytest.fixture
def sweep(tmp_path):
    """The folder of a sweep with one run, without weights."""
    (tmp_path / "run-0").mkdir()
    (tmp_path / "sweep.json").write_text(json.dumps(MANIFEST))
    (tmp_path / "run-0" / "run.json").write_text(json.dumps(RUN))
    return tmp_path


def damages(whole):
    """Yield damaged versions: other values, missing keys, flipped bytes and content that is no mapping."""
    random_ = random.Random(0)
    for key in whole:
        yield from (json.dumps({**whole, key: value}).encode() for value in VALUES)
        yield json.dumps({name: value for name, value in whole.items() if name != key}).encode()
    text = json.dumps(whole).encode()
    for _ in range(100):
        place = random_.randrange(len(text))
        yield text[:place] + bytes([text[place] ^ random_.choice([1, 32, 128, 255])]) + text[place + 1 :]
    yield from (b"", b"[]", b"null", b"[" * 100_000, b"\xff\xfe")


def look(folder):
    """Load the sweep of a folder and use everything it offers."""
    found = hf_soup.load_sweep(folder)
    found.table(), found.to_pandas()
    return found, [(run.score, run.as_ingredient()) for run in found]


def test_what_is_whole_is_read(sweep):
    """Undamaged records give the run and its intermediate checkpoint."""
    found, _ = look(sweep)
    assert [run.name for run in found] == ["run-0-checkpoint-2", "run-0"]
    assert found.best().score.value == 0.5


@pytest.mark.parametrize(("name", "whole"), [("run-0/run.json", RUN), ("run-0/failed.json", FAILED)])
def test_a_record_that_is_damaged_is_none(sweep, name, whole):
    """A run with a damaged record is listed, for example as waiting to be trained again, and no error is raised."""
    (sweep / "run-0" / "run.json").unlink()
    for content in damages(whole):
        (sweep / name).write_bytes(content)
        found, _ = look(sweep)
        assert len(found.runs) + len(found.failed) + len(found.waiting) >= 1


def test_a_damaged_list_of_runs_is_one_error(sweep):
    """A damaged `sweep.json` raises a TrainingError at most, and a run name outside the folder is refused."""
    for content in damages(MANIFEST):
        (sweep / "sweep.json").write_bytes(content)
        with contextlib.suppress(TrainingError):
            look(sweep)
    (sweep / "sweep.json").write_text(json.dumps({**MANIFEST, "runs": {"../run-0": {}}}))
    with pytest.raises(TrainingError, match="not what a sweep writes"):
        look(sweep)


def test_runs_are_added_to_the_start_of_the_others_only(tmp_path):
    """If the weights of the start have changed, a TrainingError is raised; rewriting the same weights is allowed."""
    start = testing.save_text_model(testing.tiny_text_model(0), tmp_path / "start")
    manifest = {**MANIFEST, "start": start_digests(start)}
    testing.save_text_model(testing.tiny_text_model(0), start)
    check_start(manifest, start)
    testing.save_text_model(testing.tiny_text_model(1), start)
    check_start(MANIFEST, start)  # a manifest written before digests were recorded
    with pytest.raises(TrainingError, match="have changed since the first runs"):
        check_start(manifest, start)
