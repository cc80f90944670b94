"""Training and scoring on a Ray cluster whose workers may die, on several devices and in several processes.

Processes take seconds to start, so tests share the results of what runs in them.
"""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import errands
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import hf_soup
from hf_soup import parallel, plugins, testing
from hf_soup.errors import DataError, MissingExtraError, RecipeError


ENV = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
SWEEP = {  # six runs, three of which diverge
    "space": {"learning_rate": [1e-3, 1e30], "seed": [0, 1, 2], "max_grad_norm": [0], "optimizer": ["sgd"]},
    "training_args": {"epochs": 10, "batch_size": 8},
}
ON_RAY = """
import json, sys
import hf_soup
import ray
from hf_soup import testing

base, folder, options, *near = sys.argv[1:]
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
texts, validation = testing.tiny_texts(96), testing.tiny_texts(40, seed=1)
sweep = hf_soup.sweep(
    base, texts, validation=validation, output_dir=folder, executor="ray", **json.loads(options)
)
answer = {"runs": [run.name for run in sweep], "failed": [run.name for run in sweep.failed], "same": []}
evaluator = hf_soup.Evaluator(testing.tiny_texts(60, seed=3), cache=False)
for strategy in ("exhaustive", "greedy_best_first"):
    there = hf_soup.merge(near, strategy=strategy, evaluator=evaluator, executor="ray")
    here = hf_soup.merge(near, strategy=strategy, evaluator=evaluator)
    answer["same"].append(there.recipe == here.recipe)
try:
    unknown = hf_soup.Evaluator(evaluator.dataset, metric="nothing")
    hf_soup.merge(near, strategy="greedy", evaluator=unknown, executor="ray")
except hf_soup.errors.RecipeError as error:
    answer["refused"] = str(error)
hf_soup.merge(near, executor="ray").save_pretrained(f"{folder}-soup", max_shard_size="20KB")
print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny text classifier."""
    return testing.save_text_model(testing.tiny_text_model(5), tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def near(tmp_path_factory):
    """Four models near one another."""
    folder = tmp_path_factory.mktemp("near")
    saved = []
    for seed in range(4):
        model = testing.tiny_text_model(0)
        torch.manual_seed(seed + 100)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter) * 0.05 * (1 + seed % 2)
        saved.append(testing.save_text_model(model, folder / f"run-{seed}"))
    return saved


def weights(folder):
    """The weights of all completed runs."""
    return {path.parent.name: load_file(path) for path in sorted(folder.glob("run-*/model.safetensors"))}


def parents():
    """Each process on this machine and its parent."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = path.read_text().partition(" ")
            found[int(pid)] = int(rest.rpartition(")")[2].split()[1])
        except OSError:
            continue
    return found


def workers_of(driver):
    """The descendants of a driver process that are training a run."""
    above, found = parents(), []
    for pid in above:
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        line, ancestor = [], pid
        while ancestor in above and ancestor != 1:
            ancestor = above[ancestor]
            line.append(ancestor)
        if title.startswith(b"ray::_call") and driver in line:
            found.append(pid)
    return found


class OnRay(NamedTuple):
    """The results of a cluster of two workers, one of which was killed during training."""

    folder: Path
    killed: int | None
    answer: dict


@pytest.fixture(scope="module")
def on_ray(base, near, tmp_path_factory):
    """A sweep and two searches on one real cluster, in a separate process."""
    if not Path("/proc").is_dir():
        pytest.skip("needs /proc to find the worker")
    folder = tmp_path_factory.mktemp("ray") / "runs"
    command = [sys.executable, "-W", "ignore", "-c", ON_RAY, base, folder, json.dumps(SWEEP), *near]
    driver = subprocess.Popen(
        list(map(str, command)), env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    killed = None
    until = time.monotonic() + 200
    while driver.poll() is None and time.monotonic() < until:
        begun = folder.glob("run-*/checkpoint-*")
        half_done = [checkpoint for checkpoint in begun if not (checkpoint.parent / "run.json").exists()]
        if half_done and (workers := workers_of(driver.pid)):
            killed = workers[0]
            os.kill(killed, signal.SIGKILL)
            break
        time.sleep(0.02)
    out, err = driver.communicate(timeout=200)
    assert driver.returncode == 0, err[-3000:]
    return OnRay(folder, killed, json.loads(out.splitlines()[-1]))


def test_a_worker_that_dies_costs_nothing(on_ray, base, tmp_path):
    """If one of two workers of a real cluster is killed, every run exists once and has the same bits as locally."""
    assert on_ray.killed
    assert on_ray.answer["runs"] == ["run-0", "run-1", "run-2"]
    assert on_ray.answer["failed"] == ["run-3", "run-4", "run-5"]
    texts, validation = testing.tiny_texts(96), testing.tiny_texts(40, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about runs that diverge
        hf_soup.sweep(base, texts, validation=validation, output_dir=tmp_path / "local", **SWEEP)
    one, two = weights(tmp_path / "local"), weights(on_ray.folder)
    assert list(one) == list(two) == ["run-0", "run-1", "run-2"]
    assert all(torch.equal(one[run][name], two[run][name]) for run in one for name in one[run])
    states = [json.loads((on_ray.folder / run / "run.json").read_text()) for run in two]
    assert all(state["steps"] == 10 * 12 for state in states)


def test_searches_on_ray_are_the_same(on_ray):
    """Searches on Ray give the same recipes as in one process, and errors in workers are reported."""
    assert on_ray.answer["same"] == [True, True]
    assert "nothing" in on_ray.answer["refused"]


def test_workers_share_out_the_files_of_a_soup(on_ray, near, tmp_path):
    """A soup whose files were made by workers is that of one process."""
    local = hf_soup.merge(near).save_pretrained(tmp_path / "soup", max_shard_size="20KB")
    made = Path(f"{on_ray.folder}-soup")
    names = sorted(path.name for path in local.iterdir())
    assert sum(name.endswith(".safetensors") for name in names) > 2
    assert sorted(path.name for path in made.iterdir()) == names
    assert all((made / name).read_bytes() == (local / name).read_bytes() for name in names if "model" in name)
    assert hf_soup.verify(made).ok


AGAIN = """
import os, sys
import numpy as np
import torch
import hf_soup
from hf_soup import plugins, testing
from hf_soup.cli.start import main

