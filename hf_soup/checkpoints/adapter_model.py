"""The configuration of the model that an adapter was trained on, which adapters do not hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import IngredientError
from ..untrusted import one_line
from .adapter_changes import Stored
from .checkpoint import Checkpoint
from .inside import json_inside
from .layout import shapes_of
from .memory import names_on_disk
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
WITH_CLASSES = ("SEQ_CLS", "TOKEN_CLS")


def config_of(
    name: str,
    folder: Path | None,
    base: Checkpoint,
    adapter_config: Mapping[str, Any],
    saved: Mapping[str, Stored],
) -> dict[str, Any]:
    """The configuration of the adapted model: its own if there is one, or that of the base model with its class."""
    if folder is None:  # in memory the model says what it is
        return dict(base.config)
    if (folder / "config.json").is_file():
        own = json_inside(folder, "config.json")
        if isinstance(own, dict) and own.get("architectures"):
            return without_code(own)
    task = adapter_config.get("task_type")
    config = {**base.config, "architectures": [_class_of(name, task, adapter_config, base)]}
    return _with_classes(config, saved) if task in WITH_CLASSES else _with_rows(config, saved)


def _class_of(name: str, task: Any, adapter_config: Mapping[str, Any], base: Checkpoint) -> str:
    """The class that an adapter was trained on."""
    from transformers.models.auto import modeling_auto

    given = (adapter_config.get("auto_mapping") or {}).get("base_model_class")
    if isinstance(given, str):
        return given
    if task is None:
        return base.architecture
    if task not in CLASSES:
        raise IngredientError(f"{name} has the task_type {one_line(task, 40)!r}; known are {', '.join(CLASSES)}.")
    classes: Mapping[str, Any] = getattr(modeling_auto, CLASSES[task])
    found = classes.get(base.config.get("model_type", ""))
    if found is None:
        raise IngredientError(f"{name}: a {base.config.get('model_type')} has no class for the task_type {task}.")
    return found if isinstance(found, str) else found[0]


def _with_classes(config: dict[str, Any], saved: Mapping[str, Stored]) -> dict[str, Any]:
    """The configuration with as many classes as the saved head has."""
    own = len(config.get("id2label") or {}) or 2
    sizes = sorted({tensor.shape[0] for tensor in saved.values() if tensor.shape})
    for count in [own, *sizes]:
        labels = config.get("id2label") if count == own else None
        changed = dict(config)
        if labels is None:
            labels = {str(index): f"LABEL_{index}" for index in range(count)}
            changed |= {"id2label": labels, "label2id": {label: int(index) for index, label in labels.items()}}
        if _fit(changed, saved):
            return changed
    return config


def _with_rows(config: dict[str, Any], saved: Mapping[str, Stored]) -> dict[str, Any]:
    """The configuration with as many tokens as the saved embeddings have rows, if there are any."""
    for count in sorted({tensor.shape[0] for tensor in saved.values() if len(tensor.shape) == 2}):
        changed = {**config, "vocab_size": count}
        if _fit(changed, saved):
            return changed
    return config


def _fit(config: Mapping[str, Any], saved: Mapping[str, Stored]) -> bool:
    """Whether a model with this configuration has the whole tensors of an adapter."""
    shapes, stored = shapes_of(config), names_on_disk(config)
    return all(shapes.get(stored.get(key, key)) == tensor.shape for key, tensor in saved.items())
