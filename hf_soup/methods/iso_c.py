"""Isotropic merging: the merged change of a matrix gets equal singular values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..plugins import method
from ._changes import column, stack_changes


if TYPE_CHECKING:
    import torch

ROUNDING = 2**-24  # relative, of numbers in float32


@method(absolute_weights=True)
def iso_c(
    tensors: Iterable[torch.Tensor], weights: Sequence[float], *, base: torch.Tensor, scale: float = 1.0
) -> torch.Tensor:
    """Add the sum of the changes to the base model, with the mean of its singular values in place of each.

    Of matrices the sum is taken; of other tensors the mean.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            One tensor for each weight. The changes of all of them are in memory at the same time.
        weights (`Sequence[float]`):
            Weight of each change, a factor.
        base (`torch.Tensor` of the same shape):
            Tensor of the base model that the ingredients were fine-tuned from.
        scale (`float`, *optional*, defaults to 1.0):
            Factor by which the merged change is multiplied.

    Returns:
        `torch.Tensor`: the merged tensor, with the shape and type of `base`.

    Source: Marczak et al. 2025, [No Task Left Behind](https://arxiv.org/abs/2502.04959), algorithm 1.
    """
    import torch

    changes = stack_changes(tensors, len(weights), base)
    total = (changes * column(weights, base)).sum(0)
    if base.dim() != 2 or not base.numel():
        return base + scale * total / len(changes)
    left, values, right = torch.linalg.svd(total, full_matrices=False)
    # directions that the change does not have are left out, such as those beyond the rank of an adapter: singular
    # vectors of rounding errors would be arbitrary
    rank = int((values > max(total.shape) * ROUNDING * values[0]).sum())
    if rank == 0:
        return base
    return base + scale * values[:rank].mean() * (left[:, :rank] @ right[:rank])
