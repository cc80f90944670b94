"""Tests of what can be an ingredient, and of the errors for what cannot."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import hf_soup
from hf_soup import testing
from hf_soup.checkpoints.check import check_checkpoints
from hf_soup.checkpoints.source import open_all, open_checkpoint
from hf_soup.errors import IngredientError, RecipeError
from hf_soup.types import Ingredient


def test_folder_model_and_state_dicts_are_the_same_ingredient(text_runs):
    """A folder, its model, the model's state dict and the tensors of its file hold the same tensors."""
    model = testing.tiny_text_model(0)
    config = with_architecture(model)
    folder = open_checkpoint(text_runs[0])
    others = [
        open_checkpoint(model),
        open_checkpoint(model.state_dict(), config=config),
        open_checkpoint(load_file(text_runs[0] / "model.safetensors"), config=config),
    ]
    for other in others:
        assert set(other.specs) == set(folder.specs)
        assert all(torch.equal(other.read(name), folder.read(name)) for name in folder.specs)


def test_memory_names_become_names_on_disk(image_runs):
    """A ViT in memory, whose names differ from those on disk, is opened with the names of its file."""
    model = testing.tiny_image_model(0)
    assert set(open_checkpoint(model).specs) == set(load_file(image_runs[0] / "model.safetensors"))
    assert set(open_checkpoint(model).specs) != set(model.state_dict())


def test_equal_names_are_told_apart(tmp_path, text_runs):
    """Folders of equal names are distinguished by their parents' names; the same source twice is numbered."""
    for parent in ("a", "b"):
        shutil.copytree(text_runs[0], tmp_path / parent / "run")
    opened = open_all([tmp_path / "a" / "run", tmp_path / "b" / "run", text_runs[1], text_runs[1]])
    parent = text_runs[1].parent.name
    assert [item.name for item in opened] == ["a/run", "b/run", f"{parent}/run-1-1", f"{parent}/run-1-2"]


