"""Validation of seeds, with the limits of numpy, torch, scikit-learn and Trainer."""

from __future__ import annotations

import operator
from typing import Any

from .errors import RecipeError


LARGEST = 2**32 - 1  # numpy's legacy generator, which Trainer and scikit-learn seed, takes 32 bits
SHOWN = 64  # bits of a number that an error repeats


def check_seed(seed: Any, what: str = "seed") -> int:
    """Check a seed and convert it to a plain number.

    Args:
        seed (`int`):
            Integer from 0 to 2^32 - 1; numpy's integers are accepted.
        what (`str`, *optional*, defaults to `"seed"`):
            Name of the argument in errors.

    Raises:
        [`RecipeError`]: if it is something else.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1  # an error is raised below
    if isinstance(seed, bool) or not 0 <= number <= LARGEST:
        shown = "one of more digits" if number.bit_length() > SHOWN else repr(seed)
        raise RecipeError(f"{what} is a whole number from 0 to {LARGEST:,}, not {shown}.")
    return number
