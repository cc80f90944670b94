"""A method bound to its parameters: how tensors of the same name are combined, for any weights. No files are read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.importance import Importance
from ..checkpoints.reader import AVERAGED
from ..errors import RecipeError, did_you_mean
from ..methods.linear import linear
from ..plugins import (
    PROVIDED,
    asks_for,
    check_params,
    checked_by_tensor,
    load_function,
    method_traits,
    needs_base,
    parameters,
    takes_number,
    takes_numbers,
)
from ..untrusted import one_line
from .steps import How
from .varied import is_by_ingredient, is_varied, values_by_ingredient, values_by_tensor


@dataclass(frozen=True)
class Averaging:
    """How tensors of the same name are combined, for any weights.

    Args:
        how ([`How`]):
            The method with the parameters that are the same for all tensors.
        varied (`Mapping[str, Any]`):
            Parameters that are given by module or by depth.
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
        max_memory (`int` or `str`, *optional*):
            Memory for tensors that are combined whole, as for [`merge`].
        candidates (`tuple[str, ...]`, *optional*):
            Names of all ingredients that may be mixed, by which parameters may be given.
        importance (`Mapping[str, Importance]`, *optional*):
            Ingredient -> statistics of its weights, for a method that asks for them.
    """

    how: How
    varied: Mapping[str, Any]
    normalize: bool
    dtype: str
    seed: int
    alignments: Mapping[str, tuple[int, ...]]
    base: Checkpoint | None
    settings: Checkpoint | None
    max_memory: int | str | None = None
    candidates: tuple[str, ...] = ()
    importance: Mapping[str, Importance] = field(default_factory=dict)

    def with_params(self, params: Mapping[str, float]) -> Averaging:
        """The same with other parameters of the method, which take precedence.

        Args:
            params (`Mapping[str, float]`):
                Name -> value, the same for all tensors.

        Raises:
            [`RecipeError`]: if the method takes no such parameter.
        """
        if not params:
            return self
        function = self.how.function.func
        declared = parameters(function)
        check_params(params, declared, f'the method "{function.__name__}"')
        own = {name: checked_by_tensor(declared[name], function, value) for name, value in params.items()}
        varied = {name: value for name, value in self.varied.items() if name not in own}
        return replace(self, how=_how(function, {**self.how.function.keywords, **own}), varied=varied)

    def how_by_tensor(self, weights: Mapping[str, Sequence[float]], ingredients: Sequence[str]) -> dict[str, How]:
        """The method with all parameters for each tensor.

        Args:
            weights (`Mapping[str, Sequence[float]]`):
                Name of each tensor -> the weight of each ingredient.
            ingredients (`Sequence[str]`):
                Names of the ingredients.

        Raises:
            [`RecipeError`]: if a parameter by module names none, or has no value for a tensor.
        """
        if not self.varied:
            return dict.fromkeys(weights, self.how)
        names = list(weights)
        values = {param: self._values_of(param, names, ingredients) for param in self.varied}
        same: dict[tuple[float | tuple[float, ...], ...], How] = {}  # tensors with these values are combined together
        hows = {}
        for name in names:
            own: dict[str, Any] = {}
            for param, by_tensor in values.items():
                value = by_tensor[name]
                if isinstance(value, tuple):  # ingredients of weight 0 are not read
                    value = tuple(each for each, weight in zip(value, weights[name], strict=True) if weight)
                own[param] = value
            key = tuple(own.values())
            if key not in same:
                same[key] = self.how._replace(function=functools.partial(self.how.function, **own))
            hows[name] = same[key]
        return hows

    def _values_of(
        self, param: str, names: Sequence[str], ingredients: Sequence[str]
    ) -> Mapping[str, float | tuple[float, ...]]:
        """The value of a varied parameter for each tensor; of each ingredient where it is given by name."""
        parameter = parameters(self.how.function.func)[param]
        value = self.varied[param]
        if not is_by_ingredient(value, self.candidates or ingredients):
            return values_by_tensor(param, value, names, parameter.default)
        if not takes_numbers(parameter):
            method = self.how.function.func.__name__
            raise RecipeError(f'the method "{method}" takes one {param} for all ingredients, not one for each.')
        return values_by_ingredient(param, value, ingredients, names, parameter.default)


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
    max_memory: int | str | None = None,
    candidates: tuple[str, ...] = (),
    importance: Mapping[str, Importance] | None = None,
) -> Averaging:
    """Bind a method to its parameters and to everything else that determines how tensors are averaged.

    Args:
        method (`str`), params (`Mapping`):
            The method by name, and its parameters.
        dtype (`str`, *optional*), seed (`int`, *optional*), alignments (`Mapping`, *optional*), settings
            (`Checkpoint`, *optional*), importance (`Mapping[str, Importance]`, *optional*):
            As of [`Averaging`].
        base (`Checkpoint`, *optional*):
            The base model, opened; it is left out if the method does not ask for it.

    Raises:
        [`RecipeError`]: if there is no such method or type, it takes no such parameter, or needs a base model.
    """
    how, varied = bind_method(method, params)
    check_dtype(dtype)
    if needs_base(method) and base is None:
        raise RecipeError(f'the method "{method}" needs what the ingredients were fine-tuned from: base_model=...')
    return Averaging(
        how=how,
        varied=varied,
        normalize=_normalizes(how),
        dtype=dtype,
        seed=seed,
        alignments=alignments or {},
        base=base if "base" in how.asks else None,
        settings=settings,
        max_memory=max_memory,
        candidates=candidates,
        importance=importance or {},
    )


def _normalizes(how: How) -> bool:
    """Whether a method divides by the sum of the weights."""
    default = parameters(how.function.func).get("normalize")
    if default is None:
        return not method_traits(how.function.func).absolute_weights
    return bool(how.function.keywords.get("normalize", default.default))


def bind_method(method: str, params: Mapping[str, Any]) -> tuple[How, dict[str, Any]]:
    """A method with the parameters that are the same for all tensors, and the parameters that differ.

    Raises:
        [`RecipeError`]: if there is no such method or it takes no such parameter.
    """
    function = load_function("method", method)
    declared = parameters(function)
    check_params(params, declared, f'the method "{method}"')
    same: dict[str, Any] = {}
    varied: dict[str, Any] = {}
    for name, value in params.items():
        checked_value = checked_by_tensor(declared[name], function, value)
        if takes_number(declared[name]) and is_varied(checked_value):
            varied[name] = checked_value
        else:
            same[name] = checked_value
    return _how(function, same), varied


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
