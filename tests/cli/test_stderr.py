"""Tests of stderr: bars in terminals, notes of hf_soup, and no output of libraries."""

import ast
import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import types
import warnings
from pathlib import Path

import datasets
import pytest
from command import run
from huggingface_hub import HfApi

import hf_soup
from hf_soup import testing
from hf_soup.checkpoints import hub as hub_checkpoints
from hf_soup.checkpoints.memory import quiet_transformers
from hf_soup.progress import bars_are_shown, library_bars, progress_bar


PACKAGE = Path(hf_soup.__file__).parent
VARIABLES = ("HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE", "HF_DATASETS_DISABLE_PROGRESS_BARS")


def surroundings(**variables):
    """The environment without variables about bars."""
    return {name: value for name, value in os.environ.items() if name not in VARIABLES} | variables


ALL = """
import json, sys
from hf_soup.cli.start import main
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""


def called(*commands):
    """Run commands one after the other in a separate process, with pipes as its streams."""
    arguments = json.dumps([list(map(str, command)) for command in commands])
    command = [sys.executable, "-c", ALL, arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings())


def seen_in_terminal(*args, **variables):
    """What a command writes to stderr if that is a terminal."""
    command = [sys.executable, "-m", "hf_soup.cli", *map(str, args)]
    reading, writing = pty.openpty()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=writing, env=surroundings(**variables)
    ) as process:
        os.close(writing)
        seen = b""
        while True:
            try:
                part = os.read(reading, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            seen += part
    os.close(reading)
    assert process.returncode == 0, seen
    return seen.decode()


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self):
        """Return True."""
        return True


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    """Unset all variables about bars."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_bars_are_for_terminals(monkeypatch):
    """A bar is drawn in a terminal, and not if stderr is something else or missing."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress_bar(range(3), desc="Counting")) == [0, 1, 2]
    assert "Counting" in terminal.getvalue()
    for stream in (io.StringIO(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        assert not bars_are_shown()
        assert progress_bar(range(3)).disable


@pytest.mark.parametrize(("value", "shown"), [("1", False), ("true", False), ("0", True), ("", True), ("no", True)])
@pytest.mark.parametrize("name", ["HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"])
def test_a_variable_hides_bars_whenever_it_is_set(monkeypatch, name, value, shown):
    """The variables are read when a bar begins, not when tqdm or the Hub's client is imported."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv(name, value)
    assert bars_are_shown() is shown
    assert progress_bar(total=1).disable is not shown
    assert progress_bar(total=1, hidden=True).disable


def test_a_notebook_shows_bars(monkeypatch):
    """Bars are shown in a notebook, although its stderr is not a terminal, and not in IPython in a pipe."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert bars_are_shown()
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    assert not bars_are_shown()
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS")
    shell.config = {}
    assert not bars_are_shown()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not bars_are_shown()


def test_bars_of_libraries_follow(monkeypatch):
    """Within `library_bars`, datasets shows bars only if hf_soup would; afterwards its setting is restored."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    datasets.enable_progress_bars()
    with library_bars("datasets"):
        assert not datasets.are_progress_bars_disabled()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with library_bars("datasets"):
        assert datasets.are_progress_bars_disabled()
    assert not datasets.are_progress_bars_disabled()
    with library_bars("datasets"), library_bars("datasets"):
        pass
    assert not datasets.are_progress_bars_disabled()


