"""The command line: argv -> the verbs of `hf_soup`. Results go to stdout, progress, notes and errors to stderr.

`start.py` is where the command begins. It imports nothing of what the verbs need before signals are listened for, so
`main`, the group of all commands, is imported when first used.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "main":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .commands import main

    return main
