"""How well a model's confidence matches its accuracy: calibration errors, reliability diagrams, temperature.

Inputs are arrays and results are numbers. The confidence of a prediction is the probability of its likeliest class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from .predictions import Predictions, losses, probabilities


if TYPE_CHECKING:
    import numpy as np

BINS = 15
MOST_TEMPERATURE = 100  # its inverse is the smallest


@dataclass(frozen=True, eq=False)
class Bins:
    """The bins of a reliability diagram; empty ones hold NaN.

    Args:
        count (`np.ndarray` of shape `(bins,)`):
            Examples in each.
        confidence (`np.ndarray` of shape `(bins,)`):
            Mean confidence in each bin.
        accuracy (`np.ndarray` of shape `(bins,)`):
            Share that is right.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def gaps(self) -> np.ndarray:
        """|accuracy - confidence| of each bin, 0 for empty ones."""
        import numpy as np

        return np.nan_to_num(np.abs(self.accuracy - self.confidence))

    @property
    def error(self) -> float:
        """Mean gap, weighted by the examples in each bin."""
        return float(self.gaps @ self.count / self.count.sum())


class Calibration(NamedTuple):
    """How well the confidence of a classifier matches its accuracy.

    Args:
        ece (`float`):
            Expected calibration error, 15 bins of equal width.
        ece_mass (`float`):
            Expected calibration error with bins of about equally many examples.
        mce (`float`):
            Maximum calibration error: the largest gap of a bin of equal width.
        brier (`float`):
            Brier score, as defined by [`brier_score`].
        nll (`float`):
            Mean negative log-likelihood.
        bins ([`Bins`]):
            Bins of equal width.
    """

    ece: float
    ece_mass: float
    mce: float
    brier: float
    nll: float
    bins: Bins


def reliability(probabilities: np.ndarray, labels: np.ndarray, *, by: Literal["width", "mass"] = "width") -> Bins:
    """Compute accuracy by confidence.

    Args:
        probabilities (`np.ndarray` of shape `(examples, classes)`):
            Probability of each class.
        labels (`np.ndarray` of shape `(examples,)`):
            The right classes.
        by (`str`, *optional*, defaults to `"width"`):
            15 bins of equal width on [0, 1], or `"mass"`: of about equally many examples.

    Returns:
        [`Bins`]

    Source: Guo et al. 2017, [On calibration of modern neural networks](https://arxiv.org/abs/1706.04599), section 2.
    """
    import numpy as np
    from scipy import stats

    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, BINS + 1)
    if by == "mass":
        # quantiles, several of which coincide if many confidences are equal
        edges = np.unique(np.quantile(confidence, edges))
        if len(edges) == 1:  # all confidences are equal, but a bin needs some width
            edges = np.array([edges[0], np.nextafter(edges[0], 2)])
    (accuracy, mean), edges, _ = stats.binned_statistic(confidence, [right, confidence], "mean", bins=edges)
    count, _ = np.histogram(confidence, edges)
    return Bins(count, mean, accuracy)


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, *, by: Literal["width", "mass"] = "width"
) -> float:
    """The expected calibration error (ECE); the arguments are those of [`reliability`]."""
    return reliability(probabilities, labels, by=by).error


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Squared error of the probabilities: of the second class for two classes, summed over the classes for more."""
    from sklearn.metrics import brier_score_loss

    classes = probabilities.shape[1]
    return float(brier_score_loss(labels, probabilities, labels=range(classes), scale_by_half=classes == 2))


def calibrate(predictions: Predictions) -> Calibration:
    """Compute all measures of calibration of one classifier.

    Raises:
        [`EvaluationError`]: if the predictions are not of classes.
    """
    class_probabilities, labels = probabilities(predictions), predictions.labels
    bins = reliability(class_probabilities, labels)
    return Calibration(
        ece=bins.error,
        ece_mass=expected_calibration_error(class_probabilities, labels, by="mass"),
        mce=float(bins.gaps.max()),
        brier=brier_score(class_probabilities, labels),
        nll=float(losses(predictions).mean()),
        bins=bins,
    )


def fit_temperature(predictions: Predictions) -> float:
    """Fit the temperature: the number by which logits are divided to maximize the likelihood of these examples.

    Args:
        predictions ([`Predictions`]):
            Predictions of classes on validation.

    Returns:
        `float`: a temperature between 1/100 and 100, which is above 1 for an overconfident model.

    Source: Guo et al. 2017, [On calibration of modern neural networks](https://arxiv.org/abs/1706.04599), section 4.2.
    """
    import numpy as np
    from scipy import optimize

    def loss(log_temperature: float) -> float:
        return float(losses(with_temperature(predictions, np.exp(log_temperature))).mean())

    # over its logarithm, in which the loss has one minimum and over- and underconfidence are symmetric
    bounds = (-np.log(MOST_TEMPERATURE), np.log(MOST_TEMPERATURE))
    minimum = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(minimum.x))


def with_temperature(predictions: Predictions, temperature: float) -> Predictions:
    """Predictions with logits divided by the temperature; decisions do not change."""
    return predictions._replace(logits=predictions.logits / temperature)
