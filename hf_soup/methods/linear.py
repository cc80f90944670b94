"""The weighted mean, the method of uniform, greedy and learned soups alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import torch


def linear(tensors: Iterable[torch.Tensor], weights: Sequence[float], *, normalize: bool = True) -> torch.Tensor:
    """Weighted mean of the tensors, summed in recipe order.

    Multiply, then add: a fused `add_(x, alpha=w)` rounds differently. Weight 1 skips the product, so that k copies of
    one tensor sum to exactly k times it.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            One for each weight, read one at a time.
        weights (`Sequence[float]`):
            Relative to each other, unless `normalize=False`. They may be negative.
        normalize (`bool`, *optional*, defaults to `True`):
            Divide by the sum of the weights; `False` takes them as they are.

    Returns:
        `torch.Tensor`: of the same shape and type.

    Source: Wortsman et al. 2022, [Model soups](https://arxiv.org/abs/2203.05482), section 2.
    """
    total = 0.0
    acc = None
    for tensor, weight in zip(tensors, weights, strict=True):
        term = tensor if weight == 1 else tensor * weight
        if acc is None:
            acc = term.clone() if term is tensor else term
        else:
            acc += term
        total += weight
    return acc.div_(total) if normalize else acc
