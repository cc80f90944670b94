"""Metrics: our own `evaluate.Metric` subclasses, which need no network, and from a name to a metric.

scikit-learn does the arithmetic. All of these take predicted classes, and higher is better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .errors import RecipeError, did_you_mean


if TYPE_CHECKING:
    import evaluate
    import numpy as np


def _accuracy(references: np.ndarray, predictions: np.ndarray) -> float:
    from sklearn.metrics import accuracy_score

    return accuracy_score(references, predictions)


def _f1_macro(references: np.ndarray, predictions: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    return f1_score(references, predictions, average="macro", zero_division=0)


def _matthews(references: np.ndarray, predictions: np.ndarray) -> float:
    from sklearn.metrics import matthews_corrcoef

    return matthews_corrcoef(references, predictions)


BUILT_IN: dict[str, Callable[..., float]] = {
    "accuracy": _accuracy,
    "f1_macro": _f1_macro,
    "matthews_correlation": _matthews,
}


def load_metric(name: str) -> evaluate.Metric:
    """A metric by name.

    Args:
        name (`str`):
            `"accuracy"`, `"f1_macro"` or `"matthews_correlation"`.

    Returns:
        `evaluate.Metric`: `compute(predictions=..., references=...)` gives `{name: value}`.

    Raises:
        [`RecipeError`]: if there is none of that name.
    """
    if name not in BUILT_IN:
        raise RecipeError(f'there is no metric "{name}"{did_you_mean(name, BUILT_IN)}')
    import datasets
    import evaluate

    class BuiltIn(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            features = datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            )
            return evaluate.MetricInfo(description=name, citation="", inputs_description="classes", features=features)

        def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
            return {name: float(BUILT_IN[name](references, predictions))}

    return BuiltIn(keep_in_memory=True)
