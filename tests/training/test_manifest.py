"""In `sweep.json` settings may move between shared ones and those of each run, but otherwise not change."""

import json

import pytest
import torch
from safetensors.torch import load_file

import hf_soup
from hf_soup import testing
from hf_soup.errors import TrainingError
from hf_soup.training.manifest import extend_manifest


ARGS = {"num_train_epochs": 1, "per_device_train_batch_size": 16}


def extended(manifest, shared, settings, folder):
    """The manifest after a call with these settings, and the names and settings of its runs."""
    return extend_manifest(manifest, folder, {"metric": "accuracy", "training_args": shared}, settings)


CALLS = {  # shared and own settings of a first and a second call, and the names of its runs; None: refused
    "nothing new": (({"a": 1}, [{"b": 1}]), ({"a": 1}, [{"b": 1}]), ["run-0"]),
    "a larger space": (({"a": 1}, [{"b": 1}]), ({"a": 1}, [{"b": 2}, {"b": 1}]), ["run-1", "run-0"]),
    "shared, then of the space": (({"a": 1, "b": 1}, [{}]), ({"a": 1}, [{"b": 1}, {"b": 2}]), ["run-0", "run-1"]),
    "one of two settings moves": (
        ({"a": 1, "b": 1}, [{"c": 1}, {"c": 2}]),
        ({"b": 1}, [{"c": 1, "a": 2}, {"c": 2, "a": 1}]),
        ["run-2", "run-1"],
    ),
    "of the space, then shared": (({}, [{"b": 1}, {"b": 2}]), ({"b": 2}, [{}]), ["run-1"]),
    "of the space, then shared with a new value": (({}, [{"b": 1}, {"b": 2}]), ({"b": 3}, [{}]), ["run-2"]),
    "of an old command line": (({}, [{"a": 1, "b": 1}]), ({"a": 1}, [{"b": 1}, {"b": 2}]), ["run-0", "run-1"]),
    "an own setting that says what is shared": (({"a": 1}, [{"a": 1}]), ({"a": 1}, [{"a": 1}, {}]), ["run-0"]),
    "whole and other numbers": (({"a": 1}, [{}]), ({}, [{"a": 1.0}]), ["run-0"]),
    "mappings": (({"a": {"x": 1}}, [{}]), ({}, [{"a": {"x": 1}}, {"a": {"x": 2}}]), ["run-0", "run-1"]),
    "another value for all": (({"a": 1}, [{"b": 1}]), ({"a": 2}, [{"b": 1}]), None),
    "one more shared setting": (({"a": 1}, [{"b": 1}]), ({"a": 1, "c": 1}, [{"b": 1}]), None),
    "one shared setting less": (({"a": 1, "c": 1}, [{"b": 1}]), ({"a": 1}, [{"b": 1}]), None),
    "a shared setting moves and loses its value": (({"a": 1}, [{"b": 1}]), ({}, [{"b": 1, "a": 2}]), None),
    "one moves and another changes": (({"a": 1, "c": 1}, [{}]), ({"c": 2}, [{"a": 1}]), None),
}


@pytest.mark.parametrize(("first", "second", "names"), CALLS.values(), ids=CALLS)
def test_a_setting_may_move(tmp_path, first, second, names):
    """Runs are the same if all their settings are equal, wherever they stand; a changed setting is refused."""
    manifest, before = extended(None, *first, tmp_path)
    if names is None:
        with pytest.raises(TrainingError, match="another training_args"):
            extended(manifest, *second, tmp_path)
        return
    after, asked = extended(manifest, *second, tmp_path)
    assert list(asked) == names
    shared, runs = after["fixed"]["training_args"], after["runs"]
    assert list(runs)[: len(before)] == list(before)
    for name, own in before.items():
        assert {**shared, **runs[name]} == {**first[0], **own}
    wanted = [{**second[0], **own} for own in second[1]]
    found = [{**shared, **asked[name]} for name in names]
    assert found == [settings for place, settings in enumerate(wanted) if settings not in wanted[:place]]
    again, asked = extended(after, *first, tmp_path)
    assert list(asked) == list(before)
    assert {**again["fixed"]["training_args"], **again["runs"]["run-0"]} == {**first[0], **first[1][0]}


