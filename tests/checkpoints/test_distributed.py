"""Distributed checkpoints of torch: what processes save is read from its chunks, with the bits of a gathered copy."""

import os
import pathlib
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
import torch.distributed.checkpoint as dcp
import transformers
from safetensors.torch import load_file

import hf_soup
from hf_soup import testing
from hf_soup.api.ingredients import _runs_in
from hf_soup.checkpoints import distributed
from hf_soup.checkpoints.files import OpenFiles
from hf_soup.checkpoints.source import open_checkpoint
from hf_soup.errors import IngredientError


# Two processes on gloo save one model in all forms; the first saves it whole, too.
SAVE = """
import os, sys
import torch, torch.distributed as dist, transformers
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from hf_soup import testing

out = sys.argv[1]
child = os.fork()  # after the imports, which take longest
dist.init_process_group("gloo", init_method=f"file://{out}/store", rank=int(child == 0), world_size=2)
mesh = init_device_mesh("cpu", (2,))
model = testing.tiny_text_model(0)
if dist.get_rank() == 0:
    testing.save_text_model(model, f"{out}/whole")
for layer in model.bert.encoder.layer:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
optimizer = torch.optim.AdamW(model.parameters())
model(input_ids=torch.tensor([[2, 5, 3]]), labels=torch.tensor([1])).loss.backward()
dcp.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint_id=f"{out}/states")
dcp.save(model.state_dict(), checkpoint_id=f"{out}/flat")
dcp.save({"model": model.state_dict()}, checkpoint_id=f"{out}/accelerate/pytorch_model_fsdp_0")
dcp.save(
    model.state_dict(), storage_writer=HuggingFaceStorageWriter(path=f"{out}/safetensors", save_distributed=True)
)
# each tensor divided in its last dimension, as in tensor parallelism
whole = {name: tensor.full_tensor() for name, tensor in model.state_dict().items()}
columns = {name: distribute_tensor(tensor, mesh, [Shard(tensor.ndim - 1)]) for name, tensor in whole.items()}
dcp.save(columns, checkpoint_id=f"{out}/columns")
dist.destroy_process_group()
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
FORMS = ("states", "flat", "accelerate", "safetensors", "columns")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with one model in all forms, and its whole copy."""
    out = tmp_path_factory.mktemp("distributed")
    script = out / "save.py"
    script.write_text(SAVE, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run([sys.executable, script, out], check=True, capture_output=True, timeout=240, env=environment)
    for form in FORMS:
        for path in (out / "whole").iterdir():
            if path.name != "model.safetensors":
                shutil.copy(path, out / form / path.name)
    return out


@pytest.mark.parametrize("form", FORMS)
def test_tensors_are_those_of_the_whole_copy(saved, form):
    """Each tensor, and each range of it, from one element to all."""
    whole = load_file(saved / "whole" / "model.safetensors")
    opened = open_checkpoint(saved / form, allow_pickle=form != "safetensors")
    assert set(opened.specs) == set(whole)
    assert "vocab.txt" in opened.companion_names or "tokenizer.json" in opened.companion_names
    assert not any(".distcp" in note or "metadata" in note for note in opened.notes)
    with OpenFiles() as files:
        for name, tensor in whole.items():
            assert torch.equal(opened.read(name), tensor)
            flat = tensor.reshape(-1)
            for start, stop in (
                (0, 1),
                (1, len(flat)),
                (len(flat) // 3, len(flat) // 2 + 1),
                (len(flat) - 1, len(flat)),
            ):
                into = bytearray(4 * (stop - start))
                opened.read_into(files, name, start, memoryview(into))
                assert torch.equal(torch.frombuffer(into, dtype=torch.float32), flat[start:stop])


def test_a_soup_is_that_of_whole_copies(saved, tmp_path):
    """To the bit, with an ingredient in each form; it is verified, and its tokenizer comes along."""
    other = testing.save_text_model(testing.tiny_text_model(1), tmp_path / "other")
    whole = hf_soup.merge([saved / "whole", other]).save_pretrained(tmp_path / "from_whole")
    expected = load_file(whole / "model.safetensors")
    for form in FORMS:
        item = hf_soup.load_ingredient(saved / form, allow_pickle=True)
        folder = hf_soup.merge([item, other]).save_pretrained(tmp_path / form)
        found = load_file(folder / "model.safetensors")
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        assert transformers.AutoTokenizer.from_pretrained(folder)("good film")["input_ids"]
        assert hf_soup.verify(folder, allow_pickle=True).ok
    assert hf_soup.merge([saved / "whole", saved / "safetensors"]).model.config.model_type == "bert"


def test_a_configuration_around_it_is_enough(saved, tmp_path):
    """As in the checkpoints of a Trainer with FSDP: the folder of the run has it, and the last one is taken."""
    run = tmp_path / "run"
    shutil.copytree(saved / "accelerate" / "pytorch_model_fsdp_0", run / "checkpoint-3" / "pytorch_model_fsdp_0")
    with pytest.raises(IngredientError, match=r"no config\.json"):
        open_checkpoint(run, allow_pickle=True)
    shutil.copy(saved / "whole" / "config.json", run)
    opened = open_checkpoint(run, allow_pickle=True)
    assert len(opened.specs) == len(load_file(saved / "whole" / "model.safetensors"))
    assert opened.notes == ("run is checkpoint-3, the last one", "run takes config.json from the folder around it")
    assert [item.name for item in hf_soup.merge([hf_soup.load_ingredient(run, allow_pickle=True)]).candidates] == [
        "run"
    ]
    assert _runs_in(run / "checkpoint-3") is None  # it is a model, and no folder of runs
    shutil.copy(saved / "whole" / "config.json", run / "checkpoint-3")
    inner = open_checkpoint(run / "checkpoint-3" / "pytorch_model_fsdp_0", allow_pickle=True)
    assert inner.specs.keys() == opened.specs.keys()


def test_pickles_are_asked_for(saved):
    """Without permission the error says what is in a pickle, and what to do."""
    with pytest.raises(IngredientError, match=r"shards of a distributed.*accelerate merge-.*allow_pickle=True"):
        open_checkpoint(saved / "flat")


class Evil:
    """Would run a program when it is read."""

    def __reduce__(self):
        return os.system, ("true",)


def test_other_classes_are_refused(saved, tmp_path):
    """In the places of chunks and in a chunk itself, nothing is called, and no class is changed."""
    shutil.copytree(saved / "flat", tmp_path / "flat")
    (tmp_path / "flat" / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(IngredientError, match=r"\.metadata is damaged"):
        open_checkpoint(tmp_path / "flat", allow_pickle=True)
    # names a class of the standard library, and sets an attribute of it
    attack = b"\x80\x02cpathlib\nPosixPath\nN}U\x0eis_relative_tocpathlib\nPurePosixPath\ns\x86b."
    before = pathlib.PosixPath.is_relative_to
    (tmp_path / "flat" / ".metadata").write_bytes(attack)
    with pytest.raises(IngredientError, match=r"\.metadata is damaged"):
        open_checkpoint(tmp_path / "flat", allow_pickle=True)
    assert pathlib.PosixPath.is_relative_to is before
    torch.save(Evil(), tmp_path / "chunk")
    with pytest.raises(IngredientError, match=r"has something else in place of a chunk of \[1\] in float32"):
        distributed._start_of(tmp_path / "chunk", 0, (tmp_path / "chunk").stat().st_size, (1,), "float32")


def test_damage_is_told(saved, tmp_path):
    """A cut file, a process that has not saved its part, and a file that changes after it was opened."""
    shutil.copytree(saved / "safetensors", tmp_path / "alone")
    next(path for path in (tmp_path / "alone").iterdir() if path.name.startswith("shard-00001")).unlink()
    with pytest.raises(IngredientError, match="a process has not saved its part, or saved it elsewhere"):
        open_checkpoint(tmp_path / "alone")
    shutil.copytree(saved / "safetensors", tmp_path / "first")
    next(path for path in (tmp_path / "first").iterdir() if path.name.startswith("shard-00002")).unlink()
    with pytest.raises(IngredientError, match=r"makes it .*: the part of a process is missing"):
        open_checkpoint(tmp_path / "first")
    shutil.copytree(saved / "safetensors", tmp_path / "twice")
    first, second = sorted(path for path in (tmp_path / "twice").iterdir() if path.name.startswith("shard"))
    shutil.copy(first, second)
    with pytest.raises(IngredientError, match=r"two chunks of .* hold the same numbers"):
        open_checkpoint(tmp_path / "twice")
    shutil.copytree(saved / "flat", tmp_path / "linked")
    (tmp_path / "linked" / "__1_0.distcp").unlink()
    (tmp_path / "linked" / "__1_0.distcp").symlink_to(saved / "flat" / "__1_0.distcp")
    with pytest.raises(IngredientError, match=r"__1_0\.distcp is a link out of its folder"):
        open_checkpoint(tmp_path / "linked", allow_pickle=True)
    shutil.copytree(saved / "flat", tmp_path / "cut")
    path = tmp_path / "cut" / "__1_0.distcp"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(IngredientError, match=r"__1_0\.distcp is damaged"):
        open_checkpoint(tmp_path / "cut", allow_pickle=True)
    shutil.copytree(saved / "flat", tmp_path / "changed")
    soup = hf_soup.merge([hf_soup.load_ingredient(tmp_path / "changed", allow_pickle=True), saved / "whole"])
    path = tmp_path / "changed" / "__1_0.distcp"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(IngredientError, match=r"__1_0\.distcp has changed since"):
        soup.save_pretrained(tmp_path / "soup")


def test_a_model_that_cannot_be_told_from_other_states():
    """Usual names count, then a single state, then what lies at the top."""
    names = distributed._names_of_model
    assert names({"a.w": ("model", "w"), "o.w": ("optim", "w")}, "x") == {"a.w": "w"}
    assert names({"net.w": ("net", "w")}, "x") == {"net.w": "w"}
    assert names({"w": ("w",), "optim.w": ("optim", "w")}, "x") == {"w": "w"}
    with pytest.raises(IngredientError, match="holds the states net, optim, of which none is called model or module"):
        names({"net.w": ("net", "w"), "optim.w": ("optim", "w")}, "x")


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_numbers_are_read_where_they_lie(tmp_path):
    """Two numbers in the middle of a large tensor are at the place that was found, without reading the rest."""
    state = {"a.weight": torch.arange(4_000_000, dtype=torch.float32).reshape(2000, 2000)}
    dcp.save({"model": state}, checkpoint_id=tmp_path / "run", no_dist=True)
    found = distributed.read_distributed(tmp_path / "run", "")
    assert found.specs["a.weight"].shape == (2000, 2000)
    (chunk,) = found.chunks["a.weight"]
    with OpenFiles() as files:
        into = bytearray(8)
        assert files.read(str(tmp_path / "run" / chunk.file), chunk.start + 4 * 1_234_567, memoryview(into))
    assert torch.frombuffer(into, dtype=torch.float32).tolist() == [1_234_567, 1_234_568]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_chunks_in_another_order_are_refused(tmp_path):
    """A transposed tensor is saved column by column, which cannot be read in ranges."""
    dcp.save({"model": {"a.weight": torch.arange(6.0).reshape(2, 3).T}}, checkpoint_id=tmp_path / "run", no_dist=True)
    with pytest.raises(IngredientError, match="a chunk that is not stored row by row"):
        distributed.read_distributed(tmp_path / "run", "")
