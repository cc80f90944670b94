"""What a command writes: results to stdout, remarks to stderr, and what an error is called in a line.

Text of strangers does not steer the terminal: control characters are spaces.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

from ..errors import OutputError
from ..untrusted import one_line, printable


CLOSED_PIPE = 141  # what a shell says of a command that SIGPIPE ended
PACKAGE = str(Path(__file__).parent.parent)


def result(text: str) -> None:
    """Write what was asked for to stdout.

    Raises:
        [`OutputError`]: if it cannot be written, as on a disk that is full.
        [`SystemExit`]: if the reader has closed stdout, as after `| head`: the quiet end that other programs have.
    """
    try:
        click.echo(printable(text))
    except BrokenPipeError:
        raise SystemExit(CLOSED_PIPE) from None
    except OSError as error:
        raise OutputError(f"stdout cannot be written: {error.strerror}.") from None


def remark(text: str) -> None:
    """Write something beside the result to stderr; where that cannot be written, the command goes on."""
    with contextlib.suppress(OSError, ValueError):
        click.echo(printable(text), err=True)


def tell_click(error: BaseException) -> int | None:
    """Show an error of click, such as a wrong call: its exit code, or `None` for other errors."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if not isinstance(error, click.ClickException):
        return None
    with contextlib.suppress(OSError, ValueError):
        error.show()
    return error.exit_code


def in_one_line(error: BaseException) -> str:
    """What an error that no command expects is called, and what to do."""
    text = one_line(error)
    if _is_of_memory(error, text):
        return f"there is not enough memory: {text}" if text else "there is not enough memory."
    if isinstance(error, RecursionError):
        return "something that was read is nested too deeply."
    if isinstance(error, RuntimeError) and "can't start new thread" in text:
        return "this system starts no more threads: raise its limit (ulimit -u), or end other programs."
    if isinstance(error, OSError) and error.strerror:
        reason = f"{one_line(error.strerror)}."
        return reason if error.filename is None else f"{one_line(error.filename)}: {reason}"
    what = f"internal error: {type(error).__name__}: {text or 'no message'}{_place(error)}"
    return f"{what}. Please report it; HF_DEBUG=1 shows the traceback."


def _is_of_memory(error: BaseException, text: str) -> bool:
    """Whether memory ran out: Python raises `MemoryError`, torch a RuntimeError that only its text tells apart."""
    return isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text.lower()


def _place(error: BaseException) -> str:
    """The last line of this package that an error passed."""
    place, trace = "", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name.startswith(PACKAGE):
            place = f" ({os.path.relpath(name, os.path.dirname(PACKAGE))}:{trace.tb_lineno})"
        trace = trace.tb_next
    return place
