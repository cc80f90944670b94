"""Weights fitted to predictions: they minimise the loss of the mixture, against references by brute force."""

import numpy as np
import pytest
from scipy import optimize

from hf_soup.errors import EvaluationError
from hf_soup.metrics.mixing import _loss_and_gradient, fit_weights, mean_loss
from hf_soup.metrics.predictions import Predictions


def predictions(kind, rng, size=60):
    """Random predictions of one kind that say something about the labels."""
    rows = np.arange(size)
    if kind == "classes":
        labels = rng.integers(3, size=size)
        logits = np.eye(3)[labels] + rng.normal(size=(size, 3))
    elif kind == "labels":
        labels = rng.integers(2, size=(size, 3))
        logits = 2 * labels - 1 + rng.normal(size=(size, 3))
    elif kind == "values":
        labels = np.linspace(0, 1, size)
        logits = labels + rng.normal(size=size)
    else:
        labels = rng.integers(9, size=size)
        logits = np.log(rng.uniform(0.1, 0.9, size=size))
    return Predictions(logits.astype(np.float32), labels, rows, kind)


def models(kind, count, seed=0):
    """Predictions of several models on the same examples: the labels are those of the first."""
    members = [predictions(kind, np.random.default_rng([seed, index])) for index in range(count)]
    if kind in ("classes", "labels"):
        signal = np.eye(3)[members[0].labels] if kind == "classes" else 2 * members[0].labels - 1
        noise = np.random.default_rng(seed)
        members = [
            member._replace(logits=(signal + noise.normal(size=signal.shape)).astype(np.float32)) for member in members
        ]
    return [member._replace(labels=members[0].labels) for member in members]


KINDS = ("classes", "labels", "values", "tokens")


@pytest.mark.parametrize("kind", KINDS)
def test_no_other_weights_have_a_lower_loss(kind):
    """On a grid of weights and factors, no mixture of two models has a lower loss than the fitted one."""
    members = models(kind, 2)
    weights, factor = fit_weights(members)
    fitted = mean_loss(members, weights, factor).mean()
    assert weights.sum() == pytest.approx(1)
    assert weights.min() >= 0
    factors = [factor] if kind in ("values", "tokens") else np.linspace(0.2, 4, 20)
    for share in np.linspace(0, 1, 41):
        for scale in factors:
            other = mean_loss(members, np.array([share, 1 - share]), scale).mean()
            assert other >= fitted - 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_loss(kind):
    """The derivatives agree with finite differences."""
    members = models(kind, 3)
    outputs = np.stack([member.logits.astype(np.float64) for member in members])
    shares = np.full(len(members[0].labels), 1 / len(members[0].labels))

    def both(weights):
        return _loss_and_gradient(weights, outputs, members[0].labels, shares, kind)

    at = np.array([0.2, 0.5, 0.9])
    assert optimize.check_grad(lambda x: both(x)[0], lambda x: both(x)[1], at) < 1e-5


def test_counts_repeat_examples():
    """An example that counts twice is the same as an example that is there twice."""
    members = models("classes", 3)
    counts = np.random.default_rng(1).integers(0, 3, size=len(members[0].labels))
    repeated = [member.take(np.repeat(np.arange(len(counts)), counts)) for member in members]
    assert fit_weights(members, counts)[0] == pytest.approx(fit_weights(repeated)[0], abs=1e-4)


def test_equal_models_have_equal_weights():
    """Two models with the same predictions get the same weight, and a third that contradicts the labels gets none."""
    first = models("classes", 1)[0]
    wrong = first._replace(logits=-4 * np.eye(3, dtype=np.float32)[first.labels])
    weights, factor = fit_weights([first, first, wrong])
    assert weights[0] == pytest.approx(weights[1], abs=1e-6)
    assert weights[2] == pytest.approx(0, abs=1e-9)
    assert factor > 0


def test_generated_texts_cannot_be_mixed():
    """The error says what is needed instead."""
    member = models("classes", 1)[0]._replace(texts=("a",) * 60, references=("a",) * 60)
    with pytest.raises(EvaluationError, match="need logits"):
        fit_weights([member, member])
