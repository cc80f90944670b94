"""The examples in Python run, in their tiny form, as a user calls them."""

import subprocess
import sys
from pathlib import Path

import pytest


EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(example):
    """From fine-tunes to a table with the ensemble, and a soup in a folder."""
    done = subprocess.run([sys.executable, example, "--tiny"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| run-0" in done.stdout
    assert "| logit ensemble" in done.stdout
    saved = Path(done.stdout.splitlines()[-1].removeprefix("Saved to "))
    assert (saved / "model.safetensors").is_file()
