"""The weighted mean: the method of uniform, greedy and learned soups."""

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
    """Average the tensors with the given weights, summed in the order of the recipe.

    Each tensor is multiplied and then added, because a fused `add_(x, alpha=w)` rounds differently. A weight of 1
    skips the product.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            One tensor for each weight, of which one at a time is in memory.
        weights (`Sequence[float]`):
            Weight of each tensor. Only the ratios of the weights matter, unless `normalize=False`. Weights may be
            negative.
        normalize (`bool`, *optional*, defaults to `True`):
            Divide by the sum of the weights; `False` uses the weights as they are.
        out (`torch.Tensor` of the same shape, *optional*):
            Memory for the sum, of a type that represents the tensors exactly. By default a new tensor of their type.

    Returns:
        `torch.Tensor`: the weighted mean, with the shape of the tensors and the type of `out`.

    Source: Wortsman et al. 2022, [Model soups](https://arxiv.org/abs/2203.05482), section 2.
    """
    import torch

    pairs = zip(tensors, weights, strict=True)
    tensor, weight = next(pairs)
    acc = torch.empty_like(tensor) if out is None else out
    acc.copy_(tensor)  # a copy, because inputs are not changed; `out` widens it at once
    if weight != 1:
        acc *= weight
    return _add(acc, pairs, weight, normalize)


def continued(
    tensors: Iterable[torch.Tensor],
    weights: Sequence[float],
    *,
    before: float,
    out: torch.Tensor,
    normalize: bool = True,
) -> torch.Tensor:
    """Continue a sum of [`linear`], with the same bits as a sum from the beginning.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            The sum so far in the accumulator's type, followed by the tensors to add.
        weights (`Sequence[float]`):
            Weight of each tensor; the first one is not used.
        before (`float`):
            Sum of the weights of the tensors that the sum so far contains.
        out (`torch.Tensor` of the same shape), normalize (`bool`, *optional*, defaults to `True`):
            The arguments of [`linear`].
    """
    pairs = zip(tensors, weights, strict=True)
    acc = out.copy_(next(pairs)[0])
    return _add(acc, pairs, before, normalize)


def fused(
    tensors: Iterable[torch.Tensor], weights: Sequence[float], *, normalize: bool = True, out: torch.Tensor
) -> torch.Tensor:
    """Compute [`linear`] in one pass per tensor, which is faster but rounds differently.

    It serves gradients, never a soup. The arguments are those of [`linear`].
    """
    total = sum(weights) if normalize else 1
    pairs = zip(tensors, weights, strict=True)
    tensor, weight = next(pairs)
    # the weights are divided instead of the sum, which saves a pass
    acc = out.copy_(tensor).mul_(weight / total)
    for tensor, weight in pairs:
        acc.add_(tensor, alpha=weight / total)
    return acc


def _add(
    acc: torch.Tensor, pairs: Iterable[tuple[torch.Tensor, float]], total: float, normalize: bool
) -> torch.Tensor:
    """Add weighted tensors to a sum with the total weight `total`, and divide by the sum of all weights."""
    import torch

    for tensor, weight in pairs:
        if weight == 1:
            acc += tensor
        else:
            acc += tensor.to(acc.dtype) * weight  # widened first, since the product would be rounded in its own type
        total += weight
    if normalize:
        # by a tensor, since CUDA would multiply by the reciprocal of a plain number, which rounds twice
        acc.div_(torch.tensor(total, dtype=acc.dtype, device=acc.device))
    return acc
