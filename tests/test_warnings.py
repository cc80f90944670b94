"""A warning points to the line of the caller, however deep in the package it is issued."""

import inspect
import subprocess
import sys

import datasets
import pytest

import hf_soup
from hf_soup import testing


def in_memory(request, _folder):
    """A warning issued through `functools.cached_property`, whose frame is not the caller's either."""
    soup = hf_soup.merge(request.getfixturevalue("resnet_runs"))
    return lambda: soup.model


def on_disk(request, folder):
    """A warning from the code that writes weights."""
    soup = hf_soup.merge(request.getfixturevalue("resnet_runs"))
    return lambda: soup.save_pretrained(folder / "soup")


def on_the_hub(request, folder):
    """A warning from the code that writes the companion files, inside several context managers."""
    name = f"{request.getfixturevalue('hub').user}/{folder.name}"
    folders = [testing.save_text_model(testing.tiny_text_model(seed), folder / f"run-{seed}") for seed in range(2)]
    (folders[0] / "README.md").write_text("---\nlicense: mit\n---\n")
    soup = hf_soup.merge(folders)
    return lambda: soup.push_to_hub(name)


def about_data(request, _folder):
    """A warning from the task that encodes a data set."""
    texts = datasets.Dataset.from_dict({"text": ["good", None, "bad"], "label": [1, 0, 0]})
    runs = request.getfixturevalue("text_runs")
    return lambda: hf_soup.merge(runs, strategy="greedy", evaluator=texts)


def of_a_comparison(request, _folder):
    """A warning from the check of a comparison's data sets."""
    soup = hf_soup.merge(request.getfixturevalue("text_runs"))
    rows = testing.tiny_texts(20)
    test = datasets.concatenate_datasets([rows.select(range(5)), testing.tiny_texts(20, seed=1)])
    return lambda: hf_soup.compare(soup, test=test, validation=rows)


CASES = {
    in_memory: "BatchNorm",
    on_disk: "BatchNorm",
    on_the_hub: "the card sets no licence",
    about_data: "rows have no text",
    of_a_comparison: "are also in the data used for selection",
}


@pytest.mark.parametrize(("prepare", "message"), CASES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_warning_points_to_the_line_of_the_caller(request, tmp_path, prepare, message):
    """A warning has the file and line of the call, here a lambda in this file."""
    call = prepare(request, tmp_path)
    with pytest.warns(hf_soup.SoupWarning, match=message) as caught:
        call()
    (warning,) = [warning for warning in caught if message in str(warning.message)]
    assert (warning.filename, warning.lineno) == (__file__, call.__code__.co_firstlineno)
    assert "lambda" in inspect.getsource(call)


def test_a_warning_without_a_caller_is_shown_all_the_same():
    """A warning is shown even if it has no caller, as in a thread that runs only functions of the package."""
    code = "import threading\nfrom hf_soup.errors import warn\nthread = threading.Thread(target=warn, args=['odd'])\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}thread.start()\nthread.join()"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "SoupWarning: odd" in done.stderr
