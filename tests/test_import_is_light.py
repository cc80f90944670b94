"""Importing the package is cheap, so that the first command responds quickly."""

import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import hf_soup
from hf_soup.merging import sums


HEAVY = {"torch", "transformers", "datasets", "evaluate", "sklearn", "scipy", "numpy", "matplotlib", "pydantic"}
HEAVY |= {"huggingface_hub", "tqdm"}  # when imported, they read environment variables that a command sets


@pytest.mark.parametrize("module", ["hf_soup", "hf_soup.cli"])
def test_import_loads_nothing_heavy(module):
    """Importing the package or its command line in a fresh interpreter loads none of the heavy libraries."""
    code = f"import sys, {module}; print('\\n'.join({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)


MERGE = """
import sys
import hf_soup
hf_soup.merge(sys.argv[1:-1]).save_pretrained(sys.argv[-1])
print([name for name in ("torch", "transformers", "datasets") if name in sys.modules])
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merge_of_files_needs_no_torch(text_runs, tmp_path, dtype):
    """A linear merge from disk to disk of classes that were seen before imports none of them, with the same bits."""
    if sums.weighted_sum is None:
        pytest.skip("the extension was not compiled")
    folders = []
    for run in text_runs:
        folder = shutil.copytree(run, tmp_path / run.name)
        tensors = load_file(run / "model.safetensors")
        tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        folders.append(folder)
    hf_soup.merge(folders).save_pretrained(tmp_path / "here")  # with torch, and looks the class up
    command = [sys.executable, "-W", "ignore", "-c", MERGE, *folders, tmp_path / "there"]
    loaded = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"
    here, there = (path / "model.safetensors" for path in (tmp_path / "here", tmp_path / "there"))
    assert here.read_bytes() == there.read_bytes()
    assert (tmp_path / "here" / "README.md").read_text() == (tmp_path / "there" / "README.md").read_text()
