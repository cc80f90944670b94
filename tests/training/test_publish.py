"""Sweeps and the Hub: a repository for each run, workers without shared storage, base models and data on the Hub."""

import shutil

import pytest
import transformers
from huggingface_hub import HfApi

import hf_soup
from hf_soup import testing
from hf_soup.errors import TrainingError
from hf_soup.training.publish import Publisher, publisher_for
from hf_soup.training.records import load_runs
from hf_soup.training.running import Work


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny text classifier."""
    return testing.save_text_model(testing.tiny_text_model(5), tmp_path_factory.mktemp("base") / "base")


def sweep(base, folder, seeds=(0, 1), **options):
    """A short sweep."""
    given = {"validation": testing.tiny_texts(20, seed=1), "training_args": {"max_steps": 2}, **options}
    return hf_soup.sweep(base, testing.tiny_texts(40), space={"seed": list(seeds)}, output_dir=folder, **given)


def test_each_run_has_a_repository(base, hub, tmp_path):
    """Start and runs, also those finished earlier, are pushed once and can be loaded from the Hub."""
    sweep(base, tmp_path / "mine", [0])
    runs = sweep(base, tmp_path / "mine", push_runs=True, private=True)
    commits = {}
    for name in ("start", "run-0", "run-1"):
        repo_id = f"{hub.user}/mine-{name}"
        commits[name] = HfApi().model_info(repo_id).sha
        transformers.AutoModelForSequenceClassification.from_pretrained(repo_id)
    assert HfApi().model_info(f"{hub.user}/mine-run-0").private
    again = hf_soup.load_sweep(tmp_path / "mine")
    assert [run.state["hub"]["repo_id"] for run in again] == [f"{hub.user}/mine-run-{seed}" for seed in (0, 1)]
    assert [run.state["hub"]["revision"] for run in again] == [commits["run-0"], commits["run-1"]]
    assert len(runs) == 2
    sweep(base, tmp_path / "mine", push_runs=True, private=True)
    assert all(HfApi().model_info(f"{hub.user}/mine-{name}").sha == commit for name, commit in commits.items())
    soup = hf_soup.merge([f"{hub.user}/mine-run-{seed}" for seed in (0, 1)])
    assert [item.revision for item in soup.recipe.ingredients] == [commits["run-0"], commits["run-1"]]


def test_workers_need_no_shared_storage(base, hub, tmp_path):
    """A worker with an empty folder gets the start from the Hub and pushes its run, which is then collected."""
    from dataclasses import replace

    from hf_soup.api.sweep import plan_runs

    sweep(base, tmp_path / "here", [0])
    given = {"validation": testing.tiny_texts(20, seed=1), "training_args": {"max_steps": 2}}
    plan = plan_runs(base, testing.tiny_texts(40), space={"seed": [0, 1]}, output_dir=tmp_path / "here", **given)
    publisher = Publisher(f"{hub.user}/apart").with_start(tmp_path / "here" / "start")
    elsewhere = replace(plan.context, folder=tmp_path / "elsewhere")
    Work(elsewhere, publisher)(("run-1", {"seed": 1}))
    assert not (tmp_path / "here" / "run-1").exists()
    publisher.collect(tmp_path / "here" / "run-1")
    one = (tmp_path / "here" / "run-1" / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "here" / "run-1")
    sweep(base, tmp_path / "here", [0, 1])
    assert (tmp_path / "here" / "run-1" / "model.safetensors").read_bytes() == one


def test_a_worker_that_sees_nothing_says_so(base, tmp_path):
    """A worker without the start, with neither shared storage nor the Hub, raises a TrainingError."""
    from dataclasses import replace

    from hf_soup.api.sweep import plan_runs

    given = {"validation": testing.tiny_texts(20, seed=1), "training_args": {"max_steps": 2}}
    plan = plan_runs(base, testing.tiny_texts(40), space=[{}], output_dir=tmp_path / "here", **given)
    with pytest.raises(TrainingError, match="storage that all of them share"):
        Work(replace(plan.context, folder=tmp_path / "elsewhere"), None)(("run-0", {}))


def test_a_whole_run_is_not_trained_again(base, tmp_path):
    """A run that a worker completed before it died is not trained again."""
    from hf_soup.api.sweep import plan_runs

    runs = sweep(base, tmp_path / "runs", [0])
    given = {"validation": testing.tiny_texts(20, seed=1), "training_args": {"max_steps": 2}}
    plan = plan_runs(base, testing.tiny_texts(40), space={"seed": [0]}, output_dir=tmp_path / "runs", **given)
    before = (tmp_path / "runs" / "run-0" / "run.json").stat().st_mtime_ns
    assert Work(plan.context, None)(("run-0", {"seed": 0})) is None  # which is no failure
    assert load_runs(tmp_path / "runs" / "run-0") == runs.runs
    assert (tmp_path / "runs" / "run-0" / "run.json").stat().st_mtime_ns == before


def test_prefixes(hub, tmp_path):
    """Repositories are named after the user and the folder, or by the given prefix."""
    assert publisher_for(False, tmp_path) is None
    assert publisher_for(True, tmp_path / "sweep").prefix == f"{hub.user}/sweep"
    assert publisher_for("other", tmp_path).prefix == f"{hub.user}/other"
    assert publisher_for("team/other", tmp_path).prefix == "team/other"


def test_a_base_model_of_the_hub_is_pinned(base, hub, tmp_path):
    """The commit of a base model on the Hub is recorded, and a later call uses it although the branch has moved."""
    api, repo_id = HfApi(), f"{hub.user}/swept-base"
    api.create_repo(repo_id)
    api.upload_folder(folder_path=base, repo_id=repo_id)
    first = api.model_info(repo_id).sha
    runs = sweep(repo_id, tmp_path / "runs", [0])
    assert runs[0].state["base_commit"] == first
    api.upload_file(path_or_fileobj=b"moved", path_in_repo="note.txt", repo_id=repo_id)
    runs = sweep(repo_id, tmp_path / "runs", [0, 1])
    assert [run.state["base_commit"] for run in runs] == [first, first]
    with pytest.raises(TrainingError, match="another base_model"):
        sweep(f"{repo_id}@{first}", tmp_path / "runs", [0])
    with pytest.raises(hf_soup.SoupError, match="is neither a folder here nor a model on the Hub"):
        sweep(f"{hub.user}/absent", tmp_path / "none")


def test_data_of_the_hub(base, hub, tmp_path):
    """A data set on the Hub is used by its id, and a validation split is carved if it has none."""
    api, repo_id = HfApi(), f"{hub.user}/texts"
    api.create_repo(repo_id, repo_type="dataset")
    for seed, split in enumerate(("train", "test")):
        testing.tiny_texts(30, seed=seed).to_csv(tmp_path / f"{split}.csv")
        place = {"path_or_fileobj": tmp_path / f"{split}.csv", "path_in_repo": f"{split}.csv"}
        api.upload_file(**place, repo_id=repo_id, repo_type="dataset")
    with pytest.warns(UserWarning, match="3 of 30 training examples are kept"):
        runs = hf_soup.sweep(base, repo_id, space=[{}], output_dir=tmp_path / "runs", training_args={"max_steps": 1})
    assert runs[0].state["data"]["train"]["rows"] == 27
