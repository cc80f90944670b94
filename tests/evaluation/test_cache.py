"""The cache avoids running models again, never returns outdated scores and never makes a run fail."""

import json
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import time

import datasets
import numpy as np
import pytest
import transformers

import hf_soup
from hf_soup import testing
from hf_soup.evaluation import cache
from hf_soup.metrics.predictions import Predictions


@pytest.fixture(autouse=True)
def _empty(tmp_path, monkeypatch):
    """Give each test a cache file of its own."""
    monkeypatch.setattr(cache, "cache_file", lambda: tmp_path / "kept" / "scores.sqlite")


@pytest.fixture
def runs(monkeypatch):
    """A list that grows by one with each run of a model."""
    calls, plain = [], hf_soup.Evaluator.run
    monkeypatch.setattr(hf_soup.Evaluator, "run", lambda *args, **options: calls.append(1) or plain(*args, **options))
    return calls


@pytest.fixture(scope="module")
def tokenizer(text_runs):
    """The tokenizer of the tiny models."""
    return transformers.AutoTokenizer.from_pretrained(text_runs[0])


DATA = testing.tiny_texts(30)


def greedy(text_runs, data=DATA, **options):
    """A greedy soup of the tiny runs."""
    return hf_soup.merge(text_runs, strategy="greedy", evaluator=hf_soup.Evaluator(data, **options))


def singles():
    """The number of cached predictions of single ingredients; that of soups depends on which candidates win."""
    return len([row for row in cache.kept() if row.value_type == "predictions" and " + " not in row.about])


def test_a_strategy_runs_again_for_nothing(text_runs, runs):
    """A second search has the same trials without running a model, and a comparison does not rerun ingredients."""
    first = greedy(text_runs)
    n = len(runs)
    assert n > 5
    second = greedy(text_runs)
    assert len(runs) == n
    assert second.recipe.selection == first.recipe.selection
    found = hf_soup.compare(second, test=testing.tiny_texts(30, seed=1), validation=DATA)
    soups = 1 + (len(second.recipe.names) > 1)  # a soup of a single ingredient is that ingredient
    assert len(runs) == n + (3 + soups) + soups  # all models on test data, the soups on validation data
    n = len(runs)
    assert hf_soup.compare(second, test=testing.tiny_texts(30, seed=1), validation=DATA) == found
    assert len(runs) == n


@pytest.mark.parametrize(
    "change",
    [
        {"data": DATA.select(range(29))},
        {"data": DATA.select(range(29, -1, -1))},
        {"batch_size": 7},
        {"dtype": "bfloat16"},
        {"text_columns": ["text"]},
        {"split": "other"},
    ],
    ids=str,
)
def test_what_changes_a_score_is_in_its_key(text_runs, runs, change):
    """Changing rows, their order, batches, arithmetic, columns or the split makes every model run anew."""
    greedy(text_runs)
    assert singles() == 3
    greedy(text_runs, **change)
    assert singles() == 6


@pytest.mark.parametrize(
    "change",
    [{"metric": "f1"}, {"metric": ["accuracy", "loss"]}, {"higher_is_better": False}, {"select_by": "accuracy"}],
)
def test_another_metric_is_another_score_of_the_same_predictions(text_runs, change):
    """Another metric is computed from the cached predictions, without using the score of a different metric."""
    keys = {
        hf_soup.Evaluator(DATA, task="text-classification", **options).key("one", scores=True)
        for options in ({}, change)
    }
    assert len(keys) == 2
    plain, other = greedy(text_runs), greedy(text_runs, **change)
    assert singles() == 3
    if "metric" in change:
        assert other.selection.metric == hf_soup.Evaluator(DATA, **change).metrics[0].name
    else:
        assert {name: score.value for name, score in other.scores.items()} == {
            name: score.value for name, score in plain.scores.items()
        }


def test_another_tokenizer_or_model_is_another_score(text_runs, tokenizer, tmp_path):
    """The cache key depends on the tokenizer's content and on the ingredient's files."""
    evaluator = hf_soup.Evaluator(DATA, task="text-classification", processing_class=tokenizer)
    shorter = transformers.AutoTokenizer.from_pretrained(text_runs[0], model_max_length=5)
    keys = {
        each.key(model, scores=True)
        for each in (evaluator, hf_soup.Evaluator(DATA, task="text-classification", processing_class=shorter))
        for model in ("one", "two")
    }
    assert len(keys) == 4
    folder = testing.save_text_model(testing.tiny_text_model(5), tmp_path / "run")
    greedy([folder, *text_runs])
    before = len(cache.kept())
    testing.save_text_model(testing.tiny_text_model(6), folder)
    greedy([folder, *text_runs])
    assert len(cache.kept()) > before


def test_names_of_classes_and_configurations_are_in_the_key(text_runs, tmp_path):
    """Renaming the classes of the data, or changing a model's configuration, causes new predictions."""
    folders = [shutil.copytree(run, tmp_path / run.name) for run in text_runs[:2]]
    greedy(folders)
    names = datasets.ClassLabel(names=["positive", "negative"])
    plain = datasets.Dataset.from_dict({"text": DATA["text"][:], "label": DATA["label"][:]})
    greedy(folders, data=plain.cast_column("label", names))
    assert singles() == 4
    for folder in folders:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    greedy(folders)
    assert singles() == 6


