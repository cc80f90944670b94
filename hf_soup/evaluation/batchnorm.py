"""BatchNorm after averaging: averaged running statistics match neither model, so they are estimated again on data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..data.classes import improbably_missing
from ..errors import DataError, EvaluationError, warn
from ..options import answers_keywords
from ..progress import progress_bar
from ..untrusted import as_error
from .running import on_device


if TYPE_CHECKING:
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm
    from transformers import PreTrainedModel

LABELS = ("labels", "label")


def batchnorm_modules(model: torch.nn.Module) -> list[_BatchNorm]:
    """The layers of a model that have running statistics."""
    from torch.nn.modules.batchnorm import _BatchNorm

    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [layer for layer in layers if layer.track_running_stats]


@answers_keywords
def update_batchnorm(model: PreTrainedModel, data: Iterable[Any]) -> PreTrainedModel:
    """Estimate the running statistics of BatchNorm again, as the plain average over all batches.

    Args:
        model (`transformers.PreTrainedModel`):
            Model, which is changed in place. If it has no BatchNorm, it is left unchanged and the data is not read.
        data (`Iterable`):
            Batches of model inputs: mappings of tensors (labels are ignored), tensors, or tuples whose first item is
            the input. They should contain all classes: if labels show that some are missing, a warning names them.

    Returns:
        `transformers.PreTrainedModel`: the same model, in the same mode as before.

    Raises:
        [`DataError`]: if there is no batch.
        [`EvaluationError`]: if the model fails on a batch.

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
    labels: list[int] = []
    with _plain_averages(model, layers), torch.no_grad():
        for batch in progress_bar(chain([first], batches), desc="Estimating BatchNorm", unit="batch"):
            with as_error(EvaluationError, f"{type(model).__name__} fails on a batch for BatchNorm"):
                _run(model, batch)
            labels += _labels(batch)
    _warn_of_missing_classes(model, labels)
    return model


@contextlib.contextmanager
def _plain_averages(model: PreTrainedModel, layers: Sequence[_BatchNorm]) -> Iterator[None]:
    """Make layers average the statistics of all batches from scratch; modes and momenta are restored at the end."""
    momenta = [layer.momentum for layer in layers]
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()  # dropout and the like behave as in use
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a plain average instead of a moving one
            layer.train()
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes.items():
            module.training = mode


def _run(model: PreTrainedModel, batch: Any) -> None:
    """Run a batch, which updates the statistics, without labels, so that no loss is computed."""
    device, dtype = model.device, getattr(model, "dtype", None)
    if isinstance(batch, Mapping):
        inputs = {name: on_device(value, device, dtype) for name, value in batch.items() if name not in LABELS}
        model(**inputs)
        return
    tensor = batch[0] if isinstance(batch, (tuple, list)) else batch
    model(on_device(tensor, device, dtype))


def _labels(batch: Any) -> list[int]:
    """The class of each row, if the batch has it."""
    if not isinstance(batch, Mapping):
        return []
    labels = next((batch[name] for name in LABELS if name in batch), None)
    # Labels of tokens are no classes of rows; multiple labels and values are floating-point numbers.
    if labels is None or getattr(labels, "ndim", 0) != 1 or labels.is_floating_point():
        return []
    return labels.tolist()


def _warn_of_missing_classes(model: PreTrainedModel, labels: Sequence[int]) -> None:
    """Warn if the statistics would be those of some classes only."""
    config = getattr(model, "config", None)
    names = dict(getattr(config, "id2label", None) or {})
    present = set(labels) & set(names)
    absent = [str(name) for index, name in names.items() if index not in present]
    missing = improbably_missing(tuple(absent), len(names), len(labels))
    if present and missing is not None:
        warn(missing.message("the data for BatchNorm"))
