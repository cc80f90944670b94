"""Class weights: from the setting to a number for each class, and the loss that Trainer computes with them.

No files are read and nothing is trained here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..data.columns import UNSCORED
from ..errors import RecipeError, did_you_mean
from ..tasks._heads import names_classes
from .head import class_labels
from .settings import is_number


if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig, Trainer

    from ..tasks import Task

BALANCED = "balanced"
FORMS = f'"{BALANCED}", a mapping of classes to weights, or a list with the weight of each class'


def check_class_weights(
    setting: Any,
    task: Task,
    config: PretrainedConfig,
    train: Dataset,
    data_classes: Mapping[int, str] | None,
) -> None:
    """Raise an error for class weights that do not fit the task, the classes or the data.

    Args:
        setting (`str`, `Mapping[str, float]` or `Sequence[float]`):
            Value of the setting `class_weights`.
        task ([`Task`]):
            Task, a module of `hf_soup.tasks`.
        config (`transformers.PretrainedConfig`):
            Configuration of the model that the runs start from.
        train (`Dataset`):
            Encoded training data.
        data_classes (`Mapping[int, str]`, *optional*):
            Classes of the data, whose order may differ from that of the model.

    Raises:
        [`RecipeError`]: if the weights do not fit.
    """
    if not names_classes(task):
        name = task.__name__.rpartition(".")[2].replace("_", "-")
        raise RecipeError(f'"class_weights" is for text, image and token classification, and this is {name}.')
    classes = class_names(config)
    resolve_class_weights(setting, classes, scored_labels(train))
    if isinstance(setting, (str, Mapping)) or data_classes is None:
        return
    # a list has no names: if data and model have different orders, it is ambiguous
    ordered = [data_classes[index] for index in sorted(data_classes)]
    if ordered != classes and sorted(ordered) == sorted(classes):
        raise RecipeError(
            f'"class_weights" is a list, and the order of the classes is {", ".join(ordered)} in the data and '
            f"{', '.join(classes)} in the model. Write a mapping of classes to weights."
        )


def class_names(config: PretrainedConfig) -> list[str]:
    """Names of the classes of a model, in its order."""
    labels = class_labels(config)
    return [str(labels[index]) for index in sorted(labels)]


def scored_labels(encoded: Dataset) -> np.ndarray:
    """The class of each row or word that is scored."""
    import numpy as np

    labels = encoded.with_format(None).select_columns(["labels"])["labels"][:]
    if labels and isinstance(labels[0], list):  # words
        # integers even for a row without words, for which numpy would use floating-point numbers
        ids = np.concatenate([np.asarray(row, dtype=np.int64) for row in labels])
    else:
        ids = np.asarray(labels)
    return ids[ids != UNSCORED]


def resolve_class_weights(setting: Any, classes: Sequence[str], labels: np.ndarray) -> list[float]:
    """Compute a weight for each class.

    Args:
        setting (`str`, `Mapping[str, float]` or `Sequence[float]`):
            `"balanced"`: the number of labels divided by the number of classes and by the number of labels of the
            class, as in scikit-learn's `compute_class_weight`. A mapping of class names to weights: missing classes
            have the weight 1, and classes that are numbers in the data may be named by their number. Or a list with
            the weight of each class.
        classes (`Sequence[str]`):
            Class names, in the order of the model.
        labels (`np.ndarray`):
            Labels of the training data, as class indices.

    Returns:
        `list[float]`: weights in the order of `classes`.

    Raises:
        [`RecipeError`]: if the setting has another form or names an unknown class, or a class to balance has no label.
    """
    if isinstance(setting, str) and setting == BALANCED:
        return _balanced(classes, labels)
    if isinstance(setting, Mapping):
        named = _by_name(setting, classes)
        weights = [named.get(name, 1.0) for name in classes]
    elif isinstance(setting, (list, tuple)):
        weights = list(setting)
        if len(weights) != len(classes):
            raise RecipeError(
                f'"class_weights" has {len(weights)} weights for {len(classes)} classes ({", ".join(classes)}).'
            )
    else:
        raise RecipeError(f'"class_weights" is {FORMS}, not {setting!r}; in a space, write a list in a list.')
    for name, weight in zip(classes, weights, strict=True):
        if not is_number(weight, int, float) or not 0 < weight < math.inf:
            raise RecipeError(f'"class_weights": the weight of "{name}" is a number above 0, not {weight!r}.')
    return [float(weight) for weight in weights]


def _by_name(setting: Mapping[Any, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Weights by class. A class without a name, which transformers calls `LABEL_1`, may be named by its number."""
    aliases = {str(index): f"LABEL_{index}" for index in range(len(classes))}
    if list(aliases.values()) != list(classes):  # the classes have their own names
        aliases = {}
    named = {}
    for key, weight in setting.items():
        name = aliases.get(str(key), str(key))  # YAML reads the key 1 as a number
        if name not in classes:
            raise RecipeError(f'"class_weights": there is no class "{name}"{did_you_mean(name, classes)}')
        named[name] = weight
    return named


