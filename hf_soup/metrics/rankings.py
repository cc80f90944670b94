"""Metrics of rankings: how far up the relevant documents of a query are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .predictions import Predictions


if TYPE_CHECKING:
    import numpy as np

DEPTHS = (1, 3, 5, 10, 100)  # numbers of documents, from the top, that are looked at


def _accuracy(relevant: np.ndarray, total: int, depth: int) -> float:
    """Whether there is a relevant document."""
    return float(relevant.any())


def _precision(relevant: np.ndarray, total: int, depth: int) -> float:
    """The share of documents that are relevant."""
    return float(relevant.sum()) / depth


def _recall(relevant: np.ndarray, total: int, depth: int) -> float:
    """The share of the relevant documents that are there."""
    return float(relevant.sum()) / total


def _mrr(relevant: np.ndarray, total: int, depth: int) -> float:
    """The reciprocal of the place of the first relevant document."""
    places = relevant.nonzero()[0]
    return 1 / (places[0] + 1) if len(places) else 0.0


def _ndcg(relevant: np.ndarray, total: int, depth: int) -> float:
    """The discounted gain, relative to that of the best order."""
    import numpy as np

    discounts = 1 / np.log2(np.arange(2, max(len(relevant), min(total, depth)) + 2))
    return float(relevant @ discounts[: len(relevant)] / discounts[: min(total, depth)].sum())


def _map(relevant: np.ndarray, total: int, depth: int) -> float:
    """The mean, over the relevant documents, of the precision at the place of each."""
    import numpy as np

    precisions = np.cumsum(relevant) / np.arange(1, len(relevant) + 1)
    return float((precisions * relevant).sum() / min(total, depth))


_BY_NAME: dict[str, Callable[[np.ndarray, int, int], float]] = {
    "ndcg": _ndcg,
    "mrr": _mrr,
    "map": _map,
    "recall": _recall,
    "precision": _precision,
    "accuracy": _accuracy,
}
RANKINGS: dict[str, tuple[str, int | None]] = {"map": ("map", None)}  # metric -> its kind, and its depth
RANKINGS |= {f"{name}@{depth}": (name, depth) for name in _BY_NAME for depth in DEPTHS}


def by_query(predictions: Predictions) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Whether each document is relevant, and its score, in one array for each query in the order of their rows."""
    import numpy as np

    starts = predictions.starts[1:]
    return np.split(predictions.labels, starts), np.split(predictions.logits, starts)


def values_of_queries(name: str, references: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> np.ndarray:
    """The value of a metric for each query.

    Of documents with equal scores, the irrelevant ones come first, so that a model without opinion gains nothing.

    Args:
        name (`str`):
            A key of `RANKINGS`, such as `"ndcg@10"`.
        references (`Sequence[np.ndarray]`):
            For each query, 1 for relevant documents and 0 for others.
        predictions (`Sequence[np.ndarray]`):
            For each query, the scores of the same documents.

    Returns:
        `np.ndarray` of shape `(queries,)`
    """
    import numpy as np

    kind, depth = RANKINGS[name]
    values = []
    for labels, scores in zip(references, predictions, strict=True):
        looked_at = len(labels) if depth is None else depth
        relevant = np.asarray(labels) > 0
        order = np.lexsort((relevant, -np.asarray(scores)))[:looked_at]  # irrelevant documents first
        values.append(_BY_NAME[kind](relevant[order], int(relevant.sum()), looked_at))
    return np.array(values)