def test_a_first_manifest_is_what_was_written(tmp_path):
    """A first manifest lists shared and own settings as the caller has given them."""
    manifest, runs = extended(None, {"a": 1}, [{"b": 1}, {"b": 2, "a": 3}], tmp_path)
    assert manifest["fixed"]["training_args"] == {"a": 1}
    assert manifest["runs"] == runs == {"run-0": {"b": 1}, "run-1": {"b": 2, "a": 3}}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny text classifier."""
    return testing.save_text_model(testing.tiny_text_model(5), tmp_path_factory.mktemp("base") / "base")


def sweep(base, folder, space, **shared):
    """A small sweep."""
    data, validation = testing.tiny_texts(48), testing.tiny_texts(24, seed=1)
    return hf_soup.sweep(
        base, data, validation=validation, space=space, training_args={**ARGS, **shared}, output_dir=folder
    )


def test_a_shared_setting_becomes_one_of_the_space(base, tmp_path):
    """If a shared setting becomes part of the space, the existing run is kept and each run reports its own setting."""
    (first,) = sweep(base, tmp_path, {}, seed=0, learning_rate=1e-3)
    before = (first.folder / "run.json").stat().st_mtime_ns
    more = sweep(base, tmp_path, {"seed": [0, 1]}, learning_rate=1e-3)
    assert [run.name for run in more] == ["run-0", "run-1"]
    assert (first.folder / "run.json").stat().st_mtime_ns == before
    assert [run.params for run in more] == [{"seed": 0}, {"seed": 1}]
    assert more.training_args == {**ARGS, "learning_rate": 1e-3}
    loaded = hf_soup.load_sweep(tmp_path)
    assert loaded.table() == more.table()
    assert "All: num_train_epochs=1, per_device_train_batch_size=16, learning_rate=0.001" in loaded.table()
    assert [run.params for run in sweep(base, tmp_path, {}, seed=1, learning_rate=1e-3)] == [{"seed": 1}]
    with pytest.raises(TrainingError, match=r"learning_rate was 0\.001 and is 0\.01 now"):
        sweep(base, tmp_path, {"seed": [0, 1]}, learning_rate=1e-2)
    with pytest.raises(TrainingError, match=r"learning_rate was 0\.001 and is None now"):
        sweep(base, tmp_path, {"seed": [0, 1]})


def test_a_moved_setting_is_trained_as_it_was(base, tmp_path):
    """A setting that moves to the space gives runs with the same bits."""
    sweep(base, tmp_path / "moved", {}, seed=0, learning_rate=1e-3)
    sweep(base, tmp_path / "moved", {"seed": [0, 1]}, learning_rate=1e-3)
    sweep(base, tmp_path / "whole", {"seed": [0, 1]}, learning_rate=1e-3)
    for name in ("run-0", "run-1"):
        one, two = (load_file(tmp_path / folder / name / "model.safetensors") for folder in ("moved", "whole"))
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_manifest_of_an_older_version(base, tmp_path):
    """A manifest from before settings could be shared is read and extended."""
    sweep(base, tmp_path, [{"seed": 0, "learning_rate": 1e-3}])
    manifest = json.loads((tmp_path / "sweep.json").read_text())
    assert manifest["runs"] == {"run-0": {"seed": 0, "learning_rate": 1e-3}}
    manifest["fixed"]["training_args"] = {}
    manifest["runs"]["run-0"] |= ARGS
    (tmp_path / "sweep.json").write_text(json.dumps(manifest))
    record = json.loads((tmp_path / "run-0" / "run.json").read_text())
    record |= {"params": manifest["runs"]["run-0"], "training_args": {}}
    (tmp_path / "run-0" / "run.json").write_text(json.dumps(record))
    before = (tmp_path / "run-0" / "model.safetensors").stat().st_mtime_ns
    assert len(hf_soup.load_sweep(tmp_path)) == 1
    assert [run.name for run in sweep(base, tmp_path, {"seed": [0, 1]}, learning_rate=1e-3)] == ["run-0", "run-1"]
    assert (tmp_path / "run-0" / "model.safetensors").stat().st_mtime_ns == before
