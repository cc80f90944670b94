"""Scores always belong to the current content of weights and data, never to an earlier one."""

import os
import shutil

import datasets
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import hf_soup
from hf_soup import testing
from hf_soup.checkpoints import content
from hf_soup.data import content as rows
from hf_soup.errors import IngredientError
from hf_soup.evaluation import cache
from hf_soup.selection.trials import ModelTrials
from hf_soup.value_store import ValueStore


DATA = testing.tiny_texts(30)
WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def _empty(tmp_path, monkeypatch):
    """Give each test its own cache files and an empty memory of digests."""
    monkeypatch.setattr(cache, "cache_file", lambda: tmp_path / "kept" / "scores.sqlite")
    monkeypatch.setattr(content, "store", lambda: ValueStore(tmp_path / "kept" / "digests.sqlite", "digests"))
    monkeypatch.setattr(content, "_known", {})


@pytest.fixture
def folders(tmp_path):
    """Three runs whose weight files have the same size and times."""
    made = [testing.save_text_model(testing.tiny_text_model(seed), tmp_path / f"run-{seed}") for seed in range(3)]
    for folder in made:
        os.utime(folder / WEIGHTS, (0, 0))
    return made


def replace(old, new):
    """Replace a weight file while preserving times, as `cp -p` does."""
    shutil.copy2(new / WEIGHTS, old / WEIGHTS)
    assert os.stat(old / WEIGHTS).st_mtime == 0


def greedy(folders, *, cached=True, data=DATA, **options):
    """The validation losses of all trials of a greedy search."""
    evaluator = hf_soup.Evaluator(data, metric="loss", cache=cached, **options)
    soup = hf_soup.merge(folders, strategy="greedy", evaluator=evaluator)
    return [trial.score for trial in soup.recipe.selection.trials]


def compared(folders, *, cached=True):
    """The losses of all models on a test set."""
    test = hf_soup.Evaluator(DATA, metric="loss", cache=cached)
    found = hf_soup.compare(hf_soup.merge(folders), test=test, ensembles=())
    return {row.name: row.scores["test"]["loss"].value for row in found.models}


def ties(folders, *, cached=True):
    """The losses of subsets merged by the method ties with the first run as base model."""
    evaluator = hf_soup.Evaluator(DATA, metric="loss", cache=cached)
    options = {"method": "ties", "base_model": folders[0], "strategy": "exhaustive", "evaluator": evaluator}
    soup = hf_soup.merge(folders[1:], **options)
    return [trial.score for trial in soup.recipe.selection.trials]


@pytest.mark.parametrize("scores", [greedy, compared])
def test_weights_that_were_replaced_are_scored_anew(folders, scores):
    """A search and a comparison score replaced weights anew, even if their size and modification time are the same."""
    first = scores(folders[:2])
    replace(folders[0], folders[2])
    again = scores(folders[:2])
    assert again == scores(folders[:2], cached=False)
    assert again != first


def test_a_base_model_that_was_replaced_makes_other_soups(folders, tmp_path):
    """A replaced base model changes the scores, although it is not an ingredient."""
    other = testing.save_text_model(testing.tiny_text_model(9), tmp_path / "other")
    os.utime(other / WEIGHTS, (0, 0))
    first = ties(folders)
    replace(folders[0], other)
    again = ties(folders)
    assert again == ties(folders, cached=False)
    assert again != first


def test_the_same_weights_elsewhere_have_the_same_scores(folders, tmp_path, monkeypatch):
    """A folder that was moved keeps its cached scores."""
    first = greedy(folders[:2])
    (tmp_path / "moved").mkdir()
    moved = [folder.rename(tmp_path / "moved" / folder.name) for folder in folders[:2]]
    monkeypatch.setattr(hf_soup.Evaluator, "run", None)
    assert greedy(moved) == first


def test_weights_that_are_known_are_not_read_for_a_score(folders, monkeypatch):
    """Digests of files are cached, so that a second search in another process reads no weights to find its scores."""
    monkeypatch.setattr(content, "SETTLED", -1.0)
    first = greedy(folders)
    content._known.clear()
    monkeypatch.setattr(content, "_read", None)
    assert greedy(folders) == first


def test_a_plain_merge_computes_no_digest_of_files(folders, tmp_path, monkeypatch):
    """A merge without scores computes no digests of files."""
    monkeypatch.setattr(content, "_read", None)
    hf_soup.merge(folders).save_pretrained(tmp_path / "soup")


