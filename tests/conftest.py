"""Starts a local Hub before the first Hugging Face import, for the whole session, and makes tiny checkpoints."""

import gc
import os
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hub import HubServer, environment


# Set before torch is imported: threads of two processes slow each other down, and tiny models do not need them
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests do not need to survive a power failure, and a disk takes milliseconds for each of some ten thousand flushes
os.fsync = lambda descriptor: None

HUB = HubServer().start()
HOME = tempfile.TemporaryDirectory()
os.environ.update(environment(HUB, Path(HOME.name)))
os.environ.pop("HF_DATASETS_CACHE", None)

import transformers  # noqa: E402
from huggingface_hub import HfApi  # noqa: E402

from hf_soup import testing  # noqa: E402


# Files with tests that start processes, train models or wait; each of these files takes at least 8 seconds.
LONG = (
    "test_executors.py",
    "test_start.py",
    "test_resume.py",
    "test_callbacks.py",
    "test_stderr.py",
    "test_published_cli.py",
    "test_writer.py",
    "test_trials.py",
)
imported = {"modules": 0}  # number of modules at the last freeze


@pytest.fixture(autouse=True)
def _imports_are_no_garbage():
    """Exclude modules that tests have imported from garbage collection, from the next test on.

    Trainer collects garbage twice per training, which takes 0.3 seconds if transformers and peft have to be traversed.
    """
    if len(sys.modules) > imported["modules"] + 50:
        gc.collect()
        gc.freeze()
        imported["modules"] = len(sys.modules)


def pytest_collection_modifyitems(items):
    """Run files with slow tests first, so that two workers finish at about the same time."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session")
def hub():
    """The local Hub that every client in this process talks to."""
    yield HUB
    HUB.stop()


@pytest.fixture
def waits(monkeypatch):
    """The requested waits in seconds, nearly all of which are skipped."""
    waited, sleep = [], time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: (waited.append(seconds), sleep(min(seconds, 0.01))))
    return waited


@pytest.fixture
def faulty(hub):
    """The Hub without faults from other tests; faults are cleared again after the test."""
    hub.faults.clear()
    yield hub
    hub.faults.clear()


@pytest.fixture(scope="session")
def text_runs(tmp_path_factory):
    """Three saved BERT classifiers that differ in all their weights."""
    folder = tmp_path_factory.mktemp("text")
    return [testing.save_text_model(testing.tiny_text_model(seed), folder / f"run-{seed}") for seed in range(3)]


@pytest.fixture(scope="session")
def image_runs(tmp_path_factory):
    """Three saved ViT classifiers that differ in all their weights."""
    folder = tmp_path_factory.mktemp("image")
    return [testing.save_image_model(testing.tiny_image_model(seed), folder / f"run-{seed}") for seed in range(3)]


@pytest.fixture(scope="session")
def resnet_runs(tmp_path_factory):
    """Two saved ResNet classifiers, which have BatchNorm, that differ in all their weights."""
    folder = tmp_path_factory.mktemp("resnet")
    options = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic", "num_labels": 3}
    folders = []
    for seed in range(2):
        transformers.set_seed(seed)
        model = transformers.ResNetForImageClassification(transformers.ResNetConfig(**options))
        folders.append(testing.save_image_model(model, folder / f"run-{seed}"))
    return folders


@pytest.fixture(scope="session")
def bros_runs(tmp_path_factory):
    """Two saved BROS classifiers, whose files also hold integer tensors (`position_ids`)."""
    folder = tmp_path_factory.mktemp("bros")
    folders = []
    for seed in range(2):
        transformers.set_seed(seed)
        model = transformers.BrosForTokenClassification(transformers.BrosConfig(**testing.TINY["bert"]))
        folders.append(testing.save_text_model(model, folder / f"run-{seed}"))
    return folders


@pytest.fixture
def hub_runs(hub, text_runs, tmp_path):
    """The three BERT classifiers on the Hub, in repositories that belong to this test."""
    ids = [f"{hub.user}/{tmp_path.name}-{index}" for index in range(3)]
    for repo_id, run in zip(ids, text_runs, strict=True):
        HfApi().create_repo(repo_id)
        HfApi().upload_folder(repo_id=repo_id, folder_path=run)
    return ids
