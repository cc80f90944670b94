"""Where `hf-soup` begins and ends: signals first, then the command; one line and an exit code for whatever happens.

It imports little, so that a signal in the first moments finds somebody who listens.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

from .interruption import Interruption


DEBUG = "HF_DEBUG"  # a variable of the Hub's client: tracebacks are wanted


def main() -> NoReturn:
    """Run the command that `sys.argv` asks for, and end the process."""
    interruption = Interruption()
    try:
        interruption.listen()
        code = _run()
    except BaseException as error:  # an interrupt may arrive as another error, of a library that was being imported
        interrupted = interruption.number or isinstance(error, KeyboardInterrupt)
        code = interruption.finish() if interrupted else _outcome(error)
    else:
        code = interruption.finish() if interruption.number else code
    _flush()
    sys.exit(code)


def _run() -> int:
    is_closed = sys.stdout is None
    _open_streams()
    if is_closed:
        _say("Error: stdout is closed: send it to a file, or to /dev/null.")
        return 1
    from .commands import main as commands

    code = commands.main(prog_name="hf-soup", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _open_streams() -> None:
    """Descriptors 0 to 2 that are closed would be given to the next files that are opened, such as weights. And names
    that the encoding of stdout lacks are written with escapes.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def _outcome(error: BaseException) -> int:
    """Tell an error in a line; the exit code for it."""
    if isinstance(error, SystemExit):
        if isinstance(error.code, str):
            _say(error.code)
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    from .output import in_one_line, tell_click

    if (code := tell_click(error)) is not None:
        return code
    if os.environ.get(DEBUG):
        import traceback

        _say("".join(traceback.format_exception(error)).rstrip())
    _say(f"Error: {in_one_line(error)}")
    return 1


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # full, or closed
        sys.stderr.write(f"{line}\n")


def _flush() -> None:
    """Where the last words cannot be written, Python would say so, and choose another exit code."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