folder = sys.argv.pop()
try:
    main()
except SystemExit as end:
    assert not end.code
model, calls = testing.tiny_text_model(0), []
model.register_forward_hook(lambda *_: calls.append(1))
tokenizer = testing.model_for(plugins.load_module("task", "text-classification"))[1]
predictions = hf_soup.Evaluator(testing.tiny_texts(23), processing_class=tokenizer, batch_size=4).predict(model)
rank = os.environ["RANK"]
np.savez(f"{folder}/{rank}.npz", logits=predictions.logits, labels=predictions.labels, batches=len(calls))
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def launched(base, tmp_path_factory):
    """A folder, and the answers of a sweep that two processes under accelerate run twice.

    The second time nothing is left to train, and the processes also score a model.
    """
    folder = tmp_path_factory.mktemp("launched")
    testing.tiny_texts(96).to_csv(folder / "train.csv")
    testing.tiny_texts(40, seed=1).to_csv(folder / "validation.csv")
    script = folder / "again.py"
    script.write_text(AGAIN)
    # as for two GPUs; without --multi_gpu accelerate requires MPI for several processes on a CPU
    launch = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    launch = [sys.executable, "-m", "accelerate.commands.launch", *launch.split(), "--main_process_port", "0"]
    sweep = ["sweep", base, "--data", folder, "--learning-rate", "1e-3,1e30", "--seed", "0,1", "--epochs", "2"]
    sweep += ["--optimizer", "sgd", "--set", "max_grad_norm=0", "-o", folder / "runs", "--json", "--head", "probe"]
    answers = []
    for program in (["-m", "hf_soup.cli", *sweep], [script, *sweep, folder]):
        command = list(map(str, [*launch, *program]))
        done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        answers.append(json.loads(done.stdout))  # only one process prints
    return folder, answers


def test_several_processes_train_each_run(launched):
    """Under accelerate two processes share every run with half the steps each, and neither hangs."""
    _, (answer, again) = launched
    assert [run["run"] for run in answer["runs"]] == ["run-0", "run-1"]
    assert [run["run"] for run in answer["failed"]] == ["run-2", "run-3"]
    assert all(run["steps"] == 12 for run in answer["runs"])
    assert again == answer


def test_several_processes_share_the_scoring(launched):
    """Each process scores some of the batches, and each gets the complete result."""
    folder, _ = launched
    tokenizer = testing.model_for(plugins.load_module("task", "text-classification"))[1]
    evaluator = hf_soup.Evaluator(testing.tiny_texts(23), processing_class=tokenizer, batch_size=4)
    alone = evaluator.predict(testing.tiny_text_model(0))
    for rank in (0, 1):
        shared = np.load(folder / f"{rank}.npz")
        assert shared["batches"] == 3 + 5  # a few rows, run one by one and together, test for effects of padding
        assert np.allclose(shared["logits"], alone.logits, atol=1e-5)
        assert np.array_equal(shared["labels"], alone.labels)


def test_each_device_has_a_process_that_sees_no_other():
    """Two devices work in parallel, each in its own process that sees only this device; every item is done once."""
    answers = dict(parallel.run_all(errands.tell_device, list("abcdefgh"), devices=("5", "7")))
    assert sorted(answers) == list(range(8))
    assert [answers[place][0] for place in range(8)] == list("abcdefgh")
    seen = {(device, pid) for _, device, pid in answers.values()}
    assert len(seen) == len({pid for _, pid in seen}) <= 2
    assert {device for device, _ in seen} <= {"5", "7"}
    assert os.getpid() not in {pid for _, pid in seen}


def test_what_a_function_raises_comes_here():
    """An error for an item is raised where the results are read, and a worker that dies raises a SoupError."""
    with pytest.raises(DataError, match="no good"):
        list(parallel.run_all(errands.fail, [1, 2, 3], devices=("0", "1")))
    with pytest.raises(hf_soup.SoupError, match="a worker process died"):
        list(parallel.run_all(errands.die, [1, 2, 3], devices=("0", "1")))


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_no_cluster_at_the_address(base, tmp_path, monkeypatch, address):
    """An address without a Ray cluster raises a RecipeError within seconds and before anything is written."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    began = time.monotonic()
    with pytest.raises(RecipeError, match="no Ray cluster answers at"):
        hf_soup.sweep(base, testing.tiny_texts(20), space=[{}], output_dir=tmp_path / "runs", executor="ray")
    assert time.monotonic() - began < 6
    assert not (tmp_path / "runs").exists()


def test_without_ray_the_pip_line_is_told(base, tmp_path, monkeypatch):
    """If ray is not installed, an error with the pip command is raised before anything is trained."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hf-soup\[ray\]'"):
        hf_soup.sweep(base, testing.tiny_texts(20), space=[{}], output_dir=tmp_path / "runs", executor="ray")
    assert not (tmp_path / "runs").exists()
