"""The weighted median of each number, which a few odd ingredients cannot move."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..errors import RecipeError
from ..plugins import method


if TYPE_CHECKING:
    import torch


ROUNDING = 1e-12  # sums of weights that differ by less fall evenly: 0.1 + 0.2 is 0.3


@method(elementwise=True)
def median(tensors: Iterable[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Weighted median, number by number; between the two middle ones where the weights fall evenly on either side.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            One for each weight; all of them are held in memory at once.
        weights (`Sequence[float]`):
            Relative to each other, positive.

    Returns:
        `torch.Tensor`: of the same shape and type.

    Raises:
        [`RecipeError`]: if a weight is negative.
    """
    import torch

    if min(weights) < 0:
        raise RecipeError(f'the method "median" takes positive weights, not {list(weights)}.')
    values, order = torch.stack(list(tensors)).sort(dim=0)
    sorted_weights = torch.tensor(weights, dtype=torch.float64, device=order.device)[order]
    # twice the weight up to and with each value, in order: (k, ...); the middle is where it reaches the sum
    reached = sorted_weights.cumsum(dim=0) * 2
    total = sum(weights)
    # The number of values below the middle is the index of the lower median, and with those on it of the upper one:
    # the same, unless the weights fall evenly on either side.
    lower = (reached < total * (1 - ROUNDING)).sum(dim=0, keepdim=True)
    upper = (reached <= total * (1 + ROUNDING)).sum(dim=0, keepdim=True).clamp(max=len(weights) - 1)
    low = values.gather(0, lower)[0]
    high = values.gather(0, upper)[0]
    return low + (high - low) / 2
