"""The Python examples run as programs, with `--tiny`."""

import runpy
import sys
import warnings
from pathlib import Path

import pytest


EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(example, tmp_path, capsys, monkeypatch):
    """An example prints a table that includes the logit ensemble, and saves a soup."""
    monkeypatch.setattr(sys, "argv", [str(example), "--tiny"])
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of a program must not fail the test
        runpy.run_path(str(example), run_name="__main__")
    printed = capsys.readouterr().out
    assert "| run-0" in printed
    assert "| logit ensemble" in printed
    saved = Path(printed.splitlines()[-1].removeprefix("Saved to "))
    assert (saved / "model.safetensors").is_file()
