"""The planned operation on one tensor: combining it from given ingredients by a method, or copying it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

from ..checkpoints.reader import TensorSpec


if TYPE_CHECKING:
    import torch


class How(NamedTuple):
    """A method with its parameters and declared properties.

    Args:
        function (`functools.partial`):
            The method.
        additive (`bool`):
            Whether the method only adds up tensors, one after the other, as its parameter `out` promises.
        elementwise (`bool`):
            Whether the method may be applied to pieces of tensors.
        asks (`frozenset[str]`):
            Names of what the method asks for, such as `"base"` and `"rng"`.
    """

    function: functools.partial[torch.Tensor]
    additive: bool
    elementwise: bool
    asks: frozenset[str]


class CombineStep(NamedTuple):
    """A tensor of the result that a method combines from those of the ingredients.

    Args:
        spec (`TensorSpec`):
            Name, shape and type of the result.
        inputs (`tuple[int, ...]`):
            Indices of the ingredients to read, in recipe order, without those of weight 0.
        weights (`tuple[float, ...]`):
            Weight of each input.
        how ([`How`]):
            The method with its parameters.
        accumulator (`str`):
            The type to sum in: float32 for inputs of 16 bits and fewer, else float64.
        base (`bool`):
            Whether the base model's tensor is read as well.
        importance (`bool`):
            Whether the statistics of each input's tensor are read as well.
        orders (`tuple[tuple[int, ...] | None, ...]`):
            Order in which the rows of each input are taken, where they are classes in another order; mostly empty.
    """

    spec: TensorSpec
    inputs: tuple[int, ...]
    weights: tuple[float, ...]
    how: How
    accumulator: str
    base: bool = False
    importance: bool = False
    orders: tuple[tuple[int, ...] | None, ...] = ()


class CopyStep(NamedTuple):
    """A tensor of integers or booleans, which is copied from the first ingredient that has it.

    Args:
        spec (`TensorSpec`):
            Name, shape and type of the result.
        inputs (`tuple[int, ...]`):
            Indices of the ingredients that have the tensor, in recipe order. All of them are read, because they have
            to be equal.
        orders (`tuple[tuple[int, ...] | None, ...]`):
            Order of the rows of each input, as in [`CombineStep`].
    """

    spec: TensorSpec
    inputs: tuple[int, ...]
    orders: tuple[tuple[int, ...] | None, ...] = ()

    @property
    def weights(self) -> tuple[float, ...]:
        """Empty, because a copied tensor has no weights."""
        return ()

    @property
    def base(self) -> bool:
        """Always false: a base model's buffers are not compared with those of the ingredients."""
        return False


Step = CombineStep | CopyStep