def calls_of(name):
    """Every call of a function in the package, as (file, node)."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == name:
                yield path.relative_to(PACKAGE).as_posix(), node


def test_every_bar_is_decided_on_in_one_place():
    """Only `progress.py` draws bars."""
    assert [path for path, _ in calls_of("tqdm")] == ["progress.py"]


def test_every_warning_is_known_as_ours():
    """Only one function warns, with the category SoupWarning, because the command line shows no other warnings."""
    ((path, node),) = calls_of("warnings.warn")
    assert path == "errors.py"
    assert [ast.unparse(argument) for argument in node.args[1:]] == ["SoupWarning"]


OURS = re.compile(r"Note: .+|\d+ runs? of \d+ to train: .+")


def test_the_commands_write_only_their_own_lines(tmp_path, hub_runs):
    """Without a terminal, commands write only notes and the size of a sweep to stderr, and nothing with `-q`."""
    for seed, name in enumerate(("train", "validation", "test")):
        testing.tiny_texts(40, seed=seed).to_csv(tmp_path / f"{name}.csv")
    (tmp_path / "cook.yaml").write_text(
        f"base_model: {hub_runs[0]}\ndata: {{path: {tmp_path}}}\noutput_dir: {tmp_path / 'cooked'}\n"
        "sweep: {space: {seed: [0, 1]}, training_args: {max_steps: 2}}\nmerge: {strategy: greedy}\n"
        f"compare: {{metrics: [accuracy]}}\npush: {{repo_id: {hub_runs[0]}-cooked}}\n"
    )
    commands = [
        ["merge", *hub_runs, "-o", tmp_path / "soup"],
        ["check", *hub_runs, "--deep"],
        ["compare", *hub_runs, "--soup", tmp_path / "soup", "--test", tmp_path],
        ["cook", tmp_path / "cook.yaml"],
    ]
    done = called(*commands)
    assert done.returncode == 0, done.stderr
    strange = [line for line in done.stderr.splitlines() if not OURS.fullmatch(line)]
    assert not strange
    assert (tmp_path / "cooked").is_dir()
    done = called(["merge", *hub_runs, "-o", tmp_path / "quiet", "-q"], [*commands[2], "-q"])
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_terminal_shows_a_bar(text_runs):
    """A terminal shows a bar unless `-q` or a variable disables it."""
    command = ["check", *text_runs, "--deep"]
    assert "Comparing weights" in seen_in_terminal(*command)
    assert seen_in_terminal(*command, "-q") == ""
    assert seen_in_terminal(*command, HF_HUB_DISABLE_PROGRESS_BARS="1") == ""


def chatting(tensors, weights):
    """A method that writes a log line and a warning as libraries do, and a warning of hf_soup."""
    logger = logging.getLogger("some_library")
    handler = logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    logger.error("a line of a log")
    logger.removeHandler(handler)
    warnings.warn("something is deprecated", UserWarning, stacklevel=1)
    warnings.warn("the average is odd.", hf_soup.SoupWarning, stacklevel=1)
    return next(iter(tensors)).clone()


def test_libraries_are_not_heard(tmp_path, text_runs, monkeypatch):
    """Logs and warnings of libraries are hidden during a command, unless a variable asks for logs."""
    given = ("merge", *text_runs[:1] * 2, "--method", "test_stderr:chatting")
    done = run(*given, "-o", tmp_path / "soup")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines.count("Note: the average is odd.") == 1
    assert all(line.startswith("Note: ") for line in lines)
    assert "deprecated" not in done.stderr
    assert run(*given, "-o", tmp_path / "quiet", "-q").stderr == ""
    assert logging.root.manager.disable == logging.NOTSET
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")  # the user asks for logs
    assert "a line of a log" in run(*given, "-o", tmp_path / "logs").stderr


@pytest.fixture
def said_by_the_client():
    """A stream with the log of huggingface_hub."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("huggingface_hub")
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)


def test_the_client_does_not_tell_what_is_no_news(tmp_path, hub_runs, said_by_the_client):
    """Missing optional files and a second push of the same soup log nothing; other messages are logged."""
    commit = hub_checkpoints.resolve(hub_runs[0], None)
    hub_checkpoints.fetch(hub_runs[0], commit, ["README.md"])
    soup = hf_soup.merge(hub_runs[:1] * 2)
    for _ in range(2):
        soup.push_to_hub(f"{hub_runs[0]}-soup")
    assert said_by_the_client.getvalue() == ""
    HfApi().create_commit(hub_runs[0], [], commit_message="nothing")
    assert "No files have been modified" in said_by_the_client.getvalue()


def test_models_are_loaded_without_a_word_about_bars(monkeypatch):
    """`quiet_transformers` keeps the bars of the Hub's client disabled if the user disabled them, without warnings."""
    from huggingface_hub import utils
    from transformers.utils import logging as transformers_logging

    monkeypatch.setattr(sys.modules["huggingface_hub.utils.tqdm"], "HF_HUB_DISABLE_PROGRESS_BARS", None)
    monkeypatch.setattr(transformers_logging, "_tqdm_active", True)
    utils.disable_progress_bars()
    with quiet_transformers():
        pass
    assert utils.are_progress_bars_disabled()
    assert transformers_logging.is_progress_bar_enabled()
    monkeypatch.setattr(sys.modules["huggingface_hub.utils.tqdm"], "HF_HUB_DISABLE_PROGRESS_BARS", False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with quiet_transformers():
            pass
