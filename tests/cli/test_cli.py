"""Tests of the command line: results on stdout, everything else on stderr, exit codes 0, 1 and 2."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import run
from safetensors.torch import load_file

import hf_soup
from hf_soup import testing
from hf_soup.cli import main


def process(*args):
    """Run the installed command in a process."""
    command = Path(sys.executable).with_name("hf-soup")
    return subprocess.run([command, *map(str, args)], capture_output=True, text=True, check=False)


def test_merge_saves_and_says_where(tmp_path, text_runs):
    """`merge` with weights equals the merge in Python, and prints the ingredients and the folder."""
    done = process("merge", *text_runs, "--weights", "2,1,1", "-w", "classifier=1,0,0", "-o", tmp_path / "soup")
    assert done.returncode == 0, done.stderr
    assert "| run-0" in done.stdout
    assert str(tmp_path / "soup") in done.stdout
    weights = {"": [2, 1, 1], "classifier": [1, 0, 0]}
    reference = hf_soup.merge(text_runs, weights=weights).save_pretrained(tmp_path / "reference")
    one, two = (load_file(folder / "model.safetensors") for folder in (tmp_path / "soup", reference))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_greedy_merge_in_json(tmp_path, text_runs):
    """`merge` with a strategy and data selects ingredients, and `--json` prints a single object on stdout."""
    testing.tiny_texts(30).to_csv(tmp_path / "validation.csv")
    done = run(
        *("merge", *text_runs, "--strategy", "greedy", "--accept", ">", "--data", tmp_path),
        *("-o", tmp_path / "soup", "--json"),
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["selection"]["strategy"] == "greedy"
    assert answer["selection"]["params"] == {"accept": ">"}
    assert len(answer["selection"]["trials"]) == 5
    assert Path(answer["folder"]).is_dir()


def test_check(text_runs, image_runs):
    """`check` exits with 0 and a report for compatible ingredients, and with 1 and the problems otherwise."""
    good = run("check", *text_runs)
    assert good.returncode == 0
    assert "Their tensors can be averaged. Read the notes above" in good.stdout
    bad = run("check", text_runs[0], image_runs[1], "--format", "json")
    assert bad.returncode == 1
    answer = json.loads(bad.stdout)
    assert answer["ok"] is False
    assert "ViTForImageClassification" in " ".join(answer["problems"])


def test_cook_a_recipe(tmp_path, text_runs):
    """`cook` makes the soup of a recipe in another folder, and `-q` prints only that folder."""
    folder = hf_soup.merge(text_runs[:1] * 2).save_pretrained(tmp_path / "soup")
    done = run("cook", folder / "soup_recipe.yaml", "-o", tmp_path / "again", "-q")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "again")
    assert done.stderr == ""
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["merge", "{run}", "{run}x", "-o", "{out}"], 1, "Error: {run}x does not exist"),
        (
            ["merge", "{run}", "--method", "lineer", "-o", "{out}"],
            1,
            'no method called "lineer"; did you mean "linear"',
        ),
        (["merge", "{run}", "-w", "1,2", "-o", "{out}"], 1, "for 1 ingredients"),
        (["merge", "{run}", "--no-such-option"], 2, "No such option"),
        (["merge", "{run}"], 2, "the soup needs a place: -o FOLDER, --push-to-hub REPO_ID, or both"),
        (["merge", "-o", "{out}"], 1, "at least one ingredient, but none was given"),
        (["merge", "{run}", "-w", "one", "-o", "{out}"], 2, "write 2,1,1 or module=2,1,1"),
        (["cook", "{run}/config.json"], 1, "unknown key `architectures`"),
        (["cook", "{out}"], 1, "does not exist"),
        (["cook", "{out}.yaml"], 1, "does not exist"),
        (["cook", "{run}"], 2, "needs -o FOLDER"),
        (["merge", "{run}", "--strategy", "greedy", "-o", "{out}"], 1, "pass --data DATA"),
    ],
)
def test_errors_are_one_line_and_a_code(tmp_path, text_runs, args, code, message):
    """An invalid value exits with 1 and a wrong call with 2, with the message on stderr, and nothing is written."""
    places = {"run": str(text_runs[0]), "out": str(tmp_path / "out")}
    done = run(*[arg.format(**places) for arg in args])
    assert done.returncode == code
    assert message.format(**places) in done.stderr.replace("\n", " ").replace("  ", " ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_modules_and_plan(tmp_path, text_runs):
    """`modules` lists the prefixes that weights can name, and `plan` shows the weights of each module."""
    done = run("modules", text_runs[0], "--json")
    names = [module["name"] for module in json.loads(done.stdout)]
    assert names == ["classifier", "embeddings", "encoder.layer.0", "encoder.layer.1", "pooler"]
    weights = {"": [1, 1], "classifier": [1, 0]}
    folder = hf_soup.merge(text_runs[:2], weights=weights).save_pretrained(tmp_path / "soup")
    done = run("plan", folder)
    assert done.returncode == 0, done.stderr
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "|" in line]
    assert cells[0][:4] == ["module", "type", "run-0", "run-1"]
    assert {row[0]: row[2:4] for row in cells[2:]}["classifier"] == ["1", "0"]
    assert {row[0]: row[2:4] for row in cells[2:]}["encoder.layer.1"] == ["1", "1"]


def test_an_existing_target_is_told_before_the_work(tmp_path, text_runs):
    """`merge` refuses an existing folder before it opens the ingredients."""
    (tmp_path / "soup").mkdir()
    (tmp_path / "soup" / "mine").write_text("mine")
    done = process("merge", "no-such-run", "-o", tmp_path / "soup")
    assert done.returncode == 1
    assert "exists and is not empty" in done.stderr


def test_sweep_and_runs(tmp_path):
    """`sweep --dry-run` shows the plan, `sweep` trains the runs, and more values add runs, which `runs` lists."""
    for seed, name in enumerate(("train", "validation")):
        testing.tiny_texts(48, seed=seed).to_csv(tmp_path / f"{name}.csv")
    base = testing.save_text_model(testing.tiny_text_model(5), tmp_path / "base")
    command = ["sweep", base, "--data", tmp_path, "--learning-rate", "1e-3,3e-3", "--epochs", "2"]
    command += ["-o", tmp_path / "runs"]
    dry = run(*command, "--seed", "0,1", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert dry.stdout.count("| run-") == 4
    assert "4 runs of 4 to train: 48 steps, at most" in dry.stdout
    assert not (tmp_path / "runs").exists()
    done = run(*command, "--seed", "0,1", "--set", "augment={mask: 0.1}")
    assert done.returncode == 0, done.stderr
    assert "4 runs of 4 to train: 48 steps" in done.stderr
    assert "All: num_train_epochs=2, augment={'mask': 0.1}" in done.stdout
    more = run(*command, "--seed", "0,1,2", "--set", "augment={mask: 0.1}", "--json")
    answer = json.loads(more.stdout)
    assert {item["run"] for item in answer["runs"]} == {f"run-{index}" for index in range(6)}
    assert {item["params"]["seed"] for item in answer["runs"]} == {0, 1, 2}
    (tmp_path / "runs" / "run-3" / "run.json").unlink()
    shown = run("runs", tmp_path / "runs", "--plot", tmp_path / "runs.png")
    assert shown.stdout.count("| run-") == 5
    assert "run-3 is not complete yet" in shown.stdout
    assert (tmp_path / "runs.png").is_file()
    quiet = run("runs", tmp_path / "runs", "-q")
    assert quiet.stdout.split() == [str(tmp_path / "runs" / f"run-{index}") for index in (0, 1, 2, 4, 5)]
    merged = run("merge", *quiet.stdout.split(), "-o", tmp_path / "soup")
    assert merged.returncode == 0, merged.stderr


@pytest.fixture
def sweep_files(tmp_path):
    """A base model, and a folder with training and validation texts."""
    (tmp_path / "data").mkdir()
    for seed, name in enumerate(("train", "validation")):
        testing.tiny_texts(48, seed=seed).to_csv(tmp_path / "data" / f"{name}.csv")
    return testing.save_text_model(testing.tiny_text_model(5), tmp_path / "base"), tmp_path / "data"


def test_an_option_with_one_value_is_for_all_runs(tmp_path, sweep_files):
    """Options with one value are training arguments of all runs: start, runs and manifest equal those of the Python
    call with `training_args`."""
    base, data = sweep_files
    command = ["sweep", base, "--data", data, "--head", "probe", "--epochs", "2", "--batch-size", "32"]
    command += ["--max-length", "8", "--class-weights", "{1: 2.0}", "--early-stopping-patience", "1"]
    command += ["--set", "weight_decay=[0.1]", "--learning-rate", "1e-3,3e-3", "-o", tmp_path / "runs"]
    done = run(*command, "-q")
    assert done.returncode == 0, done.stderr
    hf_soup.sweep(
        base,
        str(data),
        head="probe",
        space={"learning_rate": [1e-3, 3e-3]},
        training_args={
            "epochs": 2,
            "batch_size": 32,
            "max_length": 8,
            "class_weights": {1: 2.0},
            "early_stopping_patience": 1,
            "weight_decay": 0.1,
        },
        output_dir=tmp_path / "python",
    )
    one, two = (json.loads((tmp_path / name / "sweep.json").read_text()) for name in ("runs", "python"))
    assert one == two
    assert one["fixed"]["training_args"]["num_train_epochs"] == 2
    for name in ("start", "run-0", "run-1"):
        one, two = ((tmp_path / folder / name / "model.safetensors").read_bytes() for folder in ("runs", "python"))
        assert one == two
    command = ["sweep", base, "--data", data, "--epochs", "2", "--batch-size", "32", "--head", "probe", "--seed", "42"]
    dry = run(*command, "-o", tmp_path / "alone", "--dry-run", "--json")
    shared = {"num_train_epochs": 2, "per_device_train_batch_size": 32, "seed": 42}
    assert (json.loads(dry.stdout)["training_args"], len(json.loads(dry.stdout)["runs"])) == (shared, 1)
    assert run(*command, "-o", tmp_path / "alone").returncode == 0
    options = {"head": "probe", "space": {}, "training_args": {"seed": 42, "epochs": 2, "batch_size": 32}}
    hf_soup.sweep(base, str(data), output_dir=tmp_path / "alone in python", **options)
    for name in ("sweep.json", "start/model.safetensors", "run-0/model.safetensors"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "alone in python" / name).read_bytes()


@pytest.mark.parametrize(
    ("option", "first", "more"), [("--seed", "0", "0,1"), ("--learning-rate", "1e-3", "1e-3,3e-3")]
)
def test_more_values_of_one_option_add_runs(tmp_path, sweep_files, option, first, more):
    """Giving more values to an option keeps existing runs and adds new ones."""
    base, data = sweep_files
    command = ["sweep", base, "--data", data, "--epochs", "1", "-o", tmp_path / "runs", "--json"]
    assert run(*command, option, first).returncode == 0
    before = (tmp_path / "runs" / "run-0" / "run.json").stat().st_mtime_ns
    done = run(*command, option, more)
    assert done.returncode == 0, done.stderr
    name = option.strip("-").replace("-", "_")
    found = {item["run"]: item["params"] for item in json.loads(done.stdout)["runs"]}
    values = [json.loads(value) for value in more.split(",")]
    assert found == {f"run-{index}": {name: value} for index, value in enumerate(values)}
    assert (tmp_path / "runs" / "run-0" / "run.json").stat().st_mtime_ns == before
    assert run(*command, option, "9").returncode == 0
    assert len(list((tmp_path / "runs").glob("run-*/run.json"))) == 3
    changed = run(*command, option, more, "--weight-decay", "0.5")
    assert changed.returncode == 1
    assert "another training_args (weight_decay was None and is 0.5 now)" in changed.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--max-length", "6,8"], 1, '"max_length" is the same for all runs'),
        (["--class-weights", "{positiv: 2}"], 1, 'there is no class "positiv"'),
        (["--early-stopping-patience", "0"], 1, '"early_stopping_patience" is a whole number from 1'),
        (["--set", "patience=2"], 1, 'did you mean "early_stopping_patience"'),
        (["--set", "learning_rat=[1e-3]"], 1, 'did you mean "learning_rate"'),
        (["--set", "learning_rate"], 2, "write NAME=VALUES"),
        (["--seed", "0", "--set", "seed=[1]"], 2, "seed is given twice"),
        (["--learning-rate", "fast"], 1, "\"learning_rate\" is a number, not 'fast'"),
        (["--head", "prob"], 1, 'did you mean "probe"'),
        (["--set", "seed={integrs: [1, 9]}", "--n-runs", "2"], 1, 'did you mean "integers"'),
        (["--label-column", "lable"], 1, 'no label column "lable"; did you mean "label"'),
    ],
)
def test_sweep_refuses(tmp_path, options, code, message):
    """An invalid option of `sweep` is reported without a traceback, and nothing is written."""
    testing.tiny_texts(30).to_csv(tmp_path / "train.csv")
    testing.tiny_texts(30, seed=1).to_csv(tmp_path / "validation.csv")
    base = testing.save_text_model(testing.tiny_text_model(5), tmp_path / "base")
    done = run("sweep", base, "--data", tmp_path, "-o", tmp_path / "runs", *options)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", [[], *([name] for name in main.commands)])
def test_help(command):
    """The help of every command has an example."""
    done = run(*command, "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    for name in command:
        assert f"\n  hf-soup {name}" in done.stdout


@pytest.mark.parametrize(("command", "kind"), [("strategies", "strategy"), ("methods", "method")])
def test_what_there_is_is_listed(command, kind):
    """`strategies` and `methods` list each name with a description and its parameters."""
    from hf_soup import plugins

    text = run(command).stdout
    found = json.loads(run(command, "--json").stdout)
    assert [item[kind] for item in found] == list(plugins.names(kind)) == run(command, "-q").stdout.split()
    for item in found:
        assert item["does"] in text
        assert ", ".join(item["parameters"]) in text


def test_strategies_by_command_line_are_those_of_python(tmp_path, text_runs):
    """Lists, numbers and choices have the right types in the recipe; `--folds` and `--holdout` scores are printed."""
    testing.tiny_texts(30).to_csv(tmp_path / "validation.csv")
    done = run(
        *(
            "merge",
            *text_runs,
            "--strategy",
            "layerwise",
            "--modules",
            "classifier,encoder",
            "--module-order",
            "given",
        ),
        *("--tolerance", "0.5", "--folds", "2", "--holdout", "0.2", "--seed", "3"),
        *("--data", tmp_path, "-o", tmp_path / "soup"),
    )
    assert done.returncode == 0, done.stderr
    recipe = hf_soup.load_recipe(tmp_path / "soup")
    asked = {"modules": ["classifier", "encoder"], "module_order": "given", "tolerance": 0.5}
    assert recipe.selection.params == asked
    assert recipe.seed == 3
    assert "Cross-validation:" in done.stdout
    assert "Held out:" in done.stdout
    by_name = run("merge", *text_runs, "--strategy", "weighted", "-w", "2,1,1", "-o", tmp_path / "other")
    assert by_name.returncode == 0, by_name.stderr
    assert hf_soup.load_recipe(tmp_path / "other").weights == (2, 1, 1)
    wrong = run("merge", *text_runs, "--strategy", "interpolate", "--alphas", "0,half", "-o", tmp_path / "third")
    assert wrong.returncode == 2


def test_options_of_methods_and_strategies_are_in_the_help():
    """The help lists parameters of methods and strategies as options, with the text of their docstrings."""
    text = " ".join(run("merge", "--help").stdout.split())
    assert "--normalize / --no-normalize [breadcrumbs, dare_linear, della_linear] Whether the sum is divided" in text
    assert "[linear] Divide by the sum of the weights" in text  # the same option, with another meaning
    assert "--accept [>=|>|loss] [diverse" in text
    assert "keeps it only if the score improves" in text


def test_compare_writes_a_report(tmp_path, text_runs):
    """`compare` writes tables and pictures into a folder, and prints the same tables."""
    for seed, name in enumerate(("validation", "test", "tweets")):
        testing.tiny_texts(40, seed=seed).to_csv(tmp_path / f"{name}.csv")
    done = run("merge", *text_runs, "--strategy", "greedy", "--data", tmp_path, "-o", tmp_path / "soup")
    assert done.returncode == 0, done.stderr
    command = ["compare", *text_runs, "--soup", f"greedy={tmp_path / 'soup'}", "--test", tmp_path]
    command += ["--validation", f"{tmp_path}#validation[:30]", "--shifted", f"tweets={tmp_path / 'tweets.csv'}"]
    command += ["--metric", "accuracy", "--metric", "ece", "--ensemble", "logits"]
    done = run(*command, "-o", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    report = tmp_path / "report"
    assert {path.name for path in report.iterdir()} == {
        *("comparison.md", "comparison.json", "comparison.png", "shifts.png", "reliability.png")
    }
    assert (report / "comparison.md").read_text().strip() in done.stdout
    data = json.loads(run(*command, "--json").stdout)
    assert data["sizes"] == {"validation": 30, "test": 40, "tweets": 40}
    assert data["metrics"] == {"accuracy": True, "ece": False}
    assert [row["name"] for row in data["models"]][5:] == ["uniform soup", "greedy", "logit ensemble"]
    without_validation = run(*command[:6], "--test", tmp_path / "validation.csv")
    assert "used for selection" in without_validation.stderr


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--shifted", "tweets.csv"], 2, "write NAME=DATA"),
        (["--soup", "a=x", "--soup", "a=y"], 2, "two are called 'a'"),
        (["--metric", "acuracy"], 1, 'did you mean "accuracy"'),
        (["--ensemble", "logit"], 1, 'did you mean "logits"'),
        (["--label-column", "lable"], 1, 'no label column "lable"; did you mean "label"'),
    ],
)
def test_compare_refuses(tmp_path, text_runs, options, code, words):
    """Wrong calls of `compare` exit with 2, and wrong names with 1 and a hint."""
    testing.tiny_texts(10).to_csv(tmp_path / "test.csv")
    soup = [] if "--soup" in options else ["--soup", text_runs[0]]
    done = run("compare", *text_runs[1:], *soup, "--test", tmp_path, *options)
    assert done.returncode == code, done.stderr
    assert words in done.stderr


def test_compare_without_a_soup(tmp_path, text_runs):
    """`compare` compares runs with their uniform soup, and fails without any runs."""
    testing.tiny_texts(10).to_csv(tmp_path / "test.csv")
    done = run("compare", *text_runs, "--test", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "uniform soup" in done.stdout
    done = run("compare", "--test", tmp_path)
    assert (done.returncode, "there is nothing to compare" in done.stderr) == (1, True)


def test_the_cache_is_shown_and_cleared(text_runs, tmp_path):
    """`cache` lists the scores of a merge, and `cache --clear` deletes them."""
    testing.tiny_texts(20, seed=8).to_csv(tmp_path / "validation.csv")
    run("merge", *text_runs, "--strategy", "greedy", "--data", tmp_path, "-o", tmp_path / "soup")
    shown = json.loads(run("cache", "--json").stdout)
    assert {"score", "predictions"} <= {item["value_type"] for item in shown["kept"]}
    assert any(str(tmp_path) in item["about"] for item in shown["kept"])
    assert str(tmp_path) in run("cache").stdout
    assert "deleted from" in run("cache", "--clear").stdout
    assert run("cache").stdout.startswith("0 scores and predictions")
