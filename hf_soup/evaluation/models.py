"""The model that a task runs, in a model of sentence-transformers or as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..merging.sentence_models import body_of
from ..tasks import Task
from ..tasks._model_inputs import ModelInputs, inputs_of
from ..tasks._sentences import AUTO_CLASS


if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def model_for(task: Task, model: Any) -> PreTrainedModel:
    """The model itself for tasks on embeddings, and otherwise the model of transformers in it."""
    return model if is_of_sentences(task) else body_of(model)


def config_of(model: Any) -> PretrainedConfig:
    """The configuration of a model; an empty one for a table of embeddings, which has none."""
    from transformers import PretrainedConfig

    return PretrainedConfig() if getattr(model, "config", None) is None else model.config


def inputs_for(task: Task, model: PreTrainedModel) -> ModelInputs:
    """What a model takes; texts for tasks on embeddings."""
    if not is_of_sentences(task):
        return inputs_of(model)
    return ModelInputs(type(model).__name__, frozenset(), None, None, 0, None)


def is_of_sentences(task: Task) -> bool:
    """Whether the models of a task read texts by themselves."""
    return task.AUTO_CLASS == AUTO_CLASS
