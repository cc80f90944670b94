"""Files are byte for byte what safetensors writes; folders appear whole or not at all."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_soup.checkpoints.reader import TensorSpec
from hf_soup.checkpoints.writer import staged_folder, write_weights
from hf_soup.errors import OutputError


TENSORS = {
    "b.weight": torch.randn(4, 3),
    "a.weight": torch.randn(7).to(torch.bfloat16),
    "a.half": torch.randn(7).to(torch.float16),
    "steps": torch.tensor(3),
    "wide": torch.randn(2, dtype=torch.float64),
    "mask": torch.tensor([True, False, True]),
}
SPECS = [TensorSpec(name, tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in TENSORS.items()]


def test_one_file_is_the_file_of_safetensors(tmp_path):
    """Tensors of mixed types, in any order, give the bytes that `save_file` gives."""
    save_file(TENSORS, tmp_path / "reference.safetensors", metadata={"format": "pt"})
    write_weights(tmp_path, SPECS, TENSORS.items())
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "reference.safetensors").read_bytes()


def test_shards_hold_everything_once(tmp_path):
    """With small shards the index names every tensor, and the shards together hold them all."""
    digests = write_weights(tmp_path, SPECS, reversed(TENSORS.items()), max_shard_size=40)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    found = {}
    for name in sorted(set(index["weight_map"].values())):
        found |= load_file(tmp_path / name)
    assert set(found) == set(TENSORS) == set(index["weight_map"]) == set(digests)
    assert all(torch.equal(found[name], TENSORS[name]) for name in found)


def test_a_folder_appears_when_it_is_whole(tmp_path):
    """Until the block ends there is nothing under the name; afterwards there is no litter."""
    with staged_folder(tmp_path / "out") as stage:
        (stage / "file").write_text("x")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "file").read_text() == "x"


def test_a_failure_leaves_nothing_behind(tmp_path):
    """An error in the block leaves neither the folder nor its parts."""

    def fail():
        with staged_folder(tmp_path / "out") as stage:
            (stage / "file").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_kept_unless_told(tmp_path):
    """Without overwrite it is refused; with it, a failure leaves the old one as it was."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    with pytest.raises(OutputError, match="overwrite=True"), staged_folder(out):
        pass
    with pytest.raises(ZeroDivisionError), staged_folder(out, overwrite=True):
        raise ZeroDivisionError
    assert (out / "old").read_text() == "old"
    with staged_folder(out, overwrite=True) as stage:
        (stage / "new").write_text("new")
    assert [path.name for path in out.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
