"""Memory of a merge by methods that need whole tensors: how much is used at once, over all threads."""

from __future__ import annotations

import contextlib
import functools
import re
import threading
from collections.abc import Iterator

from ..errors import RecipeError
from ..untrusted import one_line
from .steps import CombineStep, Step


SHARE = 0.25  # of the free memory, by default
COPIES = 4  # of one tensor that a method holds beside those of the ingredients
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def read_size(size: int | str | None) -> int:
    """A number of bytes.

    Args:
        size (`int` or `str`, *optional*):
            Bytes, or a text such as `"8GB"`; by default a quarter of the memory that is free.

    Raises:
        [`RecipeError`]: if it is neither.
    """
    if size is None:
        import psutil

        return int(SHARE * psutil.virtual_memory().available)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B)?\s*", str(size), re.IGNORECASE)
    if match is None or isinstance(size, bool):
        raise RecipeError(f'max_memory is a number of bytes or a size such as "8GB", not {one_line(repr(size))}.')
    number, unit = match.groups()
    return int(float(number) * UNITS[(unit or "B").upper()])


def bytes_at_once(step: Step) -> int:
    """The memory that a method needs for a whole tensor; 0 for a tensor that is combined in pieces."""
    if not isinstance(step, CombineStep) or step.how.elementwise:
        return 0
    itemsize = 4 if step.accumulator == "float32" else 8
    at_once = step.spec.numel * (len(step.inputs) + step.base + COPIES)
    if step.importance:  # a square matrix for each input, such as Gram matrices
        at_once += step.spec.shape[-1] ** 2 * (len(step.inputs) + COPIES)
    return at_once * itemsize


class MemoryBudget:
    """Lets threads go on as long as they use no more than a number of bytes together.

    A tensor that needs more than all of it is combined alone.

    Args:
        size (`int` or `str`, *optional*):
            The number, as for [`read_size`]; the free memory is looked at when it is first needed.
    """

    def __init__(self, size: int | str | None):
        self._given = size
        self._used = 0
        self._changed = threading.Condition()

    @functools.cached_property
    def _size(self) -> int:
        return read_size(self._given)

    @contextlib.contextmanager
    def using(self, size: int) -> Iterator[None]:
        """Wait until this many bytes are left, and use them.

        Args:
            size (`int`):
                Number of bytes.
        """
        if not size:  # combined in pieces
            yield
            return
        size = min(size, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._used + size <= self._size)
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()
