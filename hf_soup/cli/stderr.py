"""What is written to stderr: notes and progress bars of hf_soup, and no messages of libraries.

During a command, the environment, log levels and the display of warnings are changed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import click

from ..errors import SoupWarning
from ..progress import bars_are_shown
from .output import remark


QUIET = "hf_soup.quiet"  # key in the context of a command that hides notes
# Libraries read these on import, which no command does before its options are parsed.
NO_BARS = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
# Log level of each library, here and in the processes that a command starts; values that are set already win.
VERBOSITY = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "ACCELERATE_LOG_LEVEL": "error",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
ASKED = (*VERBOSITY, "HF_DEBUG")


@contextlib.contextmanager
def only_ours(context: click.Context) -> Iterator[None]:
    """Show warnings of hf_soup only, as notes; silence the logs of libraries; hide progress bars outside a terminal.

    Args:
        context (`click.Context`):
            Context of the command, which says whether the command is quiet.
    """
    environment, disabled = dict(os.environ), logging.root.manager.disable
    asked_for_logs = any(name in os.environ for name in ASKED)
    os.environ.update({**VERBOSITY, **os.environ})
    if not bars_are_shown():
        hide_bars()
    if not asked_for_logs:
        logging.disable()

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, SoupWarning) and not context.meta.get(QUIET):
            remark(f"Note: {message}")

    shown, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = shown
        logging.disable(disabled)
        os.environ.clear()
        os.environ.update(environment)


def hide_bars() -> None:
    """Hide progress bars of hf_soup and of libraries that are not imported yet."""
    os.environ.update(NO_BARS)


def be_quiet(context: click.Context) -> None:
    """Hide notes and progress bars from now on."""
    context.meta[QUIET] = True
    hide_bars()


def note(text: str) -> None:
    """Write a note to stderr, unless the command is quiet."""
    if not click.get_current_context().meta.get(QUIET):
        remark(f"Note: {text}")
