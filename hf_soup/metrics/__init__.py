"""Metrics: predictions and values derived from them, built-in and custom metrics, calibration, statistics."""

from .built_in import BUILT_IN
from .load import Metric, load_metric, load_metrics


__all__ = ["BUILT_IN", "Metric", "load_metric", "load_metrics"]
