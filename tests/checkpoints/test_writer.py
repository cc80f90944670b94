"""Tests of the writer: files equal those of safetensors, and folders appear complete or not at all."""

import json
import os
import random
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_soup.checkpoints.digest import bytes_of
from hf_soup.checkpoints.reader import TensorSpec
from hf_soup.checkpoints.staging import staged_folder
from hf_soup.checkpoints.writer import weight_files
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


def write_weights(folder, tensors, **options):
    """Write complete tensors, and return their digests."""
    with weight_files(folder, SPECS, **options) as files:
        for name, tensor in tensors:
            files.write_tensor(name, tensor)
    return files.digests()


def test_one_file_is_the_file_of_safetensors(tmp_path):
    """Tensors of mixed types, in any order, give the bytes that `save_file` gives."""
    save_file(TENSORS, tmp_path / "reference.safetensors", metadata={"format": "pt"})
    write_weights(tmp_path, TENSORS.items())
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "reference.safetensors").read_bytes()


@pytest.mark.parametrize("parts", [[], [(0, 2)], [(0, 4), (0, 4)]])
def test_what_does_not_come_once_is_noticed(tmp_path, parts):
    """A tensor that is missing, incomplete or written twice raises a RuntimeError."""
    spec = TensorSpec("x", (4,), "float32")

    def write():
        with weight_files(tmp_path, [spec]) as files:
            for start, stop in parts:
                files.write("x", start, bytes_of(torch.randn(4)[start:stop]))

    with pytest.raises(RuntimeError, match="1 planned tensors did not come whole, such as x"):
        write()


def test_shards_hold_everything_once(tmp_path):
    """With small shards the index lists every tensor, and the shards together hold them all."""
    digests = write_weights(tmp_path, reversed(TENSORS.items()), max_shard_size=40)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    tensors = {}
    for name in sorted(set(index["weight_map"].values())):
        tensors |= load_file(tmp_path / name)
    assert set(tensors) == set(TENSORS) == set(index["weight_map"]) == set(digests)
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in tensors)


def test_a_folder_appears_when_it_is_whole(tmp_path):
    """The folder does not exist until the block ends, and no temporary files remain afterwards."""
    with staged_folder(tmp_path / "out") as stage:
        (stage / "file").write_text("x")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "file").read_text() == "x"


def test_a_failure_leaves_nothing_behind(tmp_path):
    """An error in the block leaves neither the folder nor temporary files."""

    def fail():
        with staged_folder(tmp_path / "out") as stage:
            (stage / "file").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_kept_unless_told(tmp_path):
    """An existing folder is refused without `overwrite=True`; with it, a failure leaves the folder as it was."""
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


ENDLESS = """
import sys
from hf_soup.checkpoints.staging import staged_folder
number = 0
while True:
    number += 1
    with staged_folder(sys.argv[1], overwrite=True) as stage:
        for index in range(8):
            (stage / str(index)).write_text(str(number))
    print(number, flush=True)
"""


def test_a_kill_leaves_the_target_whole(tmp_path):
    """After a kill at each of twenty random moments the target is the complete output of one round, or absent only
    where two names cannot be exchanged, and the next run leaves no other files."""
    out = tmp_path / "out"
    for seed in range(20):
        process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(out)], stdout=subprocess.PIPE)
        process.stdout.readline()  # it has written once
        time.sleep(random.Random(seed).uniform(0, 0.01))
        process.kill()
        process.wait()
        process.stdout.close()
        assert out.exists() or not sys.platform.startswith(("linux", "darwin"))
        if out.exists():
            assert len(list(out.iterdir())) == 8
            assert len({path.read_text() for path in out.iterdir()}) == 1
    with staged_folder(out, overwrite=True) as stage:
        (stage / "last").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


