"""Progress bars of hf_soup and of the libraries that it calls, and whether they are shown.

What the bars count is unknown here.
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

# Environment variables that hide bars: that of the Hub's client, and that of tqdm.
HIDDEN_BY = ("HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE")
COLUMNS, ROWS = 80, 24  # used if a terminal does not report its width
FALSE = ("", "0", "off", "no", "false")  # values that count as unset


def bars_are_shown() -> bool:
    """Whether stderr is a terminal or a notebook, and no environment variable hides bars.

    The current values count, so it does not matter whether a variable was set before or after an import.
    """
    if any(os.environ.get(name, "").lower() not in FALSE for name in HIDDEN_BY):
        return False
    return in_notebook() or (sys.stderr is not None and sys.stderr.isatty())


def in_notebook() -> bool:
    """Whether this is a notebook's kernel, whose stderr is displayed although it is not a terminal."""
    ipython = sys.modules.get("IPython")  # it may not be installed outside a kernel
    if ipython is None:
        return False
    shell = ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


@contextlib.contextmanager
def library_bars(*modules: str) -> Iterator[None]:
    """Show a library's bars during a call only if [`bars_are_shown`]; also as a decorator.

    Args:
        *modules (`str`):
            The modules that draw them: `"datasets"`, `"huggingface_hub.utils"`.
    """
    switched_off = []
    if not bars_are_shown():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library warns if an environment variable takes precedence
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
    """A tqdm bar (a widget in notebooks) that is removed when it ends, and shown only if [`bars_are_shown`].

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
    """Whether a terminal reports its size: pseudo-terminals may report 0, for which tqdm would draw an empty bar."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError, AttributeError):  # not a terminal; tqdm has a default width
        return True
