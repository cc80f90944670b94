"""Tests of commands with unusual streams or a deleted current folder: one line and no traceback."""

import errno
import os
import subprocess
import sys

import pytest
from command import run

import hf_soup
from hf_soup.cli.output import in_one_line
from hf_soup.untrusted import printable


def called(arguments, **variables):
    """Run the command in a shell, with redirections."""
    command = f"{sys.executable} -m hf_soup.cli {arguments}"
    environment = {**os.environ, **variables}
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, check=False, env=environment, text=True, errors="replace"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("methods > /dev/full", 1, "stdout cannot be written: No space left on device."),
        ("--help > /dev/full", 1, "No space left on device."),
        ("methods >&-", 1, "stdout is closed"),
        ("methods >&- 2>&-", 1, ""),
        ("methods 2>/dev/full", 0, ""),
        ("methods --nope 2>/dev/full", 2, ""),
        ("methods 0<&- 2>&-", 0, ""),
        ("methods | true; exit ${PIPESTATUS[0]}", 141, ""),
    ],
)
def test_streams_that_cannot_be_written(arguments, code, words):
    """Results that cannot be written are an error of one line; messages that cannot be written are dropped."""
    done = called(arguments)
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == bool(words)
    assert done.returncode == code or (code == 141 and done.returncode == 0)  # written before the reader ended


@pytest.mark.parametrize(
    "variables",
    [{"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["latin-1", "ascii"],
)
def test_names_that_an_encoding_lacks(tmp_path, variables):
    """Characters that the encoding lacks are replaced."""
    done = called("cache", HF_HOME=str(tmp_path / "中"), **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(".sqlite")
    assert "中" not in done.stdout


def test_a_folder_that_is_gone(tmp_path):
    """In a deleted current folder a command fails with one line that says so."""
    done = called("methods", PWD="/")
    assert done.returncode == 0
    gone = tmp_path / "gone"
    done = subprocess.run(
        ["bash", "-c", f"mkdir {gone}; cd {gone}; rmdir {gone}; {sys.executable} -m hf_soup.cli methods"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(hf_soup.__file__))},
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Error: the current folder cannot be read (No such file or directory): change to one that exists."
    ]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "there is not enough memory."),
        (RuntimeError("can't start new thread"), "allows no more threads"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (OSError(errno.EMFILE, "Too many open files", "a\nb"), "a b: Too many open files."),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device."),
        (KeyError("weights\n" * 9000), "internal error: KeyError: "),
        (AssertionError(), "internal error: AssertionError: no message"),
    ],
)
def test_what_nobody_expects_is_one_line(error, words):
    """An unexpected error is one line; only internal errors mention HF_DEBUG, which shows the traceback."""
    line = in_one_line(error)
    assert words in line
    assert len(line.splitlines()) == 1
    assert len(line) < 600
    assert ("HF_DEBUG=1" in line) is ("internal" in words)


def test_a_traceback_is_for_those_who_ask():
    """A bug is reported in one line with its place, and with HF_DEBUG after the traceback."""
    code = (
        "import sys, hf_soup; hf_soup.check = lambda *_, **__: {}['lost']; sys.argv[1:] = ['check', 'run']; "
        "from hf_soup.cli.start import main; main()"
    )
    seen = {}
    for debug in ("", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "HF_DEBUG": debug},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        seen[debug] = done.stderr.splitlines()
    assert len(seen[""]) == 1
    assert seen[""][0].startswith("Error: internal error: KeyError: 'lost' (hf_soup/cli/soups.py:")
    assert seen["1"][0].startswith("Traceback")
    assert seen["1"][-1] == seen[""][0]


def test_text_of_strangers_does_not_steer_the_terminal(tmp_path):
    """Control characters in untrusted text are replaced by spaces in results and errors."""
    assert printable("a\x1b]0;owned\x07\tb\n\x9b1m\u202e") == "a ]0;owned \tb\n 1m "
    done = run("check", tmp_path / "\x1b[31mred", cwd=tmp_path)
    assert done.returncode == 1
    assert "\x1b" not in done.stdout + done.stderr
