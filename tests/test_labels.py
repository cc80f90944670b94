"""Ingredients whose classes are in another order: refused, or permuted when asked, and recorded."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import hf_soup
from hf_soup import testing
from hf_soup.checkpoints.modules import class_tensors
from hf_soup.checkpoints.reader import TensorSpec


LABELS = ("no", "maybe", "yes", "never")


@pytest.fixture
def runs(tmp_path):
    """Three classifiers of four classes with one order of labels."""
    return [
        testing.save_text_model(testing.tiny_text_model(seed, labels=LABELS), tmp_path / f"run-{seed}")
        for seed in range(3)
    ]


def permute(folder, order):
    """The same classifier with its classes in another order, in place."""
    state = load_file(folder / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name][list(order)].contiguous()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    labels = [LABELS[index] for index in order]
    config |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def mixed(tmp_path, runs):
    """The same, one of them permuted."""
    return [runs[0], permute(shutil.copytree(runs[1], tmp_path / "moved"), (2, 0, 3, 1)), runs[2]]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("method", ["linear", "median"])
def test_aligned_heads_give_the_soup_of_equal_ones(tmp_path, runs, mixed, method, first):
    """The soup is that of the ingredients before one was permuted, whoever comes first; its config too."""
    order = [first, *(index for index in range(3) if index != first)]
    with pytest.raises(hf_soup.IncompatibleError, match=r"moved has the labels in another order.*align_labels=True"):
        hf_soup.merge(mixed)
    soup = hf_soup.merge([mixed[i] for i in order], align_labels=True, method=method)
    folder = soup.save_pretrained(tmp_path / "soup")
    straight = hf_soup.merge([runs[i] for i in order], method=method).save_pretrained(tmp_path / "straight")
    assert (folder / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    assert json.loads((folder / "config.json").read_text()) == json.loads((straight / "config.json").read_text())
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.label2id == {label: index for index, label in enumerate(LABELS)}
    assert torch.equal(soup.model.classifier.weight, model.classifier.weight)


def test_the_recipe_records_the_order_and_cooks_again(tmp_path, runs, mixed):
    """`alignments` says which class of the ingredient each of the soup's is, and part of the fingerprint it is."""
    folder = hf_soup.merge(mixed, align_labels=True).save_pretrained(tmp_path / "soup")
    recipe = hf_soup.load_recipe(folder)
    assert recipe.alignments == {"moved": (1, 3, 0, 2)}
    assert "alignments" in (folder / "soup_recipe.yaml").read_text()
    again = hf_soup.cook(folder, output_dir=tmp_path / "again").folder
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    plain = hf_soup.merge(runs)
    assert plain.recipe.alignments == {}
    assert hf_soup.merge(runs, align_labels=True).recipe == plain.recipe


def test_digests_are_of_the_files(tmp_path, mixed):
    """What is recorded of an aligned ingredient is its file as it is."""
    aligned = hf_soup.merge(mixed, align_labels=True).save_pretrained(tmp_path / "soup")
    alone = hf_soup.merge(mixed[1:2]).save_pretrained(tmp_path / "alone")
    files = [item.files for item in hf_soup.load_recipe(aligned).ingredients if item.name == "moved"]
    assert files == [hf_soup.load_recipe(alone).ingredients[0].files]


def test_greedy_and_the_comparison_see_one_order(tmp_path):
    """Scores of a permuted ingredient are its own, and the ensemble adds up like classes."""
    data = testing.tiny_texts(40)
    runs = [testing.save_text_model(testing.tiny_text_model(seed), tmp_path / f"run-{seed}") for seed in range(3)]
    straight = hf_soup.merge(runs, strategy="greedy", evaluator=data)
    moved = shutil.copytree(runs[1], tmp_path / "copy" / "run-1")
    state = load_file(moved / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name].flip(0).contiguous()
    save_file(state, moved / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((moved / "config.json").read_text())
    config |= {"id2label": {0: "positive", 1: "negative"}, "label2id": {"positive": 0, "negative": 1}}
    (moved / "config.json").write_text(json.dumps(config))
    aligned = hf_soup.merge([runs[0], moved, runs[2]], strategy="greedy", evaluator=data, align_labels=True)
    assert aligned.scores == straight.scores
    assert aligned.recipe.weights == straight.recipe.weights
    test = testing.tiny_texts(50, seed=1)
    tables = [hf_soup.compare(soup, test=test).to_pandas().to_dict("records") for soup in (straight, aligned)]
    assert tables[0] == tables[1]


def test_what_cannot_be_aligned(tmp_path, runs, mixed):
    """Other labels stay an error; so do heads of which nobody can tell which rows are the classes."""
    other = testing.save_text_model(testing.tiny_text_model(0, labels=("a", "b", "c", "d")), tmp_path / "other")
    with pytest.raises(hf_soup.IncompatibleError, match="other has the labels"):
        hf_soup.merge([*mixed, other], align_labels=True)
    square = [
        testing.save_text_model(
            testing.tiny_text_model(0, labels=order, hidden_size=4, num_attention_heads=2), tmp_path / f"square-{i}"
        )
        for i, order in enumerate((LABELS, LABELS[::-1]))
    ]
    with pytest.raises(hf_soup.RecipeError, match=r"classifier\.weight is square"):
        hf_soup.merge(square, align_labels=True)
    for alignments in ({"b": (0, 1)}, {"a": (0, 0, 1)}, {"a": (1, 2)}):
        with pytest.raises(hf_soup.RecipeError, match="permutes the classes of an ingredient"):
            hf_soup.Recipe((hf_soup.Ingredient("a", "a"),), (1,), alignments=alignments)


def test_without_a_head_that_can_be_told(runs):
    """Where no prefix tells the head from the body, other tensors may have as many rows as there are classes."""
    names = ("conv1.weight", "layer1.0.weight", "layer2.0.weight", "fc.weight", "fc.bias")
    specs = {name: TensorSpec(name, (4, 2), "float32") for name in names}
    with pytest.raises(hf_soup.RecipeError, match="no tensor of the head has 4 rows"):
        class_tensors(specs, 4)


def test_a_base_with_its_labels_in_another_order(tmp_path, runs):
    """A base model with such a head would be subtracted crosswise."""
    base = permute(shutil.copytree(runs[2], tmp_path / "base"), (1, 0, 2, 3))
    with pytest.raises(hf_soup.IncompatibleError, match="base has the labels in another order"):
        hf_soup.merge(runs[:2], method="ties", base_model=base)
