"""TIES: trim small changes, elect a sign for each element, and average the changes that agree with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from ..errors import RecipeError
from ._changes import add_changes, agreement, check_fraction, column, keep_largest, stack_changes


if TYPE_CHECKING:
    import torch


def ties(
    tensors: Iterable[torch.Tensor],
    weights: Sequence[float],
    *,
    base: torch.Tensor,
    density: float | Sequence[float] = 0.2,
    scale: float = 1.0,
    election: Literal["weighted", "unweighted"] = "weighted",
    normalize: bool = True,
) -> torch.Tensor:
    """Add the trimmed changes of the ingredients to the base model, with one elected sign for each element.

    Only the ratios of the weights matter. With equal weights both kinds of election give the same result.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            One tensor for each weight. The changes of all of them are in memory at the same time.
        weights (`Sequence[float]`):
            Weight of each tensor. `election` says how the weights enter.
        base (`torch.Tensor` of the same shape):
            Tensor of the base model that the ingredients were fine-tuned from.
        density (`float` or `Sequence[float]`, *optional*, defaults to 0.2):
            Fraction of the changes of each tensor that is kept, from 0 to 1, or one for each ingredient,
            which [`merge`] takes by name; the largest changes are kept. Above 0, at
            least one element of each tensor is kept, so that small tensors change too; 0 gives the base model.
        scale (`float`, *optional*, defaults to 1.0):
            Factor by which the merged change is multiplied.
        election (`str`, *optional*, defaults to `"weighted"`):
            `"weighted"` elects signs from the weighted changes and divides by the sum of the weights that agree, as
            mergekit does; it takes no negative weights. `"unweighted"` elects signs from the changes alone and divides
            by the number of ingredients that agree, as PEFT does.
        normalize (`bool`, *optional*, defaults to `True`):
            Whether the sum of the changes is divided. `False`, for a weighted election, adds them up with the weights
            as factors.

    Returns:
        `torch.Tensor`: the merged tensor, with the shape and type of `base`.

    Raises:
        [`RecipeError`]: if `density` is not between 0 and 1, `election` is unknown, or a weight is negative in a
            weighted election.

    Source: Yadav et al. 2023, [TIES-Merging](https://arxiv.org/abs/2306.01708), algorithm 1, which has no weights.
    """
    check_fraction("ties", "density", density)
    if election not in ("weighted", "unweighted"):
        raise RecipeError(f'the method "ties" knows the elections "weighted" and "unweighted", not {election!r}.')
    # Step 1, trim: the task vectors tau_t = theta_t - theta_init, of which the largest elements are kept; (k, ...).
    changes = stack_changes(tensors, len(weights), base, lambda change, own: keep_largest(change, own), density)
    # Step 2, elect: gamma_m = sgn(sum_t tau_t), from weighted changes or from the changes alone. Step 3, merge:
    # tau_m, the mean of those changes whose sign is gamma_m; in the paper it has no weights.
    if election == "weighted":
        if normalize and min(weights) < 0:  # the weights that agree could cancel, or flip the elected sign
            raise RecipeError(
                f'the method "ties" divides by the weights that agree, so none may be negative: {list(weights)}. '
                'election="unweighted" takes negative weights, and normalize=False too.'
            )
        return add_changes(base, changes, weights, elect=True, normalize=normalize, scale=scale)
    agree = agreement(changes)
    changes *= column(weights, base) * (len(weights) / sum(weights))  # equal weights become 1
    # theta_m = theta_init + lambda * tau_m
    return base + scale * (changes * agree).sum(dim=0) / agree.sum(dim=0).clamp(min=1)
