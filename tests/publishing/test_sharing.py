"""Soups that are made shard by shard: interrupted and resumed, uploaded one by one, shared out among processes."""

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import hf_soup
from hf_soup import ranks as ranks_module
from hf_soup.checkpoints import writer
from hf_soup.checkpoints.output_layout import lay_out
from hf_soup.errors import OutputError, RecipeError, SoupError
from hf_soup.publishing import sharing
from hf_soup.publishing.sharing import ShardMaker
from hf_soup.ranks import Ranks, find_ranks


pytestmark = pytest.mark.filterwarnings("ignore::hf_soup.errors.SoupWarning")
SIZE = "8KB"
finish, make = ShardMaker.finish, ShardMaker.make


def weights_in(folder):
    """The weight files of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("model*"))}


@pytest.fixture
def expected(text_runs, tmp_path):
    """The weight files of the soup, made at once."""
    folder = tmp_path / "expected"
    hf_soup.merge(text_runs).save_pretrained(folder, max_shard_size=SIZE)
    files = weights_in(folder)
    assert len(files) > 5
    return files


@pytest.fixture
def made(monkeypatch):
    """The shards that are made, in order."""
    files = []

    def counted(self, shard, aside):
        files.append(shard.file)
        return make(self, shard, aside)

    monkeypatch.setattr(ShardMaker, "make", counted)
    return files


def fail_at(monkeypatch, count):
    """Let the shard of this number fail when it is finished."""
    finished = []

    def failing(self, shard, aside, digested):
        finished.append(shard.file)
        if len(finished) == count:
            raise OSError(28, "No space left on device")
        return finish(self, shard, aside, digested)

    monkeypatch.setattr(ShardMaker, "finish", failing)


def streamed(hub_runs, **options):
    """A soup of streamed weights."""
    return hf_soup.merge(hub_runs, stream=True, **options)


class TestSaving:
    """An interrupted save is gone on with."""

    def test_finished_shards_are_not_made_again(self, hub_runs, expected, made, monkeypatch, tmp_path):
        """The next call takes the shards that were finished, and leaves no temporary files."""
        target = tmp_path / "soup"
        fail_at(monkeypatch, 3)
        with pytest.raises(OutputError, match="No space left"):
            streamed(hub_runs).save_pretrained(target, max_shard_size=SIZE)
        assert not target.exists()
        before = len(made)
        monkeypatch.setattr(ShardMaker, "finish", finish)
        streamed(hub_runs).save_pretrained(target, max_shard_size=SIZE)
        assert weights_in(target) == expected
        shards = len(expected) - 1  # without the index
        assert len(made) - before == shards - 2
        assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
        assert not [name for name in os.listdir(target) if name.startswith(".")]
        assert hf_soup.verify(target).ok

    def test_the_recipe_is_that_of_an_uninterrupted_save(self, hub_runs, monkeypatch, tmp_path):
        """What finished shards read is recorded as well."""
        streamed(hub_runs).save_pretrained(tmp_path / "at_once", max_shard_size=SIZE)
        fail_at(monkeypatch, 2)
        with pytest.raises(OutputError):
            streamed(hub_runs).save_pretrained(tmp_path / "soup", max_shard_size=SIZE)
        monkeypatch.setattr(ShardMaker, "finish", finish)
        streamed(hub_runs).save_pretrained(tmp_path / "soup", max_shard_size=SIZE)
        digests = [hf_soup.load_recipe(tmp_path / name).output.digest for name in ("at_once", "soup")]
        assert digests[0] == digests[1]

    @pytest.mark.parametrize("damage", ["no record", "damaged record", "shorter shard", "no shard"])
    def test_a_shard_that_is_not_whole_is_made_again(self, damage, hub_runs, expected, made, monkeypatch, tmp_path):
        """A shard needs its record and its size to be taken."""
        target = tmp_path / "soup"
        fail_at(monkeypatch, 3)
        with pytest.raises(OutputError):
            streamed(hub_runs).save_pretrained(target, max_shard_size=SIZE)
        (stage,) = tmp_path.glob(".soup.*")
        shard = min(stage.glob("*.safetensors"))
        record = stage / sharing.RECORDS / f"{shard.name}.json"
        if damage == "no record":
            record.unlink()
        elif damage == "damaged record":
            record.write_text(record.read_text()[:-40])
        elif damage == "shorter shard":
            os.truncate(shard, 100)
        else:
            shard.unlink()
        made.clear()
        monkeypatch.setattr(ShardMaker, "finish", finish)
        streamed(hub_runs).save_pretrained(target, max_shard_size=SIZE)
        assert shard.name in made
        assert weights_in(target) == expected

    def test_another_recipe_does_not_take_the_shards(self, hub_runs, expected, made, monkeypatch, tmp_path):
        """Other weights begin anew, and remove what they do not need in the end."""
        target = tmp_path / "soup"
        fail_at(monkeypatch, 3)
        with pytest.raises(OutputError):
            hf_soup.merge(hub_runs, weights=[2, 1, 1], stream=True).save_pretrained(target, max_shard_size=SIZE)
        made.clear()
        monkeypatch.setattr(ShardMaker, "finish", finish)
        streamed(hub_runs).save_pretrained(target, max_shard_size=SIZE)
        assert len(made) == len(expected) - 1
        assert weights_in(target) == expected
        assert not list(tmp_path.glob(".soup.*"))  # those of the other recipe are gone

    def test_the_work_for_other_targets_is_left_alone(self, hub_runs, tmp_path):
        """A finished soup removes unfinished folders of its own name only, and files of the system."""
        other = tmp_path / ".soup.v2.0123456789abcdef.unfinished"
        own = tmp_path / ".soup.0123456789abcdef.unfinished"
        for folder in (other, own):
            folder.mkdir()
        streamed(hub_runs).save_pretrained(tmp_path / "soup", max_shard_size=SIZE)
        assert other.is_dir()
        assert not own.exists()

    def test_a_shard_that_is_elsewhere_is_missed(self, hub_runs, monkeypatch, tmp_path):
        """A folder without all of its shards does not take its name."""

        def lose(self, shard, aside, digested):
            record = finish(self, shard, aside, digested)
            if "-00002-" in shard.file:
                (self.folder / shard.file).unlink()
            return record

        monkeypatch.setattr(ShardMaker, "finish", lose)
        with pytest.raises(OutputError, match="which not all processes share"):
            streamed(hub_runs).save_pretrained(tmp_path / "soup", max_shard_size=SIZE)
        assert not (tmp_path / "soup").exists()

    def test_what_decides_the_bytes_is_in_the_key(self, hub_runs, tmp_path, monkeypatch):
        """Another device, other statistics, other files and a corrected method begin anew."""
        soup = streamed(hub_runs)
        layout, other = (lay_out(soup.plan.specs, size) for size in ("8KB", "9KB"))
        keys = {
            sharing.key_of(soup.recipe, layout, "cpu", "digest"),
            sharing.key_of(soup.recipe, layout, "cuda", "digest"),
            sharing.key_of(soup.recipe, layout, "cpu", "another"),
            sharing.key_of(soup.recipe, other, "cpu", "digest"),
        }
        monkeypatch.syspath_prepend(tmp_path)
        module = tmp_path / "my_own_method.py"
        for text in ("1", "2"):
            module.write_text(f"def first(tensors, weights):\n    return tensors[0] * {text}\n")
            recipe = replace(soup.recipe, method="my_own_method:first")
            keys.add(sharing.key_of(recipe, layout, "cpu", "digest"))
        assert len(keys) == 6

    def test_an_error_of_the_disk_is_raised(self, hub_runs, monkeypatch, tmp_path):
        """The system reports an error once, perhaps while the merge goes on."""

        def fail(path):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(writer, "flush_path", fail)
        monkeypatch.setattr(writer, "OFTEN", 0.001)
        monkeypatch.setattr(ShardMaker, "make", lambda *arguments: (time.sleep(0.01), make(*arguments))[1])
        slow = writer.WeightFiles.write
        monkeypatch.setattr(writer.WeightFiles, "write", lambda *given: (slow(*given), time.sleep(0.02)))
        with pytest.raises(OutputError, match="Input/output error"):
            streamed(hub_runs).save_pretrained(tmp_path / "soup", max_shard_size=SIZE)

    def test_two_processes_do_not_make_one_folder(self, hub_runs, monkeypatch, tmp_path):
        """The folder under construction is locked."""
        fcntl = pytest.importorskip("fcntl")
        fail_at(monkeypatch, 2)
        with pytest.raises(OutputError):
            streamed(hub_runs).save_pretrained(tmp_path / "soup", max_shard_size=SIZE)
        (stage,) = tmp_path.glob(".soup.*")
        descriptor = os.open(stage, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            with pytest.raises(OutputError, match="another process is making"):
                streamed(hub_runs).save_pretrained(tmp_path / "soup", max_shard_size=SIZE)
        finally:
            os.close(descriptor)


class TestPushing:
    """Shards are uploaded as they are made."""

    def uploads(self, hub, since=0):
        """The addresses of uploads."""
        return [item.path for item in hub.log[since:] if item.origin == "cdn" and item.method == "PUT"]

    def test_the_disk_holds_two_shards_at_most(self, faulty, hub_runs, expected, monkeypatch):
        """One shard is uploaded, here slowly, while the next is made; the pushed files are those of a local soup."""
        most = []

        def look(self, shard, aside):
            digested = make(self, shard, aside)
            most.append(len(list(aside.rglob("model-*.safetensors"))))
            return digested

        monkeypatch.setattr(ShardMaker, "make", look)
        repo_id = f"{hub_runs[0]}-soup"
        with faulty.faults.on("lfs-upload", "slow", times=math.inf, seconds=0.2):
            streamed(hub_runs).push_to_hub(repo_id, max_shard_size=SIZE)
        files = faulty.store.repositories[repo_id].resolve("main").files
        pushed = {name: blob.content for name, blob in files.items() if name.startswith("model")}
        assert pushed == expected
        assert max(most) == 2
        assert hf_soup.verify(repo_id).ok

    def test_an_interrupted_push_sends_nothing_twice(self, hub, hub_runs, expected, made, monkeypatch):
        """The next call makes and sends only what is missing, and its records are deleted."""
        repo_id, mine = f"{hub_runs[0]}-soup", {"weights": [2, 1, 1]}
        before = len(hub.log)
        fail_at(monkeypatch, 3)
        with pytest.raises(SoupError):
            streamed(hub_runs, **mine).push_to_hub(repo_id, max_shard_size=SIZE)
        first = self.uploads(hub, before)
        assert len(first) == 2
        made.clear()
        monkeypatch.setattr(ShardMaker, "finish", finish)
        before = len(hub.log)
        streamed(hub_runs, **mine).push_to_hub(repo_id, max_shard_size=SIZE)
        assert len(made) == len(expected) - 1 - 2
        assert not set(first) & set(self.uploads(hub, before))
        assert hf_soup.verify(repo_id).ok
        assert not list(sharing.folder_of_records("x").parent.iterdir())

    def test_what_the_hub_has_forgotten_is_made_again(self, hub, hub_runs, expected, made, monkeypatch):
        """An upload that the Hub has deleted is made once more."""
        repo_id, mine = f"{hub_runs[0]}-soup", {"weights": [1, 2, 1]}
        before = len(hub.log)
        fail_at(monkeypatch, 3)
        with pytest.raises(SoupError):
            streamed(hub_runs, **mine).push_to_hub(repo_id, max_shard_size=SIZE)
        forgotten = self.uploads(hub, before)[0].removeprefix("/")
        del hub.store.objects[forgotten]
        made.clear()
        monkeypatch.setattr(ShardMaker, "finish", finish)
        streamed(hub_runs, **mine).push_to_hub(repo_id, max_shard_size=SIZE)
        assert len(made) == len(expected) - 1 - 1
        assert hf_soup.verify(repo_id).ok

    def test_old_records_are_deleted(self, hub):
        """Records of a push that was never repeated go away after a month."""
        old = sharing.folder_of_records("old")
        old.mkdir(parents=True)
        os.utime(old, (0, 0))
        sharing.folder_of_records("new")
        assert not old.exists()


@pytest.fixture(scope="module")
def at_work(text_runs, tmp_path_factory, hub):
    """What processes that make soups together have left."""
    from huggingface_hub import HfApi

    names = []
    for index, run in enumerate(text_runs):
        names.append(f"{hub.user}/for-ranks-{index}")
        HfApi().create_repo(names[-1])
        HfApi().upload_folder(repo_id=names[-1], folder_path=run)
    out = tmp_path_factory.mktemp("ranks")
    program = Path(__file__).with_name("ranks_at_work.py")
    done = subprocess.run(
        [sys.executable, program, *names, out],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return out


def told(out, name):
    """What each rank returned."""
    return [json.loads(path.read_text()) for path in sorted(out.glob(f"{name}-?.json"))]


class TestRanks:
    """Several processes make one soup."""

    @pytest.mark.parametrize("n", [1, 2, 3, 7])
    def test_any_number_of_ranks_makes_the_same_files(self, n, at_work, expected):
        """Each rank makes some shards, and the files do not depend on the number of ranks."""
        shards = told(at_work, f"save-{n}")
        assert sorted(name for of_rank in shards for name in of_rank) == sorted(expected)[:-1]
        assert all(shards), "every rank has made something"
        assert weights_in(at_work / f"soup-{n}") == expected
        assert hf_soup.verify(at_work / f"soup-{n}").ok

    def test_the_recipe_does_not_depend_on_the_number_of_ranks(self, at_work):
        """The digest of the soup does not depend on the number of ranks."""
        digests = {hf_soup.load_recipe(at_work / f"soup-{n}").output for n in (1, 2, 3, 7)}
        assert len(digests) == 1

    def test_they_push_one_commit(self, at_work, hub, expected):
        """All ranks upload, and the first one makes the commit."""
        results = told(at_work, "push")
        assert len({result["commit"] for result in results}) == 1
        repository = hub.store.repositories[f"{hub.user}/by-ranks"]
        files = {name: blob.content for name, blob in repository.resolve("main").files.items()}
        assert {name: files[name] for name in files if name.startswith("model")} == expected
        assert [commit.title for commit in repository.commits.values()][1:] == ["Upload soup"]
        assert hf_soup.verify(f"{hub.user}/by-ranks").ok

    def test_a_rank_that_dies_leaves_the_target_absent(self, at_work):
        """The other ranks fail with advice, and what is finished is kept."""
        results = told(at_work, "dies")
        assert len(results) == 2  # the dead one wrote nothing
        for result in results:
            assert "which has probably died" in result["error"]
            assert "finished shards are kept" in result["error"]
        exists, names = json.loads((at_work / "after-death").read_text())
        assert not exists
        assert any(name.endswith(".unfinished") for name in names)

    def test_an_error_of_one_rank_is_that_of_all(self, at_work, expected):
        """No rank waits for one that failed, and the same processes can go on."""
        results = told(at_work, "fails")
        assert [result["error"].startswith("rank 1: ") for result in results] == [True, False, True]
        assert all("No space left" in result["error"] for result in results)
        assert weights_in(at_work / "fails") == expected

    def test_other_ranks_go_on_with_its_shards(self, at_work, expected):
        """Another number of ranks takes the finished shards."""
        again = [name for of_rank in told(at_work, "resumed") for name in of_rank]
        assert 0 < len(again) < len(expected) - 1
        assert weights_in(at_work / "resumed") == expected
        assert not list(at_work.glob(".*"))

    def test_they_have_to_make_one_soup(self, at_work):
        """Ranks that have chosen different weights stop before anything is written."""
        for result in told(at_work, "differ"):
            assert "the ranks have made different recipes" in result["error"]

    def test_storage_that_is_not_shared_is_told(self, at_work):
        """A rank that does not see the folder is named."""
        for result in told(at_work, "blind"):
            assert "is not shared by all ranks" in result["error"]
            assert "rank 1" in result["error"]


class TestFindRanks:
    """The environment of a process started by torchrun or srun."""

    @pytest.fixture(autouse=True)
    def _clean(self, monkeypatch):
        for names in ranks_module.VARIABLES:
            for name in (*names, "SLURM_NTASKS"):
                monkeypatch.delenv(name, raising=False)

    @pytest.mark.parametrize(
        ("variables", "ranks"),
        [
            ({}, (0, 1)),
            ({"RANK": "2", "WORLD_SIZE": "4"}, (2, 4)),
            ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "3"}, (1, 3)),
            ({"SLURM_PROCID": "0", "SLURM_NTASKS": "3"}, (0, 1)),  # the script of a batch job
        ],
    )
    def test_reads_it(self, variables, ranks, monkeypatch):
        """The variables of torchrun and srun are known; the script of a batch job is a single process."""
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert find_ranks() == ranks

    @pytest.mark.parametrize("values", [("4", "4"), ("-1", "2"), ("x", "2"), ("0", "0")])
    def test_refuses_what_are_no_ranks(self, values, monkeypatch):
        """Numbers have to be ranks."""
        monkeypatch.setenv("RANK", values[0])
        monkeypatch.setenv("WORLD_SIZE", values[1])
        with pytest.raises(RecipeError, match="are no ranks"):
            find_ranks()

    def test_says_what_srun_has_to_export(self, monkeypatch, text_runs, tmp_path):
        """Without the address of the first rank, the error says how to set it."""
        monkeypatch.setenv("SLURM_PROCID", "1")
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "3")
        for name in ranks_module.PLACE:
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(RecipeError, match="with srun, export MASTER_ADDR"):
            hf_soup.merge(text_runs, executor="ranks").save_pretrained(tmp_path / "soup")


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("sizes", [[], [5], [1, 1, 1, 1], [9, 1, 1, 1, 1], [0, 0, 3, 0], [10] * 20, [0]])
def test_shares_are_consecutive_and_complete(size, sizes):
    """Every item has one rank, and items of equal size are spread evenly."""
    shares = [Ranks(rank, size).share(sizes) for rank in range(size)]
    assert [place for share in shares for place in share] == list(range(len(sizes)))
    if len(set(sizes)) == 1 and len(sizes) >= size and sizes[0]:
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
