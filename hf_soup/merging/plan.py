"""Specs and recipe -> for each tensor, combine or copy, with sources, weights and output type. No files are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ..checkpoints.check import CheckReport
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.labels import NO_CLASSES, classifier_modules, is_identity
from ..checkpoints.modules import assign_weights, class_tensors, group, own_prefix
from ..checkpoints.reader import TensorSpec, widest
from ..display.tables import align
from ..errors import RecipeError, did_you_mean, listed
from ..methods.linear import linear
from ..plugins import method_traits
from ..types import Mixture
from ..untrusted import one_line
from .averaging import Averaging, plain_mean
from .budget import bytes_at_once, read_size
from .steps import CombineStep, CopyStep, How, Step


# Sums that cancel to less than this fraction of their terms are zero except for rounding errors.
CANCELLED = 1e-12
# The largest weight of a row. Beyond it, float32 sums overflow or lose precision, and only relative weights matter.
LEAST_WEIGHT, MOST_WEIGHT = 1e-20, 1e20
# Types that are summed in float64, so that a soup is rounded once; for narrower ones, float32 is enough.
SUMMED_IN_FLOAT64 = frozenset({"float32", "float64"})


class Plan(NamedTuple):
    """The operations of a merge, tensor by tensor.

    Args:
        steps (`tuple[Step, ...]`):
            Sorted by name.
        names (`tuple[str, ...]`):
            The ingredients, in recipe order.
        seed (`int`):
            Seed for methods that draw random numbers.
        base (`Checkpoint`, *optional*):
            The base model, where the method needs one. Tensors that it lacks are averaged plainly.
        settings (`Checkpoint`):
            The ingredient that gives the result its configuration and files: the one that the recipe names, or the
            first.
        labels (`tuple[str, ...]`):
            Names of the soup's classes; empty for models without classes.
        bytes_read (`int`):
            Number of bytes of the ingredients' tensors.
        max_memory (`int` or `str`, *optional*):
            Memory for tensors that are combined whole, as for [`merge`].
        report ([`CheckReport`]):
            Report of the check of the candidates, with the notes about this plan.
        importance (`Mapping[str, Checkpoint]`):
            Ingredient -> statistics of its weights, where the method needs them. Tensors without are averaged plainly.
    """

    steps: tuple[Step, ...]
    names: tuple[str, ...]
    seed: int
    base: Checkpoint | None
    settings: Checkpoint
    labels: tuple[str, ...]
    bytes_read: int
    max_memory: int | str | None
    report: CheckReport
    importance: Mapping[str, Checkpoint]

    @property
    def specs(self) -> list[TensorSpec]:
        """The output tensors."""
        return [step.spec for step in self.steps]

    @property
    def is_linear(self) -> bool:
        """Whether every tensor that is combined is a weighted mean or sum."""
        methods = [step.how.function.func for step in self.steps if isinstance(step, CombineStep)]
        return all(method is linear for method in methods)

    @property
    def nbytes(self) -> int:
        """The total size of the output in bytes."""
        return sum(spec.nbytes for spec in self.specs)

    @property
    def parameters(self) -> int:
        """The number of floating-point numbers in the output."""
        return sum(spec.numel for spec in self.specs if spec.is_floating)

    def table(self) -> str:
        """The operation on each named module: the weight of each ingredient, 0 for one that is not read."""
        prefix = own_prefix(spec.name for spec in self.specs)
        # the first cells of a line -> the tensors that it represents
        groups: dict[tuple[str, ...], list[TensorSpec]] = {}
        for step in self.steps:
            if step.weights:
                weight_of = dict(zip(step.inputs, step.weights, strict=True))
                cells = [f"{weight_of.get(index, 0):g}" for index in range(len(self.names))]
            else:
                cells = ["copied"] * len(self.names)
            key = (group(step.spec.name, prefix), step.spec.dtype, *cells)
            groups.setdefault(key, []).append(step.spec)
        lines = [["module", "type", *self.names, "tensors", "parameters"]]
        for key, specs in groups.items():
            numel = sum(spec.numel for spec in specs)
            lines.append([*key, str(len(specs)), f"{numel:,}"])
        text = f"{align(lines)}\n\n{self.bytes_read / 1e6:,.1f} MB in, {self.nbytes / 1e6:,.1f} MB out"
        largest = max(map(bytes_at_once, self.steps), default=0)
        if largest:
            memory = read_size(self.max_memory)
            text += f"\nThe largest tensor is combined whole and takes {largest / 1e6:,.1f} MB of memory"
            if largest > memory:
                text += f", more than max_memory, {memory / 1e6:,.1f} MB: it is combined on one thread"
        return text


def make_plan(
    mixture: Mixture,
    checkpoints: Sequence[Checkpoint],
    averaging: Averaging,
    report: CheckReport,
    *,
    base_inside: str | None = None,
) -> Plan:
    """Plan the average of a mixture of checked ingredients.

    Args:
        mixture ([`Mixture`]):
            Mixture to average.
        checkpoints (`Sequence[Checkpoint]`):
            Opened ingredients of the mixture, in its order.
        averaging ([`Averaging`]):
            How.
        report ([`CheckReport`]):
            Report of the check of these ingredients, or of more.
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
    _refuse_too_many(mixture, averaging)
    importance = _importance_of(mixture, averaging)
    hows = averaging.how_by_tensor(weights_by_tensor, mixture.names)
    steps = []
    for name in sorted(weights_by_tensor):
        steps.append(_step(name, weights_by_tensor[name], averaging, hows[name], checkpoints, importance))
    notes = _notes_of_lacking(steps, checkpoints, averaging.base, base_inside)
    has_classes = not NO_CLASSES.search(report.architecture)
    bytes_read = 0
    for item in checkpoints:
        bytes_read += sum(spec.nbytes for spec in item.specs.values())
    return Plan(
        steps=_aligned(steps, averaging.alignments, checkpoints),
        names=mixture.names,
        seed=averaging.seed,
        base=averaging.base,
        settings=averaging.settings or checkpoints[0],
        labels=report.labels if has_classes else (),
        bytes_read=bytes_read,
        max_memory=averaging.max_memory,
        report=replace(report, notes=(*report.notes, *notes)),
        importance=importance,
    )


