"""Tests of threads: they open ingredients concurrently, import nothing, and are not required."""

import json
import os
import resource
import shutil
import subprocess
import sys
import threading

import pytest

import hf_soup
from hf_soup.checkpoints import memory
from hf_soup.checkpoints.source import open_all, try_to_open
from hf_soup.threads import side_by_side


@pytest.fixture
def mapped_runs(tmp_path, text_runs):
    """Three runs of a class in transformers whose configurations also name code of their repositories."""
    runs = [shutil.copytree(run, tmp_path / run.name) for run in text_runs]
    for run in runs:
        config = json.loads((run / "config.json").read_text())
        config["auto_map"] = {"AutoModelForSequenceClassification": "modeling.BertForSequenceClassification"}
        (run / "config.json").write_text(json.dumps(config))
    return runs


def test_first_command_of_a_process_takes_classes_of_transformers(tmp_path, mapped_runs):
    """A new process can open several ingredients whose classes have to be looked up."""
    code = "import sys, hf_soup; print(hf_soup.check(sys.argv[1:]).ok)"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", code, *map(str, mapped_runs)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize("opened", [open_all, try_to_open])
def test_classes_are_looked_up_in_the_thread_of_the_caller(mapped_runs, monkeypatch, opened):
    """Model classes are looked up, and their libraries imported, in the caller's thread."""
    looked_up, real = [], memory.architecture
    monkeypatch.setattr(
        memory, "architecture", lambda config: looked_up.append(threading.current_thread()) or real(config)
    )
    sources = [hf_soup.types.Ingredient(run.name, str(run)) for run in mapped_runs]
    opened(sources)
    assert set(looked_up) == {threading.current_thread()}
    assert len(looked_up) >= 3


@pytest.mark.filterwarnings("ignore::hf_soup.errors.SoupWarning")
def test_streaming_without_threads_has_the_same_bits(hub_runs, text_runs, tmp_path, monkeypatch):
    """Weights are streamed where pools get no threads; the server, in the same process, gets them."""
    soup = hf_soup.merge(hub_runs, stream=True)
    expected = hf_soup.merge(text_runs).save_pretrained(tmp_path / "expected", max_shard_size="20KB")
    real = threading.Thread.start

    def start(thread):
        if thread.name.startswith("ThreadPoolExecutor"):
            raise RuntimeError("can't start new thread")
        real(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        folder = soup.save_pretrained(tmp_path / "soup", max_shard_size="20KB")
    for path in expected.glob("model*"):
        assert (folder / path.name).read_bytes() == path.read_bytes()


def no_more_threads(monkeypatch, after):
    """Let the system start a number of threads and then no more."""
    real, started = threading.Thread.start, []

    def start(thread):
        if len(started) == after:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)


@pytest.mark.parametrize("after", [0, 1, 3])
def test_side_by_side_goes_on_without_threads(monkeypatch, after):
    """Every item is processed, in order, however few threads can be started."""
    no_more_threads(monkeypatch, after)
    assert side_by_side(lambda number: number * 2, range(20)) == [number * 2 for number in range(20)]


@pytest.mark.parametrize("after", [0, 1])
def test_merge_without_threads_has_the_same_bytes(tmp_path, text_runs, monkeypatch, after):
    """A process that cannot start threads writes the same bytes."""
    usual = hf_soup.merge(text_runs).save_pretrained(tmp_path / "usual")
    no_more_threads(monkeypatch, after)
    alone = hf_soup.merge(text_runs).save_pretrained(tmp_path / "alone")
    assert (alone / "model.safetensors").read_bytes() == (usual / "model.safetensors").read_bytes()


def test_first_failure_is_the_one_that_is_raised():
    """Of several failures that of the first item is raised, and remaining items are not started."""
    done = []

    def work(number):
        done.append(number)
        if number < 5:
            raise KeyError(number)

    with pytest.raises(KeyError, match="0"):
        side_by_side(work, range(500))
    assert len(done) < 500


def test_many_ingredients_with_few_file_handles(tmp_path, text_runs):
    """A process that may open only 64 more files can merge 72 ingredients."""
    runs = [shutil.copytree(text_runs[0], tmp_path / f"run-{index}") for index in range(72)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = os.dup(0)
    os.close(highest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 64, hard))
    try:
        folder = hf_soup.merge(runs).save_pretrained(tmp_path / "soup")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (folder / "model.safetensors").read_bytes() == (text_runs[0] / "model.safetensors").read_bytes()
