"""A plan -> a model in memory, and one model that is filled again for each trial of a search. It scores nothing."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..checkpoints.checkpoint import GENERATION, MEMORY, Checkpoint
from ..checkpoints.companions import giver_of_generation, in_order, mapping_of
from ..checkpoints.labels import label_names, with_class_names
from ..checkpoints.memory import build_model, tensors_on_disk
from ..checkpoints.named_code import without_code
from ..checkpoints.reader import TensorSpec
from ..errors import IngredientError
from ..methods.linear import continued, fused, linear
from ..types import Ingredient
from ..untrusted import as_error
from .blend import blend
from .plan import How, Plan, Step


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def cook_in_memory(
    plan: Plan,
    checkpoints: Sequence[Checkpoint],
    *,
    device: str = "cpu",
    statistics: Mapping[str, torch.Tensor] | None = None,
) -> PreTrainedModel:
    """The model that a plan makes, through the same stream and the same loading as a saved soup.

    Args:
        plan ([`Plan`]):
            What to do.
        checkpoints (`Sequence[Checkpoint]`):
            The ingredients in recipe order.
        device (`str`, *optional*, defaults to `"cpu"`):
            Where to average; the model is on the CPU.
        statistics (`Mapping[str, torch.Tensor]`, *optional*):
            What the running statistics of BatchNorm are instead of averages.
    """
    import torch

    config = output_config(plan)
    if not config:
        raise IngredientError(
            f"{checkpoints[0].name} is a SentenceTransformer without a model of transformers in its folder: save the "
            "soup, and load it with sentence_transformers.SentenceTransformer."
        )
    steps = tuple(step for step in plan.steps if not step.spec.part)  # parts are modules of a SentenceTransformer
    plan = plan._replace(steps=steps)
    tensors = {spec.name: torch.empty(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in plan.specs}
    blend(plan, checkpoints, _into(tensors), device=device)
    for name, tensor in (statistics or {}).items():
        tensors[name].copy_(tensor)
    model = build_model(config, tensors)
    _set_generation(model, plan, checkpoints)
    return model


def _set_generation(model: PreTrainedModel, plan: Plan, checkpoints: Sequence[Checkpoint]) -> None:
    """Give a model that generates the generation configuration that the saved soup has."""
    if not model.can_generate():
        return
    from transformers import GenerationConfig

    giver = giver_of_generation(in_order(checkpoints, plan.settings))
    if giver is None:  # configurations from before there was such a file say it themselves
        with as_error(IngredientError, "transformers cannot read how the model generates from its config.json"):
            model.generation_config = GenerationConfig.from_model_config(output_config(plan))
    else:
        with as_error(IngredientError, f"transformers cannot read {GENERATION} of {giver.name}"):
            settings = without_code(mapping_of(giver.companions, GENERATION))
            model.generation_config = GenerationConfig.from_dict(settings)


def output_config(plan: Plan) -> dict[str, Any]:
    """The configuration of a soup: that of the ingredient whose settings it takes, with the soup's labels and the type
    that most of its numbers have, or bfloat16 for float8, in which torch computes nothing.
    """
    if not plan.settings.config:
        return {}
    sizes: dict[str, int] = {}
    for spec in plan.specs:
        if spec.is_floating:
            sizes[spec.dtype] = sizes.get(spec.dtype, 0) + spec.numel
    config = {key: value for key, value in plan.settings.config.items() if key not in ("_name_or_path", "torch_dtype")}
    labels = plan.labels
    if labels and labels != label_names(config):
        config = with_class_names(config, labels)
    dtype = max(sizes, key=lambda name: sizes[name], default="float32")
    return config | {"dtype": "bfloat16" if "float8" in dtype else dtype}


def rough(plan: Plan) -> Plan:
    """A plan of the linear method whose sums are fused and in the type of the result: near enough for gradients."""
    steps = [
        step
        if step.copied or step.spec.dtype not in ("float32", "float64")
        else step._replace(
            how=step.how._replace(function=functools.partial(fused, **step.how.function.keywords)),
            accumulator=step.spec.dtype,
        )
        for step in plan.steps
    ]
    return plan._replace(steps=tuple(steps))


class Refill:
    """One model in memory that becomes one recipe after the other, with the bits that each has when saved.

    Only tensors that are made otherwise than before are made. Where a recipe adds one ingredient to those of the trial
    before, the sum of the others is kept, in the type to sum in, so that only the new one is read.

    Args:
        device (`str`, *optional*, defaults to `"cpu"`):
            Where to average.
    """

    def __init__(self, device: str = "cpu"):
        self._device = device
        self._model: PreTrainedModel | None = None
        self._config: dict[str, Any] = {}
        self._held: dict[str, tuple] = {}  # tensor -> how it was made
        self._asked: dict[str, tuple] = {}  # tensor -> the others of the last trial
        self._sums: dict[str, tuple[tuple, torch.Tensor]] = {}  # tensor -> whose sum, and the sum
        self.reads = 0  # tensors read

    def fill(self, plan: Plan, checkpoints: Sequence[Checkpoint]) -> PreTrainedModel:
        """The model of a plan; valid until the next call."""
        made = {step.spec.name: _how_made(step, checkpoints) for step in plan.steps}
        todo = [step for step in plan.steps if self._held.get(step.spec.name) != made[step.spec.name]]
        config = {**output_config(plan), "transformers_version": None}  # that of the first ingredient
        tensors = self.tensors() if self._model is not None and config == self._config else None
        if tensors is None or any(not _fits(tensors.get(step.spec.name), step.spec) for step in todo):
            self._model, self._config = cook_in_memory(plan, checkpoints, device=self._device), config
            self.reads += sum(len(step.inputs) for step in plan.steps)
            tensors = self.tensors()
            self._held = made if tensors is not None else {}
        else:
            self.forget(step.spec.name for step in todo)  # until they are whole again
            self._pour(plan, todo, checkpoints, tensors)
            self._held |= {step.spec.name: made[step.spec.name] for step in todo}
            _set_generation(self._model, plan, checkpoints)
        self._asked = {step.spec.name: _others(step, checkpoints) for step in plan.steps}
        return self._model

    def forget(self, names: Any) -> None:
        """These tensors are not what they were filled with any more."""
        for name in names:
            self._held.pop(name, None)

    def tensors(self) -> dict[str, torch.Tensor] | None:
        """The model's own memory by names on disk; `None` if transformers renames, for then these are copies."""
        state = tensors_on_disk(self._model)
        own = {tensor.data_ptr() for tensor in self._model.state_dict().values()}
        return state if all(tensor.data_ptr() in own for tensor in state.values()) else None

    def _pour(
        self, plan: Plan, todo: Sequence[Step], checkpoints: Sequence[Checkpoint], tensors: dict[str, torch.Tensor]
    ) -> None:
        groups: dict[tuple[bool, int], list[Step]] = {}
        for step in todo:
            summed = self._worth_a_sum(step, checkpoints)
            groups.setdefault((summed, step.inputs[-1] if summed else 0), []).append(step)
        for (summed, last), steps in groups.items():
            if summed:
                self._sum_up(plan, steps, checkpoints)
                self._blend(plan, [_from_sum(step) for step in steps], self._with_sum(checkpoints[last]), tensors)
            else:
                self._blend(plan, steps, checkpoints, tensors)

    def _worth_a_sum(self, step: Step, checkpoints: Sequence[Checkpoint]) -> bool:
        """Whether the others are those of the last trial or of the kept sum, or one more than these."""
        if step.copied or step.how.function.func is not linear or len(step.inputs) < 2:
            return False
        others, name = _others(step, checkpoints), step.spec.name
        known = {self._asked.get(name), self._sums.get(name, (None, None))[0]}
        return others in known or others[:-1] in known

    def _sum_up(self, plan: Plan, steps: Sequence[Step], checkpoints: Sequence[Checkpoint]) -> None:
        """Have the sums of all inputs but the last."""
        import torch

        fresh, one_more = [], {}
        for step in steps:
            others, (held, _) = _others(step, checkpoints), self._sums.get(step.spec.name, (None, None))
            if held == others:
                continue
            part = step._replace(
                spec=step.spec._replace(dtype=step.accumulator),
                inputs=step.inputs[:-1],
                weights=step.weights[:-1],
                orders=step.orders[:-1],
                how=step.how._replace(function=functools.partial(linear, normalize=False)),
            )
            if held is not None and others[:-1] == held:
                one_more.setdefault(part.inputs[-1], []).append(_from_sum(part))
            else:
                fresh.append(part)
        for last, parts in one_more.items():
            tensors = {part.spec.name: self._sums[part.spec.name][1] for part in parts}
            items = self._with_sum(checkpoints[last])
            self._sums = {name: kept for name, kept in self._sums.items() if name not in tensors}  # until it is whole
            self._blend(plan, parts, items, tensors)
            self._keep_sums(steps, checkpoints, tensors)
        if fresh:
            tensors = {
                part.spec.name: torch.empty(part.spec.shape, dtype=getattr(torch, part.accumulator)) for part in fresh
            }
            self._sums = {name: kept for name, kept in self._sums.items() if name not in tensors}
            self._blend(plan, fresh, checkpoints, tensors)
            self._keep_sums(steps, checkpoints, tensors)

    def _keep_sums(
        self, steps: Sequence[Step], checkpoints: Sequence[Checkpoint], tensors: dict[str, torch.Tensor]
    ) -> None:
        for step in steps:
            if step.spec.name in tensors:
                self._sums[step.spec.name] = _others(step, checkpoints), tensors[step.spec.name]

    def _with_sum(self, last: Checkpoint) -> list[Checkpoint]:
        """The sums as an ingredient, and the one to add."""
        tensors = {name: tensor for name, (_, tensor) in self._sums.items()}
        specs = {
            name: TensorSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            for name, tensor in tensors.items()
        }
        return [Checkpoint(Ingredient("the sum", MEMORY), {}, specs, tensors=tensors), last]

    def _blend(
        self, plan: Plan, steps: Sequence[Step], items: Sequence[Checkpoint], tensors: dict[str, torch.Tensor]
    ) -> None:
        blend(plan._replace(steps=tuple(steps)), items, _into(tensors), device=self._device)
        self.reads += sum(items[index].name != "the sum" for step in steps for index in step.inputs)


