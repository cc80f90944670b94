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

    pairs = zip(tensors, weights, strict=True)
    tensor, weight = next(pairs)
    acc = torch.empty_like(tensor) if out is None else out
    acc.copy_(tensor)  # because inputs are not changed; into `out` it is widened at once
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
    """[`linear`] where the first tensor is a sum already, with the bits of a sum from scratch.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            A sum in the type to sum in, and what is added to it.
        weights (`Sequence[float]`):
            The first is not used.
        before (`float`):
            The sum of the weights of what was summed already.
        out (`torch.Tensor` of the same shape), normalize (`bool`, *optional*, defaults to `True`):
            As of [`linear`].
    """
    pairs = zip(tensors, weights, strict=True)
    acc = out.copy_(next(pairs)[0])
    return _add(acc, pairs, before, normalize)


def fused(
    tensors: Iterable[torch.Tensor], weights: Sequence[float], *, normalize: bool = True, out: torch.Tensor
) -> torch.Tensor:
    """[`linear`] in one pass for each tensor: faster, but rounded otherwise, so for gradients and never for a soup.

    Arguments are those of [`linear`].
    """
    total = sum(weights) if normalize else 1
    pairs = zip(tensors, weights, strict=True)
    tensor, weight = next(pairs)
    # each weight is divided instead of the sum, which spares a pass
    acc = out.copy_(tensor).mul_(weight / total)
    for tensor, weight in pairs:
        acc.add_(tensor, alpha=weight / total)
    return acc


def _add(
    acc: torch.Tensor, pairs: Iterable[tuple[torch.Tensor, float]], total: float, normalize: bool
) -> torch.Tensor:
    """Add weighted tensors to a sum whose weights have the sum `total`, and divide by the sum of all weights."""
    import torch

    for tensor, weight in pairs:
        if weight == 1:
            acc += tensor
        else:
            acc += tensor.to(acc.dtype) * weight  # widened first: in its own type the product would be rounded
        total += weight
    if normalize:
        # by a tensor: CUDA would multiply by the reciprocal of a plain number, which rounds twice
        acc.div_(torch.tensor(total, dtype=acc.dtype, device=acc.device))
    return acc
