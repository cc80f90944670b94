"""What is packed here is the same on a machine that has none of the files."""

import io
import json
import shutil
from functools import partial
from pathlib import Path

import peft
import pytest
import torch
import transformers
from datasets import Dataset, load_from_disk
from huggingface_hub import HfApi

from hf_soup.checkpoints.source import open_checkpoint
from hf_soup.errors import IngredientError
from hf_soup.jobs.packing import pack, refuse_elsewhere, unpack


def sent(value, folder):
    """A value that was packed in a folder and unpacked from a copy of it."""
    here, there = folder / "here", folder / "there"
    here.mkdir()
    content = pack(value, here)
    here.rename(there)
    return unpack(io.BytesIO(content), there)


def pushed(hub, folder, name):
    """A folder on the Hub, with the file that a sweep leaves beside it."""
    repo_id = f"{hub.user}/{name}"
    HfApi().create_repo(repo_id)
    commit = HfApi().upload_folder(repo_id=repo_id, folder_path=folder).oid
    (folder / "pushed.json").write_text(json.dumps({"repo_id": repo_id, "revision": commit}))
    return folder


def test_pushed_runs_are_read_from_the_hub(hub, text_runs, tmp_path):
    """Their configuration, companion files and weights; also those of a checkpoint in the folder of a run."""
    run = shutil.copytree(text_runs[0], tmp_path / "run")
    shutil.copytree(text_runs[1], run / "checkpoint-5")
    pushed(hub, run, tmp_path.name)
    for folder in (run / "checkpoint-5", run):
        opened = open_checkpoint(folder)
        tensors = {name: opened.read(name) for name in opened.specs}
        companions = dict(opened.companions)
        content = pack(opened, tmp_path)
        folder.rename(tmp_path / "away")
        there = unpack(io.BytesIO(content), tmp_path)
        assert (there.name, there.config, there.specs) == (opened.name, opened.config, opened.specs)
        assert all(torch.equal(there.read(name), tensors[name]) for name in tensors)
        assert dict(there.companions) == companions
        (tmp_path / "away").rename(folder)


def test_pushed_adapters_are_read_from_the_hub(hub, text_runs, tmp_path):
    """With their base model, although the configuration on the Hub names the repository of that."""
    base = pushed(hub, shutil.copytree(text_runs[0], tmp_path / "start"), f"{tmp_path.name}-start")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "run")
    (tmp_path / "run" / "README.md").unlink()  # names the folder of the base model
    pushed(hub, tmp_path / "run", f"{tmp_path.name}-run")
    config_there = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    config_there["base_model_name_or_path"] = f"{hub.user}/{tmp_path.name}-start"
    HfApi().upload_file(
        path_or_fileobj=json.dumps(config_there).encode(),
        path_in_repo="adapter_config.json",
        repo_id=f"{hub.user}/{tmp_path.name}-run",
    )
    opened = open_checkpoint(tmp_path / "run")
    tensors = {name: opened.read(name) for name in opened.specs}
    content = pack(opened, tmp_path)
    for folder in (base, tmp_path / "run"):
        folder.rename(f"{folder}-away")
    there = unpack(io.BytesIO(content), tmp_path)
    assert all(torch.equal(there.read(name), tensors[name]) for name in tensors)


def test_data_comes_with_its_rows_and_format(tmp_path):
    """Those that are selected, in their order, from files of this machine, with a transform of a script."""
    Dataset.from_dict({"x": list(range(10)), "y": list("abcdefghij")}).save_to_disk(tmp_path / "data")
    data = load_from_disk(tmp_path / "data").shuffle(seed=0).select(range(4))
    factor = 3
    views = [data, data.with_format("numpy", columns=["x"]), data.with_transform(lambda rows: {"z": [factor]})]
    expected = [[view[place] for place in range(4)] for view in views]
    there = sent(views, tmp_path)
    shutil.rmtree(tmp_path / "data")
    assert [[view[place] for place in range(4)] for view in there] == expected


def test_tokenizers_come_with_their_vocabulary(text_runs, tmp_path):
    """Those that are written in Python and read it from a file as well as others."""
    slow = transformers.ByT5Tokenizer(extra_ids=3)
    fast = transformers.AutoTokenizer.from_pretrained(text_runs[0])
    there = sent({"slow": slow, "fast": fast, "again": slow}, tmp_path)
    for name, tokenizer in (("slow", slow), ("fast", fast), ("again", slow)):
        assert type(there[name]) is type(tokenizer)
        assert there[name]("a b c").input_ids == tokenizer("a b c").input_ids


def test_paths_are_those_of_the_machine(tmp_path):
    """Relative ones are kept; those of this machine alone are refused, by name."""
    assert sent({"folder": Path("runs") / "run-0"}, tmp_path) == {"folder": Path("runs/run-0")}
    with pytest.raises(IngredientError, match=str(tmp_path)):
        pack(partial(print, tmp_path), tmp_path)


def test_what_jobs_cannot_read_is_refused_early(hub_runs, text_runs):
    """Folders that are not pushed and models in memory; repositories are not."""
    refuse_elsewhere([open_checkpoint(hub_runs[0])])
    with pytest.raises(IngredientError, match="on this machine alone"):
        refuse_elsewhere([open_checkpoint(hub_runs[0]), open_checkpoint(text_runs[0])])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(text_runs[0])
    with pytest.raises(IngredientError, match="is a model in memory"):
        refuse_elsewhere([open_checkpoint(model)])
