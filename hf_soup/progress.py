"""Progress bars: the one place that decides whether they are shown, ours and those that libraries draw for us.

It does not know what they count.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from tqdm.auto import tqdm

# Variables that hide bars: that of the Hub's client, and that of tqdm itself.
HIDDEN_BY = ("HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE")
COLUMNS, ROWS = 80, 24  # of a terminal that does not say
FALSE = ("", "0", "off", "no", "false")  # what leaves a variable unset


def bars_are_shown() -> bool:
    """Whether stderr is a terminal or a notebook, and no variable of the environment hides bars.

    All of it counts as it is now, so it does not matter what was imported before a variable was set.
    """
    if any(os.environ.get(name, "").lower() not in FALSE for name in HIDDEN_BY):
        return False
    return in_notebook() or (sys.stderr is not None and sys.stderr.isatty())


def in_notebook() -> bool:
    """Whether this is a notebook's kernel, whose stderr is shown although it is no terminal."""
    ipython = sys.modules.get("IPython")  # outside of a kernel it may not be installed
    if ipython is None:
        return False
    shell = ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


@contextlib.contextmanager
def library_bars(*modules: str) -> Iterator[None]:
    """Let bars that libraries draw over a call of ours be shown only where [`bars_are_shown`]; also as a decorator.

    Args:
        *modules (`str`):
            The modules that draw them: `"datasets"`, `"huggingface_hub.utils"`.
    """
    switched_off = []
    if not bars_are_shown():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library warns where a variable of the environment overrules us
            for name in modules:
                module = importlib.import_module(name)
                if not module.are_progress_bars_disabled():
                    module.disable_progress_bars()
                    switched_off.append(module)
    try:
        yield
    finally:
        for module in switched_off:
            module.enable_progress_bars()


def progress_bar(iterable: Iterable[Any] | None = None, *, hidden: bool = False, **options: Any) -> tqdm[Any]:
    """A bar of tqdm (a widget in notebooks), which is gone when it ends and shown only where [`bars_are_shown`].

    Args:
        iterable (`Iterable`, *optional*):
            Items to iterate over.
        hidden (`bool`, *optional*, defaults to `False`):
            Whether the bar stays hidden in any case, as in a process that shares a terminal with others.
        **options:
            Passed on to tqdm, such as `desc`, `total` and `unit`.
    """
    from tqdm.auto import tqdm

    is_shown = bars_are_shown() and not hidden
    if is_shown and not _has_size():
        options |= {"ncols": COLUMNS, "nrows": ROWS, "dynamic_ncols": False}
    return tqdm(iterable, leave=False, disable=not is_shown, **options)


def _has_size() -> bool:
    """Whether a terminal says how large it is: pseudo-terminals may say 0, and tqdm would draw a bar of no width."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError, AttributeError):  # no terminal; tqdm has a width for these
        return True