def _into(tensors: Mapping[str, torch.Tensor]) -> Any:
    """A sink that writes into tensors."""
    flat = {name: tensor.view(-1) for name, tensor in tensors.items()}

    def sink(name: str, start: int, elements: torch.Tensor) -> None:
        flat[name][start : start + len(elements)] = elements

    return sink


def _how_made(step: Step, checkpoints: Sequence[Checkpoint]) -> tuple:
    """All that decides the bits of a tensor."""
    how = step.how and (step.how.function.func, tuple(sorted(step.how.function.keywords.items())))
    names = tuple(checkpoints[index].name for index in step.inputs)
    return names, step.weights, how, step.spec.dtype, step.accumulator, step.base, step.orders


def _others(step: Step, checkpoints: Sequence[Checkpoint]) -> tuple:
    """Whose sum it is that the last input is added to: names and weights in order, and the type to sum in."""
    names = tuple(checkpoints[index].name for index in step.inputs[:-1])
    return (step.accumulator, *zip(names, step.weights, strict=False))


def _from_sum(step: Step) -> Step:
    """The same step with the sum of all inputs but the last as the first of two."""
    options = {**step.how.function.keywords, "before": sum(step.weights[:-1])}
    how: How = step.how._replace(function=functools.partial(continued, **options))
    return step._replace(
        inputs=(0, 1), weights=(1.0, step.weights[-1]), orders=(None, step.orders[-1]) if step.orders else (), how=how
    )


def _fits(tensor: torch.Tensor | None, spec: TensorSpec) -> bool:
    return tensor is not None and (tuple(tensor.shape), str(tensor.dtype)) == (spec.shape, f"torch.{spec.dtype}")
