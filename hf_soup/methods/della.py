"""DELLA: drop small elements of the changes more often than large ones, and elect signs as TIES does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..plugins import method
from ._changes import add_changes, check_probabilities, drop_small, stack_changes


if TYPE_CHECKING:
    import torch


@method(absolute_weights=True)
def della(
    tensors: Iterable[torch.Tensor],
    weights: Sequence[float],
    *,
    base: torch.Tensor,
    rng: torch.Generator,
    density: float | Sequence[float] = 1.0,
    epsilon: float = 0.15,
    rescale: bool = True,
    scale: float = 1.0,
    normalize: bool = True,
) -> torch.Tensor:
    """Add the changes after elements are dropped at random, small ones more often, with one elected sign for each.

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
        epsilon (`float`, *optional*, defaults to 0.15):
            Difference between the probability of the largest element of a row and `density`.
        rescale (`bool`, *optional*, defaults to `True`):
            Whether the kept elements of a change are multiplied so that the sum of the magnitudes stays the same.
        scale (`float`, *optional*, defaults to 1.0):
            Factor by which the merged change is multiplied.
        normalize (`bool`, *optional*, defaults to `True`):
            Whether the sum is divided by the sum of the weights of those changes that are added.

    Returns:
        `torch.Tensor`: the merged tensor, with the shape and type of `base`.

    Raises:
        [`RecipeError`]: if `density`, or `density` plus or minus `epsilon`, is not between 0 and 1.

    Sources: Deep et al. 2024, [DELLA-Merging](https://arxiv.org/abs/2406.11617), section 3.
        Election of signs: [TIES](https://arxiv.org/abs/2306.01708).
    """
    check_probabilities("della", density, epsilon)
    changes = stack_changes(
        tensors,
        len(weights),
        base,
        lambda change, own: drop_small(change, own, epsilon, rng, rescale=rescale),
        density,
    )
    return add_changes(base, changes, weights, elect=True, normalize=normalize, scale=scale)
