"""A method bound to its parameters: how tensors of the same name are combined, for any weights. No files are read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.reader import AVERAGED
from ..errors import RecipeError, did_you_mean
from ..methods.linear import linear
from ..plugins import PROVIDED, asks_for, check_params, checked, load_function, method_traits, parameters
from ..untrusted import one_line
from .steps import How


@dataclass(frozen=True)
class Averaging:
    """How tensors of the same name are combined, for any weights.

    Args:
        how ([`How`]):
            The method with its parameters.
        normalize (`bool`):
            Whether the sum is divided by the sum of the weights.
        dtype (`str`):
            Type of the floating-point tensors of the soup; `"auto"` is the widest among the ingredients, tensor by
            tensor.
        seed (`int`):
            Seed for methods that draw random numbers.
        alignments (`Mapping[str, Sequence[int]]`):
            Ingredient -> the order in which its classes are taken.
        base (`Checkpoint`, *optional*):
            The base model, opened; none unless the method asks for it.
        settings (`Checkpoint`, *optional*):
            The checkpoint that gives the settings, if the user named one.
    """

    how: How
    normalize: bool
    dtype: str
    seed: int
    alignments: Mapping[str, tuple[int, ...]]
    base: Checkpoint | None
    settings: Checkpoint | None


def check_dtype(dtype: str) -> None:
    """Refuse what is neither `"auto"` nor a floating-point type.

    Raises:
        [`RecipeError`]: with the nearest known name.
    """
    dtypes = ["auto", *AVERAGED]
    if dtype not in dtypes:
        raise RecipeError(f'there is no floating-point type "{one_line(dtype)}"{did_you_mean(dtype, dtypes)}')


def bind_averaging(
    method: str,
    params: Mapping[str, Any],
    *,
    dtype: str = "auto",
    seed: int = 0,
    alignments: Mapping[str, tuple[int, ...]] | None = None,
    base: Checkpoint | None = None,
    settings: Checkpoint | None = None,
) -> Averaging:
    """Bind a method to its parameters and to everything else that determines how tensors are averaged.

    Args:
        method (`str`), params (`Mapping`):
            The method by name, and its parameters.
        dtype (`str`, *optional*), seed (`int`, *optional*), alignments (`Mapping`, *optional*), settings
            (`Checkpoint`, *optional*):
            As of [`Averaging`].
        base (`Checkpoint`, *optional*):
            The base model, opened; it is left out if the method does not ask for it.

    Raises:
        [`RecipeError`]: if there is no such method or type, it takes no such parameter, or needs a base model.
    """
    how = bind_method(method, params)
    check_dtype(dtype)
    needed = "base" in how.asks
    if needed and base is None:
        raise RecipeError(f'the method "{method}" needs what the ingredients were fine-tuned from: base_model=...')
    return Averaging(
        how=how,
        normalize=bool(params.get("normalize", True)),
        dtype=dtype,
        seed=seed,
        alignments=alignments or {},
        base=base if needed else None,
        settings=settings,
    )


def bind_method(method: str, params: Mapping[str, Any]) -> How:
    """A method with its parameters.

    Raises:
        [`RecipeError`]: if there is no such method or it takes no such parameter.
    """
    function = load_function("method", method)
    declared = parameters(function)
    check_params(params, declared, f'the method "{method}"')
    checked_params = {name: checked(declared[name], function, value) for name, value in params.items()}
    return _how(function, checked_params)


@functools.cache
def plain_mean() -> How:
    """The weighted mean, for tensors to which another method does not apply."""
    return _how(linear, {})


def _how(function: Callable[..., Any], params: Mapping[str, Any]) -> How:
    """A method with validated parameters, and the properties that its signature and decorator declare."""
    asks = frozenset(name for name in PROVIDED if asks_for(function, name))
    additive = "out" in asks
    # Random numbers are drawn per tensor: if a tensor were split, each piece would get the same ones.
    elementwise = (additive or method_traits(function).elementwise) and "rng" not in asks
    return How(functools.partial(function, **params), additive and elementwise, elementwise, asks)