def _balanced(classes: Sequence[str], labels: np.ndarray) -> list[float]:
    """Weights with which all classes contribute equally to the loss, regardless of their number of labels."""
    import numpy as np
    from sklearn.utils.class_weight import compute_class_weight

    counts = np.bincount(labels, minlength=len(classes))
    absent = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if absent:
        raise RecipeError(
            f'class_weights="{BALANCED}" divides by the number of training examples of each class, and there are none '
            f"of {', '.join(absent[:5])}. Write a mapping of classes to weights."
        )
    return compute_class_weight(BALANCED, classes=np.arange(len(classes)), y=labels).tolist()


class WeightedLoss:
    """Cross entropy with class weights, for Trainer's `compute_loss_func`.

    The loss is the weighted sum over all labels divided by the sum of their weights. For one batch that is
    `torch.nn.functional.cross_entropy(logits, labels, weight=weights, label_smoothing=label_smoothing)`. If a step
    accumulates several batches or is shared by several processes, it is divided by the weights of all its labels, so
    that it equals the step of one large batch.

    Args:
        weights (`Sequence[float]`):
            Weight of each class, in the order of the model.
        label_smoothing (`float`, *optional*, defaults to 0.0):
            Label smoothing factor, as for `cross_entropy`.
    """

    def __init__(self, weights: Sequence[float], label_smoothing: float = 0.0):
        import torch

        self.weights = torch.tensor(weights)
        self.label_smoothing = label_smoothing
        self._step_weight: torch.Tensor | None = None

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Compute the loss of one batch.

        Args:
            outputs (`transformers.utils.ModelOutput`):
                Output of the model, with `logits` of shape `(batch, classes)` or `(batch, tokens, classes)`.
            labels (`torch.Tensor`):
                Labels of shape `(batch,)` or `(batch, tokens)`; -100 is ignored.
            num_items_in_batch (`torch.Tensor` or `int`, *optional*):
                Number of labels that Trainer has counted in all processes.
        """
        import torch

        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
        # words like rows: (batch, tokens, classes) -> (batch * tokens, classes)
        logits = logits.float().reshape(-1, logits.shape[-1])
        labels = labels.reshape(-1)
        summed = torch.nn.functional.cross_entropy(
            logits,
            labels,
            weight=self.weights.to(logits.device),
            ignore_index=UNSCORED,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        if logits.requires_grad and self._step_weight is not None:  # a batch of a training step
            total = self._step_weight.to(logits.device)
        else:
            total = self.weight_of(labels)
            if num_items_in_batch is not None:  # an evaluation: of several processes, each has its share of the labels
                total = total * num_items_in_batch / (labels != UNSCORED).sum().clamp_min(1)
        return summed / total.clamp_min(torch.finfo(total.dtype).tiny)  # a batch without labels has the loss 0

    def weight_of(self, labels: torch.Tensor) -> torch.Tensor:
        """The sum of the weights of the labels that are scored."""
        return self.weights.to(labels.device)[labels[labels != UNSCORED]].sum()

    def attach(self, trainer: Trainer) -> None:
        """Make a Trainer report the sum of label weights of each step; by itself it only reports the number of labels.

        Args:
            trainer (`transformers.Trainer`):
                Trainer that uses this as its `compute_loss_func`.
        """
        import torch

        draw = trainer.get_batch_samples

        def get_batch_samples(epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
            batches, number = draw(epoch_iterator, num_batches, device)
            weight = torch.zeros((), device=device)
            for batch in batches:
                weight = weight + self.weight_of(batch["labels"]).to(device)
            # as Trainer counts the labels of the step
            if trainer.args.average_tokens_across_devices and trainer.args.world_size > 1 and batches:
                weight = trainer.accelerator.gather(weight).sum()
            self._step_weight = weight
            return batches, number

        # Trainer has no hook between drawing the batches of a step and computing their losses
        trainer.get_batch_samples = get_batch_samples  # type: ignore[method-assign]
