"""Made-up predictions of every kind, for tests of computations on predictions."""

import numpy as np

from hf_soup.metrics.predictions import Predictions


TAGS = ("O", "B-PER", "I-PER", "B-LOC")


def predictions(kind="classes", rows=200, classes=4, seed=0):
    """Made-up outputs of one kind that are correct more often than not; in `tags`, several words share a row."""
    rng = np.random.default_rng(seed)
    at = np.arange(rows)
    if kind in ("classes", "tags"):
        labels = rng.integers(classes, size=rows)
        logits = rng.normal(size=(rows, classes)) * 1.5 + 2 * np.eye(classes)[labels]
        at = np.sort(rng.integers(rows // 5, size=rows)) if kind == "tags" else at
        return Predictions(logits.astype(np.float32), labels, at, "classes", TAGS[:classes])
    if kind == "labels":
        labels = (rng.random((rows, classes)) < 0.4).astype(np.float32)
        return Predictions((rng.normal(size=labels.shape) + 2 * labels - 1).astype(np.float32), labels, at, kind)
    if kind == "ranking":
        labels = np.tile([1, 0, 0, 1, 0, 0, 0], rows)
        scores = rng.normal(size=len(labels)) + labels
        return Predictions(scores.astype(np.float32), labels, np.repeat(at, 7), kind)
    labels = rng.normal(size=rows) * 2 + 3
    if kind == "values":
        return Predictions((labels + rng.normal(size=rows)).astype(np.float32), labels, at, kind)
    logs = -rng.gamma(2, size=rows).astype(np.float32)
    return Predictions(logs, rng.integers(9, size=rows), np.sort(rng.integers(rows // 5, size=rows)), "tokens")
