"""Where runs are trained: on a Ray cluster whose workers may die, on several devices, over several processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import hf_soup
from hf_soup import parallel, testing


ENV = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
SWEEP = """
import json, sys, warnings
import hf_soup
from hf_soup import testing

base, folder, executor, epochs = sys.argv[1:]
if executor == "ray":
    import ray
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
sweep = hf_soup.sweep(
    base,
    testing.tiny_texts(96),
    validation=testing.tiny_texts(40, seed=1),
    space={"learning_rate": [1e-3, 1e30], "seed": [0, 1, 2], "max_grad_norm": [0], "optimizer": ["sgd"]},
    training_args={"epochs": int(epochs), "batch_size": 8},
    output_dir=folder,
    executor=executor,
)
print(json.dumps({"runs": [run.name for run in sweep], "failed": [run.name for run in sweep.failed]}))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny text classifier."""
    return testing.save_text_model(testing.tiny_text_model(5), tmp_path_factory.mktemp("base") / "base")


def start(base, folder, executor, epochs):
    """A sweep of six runs, three of which diverge, in a process of its own with one thread."""
    command = [sys.executable, "-W", "ignore", "-c", SWEEP, base, folder, executor, epochs]
    return subprocess.Popen(
        list(map(str, command)), env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def weights(folder):
    """Of all runs that are whole."""
    return {path.parent.name: load_file(path) for path in sorted(folder.glob("run-*/model.safetensors"))}


def parents():
    """Each process of this machine and its parent."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = path.read_text().partition(" ")
            found[int(pid)] = int(rest.rpartition(")")[2].split()[1])
        except OSError:
            continue
    return found


def workers_of(driver):
    """The processes below a driver that train a run now."""
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


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to find the worker")
def test_a_worker_that_dies_costs_nothing(base, tmp_path):
    """One of two workers of a real cluster is killed in the middle: every run is there once, with the local bits."""
    here = start(base, tmp_path / "local", "local", 14)
    there = start(base, tmp_path / "ray", "ray", 14)
    killed = None
    until = time.monotonic() + 200
    while there.poll() is None and time.monotonic() < until:
        begun = (tmp_path / "ray").glob("run-*/checkpoint-*")
        half_done = [checkpoint for checkpoint in begun if not (checkpoint.parent / "run.json").exists()]
        if half_done and (workers := workers_of(there.pid)):
            killed = workers[0]
            os.kill(killed, signal.SIGKILL)
            break
        time.sleep(0.02)
    out, err = there.communicate(timeout=200)
    assert killed, err[-2000:]
    assert there.returncode == 0, err[-3000:]
    names = json.loads(out.splitlines()[-1])
    assert names == {"runs": ["run-0", "run-1", "run-2"], "failed": ["run-3", "run-4", "run-5"]}
    assert here.wait(timeout=200) == 0, here.stderr.read()[-3000:]
    one, two = weights(tmp_path / "local"), weights(tmp_path / "ray")
    assert list(one) == list(two) == ["run-0", "run-1", "run-2"]
    assert all(torch.equal(one[run][name], two[run][name]) for run in one for name in one[run])
    states = [json.loads((tmp_path / "ray" / run / "run.json").read_text()) for run in two]
    assert all(state["steps"] == 14 * 12 for state in states)


def test_several_processes_train_each_run(base, tmp_path):
    """Under accelerate two processes share every run: half the steps, one set of files, nobody waits for ever."""
    testing.tiny_texts(96).to_csv(tmp_path / "train.csv")
    testing.tiny_texts(40, seed=1).to_csv(tmp_path / "validation.csv")
    # as on two GPUs; without --multi_gpu accelerate wants MPI for several processes on a CPU
    launch = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    launch += " --main_process_port 0"
    command = [sys.executable, "-m", "accelerate.commands.launch", *launch.split(), "-m", "hf_soup.cli"]
    command += ["sweep", base, "--data", tmp_path, "--learning-rate", "1e-3,1e30", "--seed", "0,1", "--epochs", "2"]
    command += ["--optimizer", "sgd", "--set", "max_grad_norm=0", "-o", tmp_path / "runs", "--json", "--head", "probe"]
    done = subprocess.run(list(map(str, command)), env=ENV, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout)  # of one process alone
    assert [run["run"] for run in answer["runs"]] == ["run-0", "run-1"]
    assert [run["run"] for run in answer["failed"]] == ["run-2", "run-3"]
    assert all(run["steps"] == 12 for run in answer["runs"])
    again = subprocess.run(list(map(str, command)), env=ENV, capture_output=True, text=True, timeout=300)
    assert json.loads(again.stdout) == answer


def _where(item):
    return item, os.environ[parallel.DEVICES], os.getpid()


def test_each_device_has_a_process_that_sees_no_other():
    """Two devices work at once, each in its own process, and every item is done once."""
    found = dict(parallel.run_all(_where, list("abcdefgh"), devices=("5", "7")))
    assert sorted(found) == list(range(8))
    assert [found[place][0] for place in range(8)] == list("abcdefgh")
    seen = {(device, pid) for _, device, pid in found.values()}
    assert len(seen) == len({pid for _, pid in seen}) <= 2
    assert {device for device, _ in seen} <= {"5", "7"}
    assert os.getpid() not in {pid for _, pid in seen}


def test_a_sweep_on_several_devices_is_the_same(base, tmp_path, monkeypatch):
    """Runs trained in a pool of processes have the bits of those trained here."""
    from hf_soup.training import running as module

    def sweep(folder):
        return hf_soup.sweep(
            base,
            testing.tiny_texts(48),
            validation=testing.tiny_texts(24, seed=1),
            space={"seed": [0, 1]},
            training_args={"epochs": 1},
            output_dir=folder,
        )

    sweep(tmp_path / "here")
    monkeypatch.setattr(module, "gpus", lambda: ("0", "1"))  # a machine without GPUs trains on its CPU all the same
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    sweep(tmp_path / "there")
    one, two = weights(tmp_path / "here"), weights(tmp_path / "there")
    assert list(two) == ["run-0", "run-1"]
    assert all(torch.equal(one[run][name], two[run][name]) for run in one for name in one[run])


def test_what_a_function_raises_comes_here():
    """An error of an item is raised where the results are read, and a process that dies is told."""
    with pytest.raises(hf_soup.DataError, match="no good"):
        list(parallel.run_all(_fails, [1, 2, 3], devices=("0", "1")))
    with pytest.raises(hf_soup.SoupError, match="a worker process died"):
        list(parallel.run_all(_dies, [1, 2, 3], devices=("0", "1")))


def _fails(item):
    raise hf_soup.DataError("no good")


def _dies(item):
    os._exit(1)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_no_cluster_at_the_address(base, tmp_path, monkeypatch, address):
    """An address where nobody answers is told at once, before anything is written."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    began = time.monotonic()
    with pytest.raises(hf_soup.RecipeError, match="no Ray cluster answers at"):
        hf_soup.sweep(base, testing.tiny_texts(20), space=[{}], output_dir=tmp_path / "runs", executor="ray")
    assert time.monotonic() - began < 6
    assert not (tmp_path / "runs").exists()


def test_without_ray_the_pip_line_is_told(base, tmp_path, monkeypatch):
    """An extra that is not installed is named before anything is trained."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(hf_soup.MissingExtraError, match=r"pip install 'hf-soup\[ray\]'"):
        hf_soup.sweep(base, testing.tiny_texts(20), space=[{}], output_dir=tmp_path / "runs", executor="ray")
    assert not (tmp_path / "runs").exists()
