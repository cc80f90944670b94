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
    if kind == "pixels":
        true = rng.integers(0, 50, size=(rows, classes))
        right = rng.binomial(true, 0.7)
        said = right + rng.integers(0, 20, size=true.shape)
        return Predictions(np.concatenate([right, said], axis=1).astype(np.float32), true, at, kind)
    if kind == "boxes":
        return _boxes(rows // 10, rng)
    labels = rng.normal(size=rows) * 2 + 3
    if kind == "values":
        return Predictions((labels + rng.normal(size=rows)).astype(np.float32), labels, at, kind)
    logs = -rng.gamma(2, size=rows).astype(np.float32)
    return Predictions(logs, rng.integers(9, size=rows), np.sort(rng.integers(rows // 5, size=rows)), "tokens")


def _boxes(rows, rng):
    """Two or three objects of two classes in each image, found with some error, and one more box that is not there."""
    items, labels, at = [], [], []
    for row in range(rows):
        count = 2 + row % 2
        corner = rng.uniform(0, 60, size=(count, 2))
        there = np.concatenate([corner, corner + rng.uniform(10, 30, size=(count, 2))], axis=1)
        classes = rng.integers(2, size=count)
        found = np.concatenate([there + rng.normal(size=there.shape), [[0, 0, 20, 20]]])
        scores = np.concatenate([rng.uniform(0.3, 1, size=count), rng.uniform(0, 0.6, size=1)])
        said = np.concatenate([np.where(rng.random(count) < 0.8, classes, 1 - classes), [0]])
        areas = (there[:, 2:] - there[:, :2]).prod(axis=1)
        items.append(np.concatenate([found, scores[:, None], said[:, None]], axis=1))
        items.append(np.concatenate([there, areas[:, None], np.zeros((count, 1))], axis=1))
        labels += [-1] * (count + 1) + classes.tolist()
        at += [row] * (2 * count + 1)
    return Predictions(np.concatenate(items).astype(np.float32), np.array(labels), np.array(at), "boxes")
