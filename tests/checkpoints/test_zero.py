"""States of DeepSpeed's ZeRO: weights are read from the parts of all processes, with the bits that were saved."""

import importlib.util
import math
import os
import pickle
import shutil
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
import transformers
from safetensors.torch import load_file

import hf_soup
from hf_soup.checkpoints.source import open_checkpoint
from hf_soup.errors import IngredientError
from hf_soup.testing import tiny


class Ignored:
    """An object of a class that no reader knows, such as those of DeepSpeed."""

    def __reduce__(self):
        return os.system, ("exit 1",)


@pytest.fixture
def model(tmp_path):
    """A language model with tied weights, a parameter that is not trained, and a whole copy on disk."""
    transformers.set_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**tiny.TINY["gpt2"]))
    model.transformer.wpe.weight.requires_grad_(False)
    model.save_pretrained(tmp_path / "whole")
    return model


def groups_of(model):
    """Trained parameters in two groups, as an optimizer with weight decay has them."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return [
        {name: parameter for name, parameter in trained.items() if (parameter.ndim > 1) == matrices}
        for matrices in (True, False)
    ]


def save_zero(model, folder, stage, processes=3, sub_group=1000):
    """Save the states of a model as DeepSpeed does with a stage of ZeRO."""
    place = folder / "global_step1"
    place.mkdir(parents=True)
    (folder / "latest").write_text("global_step1", encoding="utf-8")
    shutil.copy(folder.parent / "whole" / "config.json", folder)
    groups = groups_of(model)
    frozen = {"transformer.wpe.weight": model.transformer.wpe.weight.detach()}
    states = {
        "module": OrderedDict(model.state_dict()) if stage < 3 else OrderedDict(),
        "buffer_names": [],
        "param_shapes": [OrderedDict((name, each.shape) for name, each in group.items()) for group in groups],
        "shared_params": {"lm_head.weight": "transformer.wte.weight"},
        "frozen_param_shapes": None if stage == 1 else OrderedDict((n, each.shape) for n, each in frozen.items()),
        "frozen_param_fragments": None if stage == 1 else OrderedDict(frozen),
        "ds_config": Ignored(),
    }
    for process in range(processes):
        flat = []
        if stage < 3:
            for group in groups:
                vector = torch.cat([each.detach().reshape(-1) for each in group.values()])
                size = 2 * math.ceil(len(vector) / processes / 2)
                padded = torch.nn.functional.pad(vector, (0, size * processes - len(vector)))
                flat.append(torch.nn.Parameter(padded[process * size : (process + 1) * size].clone()))
            key = "single_partition_of_fp32_groups"
        else:
            for group in groups:
                for each in group.values():
                    flat.append(part_of(each.detach(), process, processes))
            vector = torch.cat(flat)
            flat = list(vector.split(sub_group))
            key = "fp32_flat_groups"
            states["frozen_param_fragments"] = {n: part_of(each, process, processes) for n, each in frozen.items()}
        optimizer = {
            "zero_stage": Ignored(),
            "partition_count": [processes] * 2 if stage < 3 else processes,
            key: flat,
        }
        name = f"zero_pp_rank_{process}_mp_rank_00"
        torch.save({"optimizer_state_dict": optimizer}, place / f"{name}_optim_states.pt")
        if stage == 3 or process == 0:
            torch.save(states, place / f"{name if stage == 3 else 'mp_rank_00'}_model_states.pt")
    return folder


def part_of(tensor, process, processes):
    """The part of a tensor that a process has with stage 3, filled up with zeros."""
    size = math.ceil(tensor.numel() / processes)
    padded = torch.nn.functional.pad(tensor.reshape(-1), (0, size * processes - tensor.numel()))
    return padded[process * size : (process + 1) * size].clone()


def same(folder, whole):
    """Whether all weights of a folder, and ranges of them, are those of a whole copy."""
    expected = load_file(whole / "model.safetensors")
    opened = open_checkpoint(folder, allow_pickle=True)
    assert set(opened.specs) == set(expected)
    return all(torch.equal(opened.read(name), tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_weights_are_those_that_were_saved(model, stage, processes, tmp_path):
    """For any number of processes; parameters cross the borders of parts, and tied weights come once."""
    folder = save_zero(model, tmp_path / "run", stage, processes)
    assert same(folder, tmp_path / "whole")
    opened = open_checkpoint(folder, allow_pickle=True)
    assert opened.companion_names == ()
    assert opened.notes == ()


def test_a_universal_checkpoint(model, tmp_path):
    """Has a file for each parameter, and the states of the model beside them."""
    folder = save_zero(model, tmp_path / "run", 2, 2)
    place = folder / "universal"
    for number, (name, parameter) in enumerate(model.named_parameters()):
        (place / "zero" / name).mkdir(parents=True)
        tensor = parameter.detach().clone()
        # those made from stage 3 are flat
        torch.save({"param": tensor} if number % 2 else tensor.reshape(-1), place / "zero" / name / "fp32.pt")
    shutil.copy(folder / "global_step1" / "mp_rank_00_model_states.pt", place)
    shutil.rmtree(folder / "global_step1")
    (folder / "latest_universal").write_text("universal", encoding="utf-8")
    assert same(folder, tmp_path / "whole")
    save_zero(model, tmp_path / "later", 3, 2)
    shutil.move(tmp_path / "later" / "global_step1", folder)
    assert (
        "global_step1/zero_pp_rank_1_mp_rank_00_optim_states.pt"
        in open_checkpoint(folder, allow_pickle=True).opened_as
    )
    shutil.rmtree(folder / "global_step1")
    (place / "zero" / "transformer.ln_f.bias" / "fp32.pt").unlink()
    with pytest.raises(IngredientError, match=r"has no zero/transformer\.ln_f\.bias/fp32\.pt"):
        open_checkpoint(folder, allow_pickle=True)


def test_a_soup_of_states_and_whole_models(model, tmp_path):
    """Has the bits of a soup of whole copies, and is verified."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    folder = save_zero(model, tmp_path / "run", 3, 2)
    model.save_pretrained(tmp_path / "second")
    expected = hf_soup.merge([tmp_path / "whole", tmp_path / "second"]).save_pretrained(tmp_path / "expected")
    item = hf_soup.load_ingredient(folder, allow_pickle=True)
    found = hf_soup.merge([tmp_path / "whole", item]).save_pretrained(tmp_path / "found")
    one, two = (load_file(each / "model.safetensors") for each in (expected, found))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert hf_soup.verify(found, allow_pickle=True).ok


