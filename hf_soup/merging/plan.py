"""Specs + recipe -> for each tensor: combine or copy, from whom, with what weight, into what type. Reads nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..checkpoints.check import CheckReport, check_checkpoints
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.labels import base_order_problem, classifier_modules, is_identity
from ..checkpoints.modules import assign_rows, class_tensors, group, own_prefix
from ..checkpoints.reader import AVERAGED, TensorSpec, widest
from ..checkpoints.settings import base_notes
from ..errors import IncompatibleError, RecipeError, did_you_mean, listed
from ..lookup import PROVIDED, asks_for, check_params, checked, load_function, method_traits, parameters
from ..methods.linear import linear
from ..tables import align
from ..types import Recipe
from ..untrusted import one_line


# Sums that cancel to less than this part of what went in are zero but for rounding.
CANCELLED = 1e-12
# The largest weight of a row: beyond, sums in float32 overflow or lose everything, and weights are relative anyway.
LEAST_WEIGHT, MOST_WEIGHT = 1e-20, 1e20


class How(NamedTuple):
    """A method with its parameters, and what it says of itself.

    Args:
        function (`functools.partial`):
            The method.
        additive (`bool`):
            Whether it only adds up tensors, one after the other, as its parameter `out` promises.
        elementwise (`bool`):
            Whether it may be applied to pieces of tensors.
        asks (`frozenset[str]`):
            What it wants to be given besides: `"base"`, `"rng"`.
    """

    function: functools.partial
    additive: bool
    elementwise: bool
    asks: frozenset[str]


class Step(NamedTuple):
    """What happens to one tensor.

    Args:
        spec (`TensorSpec`):
            Of the result: name, shape and type.
        inputs (`tuple[int, ...]`):
            Which ingredients are read, in recipe order; those of weight 0 are not.
        weights (`tuple[float, ...]`):
            Theirs. Empty where the tensor is copied (integer and boolean buffers).
        how ([`How`], *optional*):
            The tensors are combined; none where one is copied.
        accumulator (`str`):
            The type to sum in: float32 for inputs of 16 bits and fewer, else float64.
        base (`bool`):
            Whether the base model's tensor is read as well.
        orders (`tuple[tuple[int, ...] | None, ...]`):
            For each input the order in which its rows are taken, where they are classes in another order; mostly
            empty.
    """

    spec: TensorSpec
    inputs: tuple[int, ...]
    weights: tuple[float, ...] = ()
    how: How | None = None
    accumulator: str = "float64"
    base: bool = False
    orders: tuple[tuple[int, ...] | None, ...] = ()

    @property
    def copied(self) -> bool:
        """Whether the tensor is copied rather than combined."""
        return self.how is None


class Plan(NamedTuple):
    """What a merge will do, tensor by tensor.

    Args:
        steps (`tuple[Step, ...]`):
            Sorted by name.
        seed (`int`):
            For methods that draw random numbers.
        report ([`CheckReport`]):
            What the check of the ingredients found.
        base (`Checkpoint`, *optional*):
            The base model, where the method needs one. Tensors that it lacks are averaged plainly.
        settings (`Checkpoint`):
            The ingredient that gives the result its configuration and files: the one that the recipe names, or the
            first.
    """

    steps: tuple[Step, ...]
    seed: int
    report: CheckReport
    base: Checkpoint | None
    settings: Checkpoint

    @property
    def specs(self) -> list[TensorSpec]:
        """The tensors that will come out."""
        return [step.spec for step in self.steps]

    @property
    def nbytes(self) -> int:
        """How many bytes come out."""
        return sum(spec.nbytes for spec in self.specs)

    def table(self) -> str:
        """What happens to each named module: the weight of each ingredient, 0 for one that is not read."""
        names = self.report.names
        prefix = own_prefix(spec.name for spec in self.specs)
        groups: dict[tuple[str, ...], list[TensorSpec]] = {}
        for step in self.steps:
            given = dict(zip(step.inputs, step.weights, strict=True)) if step.weights else {}
            weights = [f"{given.get(index, 0):g}" for index in range(len(names))] if given else ["copied"] * len(names)
            groups.setdefault((group(step.spec.name, prefix), step.spec.dtype, *weights), []).append(step.spec)
        lines = [["module", "type", *names, "tensors", "parameters"]]
        for (module, dtype, *weights), specs in groups.items():
            lines.append([module, dtype, *weights, str(len(specs)), f"{sum(spec.numel for spec in specs):,}"])
        return f"{align(lines)}\n\n{self.report.nbytes / 1e6:,.1f} MB in, {self.nbytes / 1e6:,.1f} MB out"


def make_plan(
    recipe: Recipe,
    checkpoints: Sequence[Checkpoint],
    base: Checkpoint | None = None,
    *,
    settings: Checkpoint | None = None,
) -> Plan:
    """Plan a merge.

    Args:
        recipe ([`Recipe`]):
            What to make.
        checkpoints (`Sequence[Checkpoint]`):
            Its ingredients, opened, in recipe order.
        base (`Checkpoint`, *optional*):
            The base model, opened, for methods that need it.
        settings (`Checkpoint`, *optional*):
            The checkpoint that gives the settings, if the recipe names one that is none of its ingredients.

    Returns:
        [`Plan`]

    Raises:
        [`IncompatibleError`]: if the ingredients cannot be averaged, with every offender.
        [`RecipeError`]: if the method, its parameters, the type, the weights or the name to take settings from are
            wrong.
    """
    how, plain = bind_method(recipe), _how(linear, {})
    check_dtype(recipe.dtype)
    chosen = None
    if recipe.take_from is not None:
        chosen = find_settings(recipe.take_from, [*checkpoints, *([settings] if settings else [])])
    report = check_checkpoints(
        checkpoints, recipe.alignments, labels=recipe.labels, base=recipe.base_inside, settings=chosen
    )
    report.raise_for_problems()
    rows = assign_rows(checkpoints[0].specs, recipe.rows)
    _refuse_extreme(recipe)
    if recipe.params.get("normalize", True):
        _refuse_cancelled(recipe)
    if "base" not in how.asks:
        base = None
    elif base is None:
        raise RecipeError(
            f'the method "{recipe.method}" needs what the ingredients were fine-tuned from: base_model=...'
        )
    if base is not None:
        _refuse_base_labels(base, report.labels)
        report = replace(report, notes=(*report.notes, *base_notes(base, checkpoints[0])))
    steps = tuple(_step(name, rows[name], recipe.dtype, checkpoints, base) for name in sorted(rows))
    lacking = {step.spec.name: plain for step in steps if base is not None and step.weights and not step.base}
    steps = tuple(step._replace(how=lacking.get(step.spec.name, how)) if step.weights else step for step in steps)
    lacks = {step.spec.name for step in steps for item in checkpoints if step.spec.name not in item.specs}
    if lacks:
        note = f"{len(lacks)} tensors that {recipe.base_inside} lacks are those of the others: {listed(sorted(lacks))}"
        report = replace(report, notes=(*report.notes, note))
    if recipe.alignments:
        steps = _aligned(steps, recipe, checkpoints)
    if lacking:
        note = f"{len(lacking)} tensors that the base model lacks are averaged plainly: {listed(lacking)}"
        report = replace(report, notes=(*report.notes, note))
    return Plan(steps, recipe.seed, report, base, chosen or checkpoints[0])


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


def bind_method(recipe: Recipe) -> How:
    """The recipe's method with its parameters.

    Raises:
        [`RecipeError`]: if there is no such method or it takes no such parameter.
    """
    function = load_function("method", recipe.method)
    known = parameters(function)
    check_params(recipe.params, known, f'the method "{recipe.method}"')
    return _how(function, {name: checked(known[name], function, value) for name, value in recipe.params.items()})


def _how(function: Callable[..., Any], params: Mapping[str, Any]) -> How:
    asks = frozenset(name for name in PROVIDED if asks_for(function, name))
    additive = "out" in asks
    elementwise = (additive or method_traits(function).elementwise) and "rng" not in asks
    return How(functools.partial(function, **params), additive and elementwise, elementwise, asks)


def _refuse_extreme(recipe: Recipe) -> None:
    for prefix, row in recipe.rows.items():
        largest = max(map(abs, row))
        if not LEAST_WEIGHT <= largest <= MOST_WEIGHT:
            raise RecipeError(
                f"the weights {_shown(prefix, row)} are too {'small' if largest < 1 else 'large'} to be summed: the "
                f"largest may lie between {LEAST_WEIGHT:g} and {MOST_WEIGHT:g}. Weights are relative to each other, "
                f"so divide all of them by {largest:g}."
            )


def _refuse_cancelled(recipe: Recipe) -> None:
    for prefix, row in recipe.rows.items():
        if abs(sum(row)) <= CANCELLED * sum(map(abs, row)):
            raise RecipeError(
                f"the weights {_shown(prefix, row)} sum to zero, and a mean divides by their sum. Use other weights, "
                "or normalize=False to take them as they are."
            )


def _shown(prefix: str, row: Sequence[float]) -> str:
    return f"[{listed(map(str, row))}]" + (f" of {one_line(prefix)!r}" if prefix else "")


def _step(
    name: str, row: Sequence[float], dtype: str, checkpoints: Sequence[Checkpoint], base: Checkpoint | None
) -> Step:
    specs = [item.specs.get(name) for item in checkpoints]  # a base model among them may lack some
    if not specs[0].is_floating:
        result = specs[0]._replace(file="", start=0, stored="")
        return Step(result, tuple(index for index, spec in enumerate(specs) if spec is not None))
    used = tuple(index for index, weight in enumerate(row) if weight != 0)
    for index in used:
        if specs[index] is None:
            raise RecipeError(f"{checkpoints[index].name} lacks {name}: give it the weight 0 there.")
    dtypes = [specs[index].dtype for index in used]
    wide = any(name in ("float32", "float64") for name in dtypes)
    result = TensorSpec(name, specs[0].shape, widest(dtypes) if dtype == "auto" else dtype, part=specs[0].part)
    in_base = base is not None and name in base.specs and base.specs[name].shape == result.shape
    weights, accumulator = tuple(row[index] for index in used), "float64" if wide else "float32"
    return Step(result, used, weights, accumulator=accumulator, base=in_base)


def _refuse_base_labels(base: Checkpoint, labels: Sequence[str]) -> None:
    """A base model with the labels in another order would be subtracted from other classes."""
    problem = base_order_problem(base, labels)
    if problem:
        raise IncompatibleError([problem])


def _aligned(steps: Sequence[Step], recipe: Recipe, checkpoints: Sequence[Checkpoint]) -> tuple[Step, ...]:
    """Take the rows of the tensors that are classes in the orders of the recipe."""
    names = tensors_to_permute(checkpoints[0], recipe.alignments)
    orders = [recipe.alignments.get(item.name) for item in checkpoints]
    return tuple(
        step._replace(orders=tuple(orders[index] for index in step.inputs)) if step.spec.name in names else step
        for step in steps
    )


def tensors_to_permute(first: Checkpoint, alignments: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """The tensors whose rows are the classes; none where names alone are matched."""
    counts = {len(order) for order in alignments.values() if not is_identity(order)}
    if not counts:
        return ()
    if len(counts) > 1:
        raise RecipeError(f"the alignments are of {sorted(counts)} classes; ingredients of one soup have as many.")
    return class_tensors(first.specs, counts.pop(), classifier_modules(first.config))
