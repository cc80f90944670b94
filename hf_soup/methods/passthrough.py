"""A single ingredient, multiplied by a factor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..plugins import method


if TYPE_CHECKING:
    import torch


@method(elementwise=True, ingredients=1)
def passthrough(tensors: Iterable[torch.Tensor], weights: Sequence[float], *, scale: float = 1.0) -> torch.Tensor:
    """Take the tensor of a single ingredient, and multiply it by a factor.

    Args:
        tensors (`Iterable[torch.Tensor]`):
            A single tensor.
        weights (`Sequence[float]`):
            Not used.
        scale (`float`, *optional*, defaults to 1.0):
            Factor.

    Returns:
        `torch.Tensor`: the tensor times the factor.
    """
    (tensor,) = tensors
    return tensor * scale
