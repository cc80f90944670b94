"""The head of a model: its classes, its parameters, and its replacement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import TrainingError


if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def class_labels(config: PretrainedConfig) -> Mapping[int, str]:
    """Names of the classes of a model, by index."""
    return config.id2label or {}  # type: ignore[return-value]  # transformers turns texts that are keys into numbers


def with_new_head(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """The same body with a new head, initialised as transformers does.

    Args:
        model (`transformers.PreTrainedModel`):
            Model with the old head, which must not be used afterwards.
        seed (`int`):
            Random seed of the head.
    """
    import transformers

    if not has_plain_head(model):
        raise TrainingError(
            f'the head of {type(model).__name__} cannot be told from its body: write head="checkpoint".'
        )
    body = {name: value for name, value in model.state_dict().items() if not is_head(model, name)}
    transformers.set_seed(seed)
    # transformers initialises tensors that the state lacks as the model class defines
    return type(model).from_pretrained(None, config=model.config, state_dict=body, dtype=model.dtype)


def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether some parameters belong to the body, by its prefix, and some do not."""
    return len({is_head(model, name) for name, _ in model.named_parameters()}) == 2


def is_head(model: PreTrainedModel, name: str) -> bool:
    """Whether a parameter is outside of the body."""
    return not name.startswith(f"{model.base_model_prefix}.")
