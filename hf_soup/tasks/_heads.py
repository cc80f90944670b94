"""Functions on heads that tasks share: heads in configurations, fields of new heads, and outputs of whole rows.

No models are loaded here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..data.columns import UNSCORED, label_names
from ..errors import DataError


if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel

    from . import Task


# `problem_type` of transformers -> kind of predictions, as in `hf_soup.metrics.predictions`
KIND_OF_PROBLEM = {
    "regression": "values",
    "multi_label_classification": "labels",
    "single_label_classification": "classes",
}


def names_classes(task: Task) -> bool:
    """Whether the labels of a task are classes that a model's configuration names; numbers of choices are not."""
    return task.KIND == "classes" and task.PIPELINE not in ("multiple-choice", "zero-shot-image-classification")


def ends_in(config: PretrainedConfig, *ends: str) -> bool:
    """Whether the name of the architecture in a configuration ends in one of these strings."""
    architectures = getattr(config, "architectures", None) or [""]  # empty for a model that was never saved
    return architectures[0].endswith(ends)


def classifies_sounds(config: PretrainedConfig) -> bool:
    """Whether a model has a head for classes of whole sounds; Wav2Vec2 and its relatives call them sequences."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES

    return ends_in(config, *MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES.values())


def classifies_texts(config: PretrainedConfig) -> bool:
    """Whether a model has a head for whole texts."""
    return ends_in(config, "ForSequenceClassification") and not classifies_sounds(config)


def output_kind(config: PretrainedConfig) -> str:
    """The kind of predictions of a classification head, by `problem_type` or number of labels, as in transformers.

    Raises:
        [`DataError`]: if the configuration has a problem type that transformers does not know.
    """
    problem = getattr(config, "problem_type", None)
    if not problem:
        return "values" if config.num_labels == 1 else "classes"
    if problem not in KIND_OF_PROBLEM:
        raise DataError(
            f"the configuration's problem_type is {problem!r}, and it is one of {', '.join(KIND_OF_PROBLEM)}, or null."
        )
    return KIND_OF_PROBLEM[problem]


def class_names(config: PretrainedConfig) -> dict[int, str]:
    """The class names of a model by index; empty if its configuration has none."""
    # keys of JSON are strings
    return {int(index): name for index, name in (config.id2label or {}).items()}


def classes_head(names: list[str]) -> dict[str, Any]:
    """Fields of the configuration of a head with these classes."""
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }


def head_of_classes(dataset: Dataset, label: str) -> dict[str, Any]:
    """Fields of the head for a column of classes, with their names in the data or those of transformers.

    Raises:
        [`DataError`]: if a label is missing, or there is only one class.
    """
    names = label_names(dataset, label)
    if names is None:
        highest = 0
        for row in dataset[label]:
            classes = row if isinstance(row, list) else [row]  # a row has one class, or one for each word
            highest = max([highest, *classes])
        names = [f"LABEL_{index}" for index in range(int(highest) + 1)]  # as transformers calls them
    if len(names) < 2:
        raise DataError(f'the column "{label}" has one class only; there is nothing to learn.')
    return classes_head(names)


def whole_rows(
    model: PreTrainedModel, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits and labels of models with one output for each row; rows with the label -100 are left out."""
    labels = batch.pop("labels")  # without them the model computes no loss
    logits = model(**batch).logits
    # labels of shape (rows,), or (rows, labels) for multiple labels
    is_scored = (labels != UNSCORED).reshape(len(labels), -1).all(dim=1)
    return logits[is_scored], labels[is_scored], is_scored.long()
