"""Task arithmetic: the weighted changes of the ingredients are added to the base model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..plugins import method
from ._changes import add_changes, stack_changes


if TYPE_CHECKING:
    import torch


@method(elementwise=True, absolute_weights=True)
def task_arithmetic(
    tensors: Iterable[torch.Tensor],
    weights: Sequence[float],
    *,
    base: torch.Tensor,
    scale: float = 1.0,
    normalize: bool = False,
) -> torch.Tensor:
    """Add the weighted changes of the ingredients to the base model.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            One tensor for each weight. The changes of all of them are in memory at the same time.
        weights (`Sequence[float]`):
            Weight of each change. A weight is a factor unless `normalize` is set; a negative one removes a change.
        base (`torch.Tensor` of the same shape):
            Tensor of the base model that the ingredients were fine-tuned from.
        scale (`float`, *optional*, defaults to 1.0):
            Factor by which the merged change is multiplied.
        normalize (`bool`, *optional*, defaults to `False`):
            Whether the sum of the changes is divided by the sum of the weights.

    Returns:
        `torch.Tensor`: the merged tensor, with the shape and type of `base`.

    Source: Ilharco et al. 2023, [Editing Models with Task Arithmetic](https://arxiv.org/abs/2212.04089), section 2.
    """
    changes = stack_changes(tensors, len(weights), base)
    return add_changes(base, changes, weights, elect=False, normalize=normalize, scale=scale)
