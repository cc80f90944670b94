"""Spherical linear interpolation between two ingredients, or between their changes, also row by row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from ..plugins import method
from ._sphere import as_tensor, as_vectors, directions, on_arc


if TYPE_CHECKING:
    import torch

PARALLEL = 1e-16  # squared sine below which vectors have one direction


@method(ingredients=2)
def nuslerp(
    tensors: Iterable[torch.Tensor],
    weights: Sequence[float],
    *,
    base: torch.Tensor | None = None,
    per: Literal["tensor", "row", "column"] = "tensor",
) -> torch.Tensor:
    """Interpolate between two tensors, or between two changes, along the arc between their directions.

    Unlike `slerp` it is linear only where the directions are the same or opposite to rounding.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            One tensor for each weight, two at most. Both are in memory at the same time.
        weights (`Sequence[float]`):
            Weight of each tensor; the share of the second is the position between them.
        base (`torch.Tensor` of the same shape, *optional*):
            Tensor of the base model, if one was given: its changes are interpolated.
        per (`str`, *optional*, defaults to `"tensor"`):
            Whether whole tensors are interpolated, or each `"row"` or `"column"` of a matrix by itself.

    Returns:
        `torch.Tensor`: the tensor between the two; a single tensor is returned as it is.

    Source: mergekit's NuSLERP.
    """
    import torch

    given = list(tensors)
    if len(given) == 1:
        return given[0]
    t = weights[1] / sum(weights)
    vectors = as_vectors(given if base is None else [tensor - base for tensor in given], per)
    first, second = vectors
    unit_first, unit_second = directions(vectors)
    cosine = (unit_first * unit_second).sum(-1, keepdim=True).clamp(-1, 1)
    arc = on_arc(first, second, torch.acos(cosine), t)
    linear = torch.lerp(first, second, t)
    merged = as_tensor(torch.where(1 - cosine**2 > PARALLEL, arc, linear), given[0], per)
    return merged if base is None else base + merged
