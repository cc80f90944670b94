"""Fisher-weighted averaging: each number of a soup is the mean of its values, weighted by how much each matters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..plugins import method
from .linear import linear


if TYPE_CHECKING:
    import torch


@method(elementwise=True, importance="fisher")
def fisher(
    tensors: Iterable[torch.Tensor], weights: Sequence[float], *, importance: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Average with the diagonal of each model's Fisher information as weights, element by element.

    It maximises the sum of the log-posteriors of the models, each of them approximated by a normal distribution around
    its weights.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            One tensor for each weight. All of them are in memory at the same time.
        weights (`Sequence[float]`):
            Factor of each tensor's Fisher information. Only their ratios matter.
        importance (`Sequence[torch.Tensor]` of the same shape):
            Fisher information of each tensor, as [`importance`] estimates it; not negative.

    Returns:
        `torch.Tensor`: the weighted mean; the plain weighted mean where no model has any information.

    Source: Matena & Raffel 2022, [Merging models with Fisher-weighted averaging](https://arxiv.org/abs/2111.09832),
    equation 4.
    """
    import torch

    tensors = list(tensors)
    mean = linear(tensors, weights)
    largest = torch.stack(list(importance)).amax(0)
    scale = torch.where(largest > 0, largest, 1.0)  # without it, products of small numbers would vanish
    # relative to the mean, which copies of one tensor keep to the bit
    total, moved = torch.zeros_like(mean), torch.zeros_like(mean)
    for tensor, weight, own in zip(tensors, weights, importance, strict=True):
        share = weight * (own / scale)
        total += share
        moved += share * (tensor - mean)
    return mean + torch.where(total != 0, moved / total, 0.0)
