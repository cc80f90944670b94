"""The mean direction of several ingredients with their mean length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ._changes import column
from ._sphere import as_tensor, as_vectors, directions, is_plain, lengths, mean_of_vectors


if TYPE_CHECKING:
    import torch


def multislerp(
    tensors: Iterable[torch.Tensor], weights: Sequence[float], *, base: torch.Tensor | None = None
) -> torch.Tensor:
    """Take the weighted mean of the directions of the tensors, or of their changes, and the mean of their lengths.

    mergekit projects the directions onto the plane that touches the sphere in their mean, averages them there, and
    projects back; the average of these projections is zero, so that the result is the mean direction.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            One tensor for each weight. All of them are in memory at the same time.
        weights (`Sequence[float]`):
            Weight of each tensor. Only the ratios of the weights matter.
        base (`torch.Tensor` of the same shape, *optional*):
            Tensor of the base model, if one was given: its changes are averaged.

    Returns:
        `torch.Tensor`: the merged tensor. Where the directions cancel, it is the weighted mean.

    Source: mergekit's multislerp.
    """
    given = list(tensors)
    like = given[0]
    vectors = as_vectors(given if base is None else [tensor - base for tensor in given])
    shares = column(weights, vectors[0])
    shares = shares / shares.sum()
    mean = (shares * directions(vectors)).sum(0)
    length = (shares * lengths(vectors)).sum(0)
    merged = mean_of_vectors(vectors, shares) if is_plain(mean) else directions(mean) * length
    return as_tensor(merged, like) if base is None else base + as_tensor(merged, like)
