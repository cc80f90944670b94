"""How sure a score or a difference is: bootstrap over examples, the same resamples for all models, and McNemar's test.

A metric that follows from sums over examples (counts, losses, bins of confidence) is computed for all resamples at
once: the sums of a resample are its counts times the sums of each example. Other metrics are asked again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..calibration import BINS
from ..metrics import Metric, metric_inputs
from ..outputs import Predictions, decisions, losses, probabilities, right
from ..progress import progress_bar
from ..seeds import check_seed
from .comparison import Interval


if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 10_000
SLOW_RESAMPLES = 200  # of metrics that are no sums: enough for a standard deviation, not for percentiles
MOST_CLASSES = 100  # with more, sums for each class are not worth their memory
CHUNK = 2**24  # numbers of counts at a time


class Sums(NamedTuple):
    """A metric as a function of sums over examples.

    Args:
        columns (`np.ndarray` of shape `(rows, k)`):
            What each example adds.
        value (`Callable`):
            `(..., k)` sums -> `(...)` values of the metric.
    """

    columns: np.ndarray
    value: Callable[[np.ndarray], np.ndarray]


def resampled(
    metric: Metric, name: str, members: Sequence[Predictions], *, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Values of a metric on bootstrap resamples of the examples; each resample is the same for all models.

    Args:
        metric ([`Metric`]):
            What to compute.
        name (`str`):
            Which of its values.
        members (`Sequence[Predictions]`):
            One for each model, on the same examples. Examples are resampled whole, with all their words or tokens.
        resamples (`int`, *optional*, defaults to 10,000):
            How many, for metrics that follow from sums over examples; 200 for others.
        seed (`int`, *optional*, defaults to 0):
            Of the resampling.

    Returns:
        `np.ndarray` of shape `(models, resamples)`

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 6 and 13.
    """
    import numpy as np

    seed = check_seed(seed)
    sums = [metric_sums(metric.name, said) if metric.identity == metric.name else None for said in members]
    if None not in sums:
        width = [one.columns.shape[1] for one in sums]
        totals = _resampled_sums(np.concatenate([one.columns for one in sums], axis=1), resamples, seed)
        parts = np.split(totals, np.cumsum(width)[:-1], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):  # a resample without a class, say
            spread = np.stack([one.value(part) for one, part in zip(sums, parts, strict=True)])
        if name == "ece":  # noise looks like error, so resamples lie too high, which says nothing of the estimate
            values = np.array([[metric.compute(said)[name]] for said in members])
            spread = np.maximum(spread - spread.mean(axis=1, keepdims=True) + values, 0)
        return spread
    ids = np.unique(members[0].rows)
    rng = np.random.default_rng(seed)
    draws = [rng.choice(ids, len(ids)) for _ in range(min(resamples, SLOW_RESAMPLES))]
    bar = progress_bar(draws, desc=f"Resampling {name}", unit="resample", delay=2)
    return np.array([[_try(metric, name, said.take(rows)) for said in members] for rows in bar]).T


def _try(metric: Metric, name: str, said: Predictions) -> float:
    """A metric on a resample, which may lack what it needs, such as a class."""
    try:
        return metric.compute(said).get(name, float("nan"))
    except Exception:  # whatever a function of others trips over; on all examples it did not
        return float("nan")


