"""Near swap: elements of the second ingredient where it is close to the first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..plugins import method


if TYPE_CHECKING:
    import torch


@method(elementwise=True, ingredients=2)
def nearswap(tensors: Iterable[torch.Tensor], weights: Sequence[float], *, t: float = 1e-3) -> torch.Tensor:
    """Move each element of the first tensor towards that of the second, the closer the two are.

    An element moves by `t` at most, and onto the other where they differ by less.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            One tensor for each weight, two at most.
        weights (`Sequence[float]`):
            Not used: the order of the ingredients matters.
        t (`float`, *optional*, defaults to 1e-3):
            Largest difference at which an element is replaced.

    Returns:
        `torch.Tensor`: the merged tensor; a single tensor is returned as it is.

    Source: mergekit's nearswap.
    """
    first, *others = tensors
    if not others:
        return first
    difference = others[0] - first
    # (t / |d|) d, which is bounded by the whole difference
    return first + difference.clamp(-t, t) if t >= 0 else first
