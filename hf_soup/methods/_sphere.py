"""Parts that methods on a sphere share: tensors as a direction and a length."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal


if TYPE_CHECKING:
    import torch

Vectors = Literal["tensor", "row", "column"]  # what is one vector
SMALLEST = 1e-8  # lengths and angles below it count as zero


def as_vectors(tensors: Iterable[torch.Tensor], per: Vectors = "tensor") -> torch.Tensor:
    """The tensors as vectors along the last dimension: `(k, vectors, elements)`.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            Tensors to stack.
        per (`str`, *optional*, defaults to `"tensor"`):
            Whether a vector is a whole tensor, a row, or a column; tensors with fewer than two dimensions are whole
            vectors.
    """
    import torch

    stacked = torch.stack(list(tensors))
    if per == "tensor" or stacked.dim() < 3:
        return stacked.reshape(len(stacked), 1, -1)
    if per == "row":
        return stacked.reshape(len(stacked), -1, stacked.shape[-1])
    return stacked.movedim(1, -1).reshape(len(stacked), -1, stacked.shape[1])


def as_tensor(vectors: torch.Tensor, like: torch.Tensor, per: Vectors = "tensor") -> torch.Tensor:
    """The vectors of one tensor in the shape of `like`; reverses [`as_vectors`]."""
    if per == "column" and like.dim() > 1:
        return vectors.reshape(*like.shape[1:], like.shape[0]).movedim(-1, 0)
    return vectors.reshape(like.shape)


def lengths(vectors: torch.Tensor) -> torch.Tensor:
    """The length of each vector: `(..., 1)`."""
    return vectors.norm(dim=-1, keepdim=True)


def directions(vectors: torch.Tensor) -> torch.Tensor:
    """Each vector divided by its length; zero where it has none."""
    return vectors / lengths(vectors).clamp(min=SMALLEST**2)


def on_arc(first: torch.Tensor, second: torch.Tensor, angle: torch.Tensor, t: float) -> torch.Tensor:
    """The point between two vectors with this angle: sin((1 - t) a) / sin(a) x + sin(t a) / sin(a) y."""
    import torch

    return (torch.sin((1 - t) * angle) * first + torch.sin(t * angle) * second) / torch.sin(angle)


def is_plain(mean: torch.Tensor) -> bool:
    """Whether directions with this mean cancel, or are one direction, so that the plain mean is meant."""
    import torch

    length = lengths(mean)
    return bool(length < SMALLEST or length > 1 - 4 * torch.finfo(mean.dtype).eps)


def mean_of_vectors(vectors: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The first vector plus the mean of the differences from it, so that the mean of copies is the copy exactly."""
    mean: torch.Tensor = vectors[0] + (shares * (vectors - vectors[0])).sum(0)
    return mean
