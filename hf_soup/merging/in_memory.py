"""Plan -> a model in memory, identical to loading the saved soup. No scores are computed here."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..checkpoints.checkpoint import GENERATION, Checkpoint
from ..checkpoints.companions import giver_of_generation, in_order, mapping_of
from ..checkpoints.digest import tensor_of
from ..checkpoints.labels import label_names, with_class_names
from ..checkpoints.memory import build_model
from ..checkpoints.named_code import without_code
from ..checkpoints.reader import TensorSpec
from ..errors import IngredientError
from ..methods.linear import fused
from ..untrusted import as_error
from .blend import blend
from .plan import Plan
from .sentence_models import cook_sentence_model, is_sentence_model, sentence_class
from .steps import CombineStep, Step


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from .blend import Sink


def cook_in_memory(
    plan: Plan,
    checkpoints: Sequence[Checkpoint],
    *,
    device: str = "cpu",
    statistics: Mapping[str, torch.Tensor] | None = None,
) -> PreTrainedModel:
    """The model of a plan, made by the same stream and the same loading as a saved soup.

    Args:
        plan ([`Plan`]):
            Plan of the merge.
        checkpoints (`Sequence[Checkpoint]`):
            The ingredients in recipe order.
        device (`str`, *optional*, defaults to `"cpu"`):
            Device on which tensors are averaged. The model is on the CPU.
        statistics (`Mapping[str, torch.Tensor]`, *optional*):
            Running statistics of BatchNorm to use instead of their averages.

    Returns:
        `transformers.PreTrainedModel`: in evaluation mode; for a folder of sentence-transformers, the model of that
        library.
    """
    config = output_config(plan)
    class_name = sentence_class(plan, checkpoints)
    if class_name is not None:
        return cook_sentence_model(plan, checkpoints, config, class_name, device=device)
    tensors = empty_tensors(plan.specs)
    blend(plan, checkpoints, write_into(tensors), device=device)
    for name, tensor in (statistics or {}).items():
        tensors[name].copy_(tensor)
    model = build_model(config, tensors)
    set_generation(model, plan, checkpoints)
    return model


def set_generation(model: PreTrainedModel, plan: Plan, checkpoints: Sequence[Checkpoint]) -> None:
    """Give a generative model the generation configuration of the saved soup."""
    if is_sentence_model(model) or not model.can_generate():
        return
    from transformers import GenerationConfig

    giver = giver_of_generation(in_order(checkpoints, plan.settings))
    if giver is None:  # older configurations contain it themselves
        with as_error(IngredientError, "transformers cannot read how the model generates from its config.json"):
            model.generation_config = GenerationConfig.from_model_config(output_config(plan))
    else:
        with as_error(IngredientError, f"transformers cannot read {GENERATION} of {giver.name}"):
            settings = without_code(mapping_of(giver.companions, GENERATION))
            model.generation_config = GenerationConfig.from_dict(settings)


def output_config(plan: Plan) -> dict[str, Any]:
    """The configuration of a soup: that of the ingredient whose settings it takes, with the soup's labels and the type
    of most of its numbers (bfloat16 for float8, in which torch cannot compute).
    """
    if not plan.settings.config:
        return {}
    # `torch_dtype` is the name of `dtype` in older versions of transformers
    config = {key: value for key, value in plan.settings.config.items() if key not in ("_name_or_path", "torch_dtype")}
    if plan.labels and plan.labels != label_names(config):
        config = with_class_names(config, plan.labels)
    numel_of: dict[str, int] = {}  # type -> how many numbers have it
    for spec in plan.specs:
        if spec.is_floating:
            numel_of[spec.dtype] = numel_of.get(spec.dtype, 0) + spec.numel
    dtype = max(numel_of, key=lambda name: numel_of[name], default="float32")
    if "float8" in dtype:
        dtype = "bfloat16"
    return config | {"dtype": dtype}


def rough(plan: Plan) -> Plan:
    """A plan of the linear method with fused sums in the type of the result, accurate enough for gradients."""
    return plan._replace(steps=tuple(_rough_step(step) for step in plan.steps))


def _rough_step(step: Step) -> Step:
    """The same for one tensor; narrower types are summed in float32, since 16 bits would lose too much."""
    if not isinstance(step, CombineStep) or step.spec.dtype not in ("float32", "float64"):
        return step
    function = functools.partial(fused, **step.how.function.keywords)
    return step._replace(how=step.how._replace(function=function), accumulator=step.spec.dtype)


def empty_tensors(specs: Iterable[TensorSpec]) -> dict[str, torch.Tensor]:
    """Memory on the CPU for tensors, by name."""
    import torch

    return {spec.name: torch.empty(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in specs}


def write_into(tensors: Mapping[str, torch.Tensor]) -> Sink:
    """A sink that writes into contiguous tensors by name."""
    import torch

    flat = {name: tensor.view(-1).view(torch.uint8) for name, tensor in tensors.items()}

    def sink(name: str, start: int, content: memoryview) -> None:
        begin = start * tensors[name].dtype.itemsize
        flat[name][begin : begin + len(content)] = tensor_of(content, "uint8")

    return sink