def break_folder(folder, defect):
    """Introduce one defect into the folder of a checkpoint."""
    weights = folder / "model.safetensors"
    if defect == "absent":
        shutil.rmtree(folder)
    elif defect == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif defect == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    elif defect == "adapter":
        weights.unlink()
        (folder / "adapter_config.json").write_text("{}")
    elif defect == "header":
        weights.write_bytes(b"\xff" * 100)
    elif defect == "length":
        weights.write_bytes(weights.read_bytes() + b"0000")
    elif defect == "no config":
        (folder / "config.json").unlink()
    elif defect == "config":
        (folder / "config.json").write_text("{")
    elif defect == "quantised":
        config = json.loads((folder / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq"}}
        (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        ("absent", "does not exist"),
        ("empty", "the folder is empty"),
        ("pickle", r"pytorch_model\.bin, a pickle.*save_pretrained"),
        ("adapter", "is an adapter of the type None; those that are read are LORA, .*merge_and_unload"),
        ("header", "not a complete safetensors file"),
        ("length", "should have .* bytes by its header"),
        ("no config", r"no config\.json"),
        ("config", r"config\.json cannot be read"),
        ("quantised", r"quantised \(gptq\)"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(tmp_path, text_runs, defect, message):
    """Each kind of invalid folder has an error with its path and, where there is one, a remedy."""
    folder = shutil.copytree(text_runs[0], tmp_path / "run")
    break_folder(folder, defect)
    with pytest.raises(IngredientError, match=message) as caught:
        open_checkpoint(folder)
    assert str(folder) in str(caught.value)


def test_no_ingredients():
    """An empty list of ingredients raises a RecipeError."""
    with pytest.raises(RecipeError, match="at least one ingredient"):
        open_all([])


def test_a_state_dict_needs_its_config():
    """A state dict without a configuration, or without some of its tensors, is refused."""
    model = testing.tiny_text_model(0)
    with pytest.raises(IngredientError, match=r"load_ingredient\(state, config="):
        open_checkpoint(model.state_dict())
    state = model.state_dict()
    del state["classifier.weight"]
    with pytest.raises(IngredientError, match=r"missing classifier\.weight"):
        open_checkpoint(
            state, config=model.config | {} if isinstance(model.config, dict) else with_architecture(model)
        )


def with_architecture(model):
    """The config as `save_pretrained` would write it."""
    return {**model.config.to_dict(), "architectures": [type(model).__name__]}


def test_memory_cannot_be_fetched_again():
    """A recorded model in memory raises an error, because it cannot be fetched again."""
    with pytest.raises(IngredientError, match="was a model in memory"):
        open_checkpoint(Ingredient("run", "memory", files={"memory": "xxh3-128:0"}))


def test_sharded_checkpoints_open(tmp_path):
    """A sharded checkpoint has the same tensors as one in a single file."""
    model = testing.tiny_text_model(0)
    testing.save_text_model(model, tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "many")
    (tmp_path / "many" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    single, sharded = open_checkpoint(tmp_path / "one"), open_checkpoint(tmp_path / "many")
    assert len(sharded.ingredient.files) > 1
    assert list(single.specs) == list(sharded.specs)
    assert all(torch.equal(single.read(name), sharded.read(name)) for name in single.specs)


def test_names_are_what_was_typed(tmp_path, text_runs):
    """A symbolic link keeps its own name, and a checkpoint in a run's folder is named by both."""
    link = tmp_path / "my-favourite"
    link.symlink_to(text_runs[0])
    shutil.copytree(text_runs[1], tmp_path / "run-1" / "checkpoint-4")
    soup = hf_soup.merge([link, tmp_path / "run-1" / "checkpoint-4"])
    assert soup.recipe.names == ("my-favourite", "run-1/checkpoint-4")
    assert soup.recipe.ingredients[0].source == str(link)
    folder = soup.save_pretrained(tmp_path / "soup")
    assert "my-favourite" in (folder / "README.md").read_text()
    assert str(text_runs[0]) not in (folder / "soup_recipe.yaml").read_text()
    assert hf_soup.cook(folder).soup.recipe.names == soup.recipe.names
    shutil.copytree(tmp_path / "run-1", tmp_path / "other" / "run-1")
    places = [tmp_path / "run-1", tmp_path / "other" / "run-1"]
    assert [item.name for item in open_all(places)] == [f"{tmp_path.name}/run-1", "other/run-1"]
    inside = [place / "checkpoint-4" for place in places]
    assert [item.name for item in open_all(inside)][1] == "other/run-1/checkpoint-4"
    card = (folder / "README.md").read_text()
    assert "huggingface.co/run-1" not in card  # run-1 is not a repository
    assert "- run-1/checkpoint-4" not in card.split("---")[1]
    assert open_checkpoint(link / ".." / text_runs[2].name).folder == text_runs[2]


def test_a_trainers_folder_is_its_best_or_last_checkpoint(tmp_path, text_runs):
    """A Trainer's output folder stands for its best checkpoint, or else its last, and a note says which."""
    for step, run in zip((2, 10, 9), text_runs, strict=True):
        shutil.copytree(run, tmp_path / "out" / f"checkpoint-{step}")
    last = open_checkpoint(tmp_path / "out")
    assert (last.name, last.folder.name) == ("out", "checkpoint-10")
    assert "out is checkpoint-10, the last one" in check_checkpoints([last]).notes
    state = {"best_model_checkpoint": "elsewhere/out/checkpoint-2", "best_metric": 0.9}
    for folder in (tmp_path / "out").iterdir():
        (folder / "trainer_state.json").write_text(json.dumps(state))
    best = open_checkpoint(tmp_path / "out")
    assert best.folder.name == "checkpoint-2"
    assert "out is checkpoint-2, the best one (metric 0.9)" in check_checkpoints([best]).notes
    assert open_checkpoint(best.ingredient).folder == best.folder


def test_a_tensor_in_two_shards_is_refused(tmp_path, text_runs):
    """A tensor in two shards is refused."""
    folder = shutil.copytree(text_runs[0], tmp_path / "run")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    save_file({"classifier.bias": torch.zeros(2)}, folder / "b.safetensors")
    index = {"weight_map": {"classifier.bias": "b.safetensors", "classifier.weight": "a.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(IngredientError, match="in two shards"):
        open_checkpoint(folder)