def test_weights_that_change_while_they_are_run_leave_nothing_behind(folders, monkeypatch):
    """If weights change while they are run, an IngredientError is raised and no score is cached."""
    plain = hf_soup.Evaluator.run

    def run(*args, **options):
        found = plain(*args, **options)
        replace(folders[0], folders[2])
        return found

    monkeypatch.setattr(hf_soup.Evaluator, "run", run)
    with pytest.raises(IngredientError, match="has changed since"):
        greedy(folders[:2])
    assert [row for row in cache.kept() if "run-0" in row.about] == []


def test_a_model_in_memory_is_known_by_what_it_is_now(text_runs):
    """A model in memory is identified by its current weights, also when they change and are restored."""
    models = [testing.tiny_text_model(seed) for seed in range(2)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(text_runs[0])
    test = hf_soup.Evaluator(DATA, metric="loss", processing_class=tokenizer)
    soup = hf_soup.merge(models)
    state = {name: tensor.clone() for name, tensor in models[0].state_dict().items()}

    def scores():
        found = hf_soup.compare(soup, test=test, ensembles=())
        return {row.name: row.scores["test"]["loss"].value for row in found.models}

    first = scores()
    with torch.no_grad():
        for parameter in models[0].parameters():
            parameter.mul_(3)
    assert scores() != first
    models[0].load_state_dict(state)
    assert scores() == first


def test_another_process_may_score_the_same_recipe_between_two_looks(folders, monkeypatch):
    """Entries that another process adds to the cache during a search do not change its scores."""
    plain, others = ModelTrials._job, []

    def job(self, mixture, threshold):
        if not others:
            others.append(1)
            greedy(folders)  # stands for the other process
        return plain(self, mixture, threshold)

    expected = greedy(folders, cached=False)
    monkeypatch.setattr(ModelTrials, "_job", job)
    assert greedy(folders) == expected
    evaluator = hf_soup.Evaluator(DATA)
    soup = hf_soup.merge(folders, strategy="greedy", evaluator=evaluator)
    assert others
    assert soup.recipe.names


def test_image_files_that_change_are_other_data(tmp_path, monkeypatch):
    """Changed image files are noticed, even if the data only names them and their size and times are the same."""
    monkeypatch.setattr(rows, "SETTLED", -1.0)
    paths = [str(tmp_path / f"{at}.bmp") for at in range(4)]
    random = np.random.default_rng(0)
    pixels = [Image.fromarray(random.integers(0, 255, (4, 4, 3), dtype=np.uint8)) for _ in range(5)]
    for path, image in zip(paths, pixels, strict=False):
        image.save(path)
        os.utime(path, (0, 0))
    data = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())
    evaluator = hf_soup.Evaluator(data)
    before = evaluator.content_hashes
    assert evaluator.content_hashes is before
    pixels[4].save(paths[0])
    os.utime(paths[0], (0, 0))
    assert evaluator.content_hashes.ordered != before.ordered
    assert len(evaluator.content_hashes.row_hashes & before.row_hashes) == 3


def test_nothing_is_kept_of_rows_behind_a_function():
    """Nothing is cached for data with a transform, whose effect the row hashes do not cover."""
    assert hf_soup.Evaluator(DATA).keeps
    changed = hf_soup.Evaluator(DATA.with_transform(lambda batch: batch))
    assert not changed.keeps
    assert changed.bound(None, "text-classification").key("model", scores=True) is None


@pytest.mark.parametrize("kind", ["score", "gradient", "predictions"])
def test_no_value_is_taken_for_something_that_it_is_not(kind):
    """Changing any byte of a packed value gives a value of the right form or none at all."""
    said = hf_soup.metrics.predictions.Predictions(np.zeros((3, 2), np.float32), np.zeros(3, np.int64), np.arange(3))
    score = hf_soup.types.Score("accuracy", 0.5, split="validation", n=3)
    cache.keep_score("score", score, "about")
    cache.keep_gradient("gradient", hf_soup.types.Gradient(0.1, {"": (1.0, 2.0)}, 0.0), "about")
    packed = {"score": cache._read("score"), "gradient": cache._read("gradient")}
    packed["predictions"] = cache._pack(said, np.arange(3))
    read = {"score": cache._to_score, "gradient": cache._to_gradient, "predictions": cache._unpack}[kind]
    whole = packed[kind]
    assert cache._understood(read, whole) is not None
    places = range(0, len(whole), max(len(whole) // 160, 1))
    values = [whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :] for at in places for flip in (1, 255)]
    for value in [*values, b"", b"[]", b"null", b'{"metric": 1, "value": 2}', b"[" * 100_000]:
        found = cache._understood(read, value)
        if found is None:
            continue
        if kind == "score":
            found.beats(found)
        elif kind == "gradient":
            assert all(isinstance(number, float) for row in found.weights.values() for number in row)
        else:
            assert len(found[0].logits) == len(found[0].labels) == len(found[0].rows)
