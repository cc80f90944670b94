"""SCE: select elements that vary, weigh the ingredients by their changes, and erase minority signs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ._changes import agreement, check_fraction, column, stack_changes


if TYPE_CHECKING:
    import torch


def sce(
    tensors: Iterable[torch.Tensor],
    weights: Sequence[float],
    *,
    base: torch.Tensor,
    select_topk: float = 1.0,
) -> torch.Tensor:
    """Add the changes where they vary most, with the elected sign, weighted by their mean squares.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            One tensor for each weight. The changes of all of them are in memory at the same time.
        weights (`Sequence[float]`):
            Factors of the weights that the method finds, tensor by tensor; the paper has none. Only their ratios
            matter.
        base (`torch.Tensor` of the same shape):
            Tensor of the base model that the ingredients were fine-tuned from.
        select_topk (`float`, *optional*, defaults to 1.0):
            Fraction of the elements that is kept, those with the largest variance over the ingredients.

    Returns:
        `torch.Tensor`: the merged tensor, with the shape and type of `base`.

    Raises:
        [`RecipeError`]: if `select_topk` is not between 0 and 1.

    Source: Wan et al. 2024, [FuseChat](https://arxiv.org/abs/2408.07990), section 3.3.
    """
    import torch

    check_fraction("sce", "select_topk", select_topk)
    changes = stack_changes(tensors, len(weights), base)
    if select_topk < 1:
        mean = changes.mean(dim=0)
        variance = torch.zeros_like(mean)
        for change in changes:  # one at a time: `var` over the first dimension is slow
            deviation = change - mean
            variance.addcmul_(deviation, deviation)
        variance = variance.flatten()
        count = int(select_topk * int(variance.count_nonzero()))
        selected = torch.zeros_like(variance, dtype=torch.bool)
        selected[variance.topk(count, sorted=False).indices] = True
        changes *= selected.reshape(base.shape)
    # (k, 1, ...): the share of each ingredient in all squared changes
    squares = (changes**2).reshape(len(changes), -1).mean(1) if base.numel() else changes.new_ones(len(changes))
    shares = squares.reshape(-1, *[1] * base.dim()) * column(weights, base)
    total = shares.sum()
    shares = shares / total if total > 0 else torch.ones_like(shares)
    kept = agreement(changes)
    divisor = (shares * kept).sum(0)
    divisor = divisor.masked_fill(divisor == 0, 1)
    return base + (changes * shares * kept).sum(0) / divisor
