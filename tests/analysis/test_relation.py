"""Tests of the deep check: angles and distances against numpy, and the notes on models without a common start."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
import transformers
from command import run
from safetensors.torch import load_file, save_file

import hf_soup
from hf_soup import testing
from hf_soup.analysis import gram
from hf_soup.checkpoints.modules import group
from hf_soup.checkpoints.source import open_all
from hf_soup.errors import IngredientError


def moved(folder, start, *, body=0.0, head=0.0, seed=0):
    """Save a tiny model with seed `start` and with parameters perturbed relative to their standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    model = testing.tiny_text_model(start)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            size = head if name.startswith("classifier") else body
            tensor += torch.randn(tensor.shape, generator=generator) * tensor.std(correction=0) * size
    return testing.save_text_model(model, folder)


@pytest.fixture
def runs(tmp_path):
    """Three checkpoints that moved a little from one start."""
    return [moved(tmp_path / f"run-{i}", 0, body=0.05, head=0.05, seed=i) for i in range(3)]


def vectors(folders, keep):
    """The matrices of each checkpoint, concatenated into one float64 vector."""
    states = [load_file(folder / "model.safetensors") for folder in folders]
    names = [name for name, tensor in states[0].items() if tensor.dim() > 1 and keep(name)]
    return np.stack([np.concatenate([state[name].double().numpy().ravel() for name in names]) for state in states])


def cosine(a, b):
    """The cosine of two vectors."""
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_angles_and_distances_are_those_of_numpy(tmp_path, runs):
    """Cosines of body, head and modules and distances from the base are those of the concatenated matrices."""
    base = testing.save_text_model(testing.tiny_text_model(0), tmp_path / "base")
    relation = hf_soup.check(runs, base, deep=True).relation
    body = vectors(runs, lambda name: not name.startswith("classifier"))
    head = vectors(runs, lambda name: name.startswith("classifier"))
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert relation.body == pytest.approx(min(cosine(body[i], body[j]) for i, j in pairs), abs=1e-12)
    assert relation.head == pytest.approx(min(cosine(head[i], head[j]) for i, j in pairs), abs=1e-12)
    (start,) = vectors([base], lambda name: not name.startswith("classifier"))
    distances = np.linalg.norm(body - start, axis=1) / np.linalg.norm(start)
    assert list(relation.distances.values()) == pytest.approx(distances, abs=1e-7)
    assert list(relation.distances) == ["run-0", "run-1", "run-2"]
    for module in relation.modules:
        rows = vectors(runs, lambda name, m=module: group(name, "bert") == m.name)
        cosines = [cosine(rows[i], rows[j]) for i, j in pairs]
        assert (module.lowest, module.mean) == pytest.approx((min(cosines), np.mean(cosines)), abs=1e-12)
    assert relation.notes == ()
    assert "encoder.layer.1" in relation.table()


def test_a_base_without_the_head_has_no_distance_there(tmp_path, runs):
    """When the base model has no head, the head's distance is "-" in the table, which the command prints."""
    testing.save_text_model(testing.tiny_text_model(0), tmp_path / "whole")
    transformers.AutoModel.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "body")
    relation = hf_soup.check(runs, tmp_path / "body", deep=True).relation
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in relation.table().splitlines()]
    shown = {row[0]: row[-1] for row in cells[2:]}
    assert cells[0][-1] == "distance"
    assert shown.pop("classifier") == "-"
    known = {module.name: module.distance for module in relation.modules if module.distance is not None}
    assert shown == {name: f"{distance:.4f}" for name, distance in known.items()}
    done = run("check", *runs, "--deep", "--base-model", tmp_path / "body")
    assert done.returncode == 0, done.stderr
    assert relation.table() in done.stdout


def test_unrelated_models_are_noticed(text_runs):
    """For models of different seeds the notes say that neither bodies nor heads have a common start."""
    report = hf_soup.check(text_runs, deep=True)
    assert report.ok  # the models can be averaged; whether they should be is another question
    assert abs(report.relation.body) < 0.2
    body, head = report.relation.notes
    assert "bodies do not look like fine-tunes of one model" in body
    assert "heads do not look like fine-tunes of one initial head" in head
    assert "--weights" not in head  # no choice of head helps when the bodies are unrelated
    assert set(report.relation.notes) <= set(report.notes)


def test_the_odd_one_is_named(tmp_path, runs):
    """Of four models, the notes name the one with another start."""
    stranger = moved(tmp_path / "stranger", 7)
    body, head = hf_soup.check([*runs, stranger], deep=True).relation.notes
    assert body.startswith("stranger: ")
    assert head.startswith("stranger: ")