def interval(value: float, distribution: np.ndarray) -> Interval:
    """The 95 % interval of a value: percentiles of its resamples, or of a normal distribution where these are few."""
    import numpy as np

    if not np.isfinite(distribution).any():
        return Interval(value)
    if len(distribution) <= SLOW_RESAMPLES:
        half = 1.96 * float(np.nanstd(distribution))
        return Interval(value, value - half, value + half)
    low, high = np.nanpercentile(distribution, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """McNemar's exact test: how likely two models that err equally often are right on so different examples.

    Args:
        a (`np.ndarray` of shape `(examples,)`, bool):
            Where one model is right.
        b (`np.ndarray` of shape `(examples,)`, bool):
            Where the other is.

    Returns:
        `float`: two-sided p; 1.0 if they are right on the same examples.

    Source: McNemar 1947, Note on the sampling error of the difference between correlated proportions.
    """
    from scipy import stats

    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def metric_sums(name: str, said: Predictions) -> Sums | None:
    """A built-in metric as sums over examples, or `None` where it is none."""
    if name in _MEANS:
        return _mean(said, *_MEANS[name])
    if name in ("f1", "f1_macro", "f1_micro", "matthews_correlation"):
        return _counts(name, said) if said.logits.shape[1] <= MOST_CLASSES else None
    return {"ece": _bins, "pearsonr": _moments, "seqeval_f1": _entities}.get(name, lambda _: None)(said)


def _resampled_sums(columns: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    import numpy as np

    rows, rng, parts = len(columns), np.random.default_rng(seed), []
    size = max(CHUNK // rows, 1)
    for start in range(0, resamples, size):
        n = min(size, resamples - start)
        drawn = rng.integers(rows, size=(n, rows)) + np.arange(n)[:, None] * rows
        counts = np.bincount(drawn.ravel(), minlength=n * rows).reshape(n, rows)
        parts.append(counts.astype(np.float64) @ columns)
    return np.concatenate(parts)


def _per_row(said: Predictions, items: np.ndarray) -> np.ndarray:
    """Sums over the items of each row, which lie side by side."""
    import numpy as np

    starts = np.flatnonzero(np.diff(said.rows, prepend=said.rows[0] - 1))
    return np.add.reduceat(items.astype(np.float64), starts, axis=0)


def _squares(said: Predictions) -> np.ndarray:
    """Brier score of each example."""
    import numpy as np

    p = probabilities(said)
    squares = np.square(p - np.eye(p.shape[1])[said.labels]).sum(axis=1)
    return squares / 2 if p.shape[1] == 2 else squares


def _identity(means: np.ndarray) -> np.ndarray:
    return means


def _exp(means: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.exp(means)


_MEANS = {
    "accuracy": (right, _identity),
    "loss": (losses, _identity),
    "nll": (losses, _identity),
    "mse": (losses, _identity),
    "perplexity": (losses, _exp),
    "brier": (_squares, _identity),
}


def _mean(
    said: Predictions, of: Callable[[Predictions], np.ndarray], then: Callable[[np.ndarray], np.ndarray]
) -> Sums:
    import numpy as np

    items = of(said)
    columns = _per_row(said, np.stack([items, np.ones(len(items))], axis=1))
    return Sums(columns, lambda sums: then(sums[..., 0] / sums[..., 1]))


def _counts(name: str, said: Predictions) -> Sums:
    """Of each class or label: right, said, and there."""
    import numpy as np

    n = said.logits.shape[1]
    told, true = decisions(said), said.labels
    if said.kind == "classes":
        told, true = np.eye(n)[told], np.eye(n)[true]
    columns = _per_row(said, np.concatenate([told * true, told, true, np.ones((len(told), 1))], axis=1))

    def value(sums: np.ndarray) -> np.ndarray:
        hits, told, true, total = sums[..., :n], sums[..., n : 2 * n], sums[..., 2 * n : 3 * n], sums[..., 3 * n]
        if name == "f1":
            return np.nan_to_num(2 * hits[..., 1] / (told + true)[..., 1])
        if name == "f1_micro":
            return np.nan_to_num(2 * hits.sum(-1) / (told + true).sum(-1))
        if name == "f1_macro":
            each = 2 * hits / (told + true)
            return np.nan_to_num(each).mean(-1) if said.kind == "labels" else np.nanmean(each, axis=-1)
        covariance = total * hits.sum(-1) - (told * true).sum(-1)
        spread = (np.square(total) - np.square(told).sum(-1)) * (np.square(total) - np.square(true).sum(-1))
        return np.nan_to_num(covariance / np.sqrt(spread))

    return Sums(columns, value)


def _bins(said: Predictions) -> Sums:
    """Of each bin of confidence: how sure less how often right, whose sizes over the examples are the ECE."""
    import numpy as np

    p = probabilities(said)
    confidence = p.max(axis=1)
    bins = np.clip(np.searchsorted(np.linspace(0, 1, BINS + 1), confidence, side="right") - 1, 0, BINS - 1)
    gaps = np.eye(BINS)[bins] * (confidence - right(said))[:, None]
    columns = _per_row(said, np.concatenate([gaps, np.ones((len(gaps), 1))], axis=1))
    return Sums(columns, lambda sums: np.abs(sums[..., :-1]).sum(-1) / sums[..., -1])


def _moments(said: Predictions) -> Sums:
    import numpy as np

    x, y = (values - values.mean() for values in (said.logits.astype(np.float64), said.labels))
    columns = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)

    def value(sums: np.ndarray) -> np.ndarray:
        n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        return (n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y))

    return Sums(_per_row(said, columns), value)


def _entities(said: Predictions) -> Sums:
    """Of each row: entities that are right, said, and there."""
    import numpy as np
    from seqeval.metrics.sequence_labeling import get_entities

    columns = []
    for true, told in zip(*metric_inputs(said, "tags"), strict=True):
        true, told = set(get_entities(true)), set(get_entities(told))
        columns.append([len(true & told), len(told), len(true)])
    return Sums(
        np.array(columns, dtype=np.float64),
        lambda sums: np.nan_to_num(2 * sums[..., 0] / (sums[..., 1] + sums[..., 2])),
    )
