"""A cook file is cooked again if its ingredients, its soup or the record of the soup have changed."""

import os
import shutil

import pytest
import yaml

import hf_soup
from hf_soup import testing
from hf_soup.api import cook as cook_module
from hf_soup.api.load import read_comparison


@pytest.fixture
def cook_counted(tmp_path, monkeypatch):
    """A function that cooks a file of two ingredients and returns the number of merges so far."""
    folders = [testing.save_text_model(testing.tiny_text_model(seed), tmp_path / f"run-{seed}") for seed in range(2)]
    for folder in folders:
        os.utime(folder / "model.safetensors", (0, 0))
    file = tmp_path / "cook.yaml"
    content = {"ingredients": [str(folder) for folder in folders], "merge": {"strategy": "uniform"}}
    file.write_text(yaml.safe_dump({**content, "output_dir": str(tmp_path / "out")}))
    merged, plain = [], cook_module._merge
    monkeypatch.setattr(cook_module, "_merge", lambda *args: merged.append(1) or plain(*args))

    def cook():
        hf_soup.cook(file)
        return len(merged)

    return cook


def test_what_is_whole_is_not_cooked_again(cook_counted):
    """A second cook without changes does not merge again."""
    assert [cook_counted(), cook_counted()] == [1, 1]


def test_an_ingredient_with_other_weights_is_noticed(cook_counted, tmp_path):
    """Changed weights are noticed even if size and modification time of the file are the same."""
    cook_counted()
    other = testing.save_text_model(testing.tiny_text_model(9), tmp_path / "other")
    shutil.copyfile(other / "model.safetensors", tmp_path / "run-0" / "model.safetensors")
    os.utime(tmp_path / "run-0" / "model.safetensors", (0, 0))
    assert cook_counted() == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("soup/model.safetensors", None),
        ("soup/model.safetensors", b"damaged"),
        ("soup/soup_recipe.yaml", None),
        ("soup/soup_recipe.yaml", b"a: ["),
        ("cooked.json", b"[1"),
        ("cooked.json", b"[]"),
        ("cooked.json", b'{"key": 1, "files": 2}'),
    ],
)
def test_a_soup_that_is_damaged_is_made_again(cook_counted, tmp_path, name, content):
    """A damaged or missing soup, recipe or `cooked.json` makes the next cook merge again, once."""
    cook_counted()
    path = tmp_path / "out" / name
    path.unlink() if content is None else path.write_bytes(content)
    assert cook_counted() == 2
    assert cook_counted() == 2


def test_a_comparison_that_is_damaged_is_none(tmp_path):
    """A comparison that is missing, invalid JSON or of another structure is read as None."""
    for content in (b"", b"[", b"[]", b'{"rows": 5}', b"{}"):
        (tmp_path / "comparison.json").write_bytes(content)
        assert read_comparison(tmp_path) is None
    (tmp_path / "comparison.json").unlink()
    assert read_comparison(tmp_path) is None
