"""Tests of the compatibility check: one error lists every problem found in headers and configurations."""

import json
import re
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import hf_soup
from hf_soup import testing
from hf_soup.errors import IncompatibleError, IngredientError


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
    """Runs of one architecture pass, and the report has their architecture, labels and number of parameters."""
    report = hf_soup.check(text_runs)
    assert report.ok
    assert report.architecture == "BertForSequenceClassification"
    assert report.labels == ("negative", "positive")
    model = testing.tiny_text_model(0)
    assert report.parameters == sum(p.numel() for p in model.parameters())
    assert "Their tensors can be averaged. Read the notes above" in report.table()


def test_another_architecture(text_runs, image_runs):
    """A ViT among BERT models is named in the error."""
    with pytest.raises(IncompatibleError, match="run-0 is a ViTForImageClassification, the others are Bert"):
        hf_soup.merge([image_runs[0], text_runs[1], text_runs[2]])


def test_every_offender_is_listed(runs):
    """Missing, additional and misshapen tensors of two ingredients are listed in one error."""
    edit(runs[1], lambda tensors: tensors.pop("classifier.bias"))
    edit(runs[2], lambda tensors: tensors.update({"more": torch.zeros(1), "classifier.weight": torch.zeros(2, 31)}))
    with pytest.raises(IncompatibleError) as caught:
        hf_soup.merge(runs)
    assert caught.value.problems == (
        "run-1 lacks classifier.bias",
        "run-2 has in addition more",
        "run-2: classifier.weight has the shape [2, 31], the others [2, 32]",
    )


def test_buffers_that_transformers_ignores_make_no_difference(tmp_path, runs):
    """Runs with and without `position_ids`, which older versions wrote, can be merged, and the soup has none."""
    plain = hf_soup.merge(runs).save_pretrained(tmp_path / "plain")
    for run in (runs[0], runs[2]):
        edit(run, lambda tensors: tensors.update({"bert.embeddings.position_ids": torch.arange(32)[None]}))
    mixed = hf_soup.merge(runs).save_pretrained(tmp_path / "mixed")
    assert (mixed / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()


def retokenise(folder, change):
    """Change the tokenizer file of a saved run."""
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def swap(data):
    """Exchange the ids of two words."""
    vocab = data["model"]["vocab"]
    vocab["good"], vocab["bad"] = vocab["bad"], vocab["good"]


def test_tokenizers_of_one_size_with_other_words(runs):
    """Tokenizers of equal size with two words exchanged are refused, with the ids."""
    retokenise(runs[1], swap)
    message = "run-1 has another tokenizer than run-0: 2 tokens differ: 5 is 'bad' against 'good'"
    with pytest.raises(IncompatibleError, match=message):
        hf_soup.merge(runs)


def test_special_tokens(runs):
    """Tokenizers with different padding tokens are refused."""
    path = runs[2] / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": "[MASK]"}))
    with pytest.raises(IncompatibleError, match=r"the pad_token is '\[MASK\]' against '\[PAD\]'"):
        hf_soup.merge(runs)


def test_what_no_vocabulary_says_is_no_difference(runs):
    """Truncation settings, which Trainer writes into the file, and a missing tokenizer are no problems."""
    retokenise(runs[0], lambda data: data.update({"truncation": {"max_length": 8}}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (runs[1] / name).unlink()
    report = hf_soup.check(runs)
    assert report.ok
    assert any("run-1 came without a tokenizer" in note for note in report.notes)


def test_a_broken_tokenizer_is_named(runs):
    """Invalid tokenizer files raise an IngredientError that names the ingredient."""
    (runs[1] / "tokenizer.json").write_text("{}")
    with pytest.raises(IngredientError, match="tokenizer files of run-1 cannot be read"):
        hf_soup.check(runs)


def test_label_order(runs):
    """Runs with exchanged labels are refused, because one class would be averaged into the other."""
    configure(runs[0], id2label={"0": "positive", "1": "negative"}, label2id={"positive": 0, "negative": 1})
    with pytest.raises(IncompatibleError, match="labels in another order: class 0 is 'positive'"):
        hf_soup.merge(runs)


def test_other_labels(runs):
    """Runs with the labels of another task are refused."""
    configure(runs[2], id2label={"0": "ham", "1": "spam"})
    with pytest.raises(IncompatibleError, match=r"run-2 has the labels \['ham', 'spam'\]"):
        hf_soup.merge(runs)


def test_unequal_integer_buffers(tmp_path, bros_runs):
    """Integer buffers are not averaged: if they differ, an error names the buffer."""
    runs = [shutil.copytree(run, tmp_path / run.name) for run in bros_runs]
    assert hf_soup.check(runs).ok
    edit(runs[1], lambda tensors: tensors["bros.embeddings.position_ids"].add_(1))
    with pytest.raises(IncompatibleError, match=r"the int64 buffer .*position_ids differs"):
        hf_soup.merge(runs)


def test_batchnorm_is_noted(tmp_path):
    """A model with BatchNorm passes, with a note on its running statistics."""
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


def test_tied_against_untied_embeddings(tmp_path):
    """Tied and untied embeddings are a problem, and the commands in its message untie a model."""
    folders = []
    sizes = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    for index, tied in enumerate((False, True, True)):
        config = transformers.LlamaConfig(**sizes, num_attention_heads=2, tie_word_embeddings=tied)
        transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / f"run-{index}")
        folders.append(tmp_path / f"run-{index}")
    (odd,) = hf_soup.check(folders).problems
    assert odd.startswith("run-0 has in addition lm_head.weight, its untied embeddings: those of the others are tied.")
    (odd,) = hf_soup.check(folders[:2]).problems
    assert odd.startswith("run-1 lacks lm_head.weight, its tied embeddings: those of the others are untied.")
    model = transformers.AutoModelForCausalLM.from_pretrained(folders[1])
    for command in re.findall(r"`(model\.[^`]*)`", odd)[:2]:
        exec(command, {"model": model, "torch": torch})
    model.save_pretrained(tmp_path / "untied")
    assert hf_soup.check([folders[0], tmp_path / "untied"]).ok
