"""TIES: trim small changes, elect a sign for each number, and average the changes that agree with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..errors import RecipeError


if TYPE_CHECKING:
    import torch


def ties(
    tensors: Iterable[torch.Tensor],
    weights: Sequence[float],
    *,
    base: torch.Tensor,
    density: float = 0.2,
    scale: float = 1.0,
) -> torch.Tensor:
    """Add to the base what the ingredients changed, trimmed, with one sign for each number.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            One for each weight; the changes of all of them are held in memory at once.
        weights (`Sequence[float]`):
            Relative to each other; they scale the changes after the sign was elected.
        base (`torch.Tensor` of the same shape):
            What the ingredients were fine-tuned from.
        density (`float`, *optional*, defaults to 0.2):
            Part of the changes of each tensor that is kept, the largest ones; 0 to 1.
        scale (`float`, *optional*, defaults to 1.0):
            Of the merged change.

    Returns:
        `torch.Tensor`: of the same shape and type.

    Raises:
        [`RecipeError`]: if `density` is not between 0 and 1.

    Source: Yadav et al. 2023, [TIES-Merging](https://arxiv.org/abs/2306.01708), algorithm 1.
    """
    import torch

    if not 0 <= density <= 1:
        raise RecipeError(f'the method "ties" keeps a part of the changes: density is between 0 and 1, not {density}.')
    changes = torch.stack([_trim(tensor - base, density) for tensor in tensors])  # (k, ...)
    agree = changes.sign() == torch.where(changes.sum(dim=0) >= 0, 1, -1)
    relative = torch.tensor(weights, dtype=base.dtype, device=base.device) * (len(weights) / sum(weights))
    weighted = changes * agree * relative.reshape(-1, *[1] * base.dim())
    return base + scale * weighted.sum(dim=0) / agree.sum(dim=0).clamp(min=1)


def _trim(change: torch.Tensor, density: float) -> torch.Tensor:
    """The largest `density` of a tensor's numbers by magnitude, zero elsewhere."""
    import torch

    kept = change.abs().flatten().topk(int(density * change.numel())).indices
    mask = torch.zeros(change.numel(), dtype=torch.bool, device=change.device)
    mask[kept] = True
    return change * mask.reshape(change.shape)
