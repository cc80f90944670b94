"""The configuration of the model that an adapter was trained on, which adapters do not hold."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import IngredientError
from ..untrusted import one_line
from .adapter_changes import Stored
from .adapter_file import AdapterTensors
from .checkpoint import Checkpoint
from .inside import json_inside
from .loading_rules import layout_key, layout_of
from .memory import on_disk, quiet_transformers
from .named_code import without_code


# `task_type` of PEFT -> the mapping of transformers that names the class of each model type
CLASSES = {
    "SEQ_CLS": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "TOKEN_CLS": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "CAUSAL_LM": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "SEQ_2_SEQ_LM": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "QUESTION_ANS": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "FEATURE_EXTRACTION": "MODEL_MAPPING_NAMES",
}


class Form(NamedTuple):
    """How a class of models stores what adapters change.

    Args:
        shapes (`Mapping[str, tuple[int, ...]]`):
            Tensor on disk -> its shape.
        on_disk (`Mapping[str, str]`):
            Name of a tensor in memory, by which adapters call it -> its name on disk, of those that are only renamed.
        transposed (`frozenset[str]`):
            Modules whose weights are inputs by outputs, as in GPT-2.
        tied (`tuple[frozenset[str], ...]`):
            Sets of names in memory of weights that are one.
        embeddings (`tuple[str, ...]`):
            Names in memory of the weights of the input embeddings and of the output.
    """

    shapes: Mapping[str, tuple[int, ...]]
    on_disk: Mapping[str, str]
    transposed: frozenset[str]
    tied: tuple[frozenset[str], ...]
    embeddings: tuple[str, ...]


def form_of(config: Mapping[str, Any]) -> Form:
    """The form of the models of a configuration, from a model without weights.

    Args:
        config (`Mapping[str, Any]`):
            Content of `config.json`.

    Raises:
        [`IngredientError`]: if transformers cannot build the model.
    """
    return _form_of(layout_key(config))


@functools.lru_cache(maxsize=16)
def _form_of(key: str) -> Form:
    from transformers.pytorch_utils import Conv1D

    layout = layout_of(key)
    model: Any = layout.model
    with quiet_transformers():
        in_memory = dict(model.state_dict())
        stored = {id(tensor): name for name, tensor in on_disk(model, dict(in_memory)).items()}
    names = {name: stored[id(tensor)] for name, tensor in in_memory.items() if id(tensor) in stored}
    tied: dict[str, set[str]] = {}
    for name, other in layout.tied.items():
        tied.setdefault(other, {other}).add(name)
    modules = dict(model.named_modules())
    ends = []
    for end in (model.get_input_embeddings, model.get_output_embeddings):
        with contextlib.suppress(NotImplementedError):  # of models of images
            ends.append(end())
    return Form(
        layout.shapes,
        names,
        frozenset(name for name, module in modules.items() if isinstance(module, Conv1D)),
        tuple(frozenset(group) for group in tied.values()),
        tuple(f"{name}.weight" for name, module in modules.items() if any(module is end for end in ends)),
    )


def config_of(
    name: str,
    folder: Path | None,
    base: Checkpoint,
    adapter_config: Mapping[str, Any],
    tensors: AdapterTensors,
) -> dict[str, Any]:
    """The configuration of the adapted model: its own if there is one, or that of the base model with its class.

    The class is the first that has all modules of the adapter: that of the task type, or that of the base model, which
    is right for models of several parts, such as texts and images.

    Args:
        name (`str`):
            Name of the adapter.
        folder (`Path`, *optional*):
            Its folder, if it is not in memory.
        base (`Checkpoint`):
            The base model.
        adapter_config (`Mapping[str, Any]`):
            Content of `adapter_config.json`.
        tensors ([`AdapterTensors`]):
            Content of the adapter: a head may have more classes, embeddings more rows.

    Raises:
        [`IngredientError`]: if the class is not known.
    """
    if folder is None:  # in memory the model says what it is
        return dict(base.config)
    if (folder / "config.json").is_file():
        own = json_inside(folder, "config.json")
        if isinstance(own, dict) and own.get("architectures"):
            return without_code(own)
    classes = _classes_for(name, adapter_config, base)
    for architecture in classes:
        config = {**base.config, "architectures": [architecture]}
        with contextlib.suppress(IngredientError):  # there may be no such model
            for changed in _possible_changes(config, tensors.saved):
                if _fit({**config, **changed}, tensors):
                    return {**config, **changed}
    return {**base.config, "architectures": [classes[0]]}


def _classes_for(name: str, adapter_config: Mapping[str, Any], base: Checkpoint) -> list[str]:
    """The classes that an adapter may have been trained on, the likeliest first."""
    from transformers.models.auto import modeling_auto

    task, mapping = adapter_config.get("task_type"), adapter_config.get("auto_mapping")
    given = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    if isinstance(given, str):
        return [given]
    if task is None:
        return [base.architecture]
    if not isinstance(task, str) or task not in CLASSES:
        raise IngredientError(f"{name} has the task_type {one_line(repr(task), 40)}; known are {', '.join(CLASSES)}.")
    classes: Mapping[str, Any] = getattr(modeling_auto, CLASSES[task])
    found = classes.get(base.config.get("model_type", ""))
    if found is None:
        return [base.architecture]
    found = found if isinstance(found, str) else found[0]
    # an encoder without a head may be a part of the usual model
    return [base.architecture, found] if task == "FEATURE_EXTRACTION" else [found, base.architecture]


def _possible_changes(config: Mapping[str, Any], saved: Mapping[str, Stored]) -> list[dict[str, Any]]:
    """Fields of a configuration that may make whole tensors fit: none, a number of classes, one of rows, or both."""
    counts = sorted({tensor.shape[0] for tensor in saved.values() if tensor.shape})
    classes = [_classes(config, count) for count in counts]
    rows = [{"vocab_size": count} for count in counts] if "vocab_size" in config else []
    both = [{**one, **other} for one in classes for other in rows]
    return [{}, *classes, *rows, *both]


def _classes(config: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The fields of a configuration for a number of classes, whose names are kept if there are as many."""
    if len(config.get("id2label") or {}) == count:
        return {}
    labels = {str(index): f"LABEL_{index}" for index in range(count)}
    return {"id2label": labels, "label2id": {label: int(index) for index, label in labels.items()}}


def _fit(config: Mapping[str, Any], tensors: AdapterTensors) -> bool:
    """Whether a model with this configuration has the modules and the whole tensors of an adapter."""
    form = form_of(config)
    known = {*form.on_disk, *form.shapes}
    others = {name: group for group in form.tied for name in group}
    if not all(f"{module}.weight" in known or f"{module}.weight" in others for module in tensors.parts):
        return False
    for key, tensor in tensors.saved.items():
        names = others.get(key, frozenset({key}))
        shapes = {form.shapes.get(form.on_disk.get(name, name)) for name in names} - {None}
        if shapes != {tuple(tensor.shape)}:
            return False
    return True
