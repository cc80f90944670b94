"""One error that lists every offender, from headers and configurations."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import hf_soup
from hf_soup import testing


@pytest.fixture
def runs(tmp_path, text_runs):
    """Copies of three runs, to be changed."""
    return [shutil.copytree(run, tmp_path / run.name) for run in text_runs]


def edit(folder, change):
    """Change the tensors of a saved run."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def configure(folder, **fields):
    """Change the configuration of a saved run."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_good_ingredients_pass(text_runs):
    """Runs of one architecture can be averaged, and the report says what they are."""
    report = hf_soup.check(text_runs)
    assert report.ok
    assert report.architecture == "BertForSequenceClassification"
    assert report.labels == ("negative", "positive")
    model = testing.tiny_text_model(0)
    assert report.parameters == sum(p.numel() for p in model.parameters())
    assert "They can be averaged." in report.table()


def test_another_architecture(text_runs, image_runs):
    """A ViT among BERTs is the one that is named."""
    with pytest.raises(hf_soup.IncompatibleError, match="run-0 is a ViTForImageClassification, the others are Bert"):
        hf_soup.merge([image_runs[0], text_runs[1], text_runs[2]])


def test_every_offender_is_listed(runs):
    """Missing, additional and misshapen tensors of two ingredients come in one error."""
    edit(runs[1], lambda tensors: tensors.pop("classifier.bias"))
    edit(runs[2], lambda tensors: tensors.update({"more": torch.zeros(1), "classifier.weight": torch.zeros(2, 31)}))
    with pytest.raises(hf_soup.IncompatibleError) as caught:
        hf_soup.merge(runs)
    assert caught.value.problems == (
        "run-1 lacks classifier.bias",
        "run-2 has in addition more",
        "run-2: classifier.weight has the shape [2, 31], the others [2, 32]",
    )


def test_buffers_that_transformers_ignores_make_no_difference(tmp_path, runs):
    """Files of older versions with `position_ids` go with files without; the soup has what is written today."""
    plain = hf_soup.merge(runs).save_pretrained(tmp_path / "plain")
    for run in (runs[0], runs[2]):
        edit(run, lambda tensors: tensors.update({"bert.embeddings.position_ids": torch.arange(32)[None]}))
    mixed = hf_soup.merge(runs).save_pretrained(tmp_path / "mixed")
    assert (mixed / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()


def test_label_order(runs):
    """Swapped labels average one class into the other: refused, with the class."""
    configure(runs[0], id2label={"0": "positive", "1": "negative"}, label2id={"positive": 0, "negative": 1})
    with pytest.raises(hf_soup.IncompatibleError, match="labels in another order: class 0 is 'positive'"):
        hf_soup.merge(runs)


def test_other_labels(runs):
    """Labels of another task are refused."""
    configure(runs[2], id2label={"0": "ham", "1": "spam"})
    with pytest.raises(hf_soup.IncompatibleError, match=r"run-2 has the labels \['ham', 'spam'\]"):
        hf_soup.merge(runs)


def test_unequal_integer_buffers(runs):
    """Whole numbers are not averaged: an error that names the buffer, before anything is written."""
    for index, run in enumerate(runs):
        edit(run, lambda tensors, index=index: tensors.update({"ids": torch.tensor([index // 2])}))
    with pytest.raises(hf_soup.IncompatibleError, match="the int64 buffer ids differs"):
        hf_soup.merge(runs)


def test_batchnorm_is_noted(tmp_path):
    """A model with BatchNorm can be averaged, with a note on its running statistics."""
    import transformers

    for seed in (0, 1):
        transformers.set_seed(seed)
        config = transformers.ResNetConfig(
            embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=2
        )
        transformers.ResNetForImageClassification(config).save_pretrained(tmp_path / f"run-{seed}")
    report = hf_soup.check([tmp_path / "run-0", tmp_path / "run-1"])
    assert report.ok
    assert any("BatchNorm" in note for note in report.notes)