def test_using_a_tokenizer_does_not_change_its_key(tokenizer):
    """The cache key of a tokenizer does not depend on the settings of its last call."""
    options = {"task": "text-classification"}
    evaluator = hf_soup.Evaluator(DATA, processing_class=tokenizer, **options)
    tokenizer(["a"], truncation=True, padding=True, max_length=4)
    again = hf_soup.Evaluator(DATA, processing_class=tokenizer, **options)
    before = hf_soup.Evaluator(
        DATA, processing_class=transformers.AutoTokenizer.from_pretrained(tokenizer.name_or_path), **options
    )
    keys = {each.key("one", scores=True) for each in (evaluator, again, before)}
    assert len(keys) == 1


def test_data_for_batchnorm_is_in_the_key(tmp_path):
    """Data for BatchNorm with another order, batch size or number of images gives other cache keys."""
    folders = []
    for seed in range(2):
        transformers.set_seed(seed)
        config = transformers.ResNetConfig(
            embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_labels=3
        )
        net = transformers.ResNetForImageClassification(config).eval()
        folders.append(testing.save_image_model(net, tmp_path / f"run-{seed}"))
    train, validation = testing.tiny_images(40, seed=1), testing.tiny_images(10)
    evaluators = [
        hf_soup.Evaluator(train, split="train"),
        hf_soup.Evaluator(train.select(range(39, -1, -1)), split="train"),
        hf_soup.Evaluator(train, split="train", batch_size=10),
        hf_soup.Evaluator(train.select(range(30)), split="train"),
    ]
    for at, data in enumerate(evaluators):
        by_loss = hf_soup.Evaluator(validation, metric="loss")
        options = {"strategy": "greedy", "evaluator": by_loss, "batchnorm_data": data}
        hf_soup.merge(folders, **options)
        hf_soup.merge(folders, **options)
        assert len([row for row in cache.kept() if row.value_type == "score"]) == 2 + (at + 1)


def test_functions_are_never_kept(text_runs, runs):
    """Scores of a metric that is a function, of a scoring function and with `cache=False` are not cached."""
    for options in ({"metric": lambda said: 0.5}, {"cache": False}):
        greedy(text_runs, **options)
        assert not [row for row in cache.kept() if row.value_type == "score"]
    n = len(runs)
    greedy(text_runs, cache=False)
    once = len(runs) - n
    assert once > 5
    greedy(text_runs, cache=False)
    assert len(runs) == n + 2 * once
    calls = []
    for _ in range(2):
        hf_soup.merge(text_runs, strategy="greedy", evaluator=lambda model: calls.append(1) or 0.5)
    assert len(calls) == 10


def test_predictions_come_back_as_they_were(text_runs, tokenizer):
    """Predictions read from the cache equal those written in every field, bit by bit."""
    said = hf_soup.Evaluator(DATA, processing_class=tokenizer).predict(testing.tiny_text_model(0))
    said = said._replace(texts=("a", "é"), references=("b", ""))
    again, asked = cache._unpack(cache._pack(said, np.array([2, 0])))
    assert asked.tolist() == [2, 0]
    for name, value in said._asdict().items():
        assert np.array_equal(value, getattr(again, name))
        assert type(value) is type(getattr(again, name))
    assert isinstance(again, Predictions)


def test_show_and_clear(text_runs):
    """Cached entries are listed with size and date, and removed when the cache is cleared."""
    greedy(text_runs)
    rows = cache.kept()
    assert {"predictions", "score"} <= {row.value_type for row in rows} <= {"part", "predictions", "score"}
    assert all(row.bytes > 0 and abs(row.created - time.time()) < 600 for row in rows)
    assert cache.clear() == len(rows)
    assert cache.kept() == []


def test_a_file_that_is_no_database_is_set_aside(text_runs):
    """A cache file that is not a database is set aside with a warning, and a new one is used."""
    path = cache.cache_file()
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database at all" * 100)
    with pytest.warns(UserWarning, match="was no database"):
        greedy(text_runs)
    assert path.with_suffix(".broken").read_bytes().startswith(b"no database")
    assert singles() == 3


def test_without_room_for_a_file_nothing_is_kept_and_nothing_fails(text_runs, tmp_path, monkeypatch):
    """If the cache folder cannot be created, a warning is given and the search works without the cache."""
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cache, "cache_file", lambda: tmp_path / "file" / "scores.sqlite")
    with pytest.warns(UserWarning, match="scores are not kept"):
        assert greedy(text_runs).recipe.names
    with pytest.warns(UserWarning, match="scores are not kept"):
        assert cache.clear() == 0


def _write(path, start):
    cache.cache_file = lambda: path
    for at in range(start, start + 40):
        cache._write(f"key-{at}", "score", "test", b"x" * 1000)


def test_many_processes_write_at_once():
    """Several processes can write at once without errors or lost entries."""
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(cache.cache_file(), 40 * at)) for at in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert len(cache.kept()) == 160


def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    """After a writer is killed, the entries written before are intact and writing continues to work."""
    path = cache.cache_file()
    script = (
        "import sys; from pathlib import Path; from hf_soup.evaluation import cache\n"
        "cache.cache_file = lambda: Path(sys.argv[1])\n"
        "for at in range(10**6):\n"
        "    cache._write(f'key-{at}', 'score', 'test', b'x' * 100_000); print(at, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, env=dict(os.environ))
    for _ in range(20):
        process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    assert len(cache.kept()) >= 20
    cache._write("after", "score", "test", b"y")
    assert cache._read("after") == b"y"
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
