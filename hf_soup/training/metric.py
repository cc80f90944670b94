"""The metric by which a sweep selects checkpoints and runs, and the function that Trainer computes it with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..data.columns import UNSCORED
from ..errors import EvaluationError, RecipeError
from ..evaluation.selecting_value import selecting_value
from ..metrics.load import Metric, load_metrics
from ..metrics.predictions import Predictions
from .class_weights import class_names


if TYPE_CHECKING:
    import transformers
    from transformers import PretrainedConfig

    from ..metrics.load import Given


BY_LOSS = ("tokens", "pixels", "boxes")  # kinds of predictions for which Trainer only computes the loss


def selecting_metric(given: Given, higher_is_better: bool | None, kind: str) -> Metric:
    """Load the metric of a sweep.

    Args:
        given (`str`, `Callable` or `evaluate.EvaluationModule`):
            Metric as the user gave it.
        higher_is_better (`bool`, *optional*):
            Direction that replaces that of the metric.
        kind (`str`):
            Kind of predictions of the task; for those of `BY_LOSS` Trainer only computes the loss, which then selects.

    Raises:
        [`RecipeError`]: if there is no such metric, or there are several.
    """
    metrics = load_metrics(given)
    if len(metrics) > 1:
        names = ", ".join(metric.name for metric in metrics)
        raise RecipeError(f"a sweep selects by one metric, and metric= has {len(metrics)}: {names}.")
    metric = metrics[0]
    if kind in BY_LOSS:
        return Metric("loss", metric.compute, False)
    if higher_is_better is not None:
        return replace(metric, higher_is_better=higher_is_better)
    return metric


def compute_metrics(metric: Metric, kind: str, config: PretrainedConfig) -> Callable[[Any], dict[str, float]] | None:
    """The function that Trainer calls after each evaluation; `None` if only the loss is logged."""
    import numpy as np

    if kind in BY_LOSS:
        return None
    names = tuple(class_names(config)) if kind == "classes" else ()

    def compute(evaluation: transformers.EvalPrediction) -> dict[str, float]:
        labels: Any = evaluation.label_ids  # one array, because no task has several label columns
        logits: Any = evaluation.predictions
        if kind == "values":  # of shape (rows, 1)
            logits = logits[:, 0]
        # of words (rows, tokens) and classes (rows,) some are not scored; of several labels a row (rows, labels) all
        is_of_words = kind == "classes" and labels.ndim == 2
        if is_of_words or labels.ndim == 1:
            is_scored = labels != UNSCORED
        else:
            is_scored = np.ones(len(labels), dtype=bool)
        rows = np.nonzero(is_scored)[0]
        values = metric.compute(Predictions(logits[is_scored], labels[is_scored], rows, kind, names))
        try:
            name, values = selecting_value([metric], [values], None)
        except EvaluationError:
            raise EvaluationError(
                f"the metric {metric.name!r} gives several values ({', '.join(values)}): return one number, or one of "
                f"them under the name {metric.name!r}."
            ) from None
        return {**values, metric.name: values[name]}  # a function's dict may have another name for its only value

    return compute
