"""Intervals and tests compared with closed forms, other metrics and exact recomputation on resamples."""

import math

import numpy as np
import pytest
from made_up import predictions

from hf_soup.metrics import statistics
from hf_soup.metrics.answers import ANSWERS
from hf_soup.metrics.boxes import BOXES
from hf_soup.metrics.built_in import BUILT_IN
from hf_soup.metrics.load import load_metrics
from hf_soup.metrics.statistics import interval, mcnemar, metric_sums, resampled


SUMS = [
    (name, kind)
    for name, built_in in BUILT_IN.items()
    for kind in (("tags",) if built_in.takes == "tags" else built_in.kinds)
    if name not in ("spearmanr", "exact_match", "wer", "cer", *ANSWERS, *BOXES)
]


@pytest.mark.parametrize(("name", "kind"), SUMS)
def test_sums_over_examples_give_the_metric(name, kind):
    """On all examples and on resamples of whole examples, the sums give the value of the metric."""
    predicted = predictions(kind, classes=2 if name == "f1" else 4)
    (metric,), sums = load_metrics(name), metric_sums(name, predicted)
    assert sums.value(sums.columns.sum(axis=0)) == pytest.approx(metric.compute(predicted)[name], abs=1e-9)
    ids, rng = np.unique(predicted.rows), np.random.default_rng(1)
    for size in (len(ids), 5):
        drawn = rng.integers(len(ids), size=size)
        exact = metric.compute(predicted.take(ids[drawn]))[name]
        assert sums.value(sums.columns[drawn].sum(axis=0)) == pytest.approx(exact, abs=1e-6)


def test_accuracy_has_the_normal_interval():
    """With many examples the bootstrap interval of accuracy is the normal one, and it is reproducible."""
    predicted = predictions(rows=3000)
    (metric,) = load_metrics("accuracy")
    (spread,) = resampled(metric, "accuracy", [predicted])
    value = metric.compute(predicted)["accuracy"]
    estimate, half = interval(value, spread), 1.96 * np.sqrt(value * (1 - value) / 3000)
    assert len(spread) == 10_000
    assert estimate.value == value
    assert (estimate.low, estimate.high) == pytest.approx((value - half, value + half), abs=0.1 * half)
    assert np.array_equal(resampled(metric, "accuracy", [predicted])[0], spread)


def test_resamples_are_shared_so_differences_are_paired():
    """Resamples are shared, so a model has no difference from itself and little from one with one changed example."""
    predicted, (metric,) = predictions(rows=500), load_metrics("accuracy")
    logits = predicted.logits.copy()
    wrong = int(np.flatnonzero(logits.argmax(1) == predicted.labels)[0])
    logits[wrong] = -logits[wrong]
    first, same, changed = resampled(metric, "accuracy", [predicted, predicted, predicted._replace(logits=logits)])
    assert np.array_equal(first, same)
    estimate = interval(1 / 500, first - changed)
    assert (estimate.low, estimate.high) == (0, pytest.approx(3 / 500, abs=1.1 / 500))


def test_words_are_resampled_with_their_text():
    """Words are resampled with their text: ten equal copies of each item give the interval of the texts."""
    texts, (metric,) = predictions(rows=200), load_metrics("accuracy")
    words = texts._replace(
        logits=np.repeat(texts.logits, 10, axis=0),
        labels=np.repeat(texts.labels, 10),
        rows=np.repeat(texts.rows, 10),
    )
    (of_words,), (of_texts,) = (resampled(metric, "accuracy", [predicted]) for predicted in (words, texts))
    assert of_words == pytest.approx(of_texts)


def test_other_metrics_are_asked_again_and_again():
    """A metric that is not a sum uses fewer resamples, also paired, and has an interval close to that of sums."""
    values = predictions("values", rows=400)
    (spearman,), (pearson,) = load_metrics("spearmanr"), load_metrics("pearsonr")
    spread = resampled(spearman, "spearmanr", [values, values])
    assert spread.shape == (2, statistics.SLOW_RESAMPLES)
    assert np.array_equal(*spread)
    slow = interval(spearman.compute(values)["spearmanr"], spread[0])
    fast = interval(pearson.compute(values)["pearsonr"], resampled(pearson, "pearsonr", [values])[0])
    assert slow.high - slow.low == pytest.approx(fast.high - fast.low, rel=0.3)
    (function,) = load_metrics(lambda predicted: (predicted.predictions.argmax(-1) == predicted.label_ids).mean())
    predicted, (accuracy,) = predictions(rows=400), load_metrics("accuracy")
    widths = []
    for metric in (function, accuracy):
        (spread,) = resampled(metric, metric.name, [predicted])
        ends = interval(0.8, spread)
        widths.append(ends.high - ends.low)
    assert widths[0] == pytest.approx(widths[1], rel=0.2)


@pytest.mark.parametrize(
    ("both", "first", "second", "none"), [(50, 12, 3, 20), (50, 0, 0, 3), (0, 5, 6, 0), (9, 1, 0, 2)]
)
def test_mcnemar_is_the_exact_test(both, first, second, none):
    """The p-value is twice the tail of a fair coin over the examples on which exactly one model is right."""
    a = np.repeat([True, True, False, False], [both, first, second, none])
    b = np.repeat([True, False, True, False], [both, first, second, none])
    n = first + second
    tail = sum(math.comb(n, k) for k in range(min(first, second) + 1)) / 2**n
    assert mcnemar(a, b) == pytest.approx(min(2 * tail, 1))
    assert mcnemar(b, a) == mcnemar(a, b)


def test_a_function_that_fails_on_some_resamples_still_has_an_interval():
    """Resamples on which a metric function fails are excluded from the interval."""
    predicted = predictions(rows=30, classes=2)
    predicted = predicted._replace(labels=np.r_[np.ones(2, dtype=int), np.zeros(28, dtype=int)])

    def strict(made):
        if made.label_ids.max() == 0:
            raise ValueError("one class only")
        return {"auc": made.label_ids.mean()}

    (metric,) = load_metrics(strict)
    (spread,) = resampled(metric, "auc", [predicted])
    assert 0 < np.isnan(spread).sum() < len(spread)
    estimate = interval(0.1, spread)
    assert estimate.low < 0.1 < estimate.high


@pytest.mark.parametrize("rows", [40, 400])
def test_the_interval_of_ece_holds_its_estimate(rows):
    """The interval of the calibration error contains its estimate, although resamples have larger errors."""
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, size=rows)
    labels = (rng.random(rows) > p).astype(int)
    logits = np.log(np.stack([p, 1 - p], axis=1)).astype(np.float32)
    predicted = predictions(rows=rows, classes=2)._replace(logits=logits, labels=labels)
    (metric,) = load_metrics("ece")
    value = metric.compute(predicted)["ece"]
    estimate = interval(value, resampled(metric, "ece", [predicted])[0])
    assert 0 <= estimate.low < value < estimate.high


def test_a_resample_without_a_class_is_no_crash():
    """Resamples on which a metric is not defined do not prevent an interval."""
    predicted = predictions(rows=3, classes=2)._replace(labels=np.array([0, 1, 1]))
    for name in ("f1", "f1_macro", "matthews_correlation"):
        (metric,) = load_metrics(name)
        (spread,) = resampled(metric, name, [predicted], resamples=300)
        estimate = interval(metric.compute(predicted)[name], spread)
        assert estimate.low <= estimate.high
