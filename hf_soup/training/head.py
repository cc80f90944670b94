"""The head of a model: its classes, which parameters belong to it, and another one in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import TrainingError


if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def class_labels(config: PretrainedConfig) -> Mapping[int, str]:
    """The classes of a model: number -> name."""
    return config.id2label or {}  # type: ignore[return-value]  # transformers turns texts that are keys into numbers


def with_new_head(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """The same body with a head that is initialised as transformers initialises it.

    Args:
        model (`transformers.PreTrainedModel`):
            Not to be used any more.
        seed (`int`):
            Of the head.
    """
    import transformers

    if not has_plain_head(model):
        raise TrainingError(
            f'nobody can tell the head of {type(model).__name__} from its body: write head="checkpoint".'
        )
    body = {name: value for name, value in model.state_dict().items() if not is_head(model, name)}
    transformers.set_seed(seed)
    # transformers initialises what a state lacks as the class of the model says
    return type(model).from_pretrained(None, config=model.config, state_dict=body, dtype=model.dtype)


def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether some parameters are the body's, below its prefix, and some are not."""
    return len({is_head(model, name) for name, _ in model.named_parameters()}) == 2


def is_head(model: PreTrainedModel, name: str) -> bool:
    """Whether a parameter lies outside of the body."""
    return not name.startswith(f"{model.base_model_prefix}.")
