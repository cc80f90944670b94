"""Models and state dicts in memory -> opened checkpoints, under the tensor names that their files would have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import IngredientError
from ..types import Ingredient
from .checkpoint import MEMORY, Checkpoint
from .digest import combined_digest, tensor_digest
from .named_code import without_code
from .reader import CODES, TensorSpec, widest
from .subfolders import fit_subfolders
from .tensor_problems import shape_problems


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SHOWN = 3  # problems in one error


def open_model(model: PreTrainedModel, name: str | None) -> Checkpoint:
    """Open a loaded model.

    Args:
        model (`transformers.PreTrainedModel`):
            Model without a wrapper around it.
        name (`str`, *optional*):
            Name of the ingredient; its class by default.

    Raises:
        [`IngredientError`]: if some weights are not in memory, or tied weights differ.
    """
    from .memory import tensors_on_disk

    config = without_code(model.config.to_dict()) | {"architectures": [type(model).__name__]}
    name = name or type(model).__name__
    opened = _open_fitted(tensors_on_disk(model), name, config)
    if not model.can_generate():
        return opened
    return replace(opened, generation_config=model.generation_config.to_json_string())


def _open_fitted(stored: dict[str, torch.Tensor], name: str, config: dict[str, Any]) -> Checkpoint:
    """Open tensors under the names that their class uses."""
    import torch

    fitted = fit_subfolders(config, {"": _specs(stored, name)})
    tensors = {new_name: stored[spec.key] for new_name, spec in fitted.specs.items()}
    # Tied weights in memory are compared at once; those in files when the tensors are read.
    for spec, twin in fitted.twins:
        if not torch.equal(stored[spec.key], tensors[twin]):
            raise IngredientError(
                f"{name} has different values for {spec.key} and for the weight that its class ties to it. Set "
                "config.tie_word_embeddings = False if they are meant to be two weights."
            )
    specs = {new_name: spec._replace(stored="") for new_name, spec in fitted.specs.items()}
    ingredient = Ingredient(name, MEMORY, files={MEMORY: _digest_of(tensors)})
    notes = tuple(f"{name}: {note}" for note in fitted.notes)
    fitted = fitted._replace(specs=specs, twins=())
    return Checkpoint(ingredient, config, specs, tensors=tensors, fitted=fitted, notes=notes)


def open_state(state: Mapping[str, torch.Tensor], name: str, config: Any) -> Checkpoint:
    """Open a state dict by transformers' own loading, which accepts names as in memory and as on disk.

    Args:
        state (`Mapping[str, torch.Tensor]`):
            Tensors by name.
        name (`str`):
            Name of the ingredient.
        config (`transformers.PretrainedConfig` or `Mapping`):
            Configuration of the model.

    Raises:
        [`IngredientError`]: if there is no configuration, something else than tensors by name, or tensors that do not
            make the model.
    """
    from .memory import build_model

    if config is None or not state:
        raise IngredientError(
            "a state dict does not say which model it belongs to: pass hf_soup.load_ingredient(state, config=...)."
        )
    if not isinstance(config, Mapping) and not hasattr(config, "to_dict"):
        raise IngredientError(f"`config=` is a configuration of transformers or a mapping, not {config!r}.")
    _refuse_other_values(state)
    settings = config if isinstance(config, Mapping) else config.to_dict()
    settings = without_code(settings)
    fitted = fit_subfolders(settings, {"": _specs(state, name)})
    if fitted.expected is not None:
        _refuse_shapes(Checkpoint(Ingredient(name, MEMORY), settings, fitted.specs), fitted.expected)
    tensors = {key: state[spec.key] for key, spec in fitted.specs.items()}
    tensors |= {spec.key: state[spec.key] for spec, _ in fitted.twins}
    model = build_model({**settings, "dtype": _floating_dtype(state)}, tensors)
    # The renamings that transformers applied on loading. `open_model` would revert them and give the names that were
    # passed here, instead of those that `save_pretrained` of the class writes.
    vars(model).pop("_weight_conversions", None)
    opened = open_model(model, name)
    notes = tuple(f"{name}: {note}" for note in fitted.notes)
    return replace(opened, notes=(*notes, *opened.notes))


def open_pickled_state(state: Mapping[str, torch.Tensor], name: str, config: Mapping[str, Any]) -> Checkpoint:
    """Open the state dict of a pickle, whose class may differ from the one that its configuration names.

    The check reports problems with the names; a base model may lack a head or have another one.
    """
    try:
        return open_state(state, name, config)
    except IngredientError:
        return _open_fitted(dict(state), name, dict(config))


def _refuse_other_values(state: Mapping[str, torch.Tensor]) -> None:
    """Refuse anything that is not a mapping from names to tensors, such as a full checkpoint of a training loop."""
    import torch

    for key, value in state.items():
        if isinstance(key, str) and isinstance(value, torch.Tensor):
            continue
        inside = f" Give what {key!r} holds." if isinstance(value, Mapping) else ""
        raise IngredientError(f"a state dict has tensors by name, and {key!r} is {type(value).__name__}.{inside}")


def _refuse_shapes(item: Checkpoint, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse tensors whose shapes differ from those that their configuration gives."""
    problems = shape_problems(item, expected, {})
    if problems:
        raise IngredientError(f"{'; '.join(problems[:SHOWN])}.")


def open_tensors(tensors: dict[str, torch.Tensor], name: str, config: dict[str, Any]) -> Checkpoint:
    """Open tensors under their own names."""
    ingredient = Ingredient(name, MEMORY, files={MEMORY: _digest_of(tensors)})
    return Checkpoint(ingredient, config, _specs(tensors, name), tensors=tensors)


def _digest_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """One digest of all tensors, which takes the place of the digests of files."""
    return combined_digest({name: tensor_digest(tensor) for name, tensor in tensors.items()})


def _floating_dtype(state: Mapping[str, torch.Tensor]) -> str:
    """The smallest data type that holds all weights of a state dict, which may have several types."""
    dtypes = {_dtype_name(tensor) for tensor in state.values() if tensor.is_floating_point()}
    if not dtypes:
        return "float32"
    return widest(sorted(dtypes))


def _specs(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, TensorSpec]:
    """Names, shapes and types as file headers would have them; `name` is the ingredient's name in errors."""
    specs = {}
    for key, tensor in tensors.items():
        dtype = _dtype_name(tensor)
        if dtype not in CODES:
            raise IngredientError(f"{name}: tensor {key!r} has the type {dtype}, which torch cannot add up.")
        specs[key] = TensorSpec(key, tuple(tensor.shape), dtype)
    return specs


def _dtype_name(tensor: torch.Tensor) -> str:
    """torch's name of a data type without `torch.`, as in `"float32"`."""
    return str(tensor.dtype).removeprefix("torch.")
