"""Parts that methods on changes share: sparsify, elect signs, add. A change is a tensor less that of the base model.

Changes are stacked: `(k, ...)` for k ingredients. Weights are a column that broadcasts over them: `(k, 1, ...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from ..errors import RecipeError


if TYPE_CHECKING:
    import torch

TINY = 1e-7  # norms below it are not scaled


def stack_changes(
    tensors: Iterable[torch.Tensor],
    count: int,
    base: torch.Tensor,
    sparsify: Callable[[torch.Tensor, float], torch.Tensor] | None = None,
    density: float | Sequence[float] = 1.0,
) -> torch.Tensor:
    """The changes of all ingredients, each sparsified on its own.

    Args:
        tensors (`Iterable[torch.Tensor]` of one shape):
            Tensors of the ingredients.
        count (`int`):
            Number of them.
        base (`torch.Tensor` of the same shape):
            Tensor of the base model.
        sparsify (`Callable`, *optional*):
            Sets some elements of a change to zero, so that a given fraction is left.
        density (`float` or `Sequence[float]`, *optional*, defaults to 1.0):
            This fraction, or one for each ingredient.
    """
    import torch

    changes = torch.empty((count, *base.shape), dtype=base.dtype, device=base.device)
    for number, tensor in enumerate(tensors):
        torch.sub(tensor, base, out=changes[number])
        if sparsify is not None:
            own = density if isinstance(density, (int, float)) else density[number]
            changes[number] = sparsify(changes[number], own)
    return changes


def column(weights: Sequence[float], base: torch.Tensor) -> torch.Tensor:
    """The weights in a shape that broadcasts over stacked changes: `(k, 1, ...)`."""
    import torch

    return torch.tensor(weights, dtype=base.dtype, device=base.device).reshape(-1, *[1] * base.dim())


def add_changes(
    base: torch.Tensor,
    changes: torch.Tensor,
    weights: Sequence[float],
    *,
    elect: bool,
    normalize: bool,
    scale: float,
) -> torch.Tensor:
    """Add weighted changes to the base model.

    Args:
        base (`torch.Tensor`), weights (`Sequence[float]`):
            Tensor of the base model, and the weight of each change.
        changes (`torch.Tensor` of shape `(k, ...)`):
            The changes, which are multiplied by their weights in place.
        elect (`bool`):
            Whether only changes whose weighted sign is that of the sum are added (TIES).
        normalize (`bool`):
            Whether the sum is divided by the sum of the weights, of those that are added.
        scale (`float`):
            Factor by which the merged change is multiplied.

    Raises:
        [`RecipeError`]: if a weight is negative and the sum is divided by the weights that agree.
    """
    import torch

    if elect and normalize and min(weights) < 0:  # the weights that agree could cancel
        raise RecipeError(
            f"the method divides by the weights that agree, so none may be negative: {list(weights)}. With "
            "normalize=False they may be."
        )
    changes *= column(weights, base)
    merged = changes.sum(dim=0)
    if not elect:
        return base + scale * (merged / sum(weights) if normalize else merged)
    signs = _signs(merged)
    merged, divisor = torch.zeros_like(base), torch.zeros_like(base)
    for change, weight in zip(changes, weights, strict=True):  # one at a time, which saves memory
        agree = change.sign() == signs
        merged += change * agree
        divisor.add_(agree, alpha=weight)
    if normalize:
        merged /= divisor.masked_fill_(divisor == 0, 1)  # where no change is kept
    return base + scale * merged


def _signs(total: torch.Tensor) -> torch.Tensor:
    """The sign of each element of a sum of changes; zero counts as positive."""
    import torch

    return torch.where(total >= 0, 1, -1)


def agreement(changes: torch.Tensor) -> torch.Tensor:
    """Which changes have the sign of their sum, element by element: `(k, ...)`. A change of zero never agrees."""
    return changes.sign() == _signs(changes.sum(dim=0))


def check_fraction(method: str, name: str, value: float | Sequence[float]) -> None:
    """Raise an error for a value outside of 0 to 1.

    Raises:
        [`RecipeError`]: naming method and parameter.
    """
    lowest, highest = (value, value) if isinstance(value, (int, float)) else (min(value), max(value))
    if not 0 <= lowest <= highest <= 1:
        raise RecipeError(f'the method "{method}": {name} is between 0 and 1, not {value}.')


def check_probabilities(method: str, density: float | Sequence[float], epsilon: float) -> None:
    """Raise an error if the probabilities of [`drop_small`] are not between 0 and 1.

    Raises:
        [`RecipeError`]: naming method and parameter.
    """
    check_fraction(method, "density", density)
    for own in [density] if isinstance(density, (int, float)) else density:
        if own < 1:
            check_fraction(method, "density - epsilon", own - epsilon)
            check_fraction(method, "density + epsilon", own + epsilon)


def keep_largest(change: torch.Tensor, density: float) -> torch.Tensor:
    """Keep the largest elements by magnitude, a fraction `density` of them, but at least one above 0."""
    if density == 1:
        return change
    return _keep_ranks(change, change.numel() - _count(change, density), change.numel())


def drop_outliers(change: torch.Tensor, density: float, gamma: float) -> torch.Tensor:
    """Keep a fraction `density` of the elements below the largest fraction `gamma` by magnitude (Model breadcrumbs).

    Where less than `density` is left below the largest, fewer of the largest are dropped.
    """
    if density == 1:
        return change
    count = _count(change, density)
    start = max(change.numel() - int(gamma * change.numel()) - count, 0)
    return _keep_ranks(change, start, start + count)


def _count(change: torch.Tensor, density: float) -> int:
    """Number of elements to keep."""
    count = int(density * change.numel())  # the papers' top k %
    return max(count, 1) if density > 0 and change.numel() else count


def _keep_ranks(change: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Keep the elements whose ranks by magnitude are in a range; rank 0 is the smallest."""
    import torch

    mask = torch.zeros(change.numel(), dtype=torch.bool, device=change.device)
    magnitudes = change.abs().flatten()
    # selecting takes a third of the time of `topk` in order, and a sixth of that of sorting
    if stop < change.numel():
        magnitudes[magnitudes.topk(change.numel() - stop, sorted=False).indices] = -1
    mask[magnitudes.topk(stop - start, sorted=False).indices] = True
    return change * mask.reshape(change.shape)


