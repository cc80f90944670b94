"""Weighted sums of pieces in one pass over memory, where the extension `_sums` was compiled; else torch adds them up.

The bits are those of [`hf_soup.methods.linear.linear`]. The extension is built on installation if there is a compiler.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..methods.linear import linear
from .steps import CombineStep, Step


try:
    from ._sums import weighted_sum
except ImportError:  # there was no compiler
    weighted_sum = None  # type: ignore[assignment]

AT_ONCE = 8  # inputs of which a piece is in memory
TYPES = ("float32", "bfloat16", "float16")  # in which inputs and results may be


def is_one_pass(step: Step, dtypes: Sequence[str], device: str) -> bool:
    """Whether the extension can make a tensor.

    Args:
        step (`Step`):
            What is done.
        dtypes (`Sequence[str]`):
            Type of each input.
        device (`str`):
            Device on which tensors are combined.
    """
    if weighted_sum is None or device != "cpu" or not isinstance(step, CombineStep) or step.orders:
        return False
    is_linear = step.how.function.func is linear
    return is_linear and step.spec.dtype in TYPES and all(dtype == step.spec.dtype for dtype in dtypes)


def add_up(
    dtype: str,
    contents: list[memoryview],
    weights: tuple[float, ...],
    *,
    sums: memoryview | None,
    begins: bool,
    out: memoryview | None,
    total: float,
) -> bool:
    """Add weighted arrays, and divide and round the sums in the end; other threads run meanwhile.

    Args:
        dtype (`str`):
            Type of the arrays.
        contents (`list[memoryview]`), weights (`tuple[float, ...]`):
            Bytes of the arrays, at most [`AT_ONCE`], and their weights.
        sums (`memoryview`, *optional*):
            Sums of the arrays before these, in the accumulation type, if there are more of them.
        begins (`bool`):
            Whether these are the first.
        out (`memoryview`, *optional*):
            Memory for the results, if these are the last.
        total (`float`):
            What the sums are divided by in the end; 0 if they are not.

    Returns:
        `bool`: whether all results are finite; always true before the last arrays.
    """
    if weighted_sum is None:
        raise RuntimeError("the extension was not compiled")
    return weighted_sum(dtype, contents, weights, sums, begins, out, total)


def divisor(step: CombineStep) -> float:
    """What the sum is divided by; 0 if it is not."""
    if not step.how.function.keywords.get("normalize", True):
        return 0.0
    total = step.weights[0]
    for weight in step.weights[1:]:  # in the order of `linear`
        total += weight
    return total
