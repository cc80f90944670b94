"""What a command writes: results to stdout, remarks to stderr, and errors in one line.

Control characters are replaced by spaces, so that untrusted text cannot control the terminal.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

from ..errors import OutputError
from ..untrusted import one_line, printable
from .ranks import speaks


CLOSED_PIPE = 141  # the exit code that shells report for a command ended by SIGPIPE
PACKAGE = str(Path(__file__).parent.parent)


def result(text: str) -> None:
    """Write a result to stdout.

    Raises:
        [`OutputError`]: if it cannot be written, for example because the disk is full.
        [`SystemExit`]: if the reader has closed stdout, as after `| head`: the command ends silently.
    """
    if not speaks():
        return
    try:
        click.echo(printable(text))
    except BrokenPipeError:
        raise SystemExit(CLOSED_PIPE) from None
    except OSError as error:
        raise OutputError(f"stdout cannot be written: {error.strerror}.") from None


def remark(text: str) -> None:
    """Write a remark to stderr; if that fails, the command continues."""
    with contextlib.suppress(OSError, ValueError):
        click.echo(printable(text), err=True)


def tell_click(error: BaseException) -> int | None:
    """Show an error of click, such as wrong usage, and return its exit code; `None` for other errors."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if not isinstance(error, click.ClickException):
        return None
    with contextlib.suppress(OSError, ValueError):
        error.show()
    return error.exit_code


def in_one_line(error: BaseException) -> str:
    """An unexpected error in one line, with what to do."""
    text = one_line(error)
    if _is_of_memory(error, text):
        return f"there is not enough memory: {text}" if text else "there is not enough memory."
    if isinstance(error, RecursionError):
        return "a file that was read is nested too deeply."
    if isinstance(error, RuntimeError) and "can't start new thread" in text:
        return "this system allows no more threads: raise its limit (ulimit -u), or end other programs."
    if isinstance(error, OSError) and error.strerror:
        reason = f"{one_line(error.strerror)}."
        return reason if error.filename is None else f"{one_line(error.filename)}: {reason}"
    what = f"internal error: {type(error).__name__}: {text or 'no message'}{_place(error)}"
    return f"{what}. Please report it; HF_DEBUG=1 shows the traceback."


def _is_of_memory(error: BaseException, text: str) -> bool:
    """Whether memory ran out: Python raises `MemoryError`, torch a `RuntimeError` that only its text identifies."""
    return isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text.lower()


def _place(error: BaseException) -> str:
    """The innermost line of this package in the traceback of an error."""
    place, trace = "", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name.startswith(PACKAGE):
            place = f" ({os.path.relpath(name, os.path.dirname(PACKAGE))}:{trace.tb_lineno})"
        trace = trace.tb_next
    return place
