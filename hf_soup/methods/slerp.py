"""Spherical linear interpolation between two ingredients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..plugins import method
from ._sphere import as_vectors, directions, on_arc


if TYPE_CHECKING:
    import torch

NEARLY_PARALLEL = 0.9995  # cosine from which on the interpolation is linear


@method(ingredients=2)
def slerp(tensors: Iterable[torch.Tensor], weights: Sequence[float], *, t: float | None = None) -> torch.Tensor:
    """Interpolate between two tensors along the arc between their directions.

    Tensors with nearly the same or opposite directions are interpolated linearly.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            One tensor for each weight, two at most. Both are in memory at the same time.
        weights (`Sequence[float]`):
            Weight of each tensor; the share of the second is the position on the arc, unless `t` is given.
        t (`float`, *optional*):
            Position on the arc: 0 is the first ingredient, 1 the second.

    Returns:
        `torch.Tensor`: the tensor between the two; a single tensor is returned as it is.

    Source: Shoemake 1985, [Animating rotation with quaternion curves](https://doi.org/10.1145/325334.325242).
    """
    import torch

    first, *others = tensors
    if not others:
        return first
    (second,) = others
    if t is None:
        t = weights[1] / sum(weights)
    unit_first, unit_second = directions(as_vectors([first, second]))
    cosine = (unit_first * unit_second).sum().clamp(-1, 1)
    if abs(cosine) > NEARLY_PARALLEL:
        return torch.lerp(first, second, t)
    return on_arc(first, second, torch.acos(cosine), t)
