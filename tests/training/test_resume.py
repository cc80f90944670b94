"""A killed sweep resumes from the newest complete checkpoint of each run and reaches the same bits."""

import gc
import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file

import hf_soup
from hf_soup import testing
from hf_soup.errors import TrainingError
from hf_soup.training import run as training_run
from hf_soup.training.resume import checkpoints_in, newest_whole_checkpoint


# Processes to be killed are forked from one with the necessary imports, which saves seconds for each of them
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "datasets",
        "hf_soup.testing",
        "hf_soup.training.sweep",
        "pytest",
        "sentence_transformers",
        "sklearn.metrics",
        "transformers.models.bert.modeling_bert",
        "transformers.models.vit.modeling_vit",
        "transformers.trainer",
    ]
)

ARGS = {"num_train_epochs": 12, "per_device_train_batch_size": 8, "learning_rate": 1e-3}
CASES = {
    "texts": {"keep": "best", "training_args": {**ARGS, "augment": {"mask": 0.2}}},
    "in steps": {
        "keep": "last",
        "training_args": {
            **ARGS,
            "eval_steps": 7,
            "logging_steps": 3,
            "optimizer": "sgd",
            "momentum": 0.9,
            "layer_decay": 0.8,
        },
    },
    "to the middle of an epoch": {"keep": "last", "training_args": {**ARGS, "max_steps": 33}},
    # ViT has other weight names on disk than in memory, which transformers' own resuming does not handle
    "images": {"keep": "all", "training_args": {**ARGS, "augment": {"crop": 0.3, "flip": 0.5}}},
    "adapters": {"keep": "best", "training_args": ARGS, "peft": {"r": 2, "target_modules": ["query", "value"]}},
    "sentences": {"keep": "best", "training_args": ARGS, "task": "sentence-similarity"},
}


FILES = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]


def sweep(folder, case):
    """A sweep of two runs for a case."""
    images = case == "images"
    make = testing.tiny_images if images else testing.tiny_texts
    base = folder.parent / ("images-base" if images else "texts-base")
    if not base.exists():
        save, model = (
            (testing.save_image_model, testing.tiny_image_model)
            if images
            else (testing.save_text_model, testing.tiny_text_model)
        )
        save(model(5), base)
    space = {"seed": [0, 1]}
    if case == "sentences":
        make = pairs
    return hf_soup.sweep(base, make(80), validation=make(40, seed=1), space=space, output_dir=folder, **CASES[case])


def pairs(rows, seed=0):
    """Pairs of texts, which are similar if their labels are equal."""
    first, second = testing.tiny_texts(rows, seed=seed), testing.tiny_texts(rows, seed=seed + 1)
    scores = [float(one == other) for one, other in zip(first["label"], second["label"], strict=True)]
    return datasets.Dataset.from_dict({"sentence1": first["text"], "sentence2": second["text"], "score": scores})


def weights(folder):
    """The weights of all models in a folder."""
    return {path.relative_to(folder): load_file(path) for path in sorted(folder.rglob("*model.safetensors"))}


def differences(whole, other):
    """Files that differ between two sweeps, except in what belongs to one of them."""
    found = []
    for folder, others in ((whole, other), (other, whole)):
        for path in (path.relative_to(folder) for path in folder.rglob("*") if path.is_file()):
            if not (others / path).is_file() or content(folder / path) != content(others / path):
                found.append(str(path))
    return sorted(set(found))


UNEQUAL = {"run.json": ("seconds", "resumed_from"), "adapter_config.json": ("base_model_name_or_path",)}  # a folder


def content(path):
    """The content of a file, without what belongs to one sweep."""
    if path.name not in UNEQUAL:
        return path.read_bytes()
    return {key: value for key, value in json.loads(path.read_text()).items() if key not in UNEQUAL[path.name]}


def killed_sweep(folder, case):
    """A sweep in a separate process that is killed once its second run has reached a certain step."""
    process = PROCESSES.Process(target=sweep_in_process, args=(folder, case))
    process.start()
    try:
        until = time.monotonic() + 120
        while not reached(folder / "run-1", 20) and time.monotonic() < until:
            assert process.is_alive(), "the sweep ended before it could be killed"
            time.sleep(0.01)
    finally:
        process.kill()
        process.join()
    return folder


def sweep_in_process(folder, case, *, dies_when_it_ends=False):
    """Run a sweep in a process that is to be killed."""
    gc.freeze()
    if dies_when_it_ends:
        write = training_run.write_json

        def write_or_die(path, data):
            if path.match("run-1/run.json"):
                os._exit(9)
            write(path, data)

        training_run.write_json = write_or_die
    sweep(folder, case)


def reached(run, step):
    """Whether a run has started to write a checkpoint of this step or a later one."""
    return any(int(path.name.split("-")[1]) >= step for path in checkpoints_in(run)) if run.is_dir() else False


