"""The examples in Python run, in their tiny form, as the programs that they are."""

import runpy
import sys
import warnings
from pathlib import Path

import pytest


EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(example, tmp_path, capsys, monkeypatch):
    """From fine-tunes to a table with the ensemble, and a soup in a folder."""
    monkeypatch.setattr(sys, "argv", [str(example), "--tiny"])
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes of a program are no errors of a test
        runpy.run_path(str(example), run_name="__main__")
    printed = capsys.readouterr().out
    assert "| run-0" in printed
    assert "| logit ensemble" in printed
    saved = Path(printed.splitlines()[-1].removeprefix("Saved to "))
    assert (saved / "model.safetensors").is_file()
