"""RAM+: as RAM, with the changes of one ingredient alone amplified by how much it shares with others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ._changes import stack_changes


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
    import torch

    changes = stack_changes(tensors, len(weights), base)
    total, shared = torch.zeros_like(base), torch.zeros_like(base)
    contributors = torch.zeros(base.shape, dtype=torch.int32, device=base.device)
    for change, weight in zip(changes, weights, strict=True):  # one at a time, which saves memory
        active = change.abs() > epsilon
        change *= active
        contributors += active
        total.add_(active, alpha=weight)
        shared.add_(change, alpha=weight)
    is_shared, is_unique = contributors > 1, contributors == 1
    shared /= total.masked_fill_(total == 0, 1)
    merged = base + shared * is_shared
    for change in changes:
        unique = change * is_unique
        count = int(unique.count_nonzero())
        ratio = (int(change.count_nonzero()) - count) / max(count, 1)
        merged.add_(unique, alpha=1 + r * min(max(ratio, 0), alpha))
    return merged