def drop_random(change: torch.Tensor, density: float, rng: torch.Generator, *, rescale: bool) -> torch.Tensor:
    """Keep each element with the probability `density` (DARE)."""
    import torch

    if density == 1:
        return change
    mask = torch.rand(change.shape, generator=rng, dtype=change.dtype, device=change.device) < density
    return _kept(change, mask, rescale)


def drop_small(
    change: torch.Tensor, density: float, epsilon: float, rng: torch.Generator, *, rescale: bool
) -> torch.Tensor:
    """Keep larger elements of each row with a higher probability (DELLA).

    The probabilities rise with the rank in the row from `density - epsilon` to `density + epsilon`.
    """
    import torch

    if density == 1:
        return change
    rows = change.reshape(-1, change.shape[-1]) if change.dim() else change.reshape(1, 1)
    ranks = rows.abs().argsort(dim=1).argsort(dim=1).to(change.dtype)  # 0 is the smallest
    ranks = (ranks / max(rows.shape[1] - 1, 1)).reshape(change.shape)
    probability = density - epsilon + ranks * 2 * epsilon
    mask = torch.rand(change.shape, generator=rng, dtype=change.dtype, device=change.device) < probability
    return _kept(change, mask, rescale)


def _kept(change: torch.Tensor, mask: torch.Tensor, rescale: bool) -> torch.Tensor:
    """The elements of a mask, with `rescale` multiplied so that the sum of the magnitudes stays the same."""
    kept = change * mask
    if not rescale:
        return kept
    before, after = change.abs().sum(), kept.abs().sum()
    return kept * (before / after) if before >= TINY and after >= TINY else kept
