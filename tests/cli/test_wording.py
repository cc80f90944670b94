"""Tests of the wording of commands, which names options and not Python arguments."""

import json

import click
import pytest
from command import run as hf_soup_command

import hf_soup
from hf_soup import testing
from hf_soup.cli import main
from hf_soup.cli.wording import in_shell_words


MERGE = main.commands["merge"]


@pytest.mark.parametrize(
    ("python", "shell"),
    [
        (
            "it needs what they were fine-tuned from: base_model=...",
            "it needs what they were fine-tuned from: --base-model ...",
        ),
        ('add strategy="greedy".', "add --strategy greedy."),
        ('take_from="NAME" (`--take-from NAME`) takes it', "--take-from NAME takes it"),
        ("say so with allow_pickle=True (--allow-pickle).", "say so with --allow-pickle."),
        ("add evaluator=hf_soup.Evaluator(data).", "add --data DATA."),
        ("weights=[2, 1, 1] are three", "--weights 2,1,1 are three"),
        ('dtype="my type" is wrong', "--dtype 'my type' is wrong"),
        ("a file has name=value in it", "a file has name=value in it"),
    ],
)
def test_arguments_are_options(python, shell):
    """Each Python argument is replaced by the option of the command, and not repeated."""
    assert in_shell_words(python, MERGE) == shell


def test_options_of_other_commands_are_left_alone():
    """Arguments without an option in the command are not replaced."""
    assert in_shell_words("write base_model=...", click.Command("x")) == "write base_model=..."


def test_errors_of_commands_are_in_these_words(text_runs, tmp_path):
    """Errors of commands name no Python arguments."""
    done = hf_soup_command("merge", *text_runs, "--method", "ties", "-o", tmp_path / "soup")
    assert (done.returncode, "--base-model" in done.stderr, "base_model=" in done.stderr) == (1, True, False)
    done = hf_soup_command("merge", *text_runs, "--strategy", "greedy", "-o", tmp_path / "soup")
    assert (done.returncode, "--data" in done.stderr, "evaluator=" in done.stderr) == (1, True, False)


OWN = '''
def power_mean(tensors, weights, *, power: float = 1.0):
    """A mean of powers."""
    tensors = list(tensors)
    return sum(tensor.abs() ** power for tensor in tensors) / len(tensors)
'''


def test_a_plugin_of_the_current_folder(text_runs, tmp_path):
    """A plugin in the current folder is found without PYTHONPATH, and takes its parameters by name."""
    (tmp_path / "my_methods_of_a_test.py").write_text(OWN)
    method = "my_methods_of_a_test:power_mean"
    arguments = ["merge", *text_runs, "--method", method, "--param", "power=2", "-o", "soup"]
    done = hf_soup_command(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    recipe = hf_soup.load_recipe(tmp_path / "soup", allow_code=True)
    assert (recipe.method, recipe.params) == (method, {"power": 2})
    done = hf_soup_command("merge", *text_runs, "--param", "power", "-o", "other", cwd=tmp_path)
    assert done.returncode == 2
    assert "NAME=VALUE" in done.stderr


COOK = """
data: {path: DATA}
base_model: BASE
sweep: {space: {seed: [0, 1]}, training_args: {max_steps: 2}}
merge: {strategy: greedy}
compare: {}
"""


@pytest.fixture
def cook_file(tmp_path, text_runs):
    """A cook file without an output folder."""
    for split, seed in (("train", 0), ("validation", 1), ("test", 2)):
        (tmp_path / "data").mkdir(exist_ok=True)
        testing.tiny_texts(20, seed=seed).to_csv(tmp_path / "data" / f"{split}.csv")
    path = tmp_path / "cook.yaml"
    path.write_text(COOK.replace("DATA", str(tmp_path / "data")).replace("BASE", str(text_runs[0])))
    return path


def test_a_dry_run_of_a_cook_file(cook_file, tmp_path):
    """A dry run of `cook` shows the stages, the steps of the runs and the sizes of the sets, and writes nothing."""
    before = sorted(tmp_path.rglob("*"))
    done = hf_soup_command("cook", cook_file, "--dry-run", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for text in (
        "sweep",
        "2 runs of 2 to train: 4 steps",
        "greedy soup of the runs",
        "compare",
        "20 train",
        "20 test",
    ):
        assert text in done.stdout, (text, done.stdout)
    assert sorted(tmp_path.rglob("*")) == before
    shown = json.loads(hf_soup_command("cook", cook_file, "--dry-run", "-o", tmp_path / "out", "--json").stdout)
    assert [stage["name"] for stage in shown["stages"]] == ["sweep", "merge", "compare"]


def test_a_cook_file_without_a_folder_takes_that_of_the_option(cook_file, tmp_path):
    """A cook file without an output folder needs `-o`, and the error says so."""
    done = hf_soup_command("cook", cook_file)
    assert done.returncode == 1
    assert "write `output_dir: ...` in it, or pass --output" in done.stderr
    done = hf_soup_command("cook", cook_file, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "soup" / "model.safetensors").is_file()
    done = hf_soup_command("cook", tmp_path / "out" / "soup", "--dry-run")
    assert (done.returncode, "hf-soup plan" in done.stderr) == (2, True)
