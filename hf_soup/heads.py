"""Heads of models: what a configuration says of one, what a new one is called after the data, and what one says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .data.columns import UNSCORED, label_names
from .errors import DataError


if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel


def ends_in(config: PretrainedConfig, *ends: str) -> bool:
    """Whether the architecture that a configuration names ends in one of these."""
    return (getattr(config, "architectures", None) or [""])[0].endswith(ends)


def output_kind(config: PretrainedConfig) -> str:
    """What a classification head gives, as transformers' own losses take it: by `problem_type` or number of labels.

    Raises:
        [`DataError`]: if the configuration names a problem that transformers does not know.
    """
    named = {"regression": "values", "multi_label_classification": "labels", "single_label_classification": "classes"}
    problem = getattr(config, "problem_type", None)
    if not problem:
        return "values" if config.num_labels == 1 else "classes"
    if problem not in named:
        raise DataError(
            f"the configuration's problem_type is {problem!r}, and it is one of {', '.join(named)}, or null."
        )
    return named[problem]


def classes_head(names: list[str]) -> dict[str, Any]:
    """Fields of the configuration of a head with these classes."""
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }


def head_of_classes(dataset: Dataset, label: str) -> dict[str, Any]:
    """The head for a column of classes, by their names in the data or as transformers calls them.

    Raises:
        [`DataError`]: if a label is missing, or there is one class only.
    """
    names = label_names(dataset, label)
    if names is None:
        values = dataset[label]
        highest = max(max(row, default=0) if isinstance(row, list) else row for row in values)
        names = [f"LABEL_{index}" for index in range(highest + 1)]
    if len(names) < 2:
        raise DataError(f'the column "{label}" has one class only; there is nothing to learn.')
    return classes_head(names)


def whole_rows(
    model: PreTrainedModel, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits and labels of models that say one thing of each row; rows marked -100 are left out."""
    labels = batch.pop("labels")
    logits = model(**batch).logits
    keep = (labels != UNSCORED).reshape(len(labels), -1).all(dim=1)
    return logits[keep], labels[keep], keep.long()
