"""The weighted median of each element, which a few outlying ingredients cannot move far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..errors import RecipeError
from ..plugins import method


if TYPE_CHECKING:
    import torch


ROUNDING = 1e-12  # sums of weights that differ by less count as equal, such as 0.1 + 0.2 and 0.3


@method(elementwise=True)
def median(tensors: Iterable[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Take the weighted median of the tensors, element by element.

    Where equal weights lie on both sides, the result is the mean of the two middle values.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            One tensor for each weight. All of them are in memory at the same time.
        weights (`Sequence[float]`):
            Weight of each tensor, 0 or more. Only the ratios of the weights matter.

    Returns:
        `torch.Tensor`: the median, with the shape and type of the tensors.

    Raises:
        [`RecipeError`]: if a weight is negative.
    """
    import torch

    if min(weights) < 0:
        raise RecipeError(f'the method "median" takes no negative weights, but these are {list(weights)}.')
    values, order = torch.stack(list(tensors)).sort(dim=0)
    sorted_weights = torch.tensor(weights, dtype=torch.float64, device=order.device)[order]
    # twice the cumulative weight of the sorted values: (k, ...); the median is where it reaches the total
    reached = sorted_weights.cumsum(dim=0) * 2
    total = sum(weights)
    # The number of values below the middle is the index of the lower median, and the number of values up to the middle
    # that of the upper one. Both are the same unless equal weights lie on both sides.
    lower = (reached < total * (1 - ROUNDING)).sum(dim=0, keepdim=True)
    upper = (reached <= total * (1 + ROUNDING)).sum(dim=0, keepdim=True).clamp(max=len(weights) - 1)
    low = values.gather(0, lower)[0]
    high = values.gather(0, upper)[0]
    return low + (high - low) / 2
