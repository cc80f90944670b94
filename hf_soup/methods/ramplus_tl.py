"""RAM+: as RAM, with the changes of one ingredient alone amplified by how much it shares with others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ._changes import column, stack_changes


if TYPE_CHECKING:
    import torch


def ramplus_tl(
    tensors: Iterable[torch.Tensor],
    weights: Sequence[float],
    *,
    base: torch.Tensor,
    r: float = 0.1,
    alpha: float = 0.2,
    epsilon: float = 1e-5,
) -> torch.Tensor:
    """Average shared changes, and add the changes of one ingredient alone, multiplied by a factor for each tensor.

    The factor of an ingredient is `1 + r min(shared / unique, alpha)`, where `shared` and `unique` are the numbers of
    its changed elements that others changed too, and that it alone changed.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            One tensor for each weight. The changes of all of them are in memory at the same time.
        weights (`Sequence[float]`):
            Weight of each tensor where several share a change; the paper has equal ones. Only their ratios matter.
        base (`torch.Tensor` of the same shape):
            Tensor of the base model that the ingredients were fine-tuned from.
        r (`float`, *optional*, defaults to 0.1):
            Strength of the amplification.
        alpha (`float`, *optional*, defaults to 0.2):
            Largest ratio of shared to unique changes that counts.
        epsilon (`float`, *optional*, defaults to 1e-5):
            Magnitude up to which an element counts as unchanged.

    Returns:
        `torch.Tensor`: the merged tensor, with the shape and type of `base`.

    Source: [Behavior knowledge merge](https://arxiv.org/abs/2601.13572).
    """
    changes = stack_changes(tensors, len(weights), base)
    active = changes.abs() > epsilon
    contributors = active.sum(0)
    of_active = column(weights, base) * active
    total = of_active.sum(0)
    shared = (contributors > 1) * (changes * of_active).sum(0) / total.masked_fill(total == 0, 1)
    unique = active & (contributors == 1)
    counts = unique.reshape(len(changes), -1).sum(1).to(base.dtype)
    counts_shared = active.reshape(len(changes), -1).sum(1) - counts
    ratios = (counts_shared / counts.clamp(min=1)).clamp(0, alpha)
    factors = (1 + r * ratios).reshape(-1, *[1] * base.dim())
    return base + shared + (changes * unique * factors).sum(0)
