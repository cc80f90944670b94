"""Answers of jobs are data: what comes back is what was sent, and nothing is called."""

import os
import pickle
import threading

import numpy as np
import pytest

from hf_soup.errors import DataError, IncompatibleError, OutputError, SoupError
from hf_soup.evaluation.outputs import Outputs
from hf_soup.jobs.answers import Answer, read_answer, write_answer
from hf_soup.types import Score


class Calls:
    """A value whose pickle has a function called."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"a": [1, 2.5, "text", b"bytes", (True, None)], "b": {1, 2}},
        Score("accuracy", 0.5, True, "validation", "digest", 10, {"f1": 0.25}),
        np.float32(1.5),
    ],
)
def test_values_come_back(value):
    """Plain values and scores."""
    assert read_answer(write_answer(Answer(value))) == Answer(value)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool", "<U5", object])
def test_arrays_come_back(dtype):
    """With their type and shape, also those of texts and objects."""
    array = np.array([["1", "0", "1"], ["0", "0", "1"]]).astype(dtype)
    back = read_answer(write_answer(Answer(array))).value
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("error", [ValueError("no", 1), DataError("no good"), IncompatibleError(["a", "b"])])
def test_errors_come_back(error):
    """Those of Python and of this package, with their arguments."""
    back = read_answer(write_answer(Answer(error=error))).error
    assert type(back) is type(error)
    assert back.args == error.args


def test_other_errors_become_texts():
    """Their class is not built, but named."""

    class OtherError(Exception):
        pass

    for error in (OtherError("no good"), ValueError(threading.Lock())):
        back = read_answer(write_answer(Answer(error=error))).error
        assert type(back) is SoupError
        assert str(back).startswith(f"{type(error).__name__}: ")


def test_other_values_become_errors():
    """The job says so, instead of an answer that cannot be read."""
    answer = read_answer(write_answer(Answer(Calls(os.getpid))))
    assert answer.value is None
    assert "cannot be sent" in str(answer.error)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Answer(Calls(os.system, "false"))),
        pickle.dumps(Answer(Calls(eval, "1"))),
        pickle.dumps(Answer(Calls(np.load, "file"))),
        b"\x80\x04\x8c\x0ehf_soup.errors\x8c\x0fsys.stdout.write\x93.",  # a function by way of a module in a module
        b"\x80\x04\x8c\x0ehf_soup.errors\x8c\x04warn\x93.",
        pickle.dumps("no answer"),
        b"no pickle",
        b"",
    ],
)
def test_anything_else_is_refused(content):
    """Functions are not called, whichever way they are named."""
    with pytest.raises(OutputError, match="the answer of a job"):
        read_answer(content)


def test_outputs_come_back():
    """The predictions of a trial."""
    from hf_soup.metrics.predictions import Predictions

    predictions = Predictions(np.ones((2, 3), np.float32), np.array([0, 1]), np.arange(2))
    outputs = Outputs(predictions, np.array([1, 0]), True)
    back = read_answer(write_answer(Answer(outputs))).value
    np.testing.assert_array_equal(back.predictions.logits, predictions.logits)
    np.testing.assert_array_equal(back.rows, outputs.rows)
