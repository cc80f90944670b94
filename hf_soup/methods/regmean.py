"""RegMean: linear layers whose outputs are nearest to those of the ingredients on the data of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..plugins import method
from ._changes import check_fraction
from .linear import linear


if TYPE_CHECKING:
    import torch

# Of the trace, added to the diagonal: directions without data stay at the mean of the ingredients. It is far above the
# rounding errors of Gram matrices, which are sums in float32. Repeating the solution takes its effect back where there
# is data (iterated Tikhonov regularisation).
RIDGE, REPEATED = 1e-5, 3


@method(importance="gram")
def regmean(
    tensors: Iterable[torch.Tensor],
    weights: Sequence[float],
    *,
    importance: Sequence[torch.Tensor],
    shrink: float = 0.9,
) -> torch.Tensor:
    """Solve the least-squares problem `min_W sum_i w_i |X_i W' - X_i W_i'|^2`, with the inputs X_i of ingredient i.

    It applies to the weights of linear layers. Other tensors, biases included, are averaged plainly.

    Args:
        tensors (`Iterable[torch.Tensor]` of shape `(outputs, inputs)`):
            One tensor for each weight. All of them are in memory at the same time.
        weights (`Sequence[float]`):
            Factor of each ingredient's data. Only their ratios matter.
        importance (`Sequence[torch.Tensor]` of shape `(inputs, inputs)`):
            Gram matrix X'X of the inputs of each ingredient, as [`importance`] sums it up.
        shrink (`float`, *optional*, defaults to 0.9):
            Factor of the elements of the Gram matrices that are not on the diagonal, from 0 to 1. With 1 the result is
            the solution of all data together, with 0 a mean that is weighted by the size of each input. Directions in
            which there is no data stay at the mean of the tensors.

    Returns:
        `torch.Tensor`: the merged weight.

    Raises:
        [`RecipeError`]: if `shrink` is not between 0 and 1.

    Source: Jin et al. 2023, [Dataless knowledge fusion](https://arxiv.org/abs/2212.09849), equation 2 and section 3.
    """
    import torch

    check_fraction("regmean", "shrink", shrink)
    tensors = list(tensors)
    mean = linear(tensors, weights)
    total = torch.zeros_like(importance[0], dtype=torch.float64)
    target = torch.zeros(mean.shape[::-1], dtype=torch.float64, device=mean.device)
    # The solution is found relative to the mean, from which data that says nothing does not move it.
    for tensor, weight, own in zip(tensors, weights, importance, strict=True):
        gram = shrink * own.double()
        gram.diagonal().copy_(own.diagonal())
        gram *= weight / sum(weights)
        total += gram
        target += gram @ (tensor - mean).double().T
    damped = total.clone()
    damped.diagonal().add_(RIDGE * total.trace() or 1.0)
    factors = torch.linalg.lu_factor(damped)
    change = torch.zeros_like(target)
    for _ in range(REPEATED):
        change += torch.linalg.lu_solve(*factors, target - total @ change)
    return mean + change.T.to(mean.dtype)
