"""Model breadcrumbs: drop the largest and the smallest elements of the changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..plugins import method
from ._changes import add_changes, check_fraction, drop_outliers, stack_changes


if TYPE_CHECKING:
    import torch


@method(absolute_weights=True)
def breadcrumbs(
    tensors: Iterable[torch.Tensor],
    weights: Sequence[float],
    *,
    base: torch.Tensor,
    density: float | Sequence[float] = 1.0,
    gamma: float = 0.01,
    scale: float = 1.0,
    normalize: bool = False,
) -> torch.Tensor:
    """Add the changes without their largest and smallest elements.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            One tensor for each weight. The changes of all of them are in memory at the same time.
        weights (`Sequence[float]`):
            Weight of each change, a factor unless `normalize` is set.
        base (`torch.Tensor` of the same shape):
            Tensor of the base model that the ingredients were fine-tuned from.
        density (`float` or `Sequence[float]`, *optional*, defaults to 1.0):
            Fraction of the elements of each change that is kept, from 0 to 1; or one for each ingredient,
            which [`merge`] takes by name.
        gamma (`float`, *optional*, defaults to 0.01):
            Fraction of the largest elements that is dropped first.
        scale (`float`, *optional*, defaults to 1.0):
            Factor by which the merged change is multiplied.
        normalize (`bool`, *optional*, defaults to `False`):
            Whether the sum is divided by the sum of the weights.

    Returns:
        `torch.Tensor`: the merged tensor, with the shape and type of `base`.

    Raises:
        [`RecipeError`]: if `density` or `gamma` is not between 0 and 1.

    Source: Davari and Belilovsky 2024, [Model Breadcrumbs](https://arxiv.org/abs/2312.06795), section 3.
    """
    check_fraction("breadcrumbs", "density", density)
    check_fraction("breadcrumbs", "gamma", gamma)
    changes = stack_changes(
        tensors, len(weights), base, lambda change, own: drop_outliers(change, own, gamma), density
    )
    return add_changes(base, changes, weights, elect=False, normalize=normalize, scale=scale)
