"""Sweeps and searches whose runs and trials are Jobs: the same as on this machine.

The jobs take seconds to start, so tests share what they make.
"""

import json
import shutil
import time

import pytest
from click.testing import CliRunner
from datasets import DatasetDict, load_from_disk
from hub import Reply
from huggingface_hub import HfApi
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import hf_soup
from hf_soup import testing
from hf_soup.cli.commands import main
from hf_soup.errors import IngredientError, OutputError, RecipeError, SoupWarning
from hf_soup.jobs import running


SWEEP = {  # two runs, one of which diverges
    "space": {"learning_rate": [1e-3, 1e30], "max_grad_norm": [0], "optimizer": ["sgd"]},
    "training_args": {"epochs": 1, "batch_size": 8},
    "head": "checkpoint",
}
RESOURCES = {"timeout": "100s", "n_jobs": 2, "image": "soup"}


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """Jobs are looked at five times a second."""
    monkeypatch.setattr(running, "POLL", 0.2)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny text classifier."""
    return testing.save_text_model(testing.tiny_text_model(5), tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Examples in files of this machine, which no job can see."""
    folder = tmp_path_factory.mktemp("data")
    testing.tiny_texts(48).save_to_disk(folder / "train")
    testing.tiny_texts(40, seed=1).save_to_disk(folder / "validation")
    return load_from_disk(folder / "train"), load_from_disk(folder / "validation")


@pytest.fixture(scope="module")
def in_jobs(hub, base, data, tmp_path_factory):
    """A sweep in jobs whose first call loses the Hub when the jobs have started, and the jobs that the Hub had."""
    hub.jobs.all.clear()
    arguments = {
        "validation": data[1],
        "output_dir": tmp_path_factory.mktemp("jobs") / "runs",
        "executor": "jobs",
        "resources": RESOURCES,
        "push_runs": "in-jobs",
        "private": True,
        **SWEEP,
    }

    def fail(request, reply):
        is_listing = request.path == f"/api/jobs/{hub.user}" and request.method == "GET"
        return Reply(503) if is_listing and len(hub.jobs.all) == 2 else reply

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "POLL", 0.2)
        patch.setattr(running, "AWAY", 0)
        hub.jobs.hold.clear()
        with patch.context() as impatient, hub.lying(fail):
            impatient.setattr(time, "sleep", lambda _, sleep=time.sleep: sleep(0.01))
            with pytest.raises(OutputError, match="keep running"):
                hf_soup.sweep(base, data[0], **arguments)
        hub.jobs.hold.set()
        with pytest.warns(SoupWarning, match="run-1 failed"):
            sweep = hf_soup.sweep(base, data[0], **arguments)
    return sweep, list(hub.jobs.all.values())


def test_runs_are_trained_in_jobs(hub, base, data, in_jobs, tmp_path):
    """One job for each run, also after an outage; all is as in a sweep here; what jobs needed is deleted."""
    sweep, jobs = in_jobs
    assert [job.stage for job in jobs] == ["COMPLETED", "COMPLETED"]
    with pytest.warns(SoupWarning, match="run-1 failed"):
        here = hf_soup.sweep(base, data[0], validation=data[1], output_dir=tmp_path / "runs", **SWEEP)
    assert [run.name for run in sweep] == [run.name for run in here] == ["run-0"]
    assert sweep[0].score == here[0].score
    assert [failure.reason for failure in sweep.failed] == [failure.reason for failure in here.failed]
    weights, others = (load_file(runs[0].folder / "model.safetensors") for runs in (sweep, here))
    assert all((weights[name] == others[name]).all() for name in others)
    assert HfApi().repo_info(f"{hub.user}/in-jobs-run-0").private
    assert not [name for name in hub.store.repositories if "hf-soup-jobs" in name]


def test_a_sweep_in_jobs_is_complete_when_it_is_called_again(hub, base, data, in_jobs):
    """No job is started for a run that is there, or that would diverge again."""
    hub.jobs.all.clear()
    with pytest.warns(SoupWarning, match="run-1 failed"):
        again = hf_soup.sweep(
            base,
            data[0],
            validation=data[1],
            output_dir=in_jobs[0][0].folder.parent,
            executor="jobs",
            resources=RESOURCES,
            push_runs="in-jobs",
            private=True,
            **SWEEP,
        )
    assert [run.name for run in again] == ["run-0"]
    assert not hub.jobs.all