KILLED = """
import os, random, signal, sys, time, warnings
from pathlib import Path
import hf_soup, hf_soup.api, hf_soup.tasks, huggingface_hub.repocard, jinja2
from safetensors.torch import load_file
from hf_soup.checkpoints.digest import combined_digest, tensor_digest

warnings.simplefilter("ignore")
out, runs = Path(sys.argv[1]), sys.argv[2:]
hf_soup.check(runs)  # imports most
hf_soup.tasks.task_of({"architectures": ["BertForSequenceClassification"], "model_type": "bert"})  # and the rest
found, scale = [], 1
for seed in range(20):
    if seed % 4 == 3 and not any(found):
        scale *= 2  # a slow machine
    child = os.fork()  # which has everything imported already
    if not child:
        while True:
            hf_soup.merge(runs, weights=[1, random.random(), 2]).save_pretrained(out, overwrite=seed > 3)
    time.sleep(scale * random.Random(seed).uniform(0.05, 0.3))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if out.exists():
        state = load_file(out / "model.safetensors")
        digest = combined_digest({name: tensor_digest(tensor) for name, tensor in state.items()})
        assert hf_soup.load_recipe(out).output.digest == digest
        assert (out / "README.md").is_file() and (out / "tokenizer.json").is_file()
    found.append(out.exists())
hf_soup.merge(runs).save_pretrained(out, overwrite=True)
print(sum(found), *[path.name for path in out.parent.iterdir()])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_killed_merge_leaves_its_target_absent_or_whole(tmp_path, text_runs):
    """Merges killed at random moments leave no soup or a complete one, and the next merge leaves no other files."""
    out = tmp_path / "place" / "out"
    out.parent.mkdir()
    command = [sys.executable, "-c", KILLED, str(out), *map(str, text_runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    whole, *left = done.stdout.split()
    assert int(whole) > 0
    assert left == ["out"]


def test_what_was_moved_away_comes_back(tmp_path):
    """A folder that a killed process had moved aside is restored."""
    moved = tmp_path / ".out.abc12345.old"
    moved.mkdir()
    (moved / "old").write_text("old")
    with (
        pytest.raises(OutputError, match=r"Directory not empty|File exists"),
        staged_folder(tmp_path / "out") as stage,
    ):
        (stage / "new").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "old").read_text() == "old"


def test_litter_of_other_targets_is_left_alone(tmp_path):
    """Temporary folders of another target whose name is longer are not touched."""
    for name in (".out.v2.abc12345.old", ".out.v2.abc12345.partial", ".out.abc.old"):
        (tmp_path / name).mkdir()
    with staged_folder(tmp_path / "out") as stage:
        (stage / "new").write_text("new")
    assert len(list(tmp_path.iterdir())) == 4
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]


def test_overwriting_a_link_to_a_folder(tmp_path):
    """Overwriting through a link keeps the link and replaces the folder that it points to."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "old").write_text("old")
    (tmp_path / "out").symlink_to(tmp_path / "real")
    with staged_folder(tmp_path / "out", overwrite=True) as stage:
        (stage / "new").write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "real"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
    assert (tmp_path / "out").readlink() == tmp_path / "real"


def test_of_two_at_once_one_wins(tmp_path):
    """A target that appears during the work is not overwritten, and unfinished work is not deleted as a leftover."""
    out = tmp_path / "out"

    def make(text):
        with staged_folder(out) as stage:
            (stage / "file").write_text(text)
            if text == "slow":
                make("quick")

    with pytest.raises(OutputError, match=r"Directory not empty|File exists"):  # its own work was not deleted
        make("slow")
    assert (out / "file").read_text() == "quick"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


FULL = """
import resource, signal, sys, hf_soup
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    hf_soup.merge(sys.argv[2:]).save_pretrained(sys.argv[1])
except hf_soup.errors.OutputError as error:
    print(error)
"""


def test_a_full_disk_is_one_clear_error(tmp_path, text_runs):
    """If a file cannot grow, the error says what could not be written, and nothing is left."""
    command = [sys.executable, "-c", FULL, str(tmp_path / "out"), *map(str, text_runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"cannot write {tmp_path / 'out'}: File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []
