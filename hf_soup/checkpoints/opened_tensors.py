"""Models and state dicts in memory -> opened checkpoints, under the names that their files would have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import IngredientError
from ..types import Ingredient
from .checkpoint import MEMORY, Checkpoint
from .digest import combined_digest, tensor_digest
from .layout import Fitted
from .named_code import without_code
from .parts import fit_parts
from .reader import CODES, TensorSpec, widest
from .tensor_problems import shape_problems


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def open_model(model: PreTrainedModel, name: str | None) -> Checkpoint:
    """Open a loaded model.

    Args:
        model (`transformers.PreTrainedModel`):
            Without anything wrapped around it.
        name (`str`, *optional*):
            What to call it; its class by default.

    Raises:
        [`IngredientError`]: if some weights are not in memory, or tied weights differ.
    """
    from .memory import tensors_on_disk

    config = without_code(model.config.to_dict()) | {"architectures": [type(model).__name__]}
    name = name or type(model).__name__
    opened = open_tensors(tensors_on_disk(model), name, config)
    fitted = fit_parts(config, {"": dict(opened.specs)})
    opened = _renamed(opened, fitted)
    generation = model.generation_config.to_json_string() if model.can_generate() else None
    return replace(opened, generation_config=generation)


def _renamed(opened: Checkpoint, fitted: Fitted) -> Checkpoint:
    """A checkpoint in memory under the names of its class."""
    import torch

    tensors = {name: opened.tensors[spec.key] for name, spec in fitted.specs.items()}
    torn = [spec.key for spec, name in fitted.twins if not torch.equal(opened.tensors[spec.key], tensors[name])]
    if torn:
        raise IngredientError(
            f"{opened.name} has {torn[0]} and the weight that it is one with in its class with different values. Set "
            "config.tie_word_embeddings = False if they are tied there and are two."
        )
    specs = {name: spec._replace(stored="") for name, spec in fitted.specs.items()}
    digest = combined_digest({name: tensor_digest(tensor) for name, tensor in tensors.items()})
    files = {MEMORY: digest}
    ingredient = replace(opened.ingredient, files=files)
    notes = tuple(f"{opened.name}: {note}" for note in fitted.notes)
    fitted = fitted._replace(specs=specs, twins=())
    return replace(opened, ingredient=ingredient, specs=specs, tensors=tensors, fitted=fitted, notes=notes)


def open_state(state: Mapping[str, torch.Tensor], name: str, config: Any) -> Checkpoint:
    """Open a state dict. It goes through transformers' own loading, which knows names in memory and on disk.

    Args:
        state (`Mapping[str, torch.Tensor]`):
            Tensors by name.
        name (`str`):
            What to call it.
        config (`transformers.PretrainedConfig` or `Mapping`):
            Of the model.

    Raises:
        [`IngredientError`]: if there is no configuration, something else than tensors by name, or tensors that do not
            make the model.
    """
    from .memory import build_model

    if config is None or not state:
        raise IngredientError("a state dict does not say what it is the state of: give `config=` as well.")
    if not isinstance(config, Mapping) and not hasattr(config, "to_dict"):
        raise IngredientError(f"`config=` is a configuration of transformers or a mapping, not {config!r}.")
    _refuse_other_values(state)
    config = without_code(config if isinstance(config, Mapping) else config.to_dict())
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in state.values() if tensor.is_floating_point()}
    fitted = fit_parts(config, {"": _specs(state, name)})
    _refuse_shapes(Checkpoint(Ingredient(name, MEMORY), config, fitted.specs, fitted=fitted))
    twins = {spec.key: state[spec.key] for spec, _ in fitted.twins}
    tensors = {key: state[spec.key] for key, spec in fitted.specs.items()} | twins
    model = build_model({**config, "dtype": widest(sorted(dtypes)) if dtypes else "float32"}, tensors)
    vars(model).pop("_weight_conversions", None)  # how the names were found here; its file has transformers' own
    opened = open_model(model, name)
    notes = tuple(f"{name}: {note}" for note in fitted.notes)
    return replace(opened, notes=(*notes, *opened.notes))


def open_pickled_state(state: Mapping[str, torch.Tensor], name: str, config: Mapping[str, Any]) -> Checkpoint:
    """The same of a pickle, which may be of another class than its configuration says: what is wrong with its names is
    left to the check, and a base model may lack a head or have another.
    """
    try:
        return open_state(state, name, config)
    except IngredientError:
        opened = open_tensors(dict(state), name, dict(config))
        return _renamed(opened, fit_parts(config, {"": dict(opened.specs)}))


def _refuse_other_values(state: Mapping[str, torch.Tensor]) -> None:
    """Refuse what holds more than tensors by name, such as a whole checkpoint of a training loop."""
    import torch

    for key, value in state.items():
        if isinstance(key, str) and isinstance(value, torch.Tensor):
            continue
        inside = f" Give what {key!r} holds." if isinstance(value, Mapping) else ""
        raise IngredientError(f"a state dict has tensors by name, and {key!r} is {type(value).__name__}.{inside}")


def _refuse_shapes(item: Checkpoint) -> None:
    """Refuse tensors that have another shape than their configuration makes them."""
    expected = item.fitted.expected
    problems = shape_problems(item, expected, {}) if expected is not None else []
    if problems:
        raise IngredientError(f"{'; '.join(problems[:3])}.")


def open_tensors(tensors: dict[str, torch.Tensor], name: str, config: dict[str, Any]) -> Checkpoint:
    """Open tensors as they are, under the names that they have."""
    digest = combined_digest({key: tensor_digest(tensor) for key, tensor in tensors.items()})
    return Checkpoint(Ingredient(name, MEMORY, files={MEMORY: digest}), config, _specs(tensors, name), None, tensors)


def _specs(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, TensorSpec]:
    specs = {}
    for key, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in CODES:
            raise IngredientError(f"{name}: tensor {key!r} has the type {dtype}, which torch cannot add up.")
        specs[key] = TensorSpec(key, tuple(tensor.shape), dtype)
    return specs
