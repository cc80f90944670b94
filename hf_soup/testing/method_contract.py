"""The contract of methods: what the rest of the package relies on, to be checked in tests."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..plugins import asks_for, method_traits
from .promises import Promises


if TYPE_CHECKING:
    import torch

WEIGHTS = (1.0, 2.0, 0.5)  # of the three tensors with which methods are tested
NUMBER = 20  # of elements of the tensors that come in pieces


def check_method(function: Callable[..., Any]) -> None:
    """Check that a method keeps the promises that merging relies on.

    A method documents its parameters, returns one tensor with the shape and type of its inputs, returns the same
    result for the same input, treats weights as relative to each other unless it declares otherwise, and does not
    change its inputs. It is given as many tensors as it declares, three at most. Copies of one
    tensor give that tensor (for a method with a base model, copies of the base model give the base model). A method
    that asks for `out` or is declared elementwise keeps what `hf_soup.methods` says about that.

    Args:
        function (`Callable`):
            The method, `f(tensors, weights, *, ...) -> Tensor`.

    Raises:
        [`AssertionError`]: if a promise is broken; the message names the method and the promise, and says what was
            returned.
    """
    promises = Promises("method", function)
    promises.check_documented()
    method = _Method(function, promises)
    if _has_optional_base(function):
        _check_method_for(_Method(function, promises, with_base=False))
    _check_method_for(method)
    # Only such methods are ever given pieces of a tensor; random numbers are drawn for whole tensors.
    comes_in_pieces = asks_for(function, "out") or method_traits(function).elementwise
    if comes_in_pieces and not asks_for(function, "rng"):
        _check_pieces(method)


def _has_optional_base(function: Callable[..., Any]) -> bool:
    """Whether a method takes a base model if there is one."""
    parameter = inspect.signature(function).parameters.get("base")
    return parameter is not None and parameter.default is not parameter.empty


def _check_method_for(method: _Method) -> None:
    """Check the promises of every method, for tensors of several shapes and types."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        for shape in ((), (3,), (4, 5), (0, 2)):  # a single number and an empty tensor as well
            if method.importance != "gram" or len(shape) == 2:  # which other tensors do not have
                _check_combination(method, shape, dtype, generator)


