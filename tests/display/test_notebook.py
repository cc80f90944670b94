"""A real notebook, run by a real kernel, shows tables and pictures for the last line of a cell."""

import nbformat
from nbclient import NotebookClient


FIRST = """
import hf_soup
from hf_soup import testing

runs = [testing.save_text_model(testing.tiny_text_model(seed), f"{folder}/run-{seed}") for seed in range(2)]
soup = hf_soup.merge(runs, strategy="greedy", evaluator=testing.tiny_texts(20))
"""
SHOWN = {
    "soup": "text/html",
    "soup.selection": "text/html",
    "hf_soup.check(runs)": "text/html",
    "soup.selection.plot()": "image/png",
}


def test_the_last_line_of_a_cell_is_shown(tmp_path):
    """Results are shown as HTML, a picture as PNG even if pyplot was never imported, and each also as plain text."""
    cells = [f"from pathlib import Path\nfolder = Path({str(tmp_path)!r}){FIRST}", *SHOWN]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120).execute()
    for cell, (source, form) in zip(notebook.cells[1:], SHOWN.items(), strict=True):
        shown = [output.data for output in cell.outputs if output.output_type == "execute_result"]
        assert form in shown[0], source
        assert "text/plain" in shown[0], source
