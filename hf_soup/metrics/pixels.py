"""Metrics of segmentation, from counts of the pixels of each class in each image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .predictions import Predictions


if TYPE_CHECKING:
    import numpy as np

PIXELS = ("mean_iou", "mean_accuracy", "overall_accuracy")


def pixel_counts(predictions: Predictions) -> np.ndarray:
    """For each image and class the pixels that are right, that the model says have the class, and that have it."""
    import numpy as np

    return np.concatenate([predictions.logits.astype(np.float64), predictions.labels.astype(np.float64)], axis=1)


def value_of_counts(name: str, counts: np.ndarray) -> np.ndarray:
    """A metric from counts.

    Args:
        name (`str`):
            `"mean_iou"`: the mean over classes of the intersection of what is there and what was predicted, divided by
            their union. `"mean_accuracy"`: the mean over classes of the share of their pixels that is right.
            `"overall_accuracy"`: the share of all pixels that is right. Classes that do not occur do not count.
        counts (`np.ndarray` of shape `(..., 3 * classes)`):
            Sums of [`pixel_counts`] over images.

    Returns:
        `np.ndarray` of shape `(...)`

    Source: Long et al. 2015, [Fully convolutional networks](https://arxiv.org/abs/1411.4038), section 5; the names are
    those of `mean_iou` in `evaluate`.
    """
    import numpy as np

    right, predicted, true = np.split(counts, 3, axis=-1)
    if name == "overall_accuracy":
        return right.sum(-1) / true.sum(-1)
    total = predicted + true - right if name == "mean_iou" else true
    shares = np.divide(right, total, out=np.full_like(right, np.nan), where=total > 0)
    return np.nanmean(shares, axis=-1)
