"""The uncertainty of a score or difference: a bootstrap with the same resamples for all models, and McNemar's test.

A metric that is a function of sums over examples (counts, losses, bins of confidence) is computed for all resamples at
once: the sums of a resample are its counts times the sums of each example. Other metrics are recomputed for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ..progress import progress_bar
from ..seeds import check_seed
from .answers import ANSWERS, values_of_answers
from .boxes import BOXES, precision_of_rows
from .built_in import metric_inputs
from .calibration import BINS
from .load import Metric
from .pixels import PIXELS, pixel_counts, value_of_counts
from .predictions import Predictions, decisions, losses, probabilities, right
from .rankings import RANKINGS, by_query, values_of_queries


if TYPE_CHECKING:
    import numpy as np

SHARES = (
    "accuracy",
    "f1",
    "f1_macro",
    "f1_micro",
    "seqeval_f1",
    "exact_match",
    "ece",
    "wer",
    "cer",
    *ANSWERS,
    *PIXELS,
    *BOXES,
)  # shown in percent
RESAMPLES = 10_000
SLOW_RESAMPLES = 200  # for metrics that are not sums: enough for a standard deviation, but not for percentiles
MOST_CLASSES = 100  # with more, sums per class would take too much memory
CHUNK = 2**24  # counts that are in memory at a time
NORMAL_QUANTILE = 1.96  # 97.5 % of a normal distribution is below this many standard deviations


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval, if known, in the unit of the measured quantity."""

    value: float
    low: float | None = None
    high: float | None = None


class Sums(NamedTuple):
    """A metric as a function of sums over examples.

    Args:
        columns (`np.ndarray` of shape `(rows, k)`):
            Contribution of each example to the sums.
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
            Metric to compute.
        name (`str`):
            Name of the value among those of the metric.
        members (`Sequence[Predictions]`):
            Predictions of each model on the same examples. Examples are resampled whole, with all their words or
            tokens.
        resamples (`int`, *optional*, defaults to 10,000):
            Number of resamples for metrics that are functions of sums over examples; at most 200 are drawn for others.
        seed (`int`, *optional*, defaults to 0):
            Seed of the resampling.

    Returns:
        `np.ndarray` of shape `(models, resamples)`

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 6 and 13.
    """

    seed = check_seed(seed)
    sums = _sums_of_all(metric, members)
    if sums is None:
        return _resampled_slowly(metric, name, members, resamples, seed)
    distribution = _resampled_sums(sums, resamples, seed)
    if name == "ece":
        return _centred(distribution, metric, members)
    return distribution


def _sums_of_all(metric: Metric, members: Sequence[Predictions]) -> list[Sums] | None:
    """A metric of several models as sums over examples, or `None` if it is not a function of sums."""
    if metric.identity != metric.name:  # not a built-in one
        return None
    sums = []
    for predictions in members:
        member_sums = metric_sums(metric.name, predictions)
        if member_sums is None:
            return None
        sums.append(member_sums)
    return sums


