"""RAM: changes of one ingredient alone are added, and changes that several share are averaged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..plugins import method


if TYPE_CHECKING:
    import torch


@method(elementwise=True)
def ram(
    tensors: Iterable[torch.Tensor], weights: Sequence[float], *, base: torch.Tensor, epsilon: float = 1e-5
) -> torch.Tensor:
    """Average each change over those ingredients that changed the element.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            One tensor for each weight. The changes of all of them are in memory at the same time.
        weights (`Sequence[float]`):
            Weight of each tensor where several share a change; the paper has equal ones. Only their ratios matter.
        base (`torch.Tensor` of the same shape):
            Tensor of the base model that the ingredients were fine-tuned from.
        epsilon (`float`, *optional*, defaults to 1e-5):
            Magnitude up to which an element counts as unchanged.

    Returns:
        `torch.Tensor`: the merged tensor, with the shape and type of `base`.

    Source: [Behavior knowledge merge](https://arxiv.org/abs/2601.13572).
    """
    import torch

    total, merged = torch.zeros_like(base), torch.zeros_like(base)
    for tensor, weight in zip(tensors, weights, strict=True):  # one at a time, which saves memory
        change = tensor - base
        active = change.abs() > epsilon
        total.add_(active, alpha=weight)
        merged.add_(change.mul_(active), alpha=weight)
    return base + merged / total.masked_fill_(total == 0, 1)
