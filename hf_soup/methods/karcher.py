"""The Karcher mean of the directions of several ingredients with their mean length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ._changes import column
from ._sphere import SMALLEST, as_tensor, as_vectors, directions, is_plain, lengths, mean_of_vectors


if TYPE_CHECKING:
    import torch


def karcher(
    tensors: Iterable[torch.Tensor], weights: Sequence[float], *, max_iter: int = 10, tol: float = 1e-5
) -> torch.Tensor:
    """Take the point of the sphere with the lowest weighted sum of squared angles to the tensors, and the mean length.

    With equal weights this is mergekit's method, which has no weights.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            One tensor for each weight. All of them are in memory at the same time.
        weights (`Sequence[float]`):
            Weight of each tensor. Only the ratios of the weights matter.
        max_iter (`int`, *optional*, defaults to 10):
            Maximum number of iterations.
        tol (`float`, *optional*, defaults to 1e-5):
            Length of a step below which the iteration ends, in radians.

    Returns:
        `torch.Tensor`: the merged tensor. Where the directions cancel, it is the weighted mean.

    Source: Karcher 1977, [Riemannian center of mass](https://doi.org/10.1002/cpa.3160300502); of weights, [arXiv
    2603.04972](https://arxiv.org/abs/2603.04972).
    """
    import torch

    given = list(tensors)
    vectors = as_vectors(given)
    shares = column(weights, vectors[0])
    shares = shares / shares.sum()
    units = directions(vectors)
    mean = (shares * units).sum(0)
    if is_plain(mean):
        return as_tensor(mean_of_vectors(vectors, shares), given[0])
    point = directions(mean)
    for _ in range(max_iter):
        cosines = (units * point).sum(-1, keepdim=True).clamp(-1, 1)
        angles = torch.acos(cosines)
        # the logarithm of each unit at the point: a vector along the sphere, as long as the angle
        factors = torch.where(angles > SMALLEST, angles / torch.sin(angles), 1.0)
        step = (shares * factors * (units - cosines * point)).sum(0)
        size = lengths(step)
        if size < tol:
            break
        point = directions(torch.cos(size) * point + torch.sin(size) * step / size)
    return as_tensor(point * (shares * lengths(vectors)).sum(0), given[0])
