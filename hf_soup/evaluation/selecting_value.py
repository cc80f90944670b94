"""Finds the value that selects among the values of metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import EvaluationError, did_you_mean
from ..metrics.load import Metric


def selecting_value(
    metrics: Sequence[Metric], values_by_metric: Sequence[Mapping[str, float]], select_by: str | None
) -> tuple[str, dict[str, float]]:
    """The name of the value that selects, and the values of all metrics by name.

    Args:
        metrics (`Sequence[Metric]`):
            Metrics, at least one.
        values_by_metric (`Sequence[Mapping[str, float]]`):
            Values of each metric.
        select_by (`str`, *optional*):
            Name given by the user; by default the first metric selects.

    Raises:
        [`EvaluationError`]: if no metric returns the named value, or the first returns several and none is named.
    """
    name = select_by
    if name is None:
        name = _own_name(metrics[0], values_by_metric[0])
    values: dict[str, float] = {}
    for values_of_metric in values_by_metric:
        for key, value in values_of_metric.items():
            values.setdefault(key, value)  # if two metrics return a value of one name, the first is used
    if name not in values:
        raise EvaluationError(f"no metric gives {name!r}, which is to select{did_you_mean(str(name), values)}")
    return name, values


def _own_name(metric: Metric, values: Mapping[str, float]) -> str:
    """The name of a metric's value; among several, the one with the name of the metric."""
    if len(values) == 1:
        return next(iter(values))
    if metric.name not in values:
        raise EvaluationError(
            f"the metric {metric.name!r} gives several values ({', '.join(values)}): name one with select_by=."
        )
    return metric.name
