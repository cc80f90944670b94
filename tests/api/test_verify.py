"""Tests of `verify`, which checks whether a soup is what its recipe makes."""

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file, save_file

import hf_soup
from hf_soup import testing
from hf_soup.errors import IngredientError, RecipeError


@pytest.fixture
def soup(hub_runs):
    """The soup of the runs, on the Hub."""
    hf_soup.merge(hub_runs, weights=[3, 2, 1]).push_to_hub(f"{hub_runs[0]}-soup")
    return f"{hub_runs[0]}-soup"


def changed(soup, change):
    """Change the weights of a soup and push them over it."""
    tensors = load_file(hf_hub_download(soup, "model.safetensors"))
    change(tensors)
    path = Path("changed.safetensors").absolute()
    save_file(tensors, path, metadata={"format": "pt"})
    HfApi().upload_file(repo_id=soup, path_or_fileobj=path, path_in_repo="model.safetensors")


def test_a_soup_is_verified(soup):
    """All tensors of an unchanged soup are identical."""
    found = hf_soup.verify(soup)
    assert found.ok
    assert found.table() == f"verified: {found.identical} tensors identical"
    assert found.identical == hf_soup.load_recipe(soup).output.tensors


@pytest.mark.parametrize("method", ["linear", "median", "ties"])
def test_every_kind_of_soup_is_verified(tmp_path, text_runs, method):
    """`verify` accepts soups with weights by module, a base model, another type, and shards."""
    options = {"base_model": text_runs[2]} if method == "ties" else {}
    weights = {"": [2, 1], "classifier": [1, 0]} if method == "linear" else None
    merged = hf_soup.merge(text_runs[:2], method=method, weights=weights, dtype="bfloat16", **options)
    assert hf_soup.verify(merged.save_pretrained(tmp_path / "soup", max_shard_size="20KB")).ok


@pytest.mark.parametrize("strategy", ["interpolate", "greedy"])
def test_a_soup_that_was_chosen_is_verified(tmp_path, text_runs, strategy):
    """Verifying a soup made by a strategy needs no data."""
    options = {"base_model": text_runs[2]} if strategy == "interpolate" else {}
    merged = hf_soup.merge(text_runs[:2], strategy=strategy, evaluator=testing.tiny_texts(12), **options)
    assert hf_soup.verify(merged.save_pretrained(tmp_path / "soup")).ok


def test_one_bit_is_found(soup, monkeypatch, tmp_path):
    """A single flipped bit is reported with the tensor, the number of elements and the size of the difference."""
    monkeypatch.chdir(tmp_path)

    def flip(tensors):
        bits = tensors["classifier.bias"].view(torch.int32)
        bits[1] ^= 1

    before = load_file(hf_hub_download(soup, "model.safetensors"))["classifier.bias"]
    changed(soup, flip)
    after = load_file(hf_hub_download(soup, "model.safetensors"))["classifier.bias"]
    found = hf_soup.verify(soup)
    assert not found.ok
    (difference,) = found.different
    assert difference[:3] == ("classifier.bias", 1, len(after))
    assert difference.largest == pytest.approx(float((before - after).abs().max()))
    assert "1 of" in found.table()
    assert "classifier.bias" in found.table()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensors: tensors.pop("classifier.bias"), "the soup has no classifier.bias, which the recipe makes"),
        (lambda tensors: tensors.update(more=torch.zeros(1)), "more is in the soup, and the recipe makes none"),
        (lambda tensors: tensors.update({"classifier.bias": torch.zeros(7)}), r"classifier.bias is float32\[7\]"),
    ],
)
def test_other_tensors_are_found(soup, monkeypatch, tmp_path, change, told):
    """A tensor that is missing, additional or of another shape is reported."""
    import re

    monkeypatch.chdir(tmp_path)
    changed(soup, change)
    found = hf_soup.verify(soup)
    assert not found.ok
    assert re.search(told, found.table())


def test_no_number_is_a_difference(soup, monkeypatch, tmp_path):
    """NaN in the soup counts as an infinite difference."""
    monkeypatch.chdir(tmp_path)
    changed(soup, lambda tensors: tensors["classifier.bias"].fill_(float("nan")))
    assert hf_soup.verify(soup).different[0].largest == float("inf")


