"""Shared code of the contracts: a broken promise is reported in one sentence, with the function and its result."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from ..errors import MissingExtraError
from ..plugins import parameters
from ..untrusted import one_line


class Promises:
    """The promises of one method or strategy; each that is broken is an `AssertionError`.

    Args:
        kind (`str`):
            `"method"` or `"strategy"`.
        function (`Callable`):
            The function that makes the promises.

    Raises:
        [`AssertionError`]: if it is not a function.
    """

    def __init__(self, kind: str, function: Callable[..., Any]):
        if not callable(function):
            value = one_line(repr(function), 100)
            raise AssertionError(f"a {kind} is checked as a function, but {value} cannot be called.")
        self.function = function
        self.title = f'the {kind} "{getattr(function, "__name__", type(function).__name__)}"'

    def broken(self, promise: str, outcome: str) -> NoReturn:
        """Raise an error that states which promise was broken, and how.

        Args:
            promise (`str`):
                What the function has to do, as a clause that follows "has to".
            outcome (`str`):
                What it did instead, as a clause that follows "but it".

        Raises:
            [`AssertionError`]: always.
        """
        raise AssertionError(f"{self.title} has to {promise}, but it {' '.join(outcome.split())}.")

    def broken_by_value(self, promise: str, value: object, given: str) -> NoReturn:
        """Raise an error about a promise broken by a returned value; `given` describes the input."""
        self.broken(promise, f"returned {_shown(value)} {given}")

    @contextlib.contextmanager
    def raising(self, promise: str, given: str) -> Iterator[None]:
        """Report which promise was broken by an error of the function itself, which is shown and chained.

        A missing library does not break a promise, so its error is passed on.
        """
        try:
            yield
        except MissingExtraError:
            raise
        except Exception as error:
            problem = f"{type(error).__name__}: {one_line(error)}".rstrip(".")
            raise AssertionError(f"{self.title} has to {promise}, but {given} it raised {problem}.") from error

    def check_documented(self) -> None:
        """Check that every parameter has an entry in the docstring, which is its help on the command line."""
        text = inspect.getdoc(self.function) or ""
        if not text:
            self.broken("have a docstring, whose first line is its help", "has none")
        for name in parameters(self.function):
            if f"{name} (" not in text:
                self.broken(
                    "describe each of its parameters in its docstring, since that is the help of the command line",
                    f"does not document {name}; add an entry `{name} (type):` below `Args:`",
                )


def _shown(value: object) -> str:
    """A value of any type for a sentence."""
    if value is None:
        return "None"
    shown = f"a {type(value).__name__}"
    if isinstance(value, (tuple, list)):
        shown += f" of {len(value)} values"
    return f"{shown}, {one_line(repr(value), 100)},"