def test_runs_on_the_hub_are_not_trained_again(hub, base, data, in_jobs, tmp_path):
    """Such as those of jobs whose caller was killed; they are downloaded."""
    hub.jobs.all.clear()
    arguments = {**SWEEP, "space": {**SWEEP["space"], "learning_rate": [1e-3]}, "executor": "jobs"}
    arguments |= {"validation": data[1], "resources": RESOURCES, "push_runs": "in-jobs"}
    elsewhere = hf_soup.sweep(base, data[0], output_dir=tmp_path / "runs", **arguments)
    assert not hub.jobs.all
    assert elsewhere[0].score == in_jobs[0][0].score
    weights, others = (load_file(runs[0].folder / "model.safetensors") for runs in (elsewhere, in_jobs[0]))
    assert all((weights[name] == others[name]).all() for name in others)
    with pytest.raises(OutputError, match="has something else than run-0 of this sweep"):
        hf_soup.sweep(base, data[0], output_dir=tmp_path / "metric", **arguments, metric="f1")
    arguments["space"] = {**arguments["space"], "learning_rate": [1e-4]}
    with pytest.raises(OutputError, match="in-jobs-run-0 has something else than run-0 of this sweep"):
        hf_soup.sweep(base, data[0], output_dir=tmp_path / "others", **arguments)
    assert not hub.jobs.all


@pytest.fixture
def pushed_run(hub, text_runs, tmp_path):
    """A folder with the file of a sweep that has pushed it."""
    folder = shutil.copytree(text_runs[1], tmp_path / "run")
    repo_id = f"{hub.user}/{tmp_path.name}"
    HfApi().create_repo(repo_id)
    commit = HfApi().upload_folder(repo_id=repo_id, folder_path=folder).oid
    (folder / "pushed.json").write_text(json.dumps({"repo_id": repo_id, "revision": commit}))
    return folder


def test_trials_run_in_jobs(hub, hub_runs, data, pushed_run):
    """A search over models of the Hub and a pushed run, by data of this machine, chooses what it chooses here."""
    hub.jobs.all.clear()
    ingredients = [hub_runs[0], pushed_run]
    evaluator = hf_soup.Evaluator(data[1], cache=False)
    arguments = {"strategy": "exhaustive", "evaluator": evaluator}
    there = hf_soup.merge(ingredients, executor="jobs", resources=RESOURCES, **arguments)
    assert len(hub.jobs.all) == 2  # a trial alone is run here
    assert {job.stage for job in hub.jobs.all.values()} == {"COMPLETED"}
    assert there.recipe == hf_soup.merge(ingredients, **arguments).recipe


def test_models_of_this_machine_are_no_ingredients_of_jobs(text_runs, data):
    """Nothing is uploaded that the user has not pushed; the error says how to."""
    arguments = {"strategy": "exhaustive", "evaluator": hf_soup.Evaluator(data[1])}
    with pytest.raises(IngredientError, match=r"on this machine alone.*push_runs=True"):
        hf_soup.merge(text_runs, executor="jobs", resources=RESOURCES, **arguments)
    models = [AutoModelForSequenceClassification.from_pretrained(run) for run in text_runs[:2]]
    with pytest.raises(IngredientError, match="is a model in memory"):
        hf_soup.merge(models, executor="jobs", resources=RESOURCES, **arguments)


def test_a_changed_run_is_no_ingredient_of_jobs(pushed_run, text_runs, hub_runs, data):
    """What a job would read is not what is here."""
    shutil.copy(text_runs[2] / "model.safetensors", pushed_run / "model.safetensors")
    with pytest.raises(IngredientError, match="has changed since it was pushed"):
        hf_soup.merge(
            [pushed_run, *hub_runs],
            strategy="exhaustive",
            evaluator=hf_soup.Evaluator(data[1], cache=False),
            executor="jobs",
            resources=RESOURCES,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "write push_runs=True"),
        ({"push_runs": True, "refine": {"runs": 2, "halving": True}}, "halving"),
        ({"push_runs": True, "resources": {"num_cpus": 1}}, 'no setting "num_cpus"'),
        ({"push_runs": True, "resources": {}}, "from a folder of this machine"),
    ],
)
def test_sweeps_that_jobs_cannot_run_are_refused(base, data, tmp_path, options, message):
    """Before anything is written."""
    with pytest.raises(RecipeError, match=message):
        hf_soup.sweep(
            base,
            data[0],
            validation=data[1],
            output_dir=tmp_path / "runs",
            executor="jobs",
            **{**SWEEP, "resources": RESOURCES, **options},
        )
    assert not (tmp_path / "runs").exists()