def test_what_cannot_be_read(model, tmp_path):
    """Pickles without permission, parts that are missing, tensor parallelism, and files of something else."""
    folder = save_zero(model, tmp_path / "run", 2, 2)
    with pytest.raises(IngredientError, match=r"the state of DeepSpeed, in pieces.*zero_to_fp32.*allow_pickle=True"):
        open_checkpoint(folder)
    place = folder / "global_step1"
    parallel = place / "mp_rank_01_model_states.pt"
    shutil.copy(place / "mp_rank_00_model_states.pt", parallel)
    with pytest.raises(IngredientError, match=r"divided among tensor-parallel processes, too \(mp_rank_01_model"):
        open_checkpoint(folder, allow_pickle=True)
    parallel.unlink()
    (place / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(IngredientError, match="has the parts of 1 of 2 processes: others are missing"):
        open_checkpoint(folder, allow_pickle=True)
    (place / "zero_pp_rank_0_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(IngredientError, match="no states of the optimizer, which hold the weights of ZeRO"):
        open_checkpoint(folder, allow_pickle=True)
    (place / "mp_rank_00_model_states.pt").write_bytes(pickle.dumps({}))
    with pytest.raises(IngredientError, match=r"mp_rank_00_model_states\.pt is damaged"):
        open_checkpoint(folder, allow_pickle=True)


@pytest.mark.parametrize("stage", [2, 3])
def test_numbers_that_belong_to_no_parameter(model, stage, tmp_path):
    """Parameters that are divided in another way, such as experts, leave numbers over; nothing is read then."""
    folder = save_zero(model, tmp_path / "run", stage, 2)
    for path in (folder / "global_step1").glob("*model_states.pt"):
        states = torch.load(path, weights_only=False)
        states["param_shapes"][1].popitem()
        torch.save(states, path)
    with pytest.raises(IngredientError, match="that the processes have saved: some are divided in another way"):
        open_checkpoint(folder, allow_pickle=True)


@pytest.mark.parametrize("name", ["..", ".", "a" * 300, "a/b", ""])
def test_a_folder_that_is_not_inside(model, name, tmp_path):
    """What `latest` names has to be a folder beside it."""
    folder = save_zero(model, tmp_path / "run", 2, 2)
    (folder / "latest").write_text(name, encoding="utf-8")
    with pytest.raises(IngredientError):
        open_checkpoint(folder, allow_pickle=True)


# Two processes save states with the library itself.
REAL = """
import os, sys
os.environ["DS_ACCELERATOR"] = "cpu"
import torch, transformers, deepspeed
from hf_soup.testing import tiny

out, stage = sys.argv[1], int(sys.argv[2])
child = os.fork()
rank = int(child == 0)
os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=sys.argv[3])
deepspeed.init_distributed("gloo")
transformers.set_seed(0)
model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**tiny.TINY["gpt2"]))
model.transformer.wpe.weight.requires_grad_(False)
if rank == 0:
    model.save_pretrained(out + "/whole")
trained = [each for each in model.parameters() if each.requires_grad]
groups = [{"params": [each for each in trained if each.ndim > 1]}]
groups.append({"params": [each for each in trained if each.ndim < 2], "weight_decay": 0.0})
config = {
    "train_micro_batch_size_per_gpu": 1,
    "zero_optimization": {"stage": stage, "sub_group_size": 1000},
    "optimizer": {"type": "AdamW", "params": {"lr": 0.0, "torch_adam": True}},
}
engine, *_ = deepspeed.initialize(model=model, model_parameters=groups, config=config)
engine.save_checkpoint(out + "/run", tag="global_step1")
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed, which is no dependency")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_states_of_the_library_itself(stage, tmp_path):
    """With two processes on gloo, where DeepSpeed is installed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", REAL, str(tmp_path), str(stage), str(29600 + stage)]
    subprocess.run(command, check=True, capture_output=True, timeout=300, env=environment)
    shutil.copy(tmp_path / "whole" / "config.json", tmp_path / "run")
    assert same(tmp_path / "run", tmp_path / "whole")