def _resampled_sums(sums: Sequence[Sums], resamples: int, seed: int) -> np.ndarray:
    """Values of a metric on resamples, from sums over examples; of shape `(models, resamples)`."""
    import numpy as np

    columns = np.concatenate([member.columns for member in sums], axis=1)  # one product for all models
    rows = len(columns)
    rng = np.random.default_rng(seed)
    size = max(CHUNK // rows, 1)  # resamples at a time
    totals = []
    for start in range(0, resamples, size):
        n = min(size, resamples - start)
        # how often each row is drawn in each of n resamples: rows of resample i are numbered from i * rows
        drawn = rng.integers(rows, size=(n, rows)) + np.arange(n)[:, None] * rows
        counts = np.bincount(drawn.ravel(), minlength=n * rows).reshape(n, rows)
        totals.append(counts.astype(np.float64) @ columns)
    widths = [member.columns.shape[1] for member in sums]
    totals_of_members = np.split(np.concatenate(totals), np.cumsum(widths)[:-1], axis=1)
    values = []
    with np.errstate(divide="ignore", invalid="ignore"):  # for example, a resample without a class
        for member, member_totals in zip(sums, totals_of_members, strict=True):
            values.append(member.value(member_totals))
    return np.stack(values)


def _centred(distribution: np.ndarray, metric: Metric, members: Sequence[Predictions]) -> np.ndarray:
    """Calibration errors of resamples, shifted so that their mean is the error on all examples.

    Noise increases the calibration error, so the resamples are biased upwards, independently of the estimate.
    """
    import numpy as np

    values = np.array([[metric.compute(predictions)[metric.name]] for predictions in members])
    return np.maximum(distribution - distribution.mean(axis=1, keepdims=True) + values, 0)


def _resampled_slowly(
    metric: Metric, name: str, members: Sequence[Predictions], resamples: int, seed: int
) -> np.ndarray:
    """Values of a metric that is recomputed for each resample; of shape `(models, resamples)`."""
    import numpy as np

    ids = np.unique(members[0].rows)
    rng = np.random.default_rng(seed)
    # drawn before anything is computed: the same for all models
    draws = [rng.choice(ids, len(ids)) for _ in range(min(resamples, SLOW_RESAMPLES))]
    values = []
    value_of_rows = [_of_rows(metric, name, predictions) for predictions in members]
    for rows in progress_bar(draws, desc=f"Resampling {name}", unit="resample", delay=2):
        values.append([value(rows) for value in value_of_rows])
    return np.array(values).T


def _of_rows(metric: Metric, name: str, predictions: Predictions) -> Callable[[np.ndarray], float]:
    """A function that computes a metric of some rows, which may repeat."""
    if metric.identity in BOXES:
        return precision_of_rows(name, predictions)
    return lambda rows: _value_or_nan(metric, name, predictions.take(rows))


def _value_or_nan(metric: Metric, name: str, predictions: Predictions) -> float:
    """The value of a metric on a resample; NaN if the resample lacks what the metric needs, such as a class."""
    try:
        return metric.compute(predictions).get(name, float("nan"))
    except Exception:  # a custom metric may raise anything on a resample, although it succeeded on all examples
        return float("nan")


def interval(value: float, distribution: np.ndarray) -> Interval:
    """The 95 % interval of a value: percentiles of its resamples, or of a normal distribution if there are few."""
    import numpy as np

    if not np.isfinite(distribution).any():
        return Interval(value)
    if len(distribution) <= SLOW_RESAMPLES:
        half = NORMAL_QUANTILE * float(np.nanstd(distribution))
        return Interval(value, value - half, value + half)
    low, high = np.nanpercentile(distribution, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def formatted(metric: str, value: float) -> str:
    """A value of a metric as text, in percent if the metric is a share."""
    return f"{100 * value:.1f}" if metric in SHARES else f"{value:.4f}"


def signed(metric: str, difference: float | None) -> str:
    """A difference with its sign, in points if the metric is a share."""
    if difference is None:
        return "?"
    if metric in SHARES:
        return f"{difference * 100:+.1f}"
    return f"{difference:+.4f}"


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """McNemar's exact test: how likely two models that err equally often are right on so different examples.

    Args:
        a (`np.ndarray` of shape `(examples,)`, bool):
            Whether the first model is right on each example.
        b (`np.ndarray` of shape `(examples,)`, bool):
            Whether the second model is right on each example.

    Returns:
        `float`: two-sided p; 1.0 if they are right on the same examples.

    Source: McNemar 1947, Note on the sampling error of the difference between correlated proportions.
    """
    from scipy import stats

    # Only examples on which exactly one model is correct matter; by chance, each model has half of these.
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_a, only_a + only_b).pvalue)


def metric_sums(name: str, predictions: Predictions) -> Sums | None:
    """A built-in metric as sums over examples, or `None` if it is not a function of sums."""
    if name in _MEANS:
        return _mean_sums(name, predictions)
    if name in RANKINGS:
        return _sums_of_queries(name, predictions)
    if name in _OF_COUNTS:
        if predictions.logits.shape[1] > MOST_CLASSES:
            return None
        return _count_sums(name, predictions)
    if name == "ece":
        return _bin_sums(predictions)
    if name == "pearsonr":
        return _moment_sums(predictions)
    if name == "seqeval_f1":
        return _entity_sums(predictions)
    if name in ("wer", "cer"):
        return _error_sums(name, predictions)
    if name in PIXELS:
        return Sums(pixel_counts(predictions), partial(value_of_counts, name))
    if name in ANSWERS:
        return _means_of_rows(values_of_answers(name, predictions.references, predictions.texts))
    return None


def _per_row(predictions: Predictions, items: np.ndarray) -> np.ndarray:
    """Sums over the items of each row, which are adjacent."""
    import numpy as np

    return np.add.reduceat(items.astype(np.float64), predictions.starts, axis=0)


def _brier_scores(predictions: Predictions) -> np.ndarray:
    """Brier score of each item."""
    import numpy as np

    class_probabilities = probabilities(predictions)
    classes = class_probabilities.shape[1]
    squares = np.square(class_probabilities - np.eye(classes)[predictions.labels]).sum(axis=1)
    if classes == 2:  # of the second class only, since that of the first is equal
        return squares / 2
    return squares


_OF_COUNTS = ("f1", "f1_macro", "f1_micro", "matthews_correlation")
# metric that is a mean over items, or a function of one -> the quantity that is averaged
_MEANS = {
    "accuracy": right,
    "loss": losses,
    "nll": losses,
    "mse": losses,
    "perplexity": losses,
    "brier": _brier_scores,
}


def _mean_sums(name: str, predictions: Predictions) -> Sums:
    """For each row, the sum over its items, and their number."""
    import numpy as np

    items = _MEANS[name](predictions)
    columns = _per_row(predictions, np.stack([items, np.ones(len(items))], axis=1))

    def value(sums: np.ndarray) -> np.ndarray:
        means = sums[..., 0] / sums[..., 1]
        if name == "perplexity":
            return np.exp(means)
        return means

    return Sums(columns, value)