def test_jobs_need_trials(hub_runs):
    """A merge without a search has none."""
    with pytest.raises(RecipeError, match="trials of a search"):
        hf_soup.merge(hub_runs, executor="jobs", resources=RESOURCES)


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory):
    """Training and validation examples in one folder."""
    folder = tmp_path_factory.mktemp("both") / "data"
    DatasetDict({"train": testing.tiny_texts(48), "validation": testing.tiny_texts(40, seed=1)}).save_to_disk(folder)
    return folder


def test_a_dry_run_tells_the_costs(hub, base, data_folder, tmp_path):
    """Number, flavor and time limit of the jobs, and what they cost at most; nothing is started."""
    hub.jobs.all.clear()
    command = ["sweep", base, "--data", data_folder, "-o", tmp_path / "runs", "--executor", "jobs"]
    command += ["--push-runs", "--learning-rate", "1e-3,1e-4", "--epochs", "1", "--refine", "2", "--dry-run"]
    command += ["--resource", "flavor=t4-small", "--resource", "timeout=1h", "--resource", "image=soup"]
    result = CliRunner().invoke(main, list(map(str, command)))
    last = result.stdout.strip().splitlines()[-1]
    assert last == "4 jobs on t4-small ($0.40 an hour), stopped after 1h: at most $1.60"
    result = CliRunner().invoke(main, [*map(str, command), "--format", "json"])
    jobs = json.loads(result.stdout)["jobs"]
    assert (jobs["jobs"], jobs["flavor"], jobs["timeout"]) == (4, "t4-small", 3600)
    assert jobs["usd_at_most"] == pytest.approx(1.6, abs=0.01)
    assert not hub.jobs.all
    assert not (tmp_path / "runs").exists()


def test_a_plan_of_a_cook_file_tells_the_costs(base, data_folder, tmp_path):
    """Of the runs, and of each trial, whose number the strategy decides."""
    text = f"""
base_model: {base}
data: {{path: {data_folder}}}
sweep:
  space: {{learning_rate: [1e-3, 1e-4]}}
  training_args: {{epochs: 1}}
  executor: jobs
  push_runs: true
  resources: {{flavor: t4-small, timeout: 1h, image: soup}}
merge: {{strategy: exhaustive, executor: jobs, resources: {{timeout: 15m, image: soup}}}}
output_dir: {tmp_path / "soup"}
"""
    (tmp_path / "cook.yaml").write_text(text)
    result = CliRunner().invoke(main, ["cook", str(tmp_path / "cook.yaml"), "--dry-run"])
    assert "`sweep.executor: jobs` runs paid jobs with your token" in result.stderr
    result = CliRunner().invoke(main, ["cook", str(tmp_path / "cook.yaml"), "--dry-run", "--allow-code"])
    assert "2 jobs on t4-small ($0.40 an hour), stopped after 1h: at most $0.80" in result.stdout
    assert (
        "each trial is a job on cpu-basic ($0.01 an hour), stopped after 15m: at most $0.01 for each" in result.stdout
    )
    (tmp_path / "cook.yaml").write_text(
        text.replace("  push_runs: true\n", "").replace("executor: jobs", "executor: local", 1)
    )
    result = CliRunner().invoke(main, ["cook", str(tmp_path / "cook.yaml"), "--dry-run", "--allow-code"])
    assert "`push_runs: true`" in result.stderr


def test_a_dry_run_of_a_merge_tells_the_costs(hub_runs, data_folder):
    """Of each trial, below the check of the ingredients."""
    command = ["merge", *hub_runs, "--strategy", "exhaustive", "--data", data_folder, "--dry-run"]
    command += ["--executor", "jobs", "--resource", "image=soup", "--resource", "flavor=t4-small"]
    result = CliRunner().invoke(main, list(map(str, command)))
    assert result.exit_code == 0, result.output
    assert "can be averaged" in result.stdout
    assert result.stdout.strip().endswith("stopped after 30m: at most $0.20 for each")
