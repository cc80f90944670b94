"""One model in memory that is refilled for each trial of a search. No scores are computed here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checkpoints.checkpoint import MEMORY, Checkpoint
from ..checkpoints.memory import tensors_on_disk
from ..checkpoints.reader import TensorSpec
from ..methods.linear import continued, linear
from ..types import Ingredient
from .blend import blend
from .in_memory import cook_in_memory, empty_tensors, output_config, set_generation, write_into
from .plan import Plan
from .sentence_models import is_sentence_model, tensors_of_modules
from .steps import CombineStep, Step


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Provenance(NamedTuple):
    """Everything that determines the bits of one tensor of a soup: the tensor is reused while this stays equal.

    Args:
        ingredients (`tuple[str, ...]`):
            The names of those that are read.
        dtype (`str`):
            The type of the result.
        weights (`tuple[float, ...]`, *optional*):
            Weight of each ingredient; empty where the tensor is copied, as is everything below except `orders`.
        method (`Callable`, *optional*), params (`tuple[tuple[str, object], ...]`, *optional*):
            The method, and its parameters sorted by name.
        accumulator (`str`, *optional*):
            The type to sum in.
        base (`bool`, *optional*):
            Whether the base model is read.
        importance (`bool`, *optional*):
            Whether statistics of the weights are read.
        orders (`tuple[tuple[int, ...] | None, ...]`, *optional*):
            Order in which the rows of each ingredient are taken.
    """

    ingredients: tuple[str, ...]
    dtype: str
    weights: tuple[float, ...] = ()
    method: Callable[..., object] | None = None
    params: tuple[tuple[str, object], ...] = ()
    accumulator: str = ""
    base: bool = False
    importance: bool = False
    orders: tuple[tuple[int, ...] | None, ...] = ()


class Terms(NamedTuple):
    """The terms of a sum: everything that determines its bits.

    Args:
        accumulator (`str`):
            The type to sum in.
        weighted (`tuple[tuple[str, float], ...]`):
            Ingredients and their weights, in the order in which they are added.
    """

    accumulator: str
    weighted: tuple[tuple[str, float], ...]

    @property
    def without_last(self) -> Terms:
        """The sum to which the last ingredient is added."""
        return Terms(self.accumulator, self.weighted[:-1])


class KeptSum(NamedTuple):
    """A sum of weighted tensors from which a later trial may start.

    Args:
        terms ([`Terms`]):
            Ingredients and weights that the sum consists of.
        tensor (`torch.Tensor`):
            The sum, in the type to sum in.
    """

    terms: Terms
    tensor: torch.Tensor


class Refill:
    """One model in memory that becomes one recipe after the other, with the same bits as when each is saved.

    Only tensors that change are computed. If a recipe adds one ingredient to those of the previous trial, the sum of
    the others is kept in the accumulation type, so that only the new ingredient is read.

    Args:
        device (`str`, *optional*, defaults to `"cpu"`):
            Device on which tensors are averaged.
    """

    def __init__(self, device: str = "cpu"):
        self._device = device
        self._model: PreTrainedModel | None = None
        self._config: dict[str, Any] = {}
        self._provenance: dict[str, Provenance] = {}  # of each tensor in the model
        self._last_terms: dict[str, Terms] = {}  # tensor -> its terms in the last trial, without the last term
        self._sums: dict[str, KeptSum] = {}  # tensor -> its sum, kept from one trial to the next
        self.reads = 0  # number of tensors read

    def fill(self, plan: Plan, checkpoints: Sequence[Checkpoint]) -> PreTrainedModel:
        """Fill the model according to a plan; it is valid until the next call."""
        provenance = {step.spec.name: _provenance(step, checkpoints) for step in plan.steps}
        changed = [step for step in plan.steps if self._provenance.get(step.spec.name) != provenance[step.spec.name]]
        config = {**output_config(plan), "transformers_version": None}  # which does not change the model
        model = self._model
        tensors = self._reusable_tensors(config, changed)
        if model is None or tensors is None:
            model = self._build(plan, checkpoints, config)
            # a model whose tensors are copies cannot be written into, so nothing is reused in the next trial
            self._provenance = provenance if own_tensors(model) is not None else {}
        else:
            self.forget(step.spec.name for step in changed)  # until they are complete again
            self._write(plan, changed, checkpoints, tensors)
            for step in changed:
                self._provenance[step.spec.name] = provenance[step.spec.name]
            set_generation(model, plan, checkpoints)
        self._last_terms = {}
        for step in plan.steps:
            if isinstance(step, CombineStep):
                self._last_terms[step.spec.name] = _terms(step, checkpoints).without_last
        return model

    def _reusable_tensors(self, config: dict[str, Any], steps: Sequence[Step]) -> dict[str, torch.Tensor] | None:
        """The memory of the current model, by names on disk; `None` if the results of these steps do not fit.

        Its tensors may have other sizes or types, or a different layout in memory than on disk.
        """
        if self._model is None or config != self._config:
            return None
        tensors = own_tensors(self._model)
        if tensors is None or not all(_fits(tensors.get(step.spec.name), step.spec) for step in steps):
            return None
        return tensors

    def forget(self, names: Iterable[str]) -> None:
        """Record that these tensors no longer hold their previous content."""
        for name in names:
            self._provenance.pop(name, None)

    def _build(self, plan: Plan, checkpoints: Sequence[Checkpoint], config: dict[str, Any]) -> PreTrainedModel:
        """Build a new model for a plan."""
        self._model = cook_in_memory(plan, checkpoints, device=self._device)
        self._config = config
        self.reads += sum(len(step.inputs) for step in plan.steps)
        return self._model

    def _write(
        self, plan: Plan, steps: Sequence[Step], checkpoints: Sequence[Checkpoint], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Compute tensors in the model's memory, from the sum of all inputs but the last if that saves work."""
        from_inputs: list[Step] = []
        from_sums: dict[int, list[CombineStep]] = {}  # the last input -> the steps that add it to a sum
        for step in steps:
            if isinstance(step, CombineStep) and self._is_sum_worthwhile(step, checkpoints):
                from_sums.setdefault(step.inputs[-1], []).append(step)
            else:
                from_inputs.append(step)
        # Steps with the same last input are executed in one stream, which reads nothing else.
        for last, steps_of_last in from_sums.items():
            self._keep_sums(plan, steps_of_last, checkpoints)
            sums = {step.spec.name: self._sums[step.spec.name].tensor for step in steps_of_last}
            self._blend_from_sums(plan, steps_of_last, sums, checkpoints[last], tensors)
        if from_inputs:
            self._blend(plan, from_inputs, checkpoints, tensors)

    def _is_sum_worthwhile(self, step: CombineStep, checkpoints: Sequence[Checkpoint]) -> bool:
        """Whether the terms except the last are those of the last trial or of the kept sum, possibly plus one."""
        if step.how.function.func is not linear or len(step.inputs) < 2:
            return False
        name = step.spec.name
        terms = _terms(step, checkpoints).without_last
        # Trials of a greedy soup share all ingredients but the last, or have one more that has been accepted since.
        summed_before = [self._last_terms.get(name)]
        if name in self._sums:
            summed_before.append(self._sums[name].terms)
        return terms in summed_before or terms.without_last in summed_before

    def _keep_sums(self, plan: Plan, steps: Sequence[CombineStep], checkpoints: Sequence[Checkpoint]) -> None:
        """Provide the sums of all inputs but the last: kept sums, kept sums with one more term, or new ones."""
        new: list[CombineStep] = []
        one_more: dict[int, list[CombineStep]] = {}  # an input -> the steps that add it to a kept sum
        for step in steps:
            step_of_sum = _without_last(step)
            terms = _terms(step_of_sum, checkpoints)
            kept_sum = self._sums.get(step.spec.name)
            if kept_sum is None or kept_sum.terms not in (terms, terms.without_last):
                new.append(step_of_sum)
            elif kept_sum.terms == terms.without_last:
                one_more.setdefault(step_of_sum.inputs[-1], []).append(step_of_sum)
        for index, steps_of_index in one_more.items():
            # Added in place. Meanwhile the memory holds neither sum, so an interrupt must not leave an entry.
            tensors = {step.spec.name: self._sums.pop(step.spec.name).tensor for step in steps_of_index}
            self._blend_from_sums(plan, steps_of_index, tensors, checkpoints[index], tensors)
            self._note_sums(steps_of_index, checkpoints, tensors)
        if new:
            for step in new:
                self._sums.pop(step.spec.name, None)  # frees its memory
            tensors = empty_tensors(step.spec for step in new)
            self._blend(plan, new, checkpoints, tensors)
            self._note_sums(new, checkpoints, tensors)

    def _note_sums(
        self, steps: Sequence[CombineStep], checkpoints: Sequence[Checkpoint], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Record complete sums together with their terms."""
        for step in steps:
            name = step.spec.name
            self._sums[name] = KeptSum(_terms(step, checkpoints), tensors[name])

    def _blend(
        self, plan: Plan, steps: Sequence[Step], checkpoints: Sequence[Checkpoint], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Compute tensors from all of their inputs."""
        blend(plan._replace(steps=tuple(steps)), checkpoints, write_into(tensors), device=self._device)
        self.reads += sum(len(step.inputs) for step in steps)

    def _blend_from_sums(
        self,
        plan: Plan,
        steps: Sequence[CombineStep],
        sums: dict[str, torch.Tensor],
        last: Checkpoint,
        tensors: dict[str, torch.Tensor],
    ) -> None:
        """The same with the sums of all inputs but the last: only the last input is read."""
        steps_from_sums = tuple(_from_sum(step) for step in steps)
        inputs = [_as_checkpoint(sums), last]  # in the numbering of their inputs
        blend(plan._replace(steps=steps_from_sums), inputs, write_into(tensors), device=self._device)
        self.reads += len(steps)


def own_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor] | None:
    """A model's own memory by names on disk; `None` if transformers renames tensors, which makes copies."""
    tensors = tensors_of_modules(model) if is_sentence_model(model) else tensors_on_disk(model)
    own_addresses = {tensor.data_ptr() for tensor in model.state_dict().values()}
    if any(tensor.data_ptr() not in own_addresses for tensor in tensors.values()):
        return None
    return tensors


