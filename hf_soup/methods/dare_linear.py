"""DARE: drop elements of the changes at random, and add what is left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..plugins import method
from ._changes import add_changes, check_fraction, drop_random, stack_changes


if TYPE_CHECKING:
    import torch


@method(absolute_weights=True)
def dare_linear(
    tensors: Iterable[torch.Tensor],
    weights: Sequence[float],
    *,
    base: torch.Tensor,
    rng: torch.Generator,
    density: float | Sequence[float] = 1.0,
    rescale: bool = True,
    scale: float = 1.0,
    normalize: bool = False,
) -> torch.Tensor:
    """Add the changes after a random part of their elements is dropped.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            One tensor for each weight. The changes of all of them are in memory at the same time.
        weights (`Sequence[float]`):
            Weight of each change, a factor unless `normalize` is set.
        base (`torch.Tensor` of the same shape):
            Tensor of the base model that the ingredients were fine-tuned from.
        rng (`torch.Generator`):
            Random numbers of this tensor.
        density (`float` or `Sequence[float]`, *optional*, defaults to 1.0):
            Expected fraction of the elements of each change that is kept, from 0 to 1; or one for each ingredient,
            which [`merge`] takes by name.
        rescale (`bool`, *optional*, defaults to `True`):
            Whether the kept elements of a change are multiplied so that the sum of the magnitudes stays the same.
        scale (`float`, *optional*, defaults to 1.0):
            Factor by which the merged change is multiplied.
        normalize (`bool`, *optional*, defaults to `False`):
            Whether the sum is divided by the sum of the weights.

    Returns:
        `torch.Tensor`: the merged tensor, with the shape and type of `base`.

    Raises:
        [`RecipeError`]: if `density` is not between 0 and 1.

    Source: Yu et al. 2024, [Language Models are Super Mario](https://arxiv.org/abs/2311.03099), section 3.
    """
    check_fraction("dare_linear", "density", density)
    changes = stack_changes(
        tensors, len(weights), base, lambda change, own: drop_random(change, own, rng, rescale=rescale), density
    )
    return add_changes(base, changes, weights, elect=False, normalize=normalize, scale=scale)
