"""Metrics: predictions and what follows from them, built-in metrics and those of users, calibration, statistics."""

from .built_in import BUILT_IN
from .load import Metric, load_metric, load_metrics


__all__ = ["BUILT_IN", "Metric", "load_metric", "load_metrics"]
