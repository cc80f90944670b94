"""Parsing of the maximum size of a weight file. Nothing is written here."""

from __future__ import annotations

import numbers
import re

from ..errors import OutputError
from ..untrusted import one_line


UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
LONGEST = 100  # characters of a size: with fewer digits, `float` cannot overflow
SIZE = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*([KMGT]?B)\s*", re.ASCII | re.IGNORECASE)


def shard_size(size: int | str, name: str = "max_shard_size") -> int:
    """A number of bytes.

    Args:
        size (`int` or `str`):
            A whole number of bytes, or a number with its unit: `"5GB"`.
        name (`str`, *optional*):
            Name of the argument in errors.

    Raises:
        [`OutputError`]: if it is no size, or not at least one byte.
    """
    count = _bytes_of(size)
    if count < 1:
        raise OutputError(
            f"{name}={one_line(repr(size), 60)} is not a number of bytes. Write a number above 0 and its unit, as in "
            "5GB."
        )
    return count


def _bytes_of(size: object) -> int:
    """The number of bytes; 0 if the size is invalid."""
    if isinstance(size, str) and len(size) < LONGEST:
        match = SIZE.fullmatch(size)
        if match is None:
            return 0
        return int(float(match[1]) * UNITS[match[2].upper()])
    if isinstance(size, numbers.Integral) and not isinstance(size, bool):  # also numpy's integers
        return int(size)
    return 0
