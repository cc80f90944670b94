"""The command line in this process: as a user calls it, without the seconds that a new process takes to import.

`tests/cli/test_cli.py` calls the installed command once, as a process.
"""

import contextlib
import os
import warnings
from pathlib import Path
from types import SimpleNamespace

from click.testing import CliRunner

from hf_soup.cli import main


def run(*args: object, cwd: Path | None = None) -> SimpleNamespace:
    """Call hf-soup: `returncode`, `stdout` and `stderr`, as of `subprocess.run`; nothing else stays changed."""
    before = dict(os.environ)
    with contextlib.chdir(cwd or os.curdir), warnings.catch_warnings():
        warnings.simplefilter("default")  # notes of a command are no errors of a test
        result = CliRunner().invoke(main, list(map(str, args)), prog_name="hf-soup")
    os.environ.clear()
    os.environ.update(before)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return SimpleNamespace(returncode=result.exit_code, stdout=result.stdout, stderr=result.stderr)