def test_an_ingredient_that_is_gone_is_named(hub, hub_runs, soup):
    """An ingredient that was deleted, or replaced by another repository of the same name, is named."""
    HfApi().delete_repo(hub_runs[0])
    theirs = hub.store.repositories[hub_runs[1]]
    try:
        del hub.store.repositories[hub_runs[1]]
        HfApi().create_repo(hub_runs[1])
        found = hf_soup.verify(soup)
    finally:
        hub.store.repositories[hub_runs[1]] = theirs
    assert not found.ok
    first, second = found.problems
    assert hub_runs[0] in first
    assert f"{hub_runs[1]} has no revision" in second


def test_a_folder_that_has_changed_is_named(tmp_path, text_runs):
    """A local ingredient whose weights have changed is named."""
    copies = [shutil.copytree(run, tmp_path / f"copy-{index}") for index, run in enumerate(text_runs)]
    folder = hf_soup.merge(copies).save_pretrained(tmp_path / "soup")
    assert hf_soup.verify(folder).ok
    tensors = load_file(copies[1] / "model.safetensors")
    tensors["classifier.bias"] += 1
    save_file(tensors, copies[1] / "model.safetensors", metadata={"format": "pt"})
    found = hf_soup.verify(folder)
    assert not found.ok
    assert "copy-1" in found.table()


def test_models_in_memory_cannot_be_verified(tmp_path):
    """A soup of models in memory cannot be verified, and the table says why."""
    models = [testing.tiny_text_model(seed) for seed in range(2)]
    folder = hf_soup.merge(models).save_pretrained(tmp_path / "soup")
    assert "was a model in memory" in hf_soup.verify(folder).table()


def test_what_is_no_soup_is_told(hub, hub_runs, text_runs, tmp_path):
    """A model without a recipe, or an empty folder, raises an error instead of a negative result."""
    with pytest.raises(RecipeError, match="it is a model, but not a soup of hf_soup"):
        hf_soup.verify(hub_runs[0])
    with pytest.raises(RecipeError, match="cannot read"):
        hf_soup.verify(text_runs[0])
    with pytest.raises(IngredientError, match="the folder is empty"):
        hf_soup.verify(tmp_path)


def test_recorded_statistics_are_said_to_be_recorded(tmp_path, resnet_runs):
    """BatchNorm statistics estimated on data are compared with the recorded file, and the result counts them."""
    folder = hf_soup.merge(resnet_runs, batchnorm_data=testing.tiny_images(12)).save_pretrained(tmp_path / "soup")
    found = hf_soup.verify(folder)
    assert found.ok
    assert found.recorded > 0
    assert f"{found.recorded} of them BatchNorm statistics that are recorded" in found.table()
    statistics = load_file(folder / "soup_batchnorm.safetensors")
    save_file({name: tensor + 1 for name, tensor in statistics.items()}, folder / "soup_batchnorm.safetensors")
    assert "does not hold the running statistics" in hf_soup.verify(folder).table()


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("config.json", lambda text: text.replace('"gelu"', '"relu"'), "config.json has hidden_act = relu"),
        ("adapter_config.json", lambda text: "{}", "adapter_config.json is there too"),
        ("pytorch_model.bin", lambda text: "x", "pytorch_model.bin is there too"),
        ("model2.safetensors", lambda text: "x", "model2.safetensors is there too"),
    ],
)
def test_what_else_decides_the_model_is_looked_at(soup, name, change, told):
    """A changed configuration, or weight files beside the soup, are reported although its tensors are identical."""
    try:
        before = Path(hf_hub_download(soup, name)).read_text()
    except EntryNotFoundError:  # the file does not exist yet
        before = ""
    HfApi().upload_file(repo_id=soup, path_or_fileobj=change(before).encode(), path_in_repo=name)
    found = hf_soup.verify(soup)
    assert not found.ok
    assert told in found.table()


def test_a_base_that_is_not_needed_may_be_gone(hub, hub_runs, text_runs):
    """A recipe that only records its base model is verified without it."""
    base = f"{hub_runs[0]}-base"
    HfApi().create_repo(base)
    HfApi().upload_folder(repo_id=base, folder_path=text_runs[2])
    hf_soup.merge(hub_runs, base_model=base).push_to_hub(f"{hub_runs[0]}-soup")
    HfApi().delete_repo(base)
    assert hf_soup.verify(f"{hub_runs[0]}-soup").ok
