"""Model Stock: the mean of the ingredients, moved towards the base model by the angles between their changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from ._changes import stack_changes
from ._sphere import SMALLEST, as_tensor, as_vectors, lengths


if TYPE_CHECKING:
    import torch


def model_stock(
    tensors: Iterable[torch.Tensor],
    weights: Sequence[float],
    *,
    base: torch.Tensor,
    per: Literal["tensor", "row", "column"] = "tensor",
) -> torch.Tensor:
    """Interpolate between the base model and the mean of the ingredients by the cosines between their changes.

    With the mean cosine c of all pairs of k changes, the share of the mean is `k c / (1 + (k - 1) c)`.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            One tensor for each weight. The changes of all of them are in memory at the same time.
        weights (`Sequence[float]`):
            Weight of each tensor in the mean; the paper has equal ones. Only the ratios of the weights matter.
        base (`torch.Tensor` of the same shape):
            Tensor of the base model that the ingredients were fine-tuned from.
        per (`str`, *optional*, defaults to `"tensor"`):
            Whether one share is computed for the tensor, or one for each `"row"` or `"column"` of a matrix.

    Returns:
        `torch.Tensor`: the merged tensor; a single ingredient is returned as it is, and the base model where the share
        is not defined.

    Source: Jang et al. 2024, [Model Stock](https://arxiv.org/abs/2403.19522), equation 2.
    """
    import torch

    changes = stack_changes(tensors, len(weights), base)
    count = len(changes)
    vectors = as_vectors(changes, per)
    mean, units = torch.zeros_like(vectors[0]), torch.zeros_like(vectors[0])
    squares = torch.zeros_like(lengths(mean))
    for vector, weight in zip(vectors, weights, strict=True):  # one at a time, which saves memory
        mean.add_(vector, alpha=weight / sum(weights))
        length = lengths(vector)
        units.addcdiv_(vector, length.clamp(min=SMALLEST**2))
        squares += length > SMALLEST**2  # of its direction, which has the length 1, or 0 if there is none
    if count == 1:
        return base + as_tensor(mean, base, per)
    # the sum over pairs i < j of <u_i, u_j>, from |sum u|^2 = sum |u_i|^2 + 2 sum <u_i, u_j>
    pairs = (lengths(units) ** 2 - squares) / 2
    cosine = pairs / (count * (count - 1) / 2)
    divisor = 1 + (count - 1) * cosine
    share = torch.where(divisor.abs() > 1e-12, count * cosine / divisor, 0.0)
    return base + as_tensor(share * mean, base, per)
