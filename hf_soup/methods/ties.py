"""TIES: trim small changes, elect a sign for each number, and average the changes that agree with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from ..errors import RecipeError


if TYPE_CHECKING:
    import torch


def ties(
    tensors: Iterable[torch.Tensor],
    weights: Sequence[float],
    *,
    base: torch.Tensor,
    density: float = 0.2,
    scale: float = 1.0,
    election: Literal["weighted", "unweighted"] = "weighted",
) -> torch.Tensor:
    """Add to the base what the ingredients changed, trimmed, with one sign for each number.

    With equal weights both elections give the same. The weights are relative to each other in both.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            One for each weight; the changes of all of them are held in memory at once.
        weights (`Sequence[float]`):
            Relative to each other; what they do to the election is said there.
        base (`torch.Tensor` of the same shape):
            What the ingredients were fine-tuned from.
        density (`float`, *optional*, defaults to 0.2):
            Part of the changes of each tensor that is kept, the largest ones; 0 to 1. Above 0 at least one number of
            each tensor is kept, so that small tensors do not stay as they are in the base; 0 gives the base.
        scale (`float`, *optional*, defaults to 1.0):
            Factor that multiplies the merged change.
        election (`str`, *optional*, defaults to `"weighted"`):
            `"weighted"` elects signs on the weighted changes and divides by the sum of the weights that agree, as
            mergekit does; weights may not be negative. `"unweighted"` elects them on the changes alone and divides by
            the number of ingredients that agree, as PEFT does.

    Returns:
        `torch.Tensor`: of the same shape and type.

    Raises:
        [`RecipeError`]: if `density` is not between 0 and 1, there is no such election, or a weight is negative where
            the election is weighted.

    Source: Yadav et al. 2023, [TIES-Merging](https://arxiv.org/abs/2306.01708), algorithm 1, which has no weights.
    """
    import torch

    if not 0 <= density <= 1:
        raise RecipeError(f'the method "ties" keeps a part of the changes: density is between 0 and 1, not {density}.')
    if election not in ("weighted", "unweighted"):
        raise RecipeError(f'the method "ties" has the elections "weighted" and "unweighted", not {election!r}.')
    if election == "weighted" and min(weights) < 0:  # the weights that agree could cancel, or turn the elected sign
        raise RecipeError(
            f'the method "ties" divides by the weights that agree, so none may be negative, as in {list(weights)}. '
            'election="unweighted" takes negative weights.'
        )
    # Step 1, trim: the task vectors tau_t = theta_t - theta_init, of which the largest numbers are kept; (k, ...).
    changes = torch.stack([_trim(tensor - base, density) for tensor in tensors])
    # one weight for each task vector, in a shape that multiplies it: (k, 1, ...)
    column = torch.tensor(weights, dtype=base.dtype, device=base.device).reshape(-1, *[1] * base.dim())
    # Step 2, elect: gamma_m = sgn(sum_t tau_t), of weighted changes or of the changes alone. Step 3, merge: tau_m, the
    # mean of those changes whose sign is gamma_m; the paper's has no weights.
    if election == "weighted":
        changes *= column
        agree = _agreement(changes)
        divisor = (column * agree).sum(dim=0)
        divisor[divisor == 0] = 1  # where nothing is kept
    else:
        agree = _agreement(changes)
        changes *= column * (len(weights) / sum(weights))  # of equal weights each is 1
        divisor = agree.sum(dim=0).clamp(min=1)
    # theta_m = theta_init + lambda * tau_m
    return base + scale * (changes * agree).sum(dim=0) / divisor


def _agreement(changes: torch.Tensor) -> torch.Tensor:
    """Which changes have the sign of their sum, number by number: (k, ...)."""
    import torch

    # A sum of zero counts as positive, as in PEFT. A change that was trimmed is zero, has no sign and never agrees.
    return changes.sign() == torch.where(changes.sum(dim=0) >= 0, 1, -1)


def _trim(change: torch.Tensor, density: float) -> torch.Tensor:
    """The largest `density` of a tensor's numbers by magnitude, zero elsewhere."""
    import torch

    count = int(density * change.numel())  # the paper's top k %
    if density > 0 and change.numel():
        count = max(count, 1)
    largest = change.abs().flatten().topk(count).indices
    mask = torch.zeros(change.numel(), dtype=torch.bool, device=change.device)
    mask[largest] = True
    return change * mask.reshape(change.shape)