def _provenance(step: Step, checkpoints: Sequence[Checkpoint]) -> Provenance:
    """Everything that determines the bits of the tensor that a step computes."""
    names = tuple(checkpoints[index].name for index in step.inputs)
    if not isinstance(step, CombineStep):
        return Provenance(names, step.spec.dtype, orders=step.orders)
    return Provenance(
        names,
        step.spec.dtype,
        weights=step.weights,
        method=step.how.function.func,
        params=tuple(sorted(step.how.function.keywords.items())),
        accumulator=step.accumulator,
        base=step.base,
        importance=step.importance,
        orders=step.orders,
    )


def _terms(step: CombineStep, checkpoints: Sequence[Checkpoint]) -> Terms:
    """The terms that a step adds."""
    names = [checkpoints[index].name for index in step.inputs]
    return Terms(step.accumulator, tuple(zip(names, step.weights, strict=True)))


def _without_last(step: CombineStep) -> CombineStep:
    """The sum of all inputs of a step but the last, in the accumulation type."""
    return step._replace(
        spec=step.spec._replace(dtype=step.accumulator),
        inputs=step.inputs[:-1],
        weights=step.weights[:-1],
        orders=step.orders[:-1],
        how=step.how._replace(function=functools.partial(linear, normalize=False)),
    )


def _from_sum(step: CombineStep) -> CombineStep:
    """The same step with the sum of all inputs but the last as the first of two inputs."""
    options = {**step.how.function.keywords, "before": sum(step.weights[:-1])}
    # the rows of the sum are already in the soup's order
    orders = (None, step.orders[-1]) if step.orders else ()
    return step._replace(
        inputs=(0, 1),
        weights=(1.0, step.weights[-1]),
        orders=orders,
        how=step.how._replace(function=functools.partial(continued, **options)),
    )


def _as_checkpoint(sums: dict[str, torch.Tensor]) -> Checkpoint:
    """Sums as an in-memory ingredient."""
    specs = {}
    for name, tensor in sums.items():
        specs[name] = TensorSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
    return Checkpoint(Ingredient("the sum", MEMORY), {}, specs, tensors=sums)


def _fits(tensor: torch.Tensor | None, spec: TensorSpec) -> bool:
    """Whether memory holds a tensor of this shape and type."""
    if tensor is None:
        return False
    return tuple(tensor.shape) == spec.shape and str(tensor.dtype) == f"torch.{spec.dtype}"