def _notes_of_lacking(
    steps: Sequence[Step], checkpoints: Sequence[Checkpoint], base: Checkpoint | None, base_inside: str | None
) -> list[str]:
    """How tensors that the base model lacks are treated, as an ingredient and for the method."""
    notes = []
    names = {step.spec.name for step in steps}
    lacking: set[str] = set()
    for item in checkpoints:
        lacking |= names.difference(item.specs)
    if lacking:
        names_of_lacking = listed(sorted(lacking))
        notes.append(f"{len(lacking)} tensors that {base_inside} lacks are those of the others: {names_of_lacking}")
    if base is not None:
        plainly = [step.spec.name for step in steps if step.weights and not step.base]
        if plainly:
            notes.append(
                f"{len(plainly)} tensors that the base model lacks are averaged without it: {listed(plainly)}"
            )
    return notes


def find_settings(name: str, checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The ingredient from which settings are taken.

    Raises:
        [`RecipeError`]: if none is called so, with the nearest known name.
    """
    for item in checkpoints:
        if item.name == name:
            return item
    names = [item.name for item in checkpoints]
    raise RecipeError(f'take_from="{one_line(name)}": there is no ingredient of that name{did_you_mean(name, names)}')


def alignment_problems(first: Checkpoint, alignments: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """The reasons, if any, why heads cannot be permuted according to the alignments; nothing is raised.

    Args:
        first (`Checkpoint`):
            One of the ingredients, all of which have the same tensors.
        alignments (`Mapping[str, Sequence[int]]`):
            Ingredient -> the order in which its classes are taken.
    """
    try:
        tensors_to_permute(first, alignments)
    except RecipeError as error:
        return (str(error),)
    return ()


def _refuse_extreme(mixture: Mixture) -> None:
    """Refuse weights with which a sum overflows or underflows."""
    for prefix, weights in mixture.weights_by_module.items():
        largest = max(map(abs, weights))
        if not LEAST_WEIGHT <= largest <= MOST_WEIGHT:
            size = "small" if largest < 1 else "large"
            raise RecipeError(
                f"the weights {_shown(prefix, weights)} are too {size} to be "
                f"summed: the largest may lie between {LEAST_WEIGHT:g} and {MOST_WEIGHT:g}. Weights are relative to "
                f"each other, so divide all of them by {largest:g}."
            )


def _refuse_cancelled(mixture: Mixture) -> None:
    """Refuse weights whose sum, by which a mean is divided, is zero except for rounding errors."""
    for prefix, weights in mixture.weights_by_module.items():
        if abs(sum(weights)) <= CANCELLED * sum(map(abs, weights)):
            raise RecipeError(
                f"the weights {_shown(prefix, weights)} sum to zero, and a mean divides by their sum. Use other "
                "weights, or normalize=False to use them as they are."
            )


def _refuse_too_many(mixture: Mixture, averaging: Averaging) -> None:
    """Refuse more ingredients than the method combines."""
    function = averaging.how.function.func
    most = method_traits(function).ingredients
    if most is not None and len(mixture.used) > most:
        raise RecipeError(
            f'the method "{function.__name__}" combines at most {most} ingredients, not {len(mixture.used)}: '
            f"{listed(mixture.used)}."
        )


def _importance_of(mixture: Mixture, averaging: Averaging) -> dict[str, Checkpoint]:
    """The statistics of the ingredients that are mixed; empty if the method does not ask for them."""
    if "importance" not in averaging.how.asks:
        return {}
    lacking = [name for name in mixture.used if name not in averaging.importance]
    if lacking:
        raise RecipeError(
            f'the method "{averaging.how.function.func.__name__}" needs statistics of the weights of '
            f"{listed(lacking)}: give importance_data=..., or make them with hf_soup.importance."
        )
    return {name: averaging.importance[name].tensors for name in mixture.used}


def _shown(prefix: str, weights: Sequence[float]) -> str:
    """Weights as shown in a message, with the module to which they belong."""
    shown = f"[{listed(map(str, weights))}]"
    if prefix:
        shown += f" of {one_line(prefix)!r}"
    return shown


def _step(
    name: str,
    weights: Sequence[float],
    averaging: Averaging,
    how: How,
    checkpoints: Sequence[Checkpoint],
    importance: Mapping[str, Checkpoint],
) -> Step:
    """The operation on one tensor; `weights` has one entry per checkpoint."""
    first = checkpoints[0].specs[name]
    if not first.is_floating:
        return _copy_step(first, checkpoints)
    inputs, used_weights, dtypes, kept_dtypes = [], [], [], []
    for index, weight in enumerate(weights):
        if weight == 0:
            continue
        spec = checkpoints[index].specs.get(name)
        if spec is None:  # a base model among the ingredients may lack some
            raise RecipeError(f"{checkpoints[index].name} lacks {name}: give it the weight 0 there.")
        inputs.append(index)
        used_weights.append(weight)
        dtypes.append(spec.dtype)
        kept_dtypes.append(checkpoints[index].kept_dtype(name))
    is_mean = how.function.func is linear and averaging.normalize
    if is_mean and _is_the_same(name, [checkpoints[index] for index in inputs]):
        inputs, used_weights, dtypes = inputs[:1], [1.0], dtypes[:1]
    dtype = widest(kept_dtypes) if averaging.dtype == "auto" else averaging.dtype
    uses_base = False
    if averaging.base is not None:
        base_spec = averaging.base.specs.get(name)
        uses_base = base_spec is not None and base_spec.shape == first.shape
        if not uses_base:  # a method on changes from the base model does not apply there
            how = plain_mean()
    has_importance = (
        all(name in importance[checkpoints[index].name].specs for index in inputs) if importance else False
    )
    if importance and not has_importance:
        how = plain_mean()
    return CombineStep(
        TensorSpec(name, first.shape, dtype, subfolder=first.subfolder),
        tuple(inputs),
        tuple(used_weights),
        how=how,
        accumulator="float32" if SUMMED_IN_FLOAT64.isdisjoint(dtypes) else "float64",
        base=uses_base,
        importance=has_importance,
    )


def _is_the_same(name: str, checkpoints: Sequence[Checkpoint]) -> bool:
    """Whether a tensor is known to be the same in all ingredients, as one that no adapter changes."""
    origins = {item.origin(name) for item in checkpoints}
    return len(origins) == 1 and None not in origins


def _copy_step(first: TensorSpec, checkpoints: Sequence[Checkpoint]) -> CopyStep:
    """A buffer from the first ingredient that has it; all that have it are inputs, because they are compared."""
    inputs = tuple(index for index, item in enumerate(checkpoints) if first.name in item.specs)
    if _is_the_same(first.name, [checkpoints[index] for index in inputs]):
        inputs = inputs[:1]
    return CopyStep(first._replace(file="", start=0, stored=""), inputs)  # it is not in a file yet


def _aligned(
    steps: Sequence[Step], alignments: Mapping[str, tuple[int, ...]], checkpoints: Sequence[Checkpoint]
) -> tuple[Step, ...]:
    """Take the rows of the tensors that hold classes in the orders of the alignments."""
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
    """The tensors with one row per class; empty if only names are matched."""
    counts = {len(order) for order in alignments.values() if not is_identity(order)}
    if not counts:
        return ()
    if len(counts) > 1:
        raise RecipeError(f"the alignments are of {sorted(counts)} classes; ingredients of one soup have as many.")
    return class_tensors(first.specs, counts.pop(), classifier_modules(first.config))
