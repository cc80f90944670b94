"""Specs + recipe -> for each tensor: combine or copy, from whom, with what weight, into what type. Reads nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..checkpoints.check import CheckReport
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.labels import NO_CLASSES, classifier_modules, is_identity
from ..checkpoints.modules import assign_weights, class_tensors, group, own_prefix
from ..checkpoints.reader import AVERAGED, TensorSpec, widest
from ..display.tables import align
from ..errors import RecipeError, did_you_mean, listed
from ..methods.linear import linear
from ..plugins import PROVIDED, asks_for, check_params, checked, load_function, method_traits, parameters
from ..types import Mixture
from ..untrusted import one_line
from .steps import CombineStep, CopyStep, How, Step


# Sums that cancel to less than this part of what went in are zero but for rounding.
CANCELLED = 1e-12
# The largest weight of a row: beyond, sums in float32 overflow or lose everything, and weights are relative anyway.
LEAST_WEIGHT, MOST_WEIGHT = 1e-20, 1e20


class Plan(NamedTuple):
    """What a merge will do, tensor by tensor.

    Args:
        steps (`tuple[Step, ...]`):
            Sorted by name.
        names (`tuple[str, ...]`):
            The ingredients, in recipe order.
        seed (`int`):
            For methods that draw random numbers.
        base (`Checkpoint`, *optional*):
            The base model, where the method needs one. Tensors that it lacks are averaged plainly.
        settings (`Checkpoint`):
            The ingredient that gives the result its configuration and files: the one that the recipe names, or the
            first.
        labels (`tuple[str, ...]`):
            Names of the soup's classes; empty for models without classes.
        bytes_read (`int`):
            How many bytes the ingredients hold.
        report ([`CheckReport`]):
            What the check of the candidates found, with what there is to say of this plan among its notes.
    """

    steps: tuple[Step, ...]
    names: tuple[str, ...]
    seed: int
    base: Checkpoint | None
    settings: Checkpoint
    labels: tuple[str, ...]
    bytes_read: int
    report: CheckReport

    @property
    def specs(self) -> list[TensorSpec]:
        """The tensors that will come out."""
        return [step.spec for step in self.steps]

    @property
    def is_linear(self) -> bool:
        """Whether every tensor that is combined is a weighted mean or sum."""
        methods = [step.how.function.func for step in self.steps if isinstance(step, CombineStep)]
        return all(method is linear for method in methods)

    @property
    def nbytes(self) -> int:
        """How many bytes come out."""
        return sum(spec.nbytes for spec in self.specs)

    @property
    def parameters(self) -> int:
        """How many floating-point numbers come out."""
        return sum(spec.numel for spec in self.specs if spec.is_floating)

    def table(self) -> str:
        """What happens to each named module: the weight of each ingredient, 0 for one that is not read."""
        prefix = own_prefix(spec.name for spec in self.specs)
        groups: dict[tuple[str, ...], list[TensorSpec]] = {}
        for step in self.steps:
            cells = ["copied"] * len(self.names)
            if step.weights:
                given = dict(zip(step.inputs, step.weights, strict=True))
                cells = [f"{given.get(index, 0):g}" for index in range(len(self.names))]
            groups.setdefault((group(step.spec.name, prefix), step.spec.dtype, *cells), []).append(step.spec)
        lines = [["module", "type", *self.names, "tensors", "parameters"]]
        for (module, dtype, *cells), specs in groups.items():
            lines.append([module, dtype, *cells, str(len(specs)), f"{sum(spec.numel for spec in specs):,}"])
        return f"{align(lines)}\n\n{self.bytes_read / 1e6:,.1f} MB in, {self.nbytes / 1e6:,.1f} MB out"


@dataclass(frozen=True)
class Averaging:
    """How the tensors of one name become one, whatever the weights.

    Args:
        how ([`How`]):
            The method with its parameters.
        normalize (`bool`):
            Whether it divides by the sum of the weights.
        dtype (`str`):
            Of the floating-point tensors of the soup; `"auto"` is the widest among the ingredients, tensor by tensor.
        seed (`int`):
            For methods that draw random numbers.
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


def make_plan(
    mixture: Mixture,
    checkpoints: Sequence[Checkpoint],
    averaging: Averaging,
    report: CheckReport,
    *,
    base_inside: str | None = None,
) -> Plan:
    """Plan the average of a mixture of ingredients that were checked.

    Args:
        mixture ([`Mixture`]):
            What to average.
        checkpoints (`Sequence[Checkpoint]`):
            Its ingredients, opened, in its order.
        averaging ([`Averaging`]):
            How.
        report ([`CheckReport`]):
            What the check of these ingredients, or of more, has found.
        base_inside (`str`, *optional*):
            Name of the base model where it is one of the ingredients: it may lack tensors.

    Returns:
        [`Plan`]

    Raises:
        [`RecipeError`]: if the weights make no mean, or are of a module that is not there.
    """
    weights_by_tensor = assign_weights(checkpoints[0].specs, mixture.weights_by_module)
    _refuse_extreme(mixture)
    if averaging.normalize:
        _refuse_cancelled(mixture)
    steps = [_step(name, weights_by_tensor[name], averaging, checkpoints) for name in sorted(weights_by_tensor)]
    notes = list(report.notes)
    lacking = {step.spec.name for step in steps for item in checkpoints if step.spec.name not in item.specs}
    if lacking:
        what = f"{len(lacking)} tensors that {base_inside} lacks are those of the others"
        notes.append(f"{what}: {listed(sorted(lacking))}")
    if averaging.base is not None:
        plainly = [step.spec.name for step in steps if step.weights and not step.base]
        if plainly:
            notes.append(f"{len(plainly)} tensors that the base model lacks are averaged plainly: {listed(plainly)}")
    has_classes = not NO_CLASSES.search(report.architecture)
    return Plan(
        steps=_aligned(steps, averaging.alignments, checkpoints),
        names=mixture.names,
        seed=averaging.seed,
        base=averaging.base,
        settings=averaging.settings or checkpoints[0],
        labels=report.labels if has_classes else (),
        bytes_read=sum(spec.nbytes for item in checkpoints for spec in item.specs.values()),
        report=replace(report, notes=tuple(notes)),
    )


def find_settings(name: str, checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The ingredient that settings are taken from.

    Raises:
        [`RecipeError`]: if none is called so, with the nearest known name.
    """
    for item in checkpoints:
        if item.name == name:
            return item
    known = [item.name for item in checkpoints]
    raise RecipeError(f'take_from="{one_line(name)}": no ingredient is called so{did_you_mean(name, known)}')


def alignment_problems(first: Checkpoint, alignments: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """Why heads cannot be permuted as alignments say, if they cannot; for a report, which raises nothing.

    Args:
        first (`Checkpoint`):
            One of the ingredients, which have the same tensors.
        alignments (`Mapping[str, Sequence[int]]`):
            Ingredient -> the order in which its classes are taken.
    """
    try:
        tensors_to_permute(first, alignments)
    except RecipeError as error:
        return (str(error),)
    return ()


def check_dtype(dtype: str) -> None:
    """Refuse what is neither `"auto"` nor a floating-point type.

    Raises:
        [`RecipeError`]: with the nearest known name.
    """
    known = ["auto", *AVERAGED]
    if dtype not in known:
        raise RecipeError(f'there is no floating-point type "{one_line(dtype)}"{did_you_mean(dtype, known)}')


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
    """Bind a method to its parameters and to what else decides how tensors are averaged.

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
    known = parameters(function)
    check_params(params, known, f'the method "{method}"')
    return _how(function, {name: checked(known[name], function, value) for name, value in params.items()})


@functools.cache
def _plain_mean() -> How:
    return _how(linear, {})


def _how(function: Callable[..., Any], params: Mapping[str, Any]) -> How:
    asks = frozenset(name for name in PROVIDED if asks_for(function, name))
    additive = "out" in asks
    elementwise = (additive or method_traits(function).elementwise) and "rng" not in asks
    return How(functools.partial(function, **params), additive and elementwise, elementwise, asks)


def _refuse_extreme(mixture: Mixture) -> None:
    for prefix, weights in mixture.weights_by_module.items():
        largest = max(map(abs, weights))
        if not LEAST_WEIGHT <= largest <= MOST_WEIGHT:
            raise RecipeError(
                f"the weights {_shown(prefix, weights)} are too {'small' if largest < 1 else 'large'} to be "
                f"summed: the largest may lie between {LEAST_WEIGHT:g} and {MOST_WEIGHT:g}. Weights are relative to "
                f"each other, so divide all of them by {largest:g}."
            )


def _refuse_cancelled(mixture: Mixture) -> None:
    for prefix, weights in mixture.weights_by_module.items():
        if abs(sum(weights)) <= CANCELLED * sum(map(abs, weights)):
            raise RecipeError(
                f"the weights {_shown(prefix, weights)} sum to zero, and a mean divides by their sum. Use other "
                "weights, or normalize=False to take them as they are."
            )


def _shown(prefix: str, weights: Sequence[float]) -> str:
    return f"[{listed(map(str, weights))}]" + (f" of {one_line(prefix)!r}" if prefix else "")


def _step(name: str, row: Sequence[float], averaging: Averaging, checkpoints: Sequence[Checkpoint]) -> Step:
    first = checkpoints[0].specs[name]
    if not first.is_floating:  # copied from the first; all that have it are compared
        result = first._replace(file="", start=0, stored="")
        return CopyStep(result, tuple(index for index, item in enumerate(checkpoints) if name in item.specs))
    used = tuple(index for index, weight in enumerate(row) if weight != 0)
    for index in used:
        if name not in checkpoints[index].specs:  # a base model among them may lack some
            raise RecipeError(f"{checkpoints[index].name} lacks {name}: give it the weight 0 there.")
    dtypes = [checkpoints[index].specs[name].dtype for index in used]
    dtype = widest(dtypes) if averaging.dtype == "auto" else averaging.dtype
    is_wide = "float32" in dtypes or "float64" in dtypes
    base = averaging.base
    in_base = base is not None and name in base.specs and base.specs[name].shape == first.shape
    return CombineStep(
        TensorSpec(name, first.shape, dtype, subfolder=first.subfolder),
        used,
        tuple(row[index] for index in used),
        # a method of changes from the base model has nothing to work on where the base lacks the tensor
        how=averaging.how if base is None or in_base else _plain_mean(),
        accumulator="float64" if is_wide else "float32",
        base=in_base,
    )


def _aligned(
    steps: Sequence[Step], alignments: Mapping[str, tuple[int, ...]], checkpoints: Sequence[Checkpoint]
) -> tuple[Step, ...]:
    """Take the rows of the tensors that are classes in the orders of the alignments."""
    used = {item.name: alignments[item.name] for item in checkpoints if item.name in alignments}
    names = tensors_to_permute(checkpoints[0], used)
    orders = [used.get(item.name) for item in checkpoints]
    aligned = []
    for step in steps:
        if step.spec.name in names:
            step = step._replace(orders=tuple(orders[index] for index in step.inputs))
        aligned.append(step)
    return tuple(aligned)


def tensors_to_permute(first: Checkpoint, alignments: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """The tensors whose rows are the classes; none where names alone are matched."""
    counts = {len(order) for order in alignments.values() if not is_identity(order)}
    if not counts:
        return ()
    if len(counts) > 1:
        raise RecipeError(f"the alignments are of {sorted(counts)} classes; ingredients of one soup have as many.")
    return class_tensors(first.specs, counts.pop(), classifier_modules(first.config))
