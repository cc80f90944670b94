"""The entry point of `hf-soup`: installs signal handlers, runs the command, and reports every error in one line.

It imports little, so that a signal in the first moments is handled.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

from .interruption import Interruption


DEBUG = "HF_DEBUG"  # an environment variable of the Hub's client that asks for tracebacks


def main() -> NoReturn:
    """Run the command that `sys.argv` asks for, and end the process."""
    interruption = Interruption()
    try:
        interruption.listen()
        code = _run()
    except BaseException as error:  # a library that was being imported may turn an interrupt into another error
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
    """Open closed descriptors 0 to 2, which would otherwise be given to the next opened files, such as weights; and
    write characters that the encoding of stdout lacks with escapes.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def _outcome(error: BaseException) -> int:
    """Report an error in one line, and return its exit code."""
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
    """Flush stdout and stderr here: if that failed at exit, Python would report it and change the exit code."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
