"""Runs the command line in this process, which saves the seconds that a new process needs for its imports."""

import contextlib
import os
import warnings
from pathlib import Path
from types import SimpleNamespace

from click.testing import CliRunner

from hf_soup.cli import main


def run(*args: object, cwd: Path | None = None) -> SimpleNamespace:
    """Call hf-soup, return `returncode`, `stdout` and `stderr` as `subprocess.run` does, restore the environment."""
    before = dict(os.environ)
    with contextlib.chdir(cwd or os.curdir), warnings.catch_warnings():
        warnings.simplefilter("default")  # warnings of a command must not fail the test
        result = CliRunner().invoke(main, list(map(str, args)), prog_name="hf-soup")
    os.environ.clear()
    os.environ.update(before)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return SimpleNamespace(returncode=result.exit_code, stdout=result.stdout, stderr=result.stderr)