def _sums_of_queries(name: str, predictions: Predictions) -> Sums:
    """For each query its value, and a one."""

    return _means_of_rows(values_of_queries(name, *by_query(predictions)))


def _means_of_rows(values: Sequence[float] | np.ndarray) -> Sums:
    """For each row its value, and a one."""
    import numpy as np

    columns = np.stack([np.asarray(values, dtype=np.float64), np.ones(len(values))], axis=1)
    return Sums(columns, lambda sums: sums[..., 0] / sums[..., 1])


def _error_sums(name: str, predictions: Predictions) -> Sums:
    """For each text its errors, and the words or letters that were said."""
    import jiwer
    import numpy as np

    process = jiwer.process_words if name == "wer" else jiwer.process_characters
    columns = []
    for reference, text in zip(*metric_inputs(predictions, "texts"), strict=True):
        found = process(reference, text)
        errors = found.substitutions + found.deletions + found.insertions
        columns.append((errors, found.hits + found.substitutions + found.deletions))
    return Sums(np.array(columns, dtype=np.float64), lambda sums: sums[..., 0] / sums[..., 1])


def _count_sums(name: str, predictions: Predictions) -> Sums:
    """For each row, how often each class or label was correctly predicted, predicted, and true; and its items."""
    import numpy as np

    n_classes = predictions.logits.shape[1]
    predicted, true = decisions(predictions), predictions.labels
    if predictions.kind == "classes":  # one-hot; labels are 0 and 1 already
        predicted, true = np.eye(n_classes)[predicted], np.eye(n_classes)[true]
    items = np.concatenate([predicted * true, predicted, true, np.ones((len(true), 1))], axis=1)

    # F1 = 2 TP / (2 TP + FP + FN): twice the hits divided by the number predicted plus the number true
    def value(sums: np.ndarray) -> np.ndarray:
        hits, predicted, true, total = np.split(sums, [n_classes, 2 * n_classes, 3 * n_classes], axis=-1)
        if name == "f1":  # of the second class, which is the positive one
            return np.nan_to_num(2 * hits[..., 1] / (predicted + true)[..., 1])
        if name == "f1_micro":
            return np.nan_to_num(2 * hits.sum(-1) / (predicted + true).sum(-1))
        if name == "f1_macro":
            by_class = 2 * hits / (predicted + true)
            # scikit-learn ignores classes that are neither predicted nor true, but counts such labels as 0
            if predictions.kind == "labels":
                return np.nan_to_num(by_class).mean(-1)
            return np.nanmean(by_class, axis=-1)
        return _matthews(hits, predicted, true, total[..., 0])

    return Sums(_per_row(predictions, items), value)


def _matthews(hits: np.ndarray, predicted: np.ndarray, true: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Matthews correlation of several classes, from counts of each on the last axis; 0 if it is undefined."""
    import numpy as np

    covariance = total * hits.sum(-1) - (predicted * true).sum(-1)
    predicted_variance = np.square(total) - np.square(predicted).sum(-1)
    true_variance = np.square(total) - np.square(true).sum(-1)
    return np.nan_to_num(covariance / np.sqrt(predicted_variance * true_variance))


def _bin_sums(predictions: Predictions) -> Sums:
    """For each bin, the sum of confidence minus correctness; the ECE is the sum of their sizes per example."""
    import numpy as np

    confidence = probabilities(predictions).max(axis=1)
    edges = np.linspace(0, 1, BINS + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, BINS - 1)
    gaps = np.eye(BINS)[bins] * (confidence - right(predictions))[:, None]
    columns = _per_row(predictions, np.concatenate([gaps, np.ones((len(gaps), 1))], axis=1))
    return Sums(columns, lambda sums: np.abs(sums[..., :-1]).sum(-1) / sums[..., -1])


def _moment_sums(predictions: Predictions) -> Sums:
    """For each row, the moments from which Pearson's correlation is computed."""
    import numpy as np

    # Centred for accuracy, since differences of large sums would lose digits; the correlation does not change.
    outputs = predictions.logits.astype(np.float64)
    x = outputs - outputs.mean()
    y = predictions.labels - predictions.labels.mean()
    columns = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)

    def value(sums: np.ndarray) -> np.ndarray:
        n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        return (n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y))

    return Sums(_per_row(predictions, columns), value)


def _entity_sums(predictions: Predictions) -> Sums:
    """For each row, the entities that are predicted correctly, predicted, and true."""
    import numpy as np
    from seqeval.metrics.sequence_labeling import get_entities

    counts = []
    for true_tags, predicted_tags in zip(*metric_inputs(predictions, "tags"), strict=True):
        true, predicted = set(get_entities(true_tags)), set(get_entities(predicted_tags))
        counts.append([len(true & predicted), len(predicted), len(true)])

    def value(sums: np.ndarray) -> np.ndarray:
        hits, predicted, true = np.moveaxis(sums, -1, 0)
        return np.nan_to_num(2 * hits / (predicted + true))

    return Sums(np.array(counts, dtype=np.float64), value)
