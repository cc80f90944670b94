"""What a job answers, as bytes. They come from a server, so reading them builds values and calls no functions."""

from __future__ import annotations

import io
import pickle
from typing import Any, NamedTuple

from ..errors import OutputError, SoupError


# Classes of values in answers, by module. Others are refused: a pickle could name any function, and have it called.
CLASSES = {
    "builtins": ("set", "frozenset", "complex", "bytearray", "slice", "range"),
    "collections": ("OrderedDict",),
    "hf_soup.evaluation.outputs": ("Outputs",),
    "hf_soup.jobs.answers": ("Answer",),
    "hf_soup.metrics.predictions": ("Predictions",),
    "hf_soup.training.records": ("FailedRun",),
    "hf_soup.types.scores": ("Score",),
    "numpy": ("dtype", "ndarray"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.numeric": ("_frombuffer",),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),  # of numpy 1
    "numpy.core.numeric": ("_frombuffer",),
}
ERRORS = ("builtins", "hf_soup.errors")  # modules whose exceptions are built too


class Answer(NamedTuple):
    """What a job answers.

    Args:
        value:
            What the function returned.
        error (`Exception`, *optional*):
            What it raised instead.
    """

    value: Any = None
    error: Exception | None = None


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The class of a value, if values of this class are read."""
        if name in CLASSES.get(module, ()):
            return super().find_class(module, name)
        if module in ERRORS and name.isidentifier():
            found = super().find_class(module, name)
            if isinstance(found, type) and issubclass(found, Exception):
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is not read")


def write_answer(answer: Answer) -> bytes:
    """An answer as bytes that [`read_answer`] reads.

    An error of another class becomes a [`SoupError`] with its text, and a value of another class becomes an error.
    """
    try:
        content = pickle.dumps(answer)
        read_answer(content)
    except (pickle.PicklingError, TypeError, AttributeError, OutputError) as error:
        text = f"the result of a job cannot be sent: {error}"
        if answer.error is not None:
            text = f"{type(answer.error).__name__}: {answer.error}"
        return pickle.dumps(Answer(error=SoupError(text)))
    return content


def read_answer(content: bytes) -> Answer:
    """Read an answer; only values, arrays, scores, runs and errors are built.

    Raises:
        [`OutputError`]: if it is none.
    """
    try:
        answer = _Reader(io.BytesIO(content)).load()
    except Exception as error:  # pickle raises errors of many classes for bytes that are no pickle
        raise OutputError(f"the answer of a job cannot be read: {error}") from None
    if not isinstance(answer, Answer):
        raise OutputError(f"the answer of a job is of another kind: {type(answer).__name__}")
    return answer