@pytest.mark.parametrize("case", ["texts", "in steps", "images", "adapters", "sentences"])
def test_a_killed_sweep_goes_on_to_the_same_bits(tmp_path, case):
    """After a kill the complete run is left alone, the other one is resumed, and every file is as without the kill."""
    whole = sweep(tmp_path / "whole" / "runs", case)
    folder = killed_sweep(tmp_path / "killed" / "runs", case)
    assert not (folder / "run-1" / "run.json").exists()
    before = (folder / "run-0" / "run.json").stat().st_mtime_ns
    (next(checkpoints_in(folder / "run-1")) / ".trainer_state.1-1.partial.json").touch()  # as a kill may leave it
    again = sweep(folder, case)
    assert (folder / "run-0" / "run.json").stat().st_mtime_ns == before
    resumed = again[-1].state["resumed_from"]
    assert resumed
    assert resumed > 0
    one, two = weights(tmp_path / "whole" / "runs"), weights(folder)
    assert Path("run-1") / ("adapter_model.safetensors" if case == "adapters" else "model.safetensors") in one
    assert list(one) == list(two)
    assert all(torch.equal(one[path][name], two[path][name]) for path in one for name in one[path])
    ours, theirs = whole[-1].state, again[-1].state
    assert {key for key in ours if ours[key] != theirs[key]} <= {"seconds", "resumed_from"}
    assert differences(tmp_path / "whole" / "runs", folder) == []
    files = {path.name for path in (folder / "run-1").iterdir() if not path.name.startswith("checkpoint-")}
    assert not {name for name in files if name.endswith((".pt", ".pth", ".bin"))}


@pytest.fixture(scope="module")
def half_done(tmp_path_factory):
    """The folder of a killed run, with an additional newer checkpoint."""
    folder = killed_sweep(tmp_path_factory.mktemp("half") / "runs", "in steps") / "run-1"
    old = newest_whole_checkpoint(folder)
    step = int(old.name.split("-")[1])
    newer = folder / f"checkpoint-{step + 7}"
    shutil.copytree(old, newer)
    state = json.loads((newer / "trainer_state.json").read_text())
    (newer / "trainer_state.json").write_text(json.dumps(state | {"global_step": step + 7}))
    return folder


def test_the_newest_is_taken_if_it_is_whole(half_done, tmp_path):
    """If several checkpoints are complete, the newest is used."""
    shutil.copytree(half_done, tmp_path / "run")
    newest = list(checkpoints_in(tmp_path / "run"))[-1]
    assert newest_whole_checkpoint(tmp_path / "run") == newest


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("fault", ["cut", "gone", "zeros"])
def test_a_checkpoint_that_does_not_load_is_passed_over(half_done, tmp_path, file, fault):
    """If a file of the newest checkpoint is truncated, missing or zeroed, the previous checkpoint is used."""
    shutil.copytree(half_done, tmp_path / "run")
    older, newest = list(checkpoints_in(tmp_path / "run"))[-2:]
    path = newest / file
    data = path.read_bytes()
    if fault == "gone":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if fault == "cut" else bytes(len(data)))
    assert newest_whole_checkpoint(tmp_path / "run") == older
    assert not newest.exists()


def test_weights_that_are_lost_make_the_best_worthless(tmp_path):
    """A checkpoint whose best checkpoint has lost its weights is not used; in a moved folder the best one is found."""
    folder = killed_sweep(tmp_path / "runs", "texts")
    moved = folder.rename(tmp_path / "elsewhere") / "run-1"
    found = newest_whole_checkpoint(moved)
    state = json.loads((found / "trainer_state.json").read_text())
    assert Path(state["best_model_checkpoint"]).parent == moved
    best = Path(state["best_model_checkpoint"])
    if best != found:
        (best / "model.safetensors").unlink()
        assert newest_whole_checkpoint(moved) != found


@pytest.mark.parametrize("case", ["images", "to the middle of an epoch"])
def test_a_run_that_was_killed_while_it_ended(tmp_path, case):
    """A run whose process died before writing run.json is finished from its last checkpoint without another step."""
    whole = sweep(tmp_path / "whole" / "runs", case)
    folder = tmp_path / "killed" / "runs"
    process = PROCESSES.Process(target=sweep_in_process, args=(folder, case), kwargs={"dies_when_it_ends": True})
    process.start()
    process.join()
    assert process.exitcode == 9
    assert not hf_soup.load_sweep(folder).failed
    assert hf_soup.load_sweep(folder).waiting == ("run-1",)
    assert (folder / "run-1" / "model.safetensors").is_file()
    again = sweep(folder, case)
    assert again[-1].state["resumed_from"] == again[-1].state["steps"] == whole[-1].state["steps"]
    assert differences(tmp_path / "whole" / "runs", folder) == []


def test_another_process_in_the_folder_is_refused(tmp_path):
    """A second process that trains in the same folder raises a TrainingError."""
    import fcntl

    sweep(tmp_path / "runs", "texts")
    descriptor = os.open(tmp_path / "runs", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(TrainingError, match="another process is training"):
            sweep(tmp_path / "runs", "texts")
    finally:
        os.close(descriptor)
