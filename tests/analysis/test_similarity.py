"""Tests of angles, lengths and distances of weights, against concatenated vectors in float64."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import hf_soup
from hf_soup import testing
from hf_soup.analysis.similarity import measure_similarity
from hf_soup.checkpoints.base_model import open_base
from hf_soup.checkpoints.source import open_all
from hf_soup.errors import IngredientError, RecipeError


def vector(folder, prefix=""):
    """All weights of a folder, or those of one module, as one float64 vector."""
    tensors = load_file(folder / "model.safetensors")
    return torch.cat([t.double().flatten() for name, t in sorted(tensors.items()) if prefix in name]).numpy()


def cosine(a, b):
    """The cosine of two vectors."""
    return a @ b / np.sqrt((a @ a) * (b @ b))


def measured(folders, base=None):
    """The similarity of checkpoints in folders."""
    checkpoints = open_all(folders)
    return measure_similarity(checkpoints, open_base(base, checkpoints[0]) if base else None)


@pytest.fixture(scope="module")
def start(text_runs, tmp_path_factory):
    """A base model near the first run."""
    folder = tmp_path_factory.mktemp("base") / "base"
    model = testing.tiny_text_model(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    return testing.save_text_model(model, folder)


@pytest.mark.parametrize("where", [None, "classifier", "encoder.layer.1", "body"])
def test_everything_is_that_of_whole_vectors(text_runs, start, where):
    """Cosines, distances, lengths, angles and signs equal those of concatenated vectors, of models and modules."""
    similarity = measured(text_runs, start)
    prefix = {None: "", "classifier": "classifier", "encoder.layer.1": "encoder.layer.1.", "body": "bert."}[where]
    rows, base = [vector(run, prefix) for run in text_runs], vector(start, prefix)
    deltas, mean = [row - base for row in rows], np.mean(rows, axis=0)
    for i in range(3):
        assert similarity.lengths(where)[i] == pytest.approx(np.sqrt(deltas[i] @ deltas[i]), rel=1e-12)
        to_base = np.degrees(np.arccos(cosine(rows[i], base)))
        assert similarity.angles_to_base(where)[i] == pytest.approx(to_base, rel=1e-6)
        assert similarity.angles_to_mean(where)[i] == pytest.approx(
            np.degrees(np.arccos(cosine(rows[i], mean))), rel=1e-6
        )
        for j in range(3):
            if i == j:
                continue
            assert similarity.cosines(where)[i, j] == pytest.approx(cosine(deltas[i], deltas[j]), abs=1e-12)
            assert similarity.cosines(where, of="weights")[i, j] == pytest.approx(cosine(rows[i], rows[j]), abs=1e-12)
            assert similarity.distances(where)[i, j] == pytest.approx(np.linalg.norm(rows[i] - rows[j]), rel=1e-9)
            assert similarity.angles(where)[i, j] == pytest.approx(np.degrees(np.arccos(cosine(deltas[i], deltas[j]))))
            both = (deltas[i] != 0) & (deltas[j] != 0)
            same = np.sign(deltas[i][both]) == np.sign(deltas[j][both])
            assert similarity.signs(where)[i, j] == pytest.approx(same.mean(), abs=1e-12)


def test_without_a_base_the_mean_stands_for_it(text_runs):
    """Without a base model, changes are differences from the mean of all models."""
    similarity = measured(text_runs)
    rows = [vector(run) for run in text_runs]
    apart = [row - np.mean(rows, axis=0) for row in rows]
    assert similarity.cosines()[0, 1] == pytest.approx(cosine(apart[0], apart[1]), abs=1e-9)
    assert similarity.distances()[0, 2] == pytest.approx(np.linalg.norm(rows[0] - rows[2]), rel=1e-9)
    moved = np.ptp(rows, axis=0) > 0
    same = np.sign(apart[0][moved]) == np.sign(apart[1][moved])
    assert similarity.signs()[0, 1] == pytest.approx(same.mean(), abs=1e-3)
    with pytest.raises(RecipeError, match="base_model"):
        similarity.angles_to_base()


@pytest.mark.parametrize("models", [2, 3])
def test_without_a_base_nothing_is_shown_that_holds_for_any_models(text_runs, models):
    """Without a base, tables and pictures leave out cosines of changes, which say nothing about two models."""
    similarity = measured(text_runs[:models])
    head = similarity.table().splitlines()[0]
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        "module",
        "cosine of weights",
        "distance",
        "angle to mean",
    ]
    cells = [text.get_text() for text in similarity.plot("runs").get_axes()[0].texts]
    assert f"{similarity.distances()[0, 1]:.2f}" in cells
    curve, _ = similarity.plot("depth").get_axes()[0].get_lines()  # and the line at 0
    assert list(curve.get_ydata()) == [row.weights.mean for row in similarity.by_module()]
    shown = [pair.deltas for pair in similarity.pairs()] + [row.deltas for row in similarity.by_module()]
    if models == 2:
        assert all(value is None or np.isnan(value) for value in shown)


def test_opposite_and_equal_changes(tmp_path, start):
    """Opposite changes have cosine -1 and no common sign, and parallel changes have cosine 1."""
    base = load_file(start / "model.safetensors")
    ways = {name: torch.randn_like(tensor) * 1e-3 for name, tensor in base.items()}
    folders = []
    for index, factor in enumerate((1.0, -1.0, 2.0)):
        folder = tmp_path / f"run-{index}"
        testing.save_text_model(testing.tiny_text_model(0), folder)
        moved = {name: (base[name].double() + factor * ways[name].double()).float() for name in base}
        save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
        folders.append(folder)
    similarity = measured(folders, start)
    assert similarity.cosines()[0, 1] == pytest.approx(-1, abs=1e-6)
    assert similarity.cosines()[0, 2] == pytest.approx(1, abs=1e-6)
    assert similarity.signs()[0, 1] == pytest.approx(0, abs=0.01)
    assert similarity.lengths()[2] == pytest.approx(2 * similarity.lengths()[0], rel=1e-4)


def test_modules_come_from_the_bottom_up(text_runs, start):
    """Modules are in order of depth, with mean, minimum and maximum over pairs; a misspelled name is refused."""
    similarity = measured(text_runs, start)
    assert similarity.modules[0] == "embeddings"
    assert similarity.modules[-1] == "classifier"
    rows = {row.name: row for row in similarity.by_module()}
    cosines = similarity.cosines("classifier")[np.triu_indices(3, 1)]
    assert rows["classifier"].deltas == pytest.approx((cosines.mean(), cosines.min(), cosines.max()))
    assert rows["classifier"].region == "head"
    assert sum(row.elements for row in rows.values()) == len(vector(text_runs[0]))
    tensors = {row.name: row for row in similarity.by_tensor()}
    assert tensors["classifier.bias"].elements == 2
    assert len(similarity.to_pandas("pair")) == 3
    assert list(similarity.to_pandas()["name"]) == list(similarity.modules)
    assert "classifier" in similarity.table()
    with pytest.raises(RecipeError, match="did you mean"):
        similarity.cosines("clasifier")


def test_a_base_without_a_head_leaves_the_head_out(text_runs, tmp_path):
    """A head that the base lacks has no changes; its weights and distances are still measured."""
    import transformers

    body = transformers.AutoModel.from_pretrained(text_runs[0])
    body.save_pretrained(tmp_path / "body")
    similarity = measured(text_runs, tmp_path / "body")
    head = next(row for row in similarity.by_module() if row.name == "classifier")
    assert head.deltas is None
    assert head.weights is not None
    rows = [vector(run, "classifier") for run in text_runs]
    assert similarity.distances("classifier")[0, 1] == pytest.approx(np.linalg.norm(rows[0] - rows[1]), rel=1e-9)


@pytest.fixture
def bytes_read(monkeypatch):
    """The number of bytes in each read of weights."""
    from hf_soup.checkpoints.checkpoint import Checkpoint

    read, original = [], Checkpoint.read_into

    def counted(self, files, name, start_, into):
        read.append(len(into))
        return original(self, files, name, start_, into)

    monkeypatch.setattr(Checkpoint, "read_into", counted)
    return read


def test_files_are_read_once(text_runs, start, bytes_read):
    """Every element of every model is read once, whatever the number of models."""
    measured(text_runs, start)
    assert sum(bytes_read) == 4 * 4 * len(vector(text_runs[0]))


@pytest.mark.parametrize("with_base", [True, False])
def test_advice_and_similarity_share_one_pass(text_runs, start, bytes_read, with_base):
    """Advice uses the angles of the similarity, and reads no weights itself."""
    hf_soup.advise(text_runs, base_model=start if with_base else None)
    assert sum(bytes_read) == (3 + with_base) * 4 * len(vector(text_runs[0]))


@pytest.mark.parametrize("with_base", [True, False])
def test_the_relation_is_that_of_a_deep_check(text_runs, start, with_base):
    """The similarity and the deep check report the same relation."""
    base = start if with_base else None
    relation, checked = measured(text_runs, base).relation(), hf_soup.check(text_runs, base, deep=True).relation
    assert (relation.body, relation.head) == pytest.approx((checked.body, checked.head), abs=1e-12)
    assert relation.distances == pytest.approx(checked.distances, rel=1e-12)
    assert relation.notes == checked.notes
    assert {module.name: module.mean for module in relation.modules} == pytest.approx(
        {module.name: module.mean for module in checked.modules}, abs=1e-12
    )


def test_a_model_that_diverged_is_named(text_runs, tmp_path):
    """A model that holds NaN raises an error with its name."""
    folder = testing.save_text_model(testing.tiny_text_model(0), tmp_path / "broken")
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.bias"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IngredientError, match="'broken' holds NaN"):
        measured([text_runs[0], folder])


def test_pictures_have_every_model(text_runs, start):
    """The heat map labels every model, the plot by depth every module, and unknown pictures are refused."""
    similarity = measured(text_runs, start)
    axes = similarity.plot("runs").get_axes()[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(similarity.names)
    figure = similarity.plot("depth")
    axes = figure.get_axes()[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == list(similarity.modules)
    assert figure.get_suptitle()
    with pytest.raises(RecipeError, match='no picture "run"'):
        similarity.plot("run")


def test_what_is_equal_in_all_says_nothing(tmp_path, text_runs):
    """Frozen modules have no changes, whatever the number of runs and the rounding of their mean."""
    for n in (3, 5, 7):
        folders = []
        for index in range(n):
            folders.append(testing.save_text_model(testing.tiny_text_model(0), tmp_path / f"{n}-{index}"))
            tensors = load_file(folders[-1] / "model.safetensors")
            tensors["classifier.weight"] += 0.1 * index
            save_file(tensors, folders[-1] / "model.safetensors", metadata={"format": "pt"})
        rows = {row.name: row for row in measured(folders).by_module()}
        assert rows["embeddings"].deltas is None
        assert rows["embeddings"].distance == 0
        assert rows["classifier"].deltas is not None


def test_weights_that_are_all_zero_give_no_nan(tmp_path, text_runs):
    """Tensors of zeros have finite angles, although rounding may make their squared length negative."""
    generator = torch.Generator().manual_seed(0)
    folders = []
    for name in ("base", "one", "two", "three"):
        folders.append(testing.save_text_model(testing.tiny_text_model(0), tmp_path / name))
        tensors = load_file(folders[-1] / "model.safetensors")
        for tensor in tensors.values():
            tensor += 0.02 * torch.randn(tensor.shape, generator=generator)
        save_file(tensors, folders[-1] / "model.safetensors", metadata={"format": "pt"})
    base, *others = folders
    similarity = measured([*others, text_runs[0]], base)
    zero = [name for name, tensor in load_file(text_runs[0] / "model.safetensors").items() if not tensor.any()]
    assert zero
    for name in zero:
        assert np.isfinite(similarity.angles_to_base(name)).all()
        assert np.isfinite(similarity.angles_to_mean(name)).all()


def test_a_base_that_diverged_is_named(text_runs, tmp_path):
    """If the base model holds infinity, the error names it and not the models."""
    folder = testing.save_text_model(testing.tiny_text_model(0), tmp_path / "broken")
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.bias"][0] = float("inf")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IngredientError, match="'broken' holds NaN"):
        measured(text_runs, folder)
