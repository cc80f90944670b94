"""Which of the values that metrics give is the one that selects."""

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
            At least one.
        values_by_metric (`Sequence[Mapping[str, float]]`):
            What each of them gave.
        select_by (`str`, *optional*):
            What the user named; by default the first metric selects.

    Raises:
        [`EvaluationError`]: if no metric gives the value that is named, or the first gives several and none is.
    """
    name = select_by
    if name is None:
        name = _own_name(metrics[0], values_by_metric[0])
    values: dict[str, float] = {}
    for values_of_metric in values_by_metric:
        for key, value in values_of_metric.items():
            values.setdefault(key, value)  # where two metrics give a value of one name, the first counts
    if name not in values:
        raise EvaluationError(f"no metric gives {name!r}, which is to select{did_you_mean(str(name), values)}")
    return name, values


def _own_name(metric: Metric, values: Mapping[str, float]) -> str:
    """What a metric's value is called; of several, the one that is called like the metric."""
    if len(values) == 1:
        return next(iter(values))
    if metric.name not in values:
        raise EvaluationError(
            f"the metric {metric.name!r} gives several values ({', '.join(values)}): name one with select_by=."
        )
    return metric.name
