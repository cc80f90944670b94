"""BatchNorm after averaging: running statistics of an average fit nobody, so they are estimated again on data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..data.classes import improbably_missing
from ..errors import DataError, EvaluationError, warn_user
from ..progress import progress_bar
from ..untrusted import as_error
from .running import on_device


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

LABELS = ("labels", "label")


def batchnorm_modules(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers of a model that keep running statistics."""
    import torch

    kind = torch.nn.modules.batchnorm._BatchNorm
    return [module for module in model.modules() if isinstance(module, kind) and module.track_running_stats]


def update_batchnorm(model: PreTrainedModel, data: Iterable[Any]) -> PreTrainedModel:
    """Estimate the running statistics of BatchNorm again, as the plain average over all batches.

    Args:
        model (`transformers.PreTrainedModel`):
            Changed in place; one without BatchNorm is left alone and the data is not read.
        data (`Iterable`):
            Batches as the model takes them: mappings of tensors (labels are left out), or tensors, or tuples whose
            first is the input. Of all classes: where labels say that some are missing, a warning names them.

    Returns:
        `transformers.PreTrainedModel`: the same model, in the mode that it was in.

    Raises:
        [`DataError`]: if there is no batch.
        [`EvaluationError`]: if the model fails on one.

    Source: Izmailov et al. 2018, [Averaging weights leads to wider optima and better
    generalization](https://arxiv.org/abs/1803.05407), section 3.2; `torch.optim.swa_utils.update_bn`.
    """
    import torch

    layers = batchnorm_modules(model)
    if not layers:
        return model
    batches = iter(data)
    first = next(batches, None)
    if first is None:
        raise DataError("BatchNorm cannot be estimated without data: there was no batch.")
    momenta, training = {layer: layer.momentum for layer in layers}, {m: m.training for m in model.modules()}
    labels: list[int] = []
    try:
        model.eval()  # dropout and the like stay as they are when the model is used
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a plain average instead of a moving one
            layer.train()
        with torch.no_grad():
            for batch in progress_bar(chain([first], batches), desc="Estimating BatchNorm", unit="batch"):
                with as_error(EvaluationError, f"{type(model).__name__} fails on a batch for BatchNorm"):
                    _run(model, batch)
                labels += _labels(batch)
    finally:
        for layer, momentum in momenta.items():
            layer.momentum = momentum
        for module, mode in training.items():
            module.training = mode
    _warn_of_missing_classes(model, labels)
    return model


def _run(model: PreTrainedModel, batch: Any) -> None:
    place = model.device, getattr(model, "dtype", None)
    if isinstance(batch, Mapping):
        model(**{key: on_device(value, *place) for key, value in batch.items() if key not in LABELS})
    else:
        model(on_device(batch[0] if isinstance(batch, (tuple, list)) else batch, *place))


def _labels(batch: Any) -> list[int]:
    """The class of each row, where a batch tells it."""
    labels = next((batch[key] for key in LABELS if key in batch), None) if isinstance(batch, Mapping) else None
    whole = getattr(labels, "ndim", 0) == 1 and not labels.is_floating_point()
    return labels.tolist() if whole else []


def _warn_of_missing_classes(model: PreTrainedModel, labels: list[int]) -> None:
    names = dict(getattr(getattr(model, "config", None), "id2label", None) or {})
    present = set(labels) & set(names)
    absent = tuple(str(names[index]) for index in names if index not in present)
    missing = improbably_missing(absent, len(names), len(labels))
    if present and missing is not None:
        warn_user(missing.message("the data for BatchNorm"))
