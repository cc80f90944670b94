"""Arcee Fusion: only the most important changes of one ingredient are added to the base model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..plugins import method
from ._changes import stack_changes


if TYPE_CHECKING:
    import torch


@method(ingredients=1)
def arcee_fusion(tensors: Iterable[torch.Tensor], weights: Sequence[float], *, base: torch.Tensor) -> torch.Tensor:
    """Add those changes of the ingredient whose importance is an outlier.

    The importance of an element is the magnitude of its change, times the Kullback-Leibler divergence between the
    softmax of its row and that of the base model. Kept are those above the median plus 1.5 interquartile ranges.

    Args:
        tensors (`Iterable[torch.Tensor]`):
            A single tensor.
        weights (`Sequence[float]`):
            Not used.
        base (`torch.Tensor` of the same shape):
            Tensor of the base model.

    Returns:
        `torch.Tensor`: the merged tensor, with the shape and type of `base`.

    Source: mergekit's Arcee Fusion.
    """
    (change,) = stack_changes(tensors, len(weights), base)
    if not base.numel():
        return base
    new, old = (value.reshape(1) if value.dim() == 0 else value for value in (base + change, base))
    log_new, log_old = new.log_softmax(-1), old.log_softmax(-1)
    divergence = (log_new.exp() * (log_new - log_old)).sum(-1, keepdim=True)
    importance = change.abs() * divergence.reshape(change.shape if base.dim() == 0 else divergence.shape)
    low, middle, high = _quartiles(importance)
    return base + change * (importance >= middle + 1.5 * (high - low))


def _quartiles(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The quartiles of all elements, interpolated linearly; torch's own function takes 16 million at most."""
    ordered = values.flatten().sort().values
    found = []
    for share in (0.25, 0.5, 0.75):
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        found.append(ordered[low] + (ordered[high] - ordered[low]) * (place - low))
    return found[0], found[1], found[2]
