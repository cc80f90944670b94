"""The command line: argv -> functions of `hf_soup`. Results go to stdout, progress, notes and errors to stderr.

A command starts in `start.py`, which installs signal handlers before it imports anything large. For the same reason
`main`, the group of all commands, is imported on first use.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "main":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .commands import main

    return main