def test_heads_apart_on_one_body(tmp_path, runs):
    """A head that was initialised anew is reported without a note on the body, which is fine."""
    state = load_file(runs[2] / "model.safetensors")
    state["classifier.weight"] = torch.randn(2, 32, generator=torch.Generator().manual_seed(5))
    save_file(state, runs[2] / "model.safetensors", metadata={"format": "pt"})
    relation = hf_soup.check(runs, deep=True).relation
    assert len(relation.notes) == 1
    assert relation.notes[0].startswith("run-2: the heads do not look like")
    soup = hf_soup.merge(runs)
    with pytest.warns(UserWarning, match="run-2: the heads"):
        soup.save_pretrained(tmp_path / "soup")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert soup.model  # the warning was given at the first pour
        assert hf_soup.merge(runs, weights={"": [1, 1, 1], "classifier": [1, 1, 0]}).model  # that head is left out


@pytest.mark.filterwarnings("error")
def test_a_common_start_gives_no_warning(tmp_path, runs):
    """Runs with a common start give no warning, and a single run has no cosines and no notes."""
    hf_soup.merge(runs).save_pretrained(tmp_path / "soup")
    hf_soup.merge(runs[:1]).save_pretrained(tmp_path / "one")
    one = hf_soup.check(runs[:1], deep=True).relation
    assert (one.body, one.head, one.notes) == (None, None, ())


def test_a_base_without_head_and_other_types(tmp_path, runs):
    """Tensors that the base lacks are listed in a note and have no distance; data types may differ."""
    from transformers import AutoModel

    AutoModel.from_pretrained(runs[0]).to(torch.bfloat16).save_pretrained(tmp_path / "body")
    report = hf_soup.check(runs, tmp_path / "body", deep=True)
    assert any(
        "body lacks 2 of the ingredients' tensors: classifier.bias, classifier.weight" in note for note in report.notes
    )
    far = {module.name: module.distance for module in report.relation.modules}
    assert far["classifier"] is None
    assert far["embeddings"] > 0
    assert report.relation.distances["run-0"] < report.relation.distances["run-1"]
    shallow = hf_soup.check(runs, tmp_path / "body")
    assert shallow.relation is None
    with pytest.raises(IngredientError, match="does not exist"):
        hf_soup.check(runs, tmp_path / "nowhere")


def test_many_ingredients_in_small_pieces(tmp_path, monkeypatch):
    """With many ingredients fewer numbers are read at once, and the results stay the same."""
    monkeypatch.setattr(gram, "TOGETHER", 700)
    folders = [moved(tmp_path / f"run-{i}", 0, body=0.3, head=0.3, seed=i) for i in range(9)]
    body = vectors(folders, lambda name: not name.startswith("classifier"))
    lowest = min(cosine(body[i], body[j]) for i in range(9) for j in range(i))
    assert hf_soup.check(folders, deep=True).relation.body == pytest.approx(lowest, abs=1e-12)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_run_is_named(runs, value):
    """A deep check of a run with NaN or infinity raises an IngredientError that names the run."""
    state = load_file(runs[1] / "model.safetensors")
    state["bert.pooler.dense.weight"][3, 4] = value
    save_file(state, runs[1] / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IngredientError, match="'run-1' holds NaN or infinity"):
        hf_soup.check(runs, deep=True)


def test_a_base_of_other_shapes(tmp_path, runs):
    """When the base model has another number of classes, the head has no distance, and the others are unaffected."""
    base = testing.save_text_model(testing.tiny_text_model(0, labels=("a", "b", "c")), tmp_path / "base")
    relation = hf_soup.check(runs, base, deep=True).relation
    assert next(module for module in relation.modules if module.name == "classifier").distance is None
    assert 0 < relation.distances["run-0"] < 2


def test_a_report_in_json(runs):
    """The JSON output of a deep check includes the relation."""
    from click.testing import CliRunner

    from hf_soup.cli import main

    done = CliRunner().invoke(main, ["check", *map(str, runs), "--deep", "--base-model", str(runs[0]), "--json"])
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert 0.9 < data["relation"]["body"] < 1
    assert data["relation"]["distances"]["run-0"] == 0


def test_small_tensors_without_torch_have_the_same_products(tmp_path, runs):
    """Those of one pass over all tensors, also with rows in another order and in bfloat16."""
    half = shutil.copytree(runs[1], tmp_path / "half")
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(half / "model.safetensors").items()}
    save_file(tensors, half / "model.safetensors", metadata={"format": "pt"})
    checkpoints = open_all([runs[0], half, runs[2]])
    specs = [spec for spec in checkpoints[0].specs.values() if spec.name.startswith("classifier")]
    moved_rows = {(checkpoints[2].name, "classifier.weight"): (1, 0)}
    expected = gram.measure_grams(checkpoints, None, specs, moved=moved_rows).tensors
    found = gram.measure_small_grams(checkpoints, specs, moved_rows)
    assert [each.tensor for each in found] == [each.tensor for each in expected]
    for each, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(each.inner, other.inner, rtol=1e-13, atol=1e-15)