class _Method:
    """A method that is called with the arguments of a merge, and whose results are checked at once.

    Args:
        function (`Callable`):
            The method.
        promises ([`Promises`]):
            Says which promise was broken.
        with_base (`bool`, *optional*, defaults to `True`):
            Whether the tensor of a base model is given, where the method takes one.
    """

    def __init__(self, function: Callable[..., Any], promises: Promises, *, with_base: bool = True):
        self.promises = promises
        self.weights = WEIGHTS[: method_traits(function).ingredients]
        self.absolute_weights = method_traits(function).absolute_weights
        self.importance = method_traits(function).importance
        self._function = function
        self._with_base = with_base

    def asks_for(self, name: str) -> bool:
        """Whether the method is given what a parameter of this name stands for."""
        return asks_for(self._function, name) and (name != "base" or self._with_base)

    def __call__(
        self, tensors: Sequence[torch.Tensor], weights: Sequence[float], base: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """The result, which has to be one tensor like the inputs; the method may not change these."""
        import torch

        inputs = [*tensors, base]
        before = [tensor.clone() for tensor in inputs]
        out = torch.empty(base.shape, dtype=dtype)
        given = f"for {len(tensors)} tensors of shape {tuple(base.shape)} and type {dtype}"
        result = self.combine(iter(tensors), weights, base, out, given)
        names = [*(f"tensor {place}" for place in range(1, len(tensors) + 1)), "the tensor of the base model"]
        for name, tensor, copy in zip(names, inputs, before, strict=True):
            if not torch.equal(tensor, copy):
                outcome = f"changed its inputs: {name} was {copy} and became {tensor}"
                self.promises.broken("leave its inputs as they are", outcome)
        if not isinstance(result, torch.Tensor):
            self.promises.broken_by_value("return one torch.Tensor", result, given)
        if result.dtype != dtype:
            promise = f"keep the type of the tensors, {dtype}"
            self.promises.broken(promise, f"returned a tensor of type {result.dtype} {given}")
        if result.shape != base.shape:
            promise = f"keep the shape of the tensors, {tuple(base.shape)}"
            self.promises.broken(promise, f"returned a tensor of shape {tuple(result.shape)} {given}")
        return result

    def combine(
        self,
        tensors: Iterable[torch.Tensor],
        weights: Sequence[float],
        base: torch.Tensor,
        out: torch.Tensor,
        given: str,
    ) -> Any:
        """The method's result for the arguments that it requests."""
        import torch

        provided = {
            "base": base,
            "out": out,
            "rng": torch.Generator().manual_seed(0),
            "importance": [self._statistics_like(base, place) for place in range(len(weights))],
        }
        asked = {name: value for name, value in provided.items() if self.asks_for(name)}
        hint = "`tensors` is an iterator that yields one tensor for each weight, once"
        with self.promises.raising(f"combine tensors ({hint})", given):
            return self._function(tensors, weights, **asked)

    def _statistics_like(self, tensor: torch.Tensor, place: int) -> torch.Tensor:
        """Statistics such as the method gets for a tensor: numbers above 0 like it, or a Gram matrix of its inputs."""
        numbers = (tensor + place).abs() + 1  # of each element its own, whichever piece it is in
        return numbers.T @ numbers if self.importance == "gram" else numbers


def _check_combination(
    method: _Method, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    """Check the promises of every method, with tensors of one shape and type."""
    import torch

    tensors = [torch.randn(shape, generator=generator, dtype=dtype) for _ in method.weights]
    base = torch.randn(shape, generator=generator, dtype=dtype)
    # Copied, since a method may return one of its inputs.
    result = method(tensors, method.weights, base, dtype).clone()
    again = method(tensors, method.weights, base, dtype)
    if not torch.equal(result, again):
        method.promises.broken("return the same result for the same input", f"returned {result} and then {again}")
    twice = tuple(2 * weight for weight in method.weights)
    doubled = method(tensors, twice, base, dtype)
    if not method.absolute_weights and not torch.allclose(result, doubled):
        outcome = (
            f"does not take weights as relative: it returned {result} for {method.weights} and {doubled} for {twice}"
        )
        method.promises.broken("depend only on the ratios of the weights", outcome)
    # With few bits, the sum of three copies is exact, so the result has to equal the copy.
    copy = tensors[0].to(torch.bfloat16).to(dtype)
    number = len(method.weights)
    of_copies = method([copy] * number, (1.0,) * number, copy, dtype)
    if not torch.equal(of_copies, copy):
        promise = "return a tensor for copies of it"
        if method.asks_for("base"):
            promise = "return the base model for copies of the base model"
        method.promises.broken(promise, f"returned {of_copies} for {number} copies of {copy}")


def _check_pieces(method: _Method) -> None:
    """Check the promises of a method that asks for `out` or is declared elementwise."""
    import torch

    generator = torch.Generator().manual_seed(0)
    # Tensors of a checkpoint in bfloat16, and the same tensors in the type that they are averaged in.
    tensors = [torch.randn(NUMBER, generator=generator).to(torch.bfloat16) for _ in method.weights]
    wide = [tensor.float() for tensor in tensors]
    base = wide[0] * 2
    whole = method(wide, method.weights, base, torch.float32)
    pieces = []
    for piece in (slice(0, 7), slice(7, NUMBER)):
        pieces.append(method([tensor[piece] for tensor in wide], method.weights, base[piece], torch.float32))
    joined = torch.cat(pieces)
    if not torch.equal(joined, whole):
        promise = "work in pieces, element by element, because it asks for `out` or is declared elementwise"
        method.promises.broken(promise, f"returned {joined} for the pieces of a tensor and {whole} for all of it")
    if method.asks_for("out"):
        _check_out(method, tensors, base, whole)


def _check_out(method: _Method, tensors: Sequence[torch.Tensor], base: torch.Tensor, whole: torch.Tensor) -> None:
    """Check the promises of a method that writes its result into `out`.

    Args:
        method ([`_Method`]):
            The method.
        tensors (`Sequence[torch.Tensor]`):
            Tensors of shape `(20,)` in bfloat16.
        base (`torch.Tensor`):
            The tensor of the base model, in float32.
        whole (`torch.Tensor`):
            The result for the same tensors in float32, each in memory of its own.
    """
    import torch

    buffer, out = torch.empty(NUMBER), torch.empty(NUMBER)

    def in_one_buffer() -> Iterator[torch.Tensor]:
        """The first tensor as it is stored, the others one after the other in the same memory, as in a merge."""
        first, *others = tensors
        yield first
        for tensor in others:
            yield buffer.copy_(tensor)

    given = "for a first tensor in bfloat16 and others that come in one buffer"
    result = method.combine(in_one_buffer(), method.weights, base, out, given)
    if result is not out:
        method.promises.broken_by_value("return `out`, because it asks for it", result, given)
    if not torch.equal(result, whole):
        problem = "keeps tensors, or does not widen the first to `out`"
        outcome = f"{problem}: it returned {result} instead of {whole} {given}"
        method.promises.broken("use one tensor at a time, because it asks for `out`", outcome)
    first, *others = [tensor.float() for tensor in tensors]
    spoiled = [first, *others[:-1], torch.full((NUMBER,), torch.nan)]
    hidden = method.combine(
        iter(spoiled), method.weights, base, torch.empty(NUMBER), "for a tensor of NaN among others"
    )
    if not hidden.isnan().all():
        promise = "pass NaN on to the result, because it asks for `out`"
        method.promises.broken(promise, f"hides NaN: it returned {hidden} where the last tensor is NaN everywhere")
