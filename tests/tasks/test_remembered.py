"""The task of a configuration is found once and kept, as long as what is kept is a task of this version."""

import pytest

from hf_soup import tasks
from hf_soup.errors import DataError
from hf_soup.tasks import _remembered, task_of


TEXTS = {"architectures": ["BertForSequenceClassification"], "model_type": "bert", "num_labels": 2}


@pytest.fixture(autouse=True)
def fresh_store(tmp_path, monkeypatch):
    """A store of this test."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))


def refuse(*_):
    """Stands for the search for a task, which is not to take place."""
    raise AssertionError("the task was looked for")


def test_a_task_is_found_once(monkeypatch):
    """It is looked for once for each configuration, whatever the order of its entries."""
    assert task_of(TEXTS) == "text-classification"
    monkeypatch.setattr(tasks, "_find_task", refuse)
    assert task_of(dict(reversed(TEXTS.items()))) == "text-classification"
    for other in ({**TEXTS, "num_labels": 1}, {**TEXTS, "architectures": ["BertForTokenClassification"]}):
        with pytest.raises(AssertionError, match="was looked for"):
            task_of(other)


def test_other_versions_look_again(monkeypatch):
    """A new version of transformers may have other classes."""
    assert task_of(TEXTS) == "text-classification"
    monkeypatch.setattr(_remembered, "versions", lambda: {"transformers": "99"})
    assert _remembered.recall_task(TEXTS) is None


def test_what_is_no_task_is_not_used():
    """Such as the task of another version, or something else."""
    _remembered.remember_task(TEXTS, "no-task")
    assert _remembered.recall_task(TEXTS) is None
    assert task_of(TEXTS) == "text-classification"


def test_models_without_a_task_are_not_kept():
    """The error comes again."""
    for _ in range(2):
        with pytest.raises(DataError, match="no task fits"):
            task_of({"architectures": ["SomethingElse"], "model_type": "bert"})
