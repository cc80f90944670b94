"""What reaches stderr: our notes and our bars, where they are wanted, and nothing that libraries say of their work.

It changes the process for the length of a command: the environment, the log levels and how warnings are shown.
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


QUIET = "hf_soup.quiet"  # in the context of a command: notes are not wanted
# Libraries read these when they are imported, which no command does before it knows its options.
NO_BARS = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
# How much each library logs, here and in the processes that a command starts; a value that is set wins.
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
    """Show warnings of hf_soup as notes and no others, keep libraries from logging, and hide bars outside a terminal.

    Args:
        context (`click.Context`):
            That of the command, which knows whether it is quiet.
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
    """Ours, which look at the environment when they begin, and those of libraries that are not imported yet."""
    os.environ.update(NO_BARS)


def be_quiet(context: click.Context) -> None:
    """No notes and no bars from here on."""
    context.meta[QUIET] = True
    hide_bars()


def note(text: str) -> None:
    """Tell something beside the result, unless the command is quiet."""
    if not click.get_current_context().meta.get(QUIET):
        remark(f"Note: {text}")
