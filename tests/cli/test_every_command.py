"""Tests of all commands, from one table: exit codes, streams, formats, help, width and colours."""

import json
import re

import pytest
from command import run as hf_soup_command

import hf_soup
from hf_soup import testing
from hf_soup.cli import main


ESCAPE = "\x1b"
NO_FORMAT = ("install-extension",)  # changes a file in the home folder, and has its own test


@pytest.fixture(scope="module")
def place(tmp_path_factory, text_runs):
    """A folder with data, a soup, a sweep and a cook file."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "data").mkdir()
    for seed, split in enumerate(("train", "validation", "test")):
        testing.tiny_texts(16, seed=seed).to_csv(folder / "data" / f"{split}.csv")
    hf_soup.merge(text_runs[:2]).save_pretrained(folder / "soup")
    settings = {"space": [{"seed": 0}], "training_args": {"max_steps": 1}, "output_dir": folder / "sweep"}
    hf_soup.sweep(text_runs[0], str(folder / "data"), **settings)
    (folder / "cook.yaml").write_text(f"ingredients: [{text_runs[0]}, {text_runs[1]}]\nmerge: {{}}\n")
    (folder / "merge.yml").write_text("merge_method: linear\nmodels: [{model: a}, {model: b}]\n")
    return folder


# command -> arguments of a valid call; RUN and OTHER are runs, HERE the folder, OUT a new folder, REPO a repository
CALLS = {
    "sweep": ("RUN", "--data", "HERE/data", "-o", "OUT", "--dry-run"),
    "runs": ("HERE/sweep",),
    "check": ("RUN", "OTHER"),
    "advise": ("RUN", "OTHER"),
    "importance": ("RUN", "--data", "HERE/data"),
    "merge": ("RUN", "OTHER", "-o", "OUT"),
    "compare": ("RUN", "OTHER", "--test", "HERE/data"),
    "analyze": ("RUN", "OTHER"),
    "push": ("HERE/soup", "REPO"),
    "card": ("HERE/soup",),
    "verify": ("HERE/soup",),
    "lineage": ("HERE/soup",),
    "cook": ("HERE/cook.yaml", "-o", "OUT"),
    "convert": ("HERE/merge.yml",),
    "plan": ("HERE/soup",),
    "recipes": (),
    "strategies": (),
    "methods": (),
    "modules": ("RUN",),
    "cache": (),
}


@pytest.fixture
def call(place, text_runs, tmp_path, hub):
    """A function that calls a command of the table with additional arguments."""
    words = {
        "RUN": str(text_runs[0]),
        "OTHER": str(text_runs[1]),
        "HERE": str(place),
        "OUT": str(tmp_path / "out"),
        "REPO": f"{hub.user}/{tmp_path.name}",
    }

    def call_command(name, *more):
        arguments = [re.sub("|".join(words), lambda match: words[match[0]], word) for word in CALLS[name]]
        return hf_soup_command(name, *arguments, *more)

    return call_command


def test_the_table_has_every_command():
    """The table has every command, so that a new one is tested too."""
    assert set(CALLS) == set(main.commands) - set(NO_FORMAT)


@pytest.mark.parametrize("name", CALLS)
def test_every_format(name, call, monkeypatch):
    """With `--format json`, stdout is JSON alone, and NO_COLOR is respected."""
    monkeypatch.setenv("NO_COLOR", "1")
    done = call(name, "--format", "json")
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)
    assert ESCAPE not in done.stdout + done.stderr


@pytest.mark.parametrize("name", [*CALLS, *NO_FORMAT])
def test_help_fits_a_terminal_and_shows_an_example(name, monkeypatch):
    """The help fits 80 columns, and has an example of the command."""
    monkeypatch.setenv("COLUMNS", "80")
    done = hf_soup_command(name, "--help")
    assert done.returncode == 0
    text = done.stdout
    examples = [
        line for line in text.split("\n") if line.startswith(f"  hf-soup {name}") or f" | hf-soup {name}" in line
    ]
    assert examples, f"{name} has no example"
    wide = [line for line in text.split("\n") if len(line) > 80 and "hf-soup " not in line]
    assert not wide, wide


@pytest.mark.parametrize("name", [name for name, words in CALLS.items() if words])
def test_a_wrong_call_is_told_on_stderr(name):
    """An unknown option exits with 2, and a missing file with 1 or 2; stdout stays empty."""
    done = hf_soup_command(name, "--no-such-option")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--no-such-option" in done.stderr
    words = ["nothing/at/all" if word in ("RUN", "OTHER") or word.startswith("HERE") else word for word in CALLS[name]]
    done = hf_soup_command(name, *words)
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr
