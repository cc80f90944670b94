"""The weighted mean, the method of uniform, greedy and learned soups alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import torch


def linear(
    tensors: Iterable[torch.Tensor],
    weights: Sequence[float],
    *,
    normalize: bool = True,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Weighted mean of the tensors, summed in recipe order.

    Multiply, then add: a fused `add_(x, alpha=w)` rounds differently. Weight 1 skips the product, so that k copies of
    one tensor sum to exactly k times it.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            One for each weight, used one at a time.
        weights (`Sequence[float]`):
            Relative to each other, unless `normalize=False`. They may be negative.
        normalize (`bool`, *optional*, defaults to `True`):
            Divide by the sum of the weights; `False` takes them as they are.
        out (`torch.Tensor` of the same shape, *optional*):
            Memory to sum in, of a type that holds the tensors exactly; by default their own.

    Returns:
        `torch.Tensor`: of the same shape, of the type of `out`.

    Source: Wortsman et al. 2022, [Model soups](https://arxiv.org/abs/2203.05482), section 2.
    """
    import torch

    total, acc = 0.0, None
    for tensor, weight in zip(tensors, weights, strict=True):
        if acc is None:
            acc = (torch.empty_like(tensor) if out is None else out).copy_(tensor)
            if weight != 1:
                acc *= weight
        else:
            acc += tensor if weight == 1 else tensor.to(acc.dtype) * weight
        total += weight
    # by a tensor: CUDA would multiply by the reciprocal of a plain number, which rounds twice
    return acc.div_(torch.tensor(total, dtype=acc.dtype, device=acc.device)) if normalize else acc
