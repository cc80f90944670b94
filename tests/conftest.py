"""A Hub on loopback for the whole session, started before the first Hugging Face import, and tiny checkpoints."""

import os
import tempfile
from pathlib import Path

import pytest
from hub import HubServer, environment


HUB = HubServer().start()
HOME = tempfile.TemporaryDirectory()
os.environ.update(environment(HUB, Path(HOME.name)))
os.environ.pop("HF_DATASETS_CACHE", None)

from hf_soup import testing  # noqa: E402


@pytest.fixture(scope="session")
def hub():
    """The Hub on loopback that every client in this process talks to."""
    yield HUB
    HUB.stop()


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
