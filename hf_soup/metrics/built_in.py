"""The built-in metrics, which need no network, and the inputs of each.

The computations are those of scikit-learn, scipy and seqeval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import EvaluationError, MissingExtraError
from .answers import ANSWERS, values_of_answers
from .boxes import BOXES, average_precision, by_image
from .calibration import brier_score, expected_calibration_error
from .pixels import PIXELS, value_of_counts
from .predictions import Predictions, decisions, losses, probabilities
from .rankings import RANKINGS, by_query, values_of_queries


if TYPE_CHECKING:
    import numpy as np


class BuiltIn(NamedTuple):
    """One built-in metric.

    Args:
        takes (`str`):
            `"decisions"`, `"probabilities"`, `"losses"`, `"tags"` (names of classes, row by row), `"texts"`,
            `"answers"` (texts, of which each row may have several right ones), `"rankings"` (scores of the documents
            of each query), `"pixels"` (counts of the pixels of each class) or `"boxes"` (the boxes of each image).
        kinds (`tuple[str, ...]`):
            Outputs that it is defined for.
        function (`Callable`):
            `f(references, predictions) -> float`.
        higher_is_better (`bool`, *optional*, defaults to `True`):
            Direction of the metric.
    """

    takes: str
    kinds: tuple[str, ...]
    function: Callable[..., float]
    higher_is_better: bool = True


def _sklearn(name: str, **options: Any) -> Callable[..., float]:
    """A metric of scikit-learn, which is imported on first use."""

    def function(references: np.ndarray, predictions: np.ndarray) -> float:
        from sklearn import metrics

        return getattr(metrics, name)(references, predictions, **options)

    return function


def _correlation(name: str) -> Callable[..., float]:
    """A correlation of scipy, which is imported on first use."""

    def function(references: np.ndarray, predictions: np.ndarray) -> float:
        import warnings

        from scipy import stats

        with warnings.catch_warnings():
            # for constant values it is NaN, which is an error where a score is used
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            return getattr(stats, name)(predictions, references).statistic

    return function


def _f1_binary(references: np.ndarray, predictions: np.ndarray) -> float:
    """F1 of the second of two classes."""
    if max(references.max(), predictions.max()) > 1:
        raise EvaluationError(
            "f1 is defined for two classes, the second of them positive; for more use f1_macro or f1_micro."
        )
    return _sklearn("f1_score", zero_division=0)(references, predictions)


def _mean(references: np.ndarray, losses: np.ndarray) -> float:
    return float(losses.mean())


def _perplexity(references: np.ndarray, losses: np.ndarray) -> float:
    import numpy as np

    return float(np.exp(losses.mean()))


def _ece(references: np.ndarray, probabilities: np.ndarray) -> float:
    return expected_calibration_error(probabilities, references)


def _brier(references: np.ndarray, probabilities: np.ndarray) -> float:
    return brier_score(probabilities, references)


def _seqeval_f1(references: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> float:
    """F1 of entities, which are correct if all of their words are."""
    try:
        from seqeval.metrics import f1_score
    except ImportError:
        raise MissingExtraError("seqeval_f1 needs seqeval: pip install 'hf-soup[seqeval]'") from None
    return f1_score(references, predictions, zero_division=0)


def _error_rate(name: str) -> Callable[..., float]:
    """An error rate of jiwer, of words or letters; at least 0, and above 1 if more is inserted than was said."""

    def function(references: Sequence[str], predictions: Sequence[str]) -> float:
        try:
            import jiwer
        except ImportError:
            raise MissingExtraError(f"{name} needs jiwer: pip install 'hf-soup[audio]'") from None
        return float(getattr(jiwer, name)(list(references), list(predictions)))

    return function


def _exact_match(references: Sequence[str], predictions: Sequence[str]) -> float:
    """The share of texts that equal the reference, ignoring surrounding blanks."""
    pairs = zip(predictions, references, strict=True)
    matches = sum(prediction.strip() == reference.strip() for prediction, reference in pairs)
    return matches / len(references)


def _of_answers(name: str) -> Callable[..., float]:
    """The mean of a metric of answers."""

    def function(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> float:
        values = values_of_answers(name, references, predictions)
        return sum(values) / len(values)

    return function


def _ranking(name: str) -> Callable[..., float]:
    """The mean of a ranking's metric over queries."""

    def function(references: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> float:
        return float(values_of_queries(name, references, predictions).mean())

    return function


def _of_pixels(name: str) -> Callable[..., float]:
    """A metric of segmentation, of all pixels together."""

    def function(references: np.ndarray, predictions: np.ndarray) -> float:
        import numpy as np

        counts = np.concatenate([np.asarray(predictions), np.asarray(references)], axis=1, dtype=np.float64)
        return float(value_of_counts(name, counts.sum(axis=0)))

    return function


# Functions take references first, as in scikit-learn.
_CHOICE = ("classes", "labels")
_ONE_CLASS = ("classes",)
_VALUES = ("values",)
BUILT_IN: dict[str, BuiltIn] = {
    "accuracy": BuiltIn("decisions", _CHOICE, _sklearn("accuracy_score")),  # of labels: all of a row correct
    "f1": BuiltIn("decisions", _ONE_CLASS, _f1_binary),
    "f1_macro": BuiltIn("decisions", _CHOICE, _sklearn("f1_score", average="macro", zero_division=0)),
    "f1_micro": BuiltIn("decisions", _CHOICE, _sklearn("f1_score", average="micro", zero_division=0)),
    "matthews_correlation": BuiltIn("decisions", _ONE_CLASS, _sklearn("matthews_corrcoef")),
    "pearsonr": BuiltIn("decisions", _VALUES, _correlation("pearsonr")),
    "spearmanr": BuiltIn("decisions", _VALUES, _correlation("spearmanr")),
    "mse": BuiltIn("decisions", _VALUES, _sklearn("mean_squared_error"), higher_is_better=False),
    "loss": BuiltIn("losses", ("classes", "labels", "values", "tokens"), _mean, higher_is_better=False),
    "nll": BuiltIn("losses", ("classes", "tokens"), _mean, higher_is_better=False),
    "perplexity": BuiltIn("losses", ("tokens",), _perplexity, higher_is_better=False),
    "brier": BuiltIn("probabilities", _ONE_CLASS, _brier, higher_is_better=False),
    "ece": BuiltIn("probabilities", _ONE_CLASS, _ece, higher_is_better=False),
    "seqeval_f1": BuiltIn("tags", _ONE_CLASS, _seqeval_f1),
    "exact_match": BuiltIn("texts", ("tokens",), _exact_match),
    "wer": BuiltIn("texts", ("tokens",), _error_rate("wer"), higher_is_better=False),
    "cer": BuiltIn("texts", ("tokens",), _error_rate("cer"), higher_is_better=False),
    **{name: BuiltIn("answers", ("tokens",), _of_answers(name)) for name in ANSWERS},
    **{name: BuiltIn("rankings", ("ranking",), _ranking(name)) for name in RANKINGS},
    **{name: BuiltIn("pixels", ("pixels",), _of_pixels(name)) for name in PIXELS},
    **{name: BuiltIn("boxes", ("boxes",), partial(average_precision, name)) for name in BOXES},
}


def metric_inputs(predictions: Predictions, takes: str) -> tuple[Any, Any]:
    """The two inputs that a metric compares.

    Args:
        predictions ([`Predictions`]):
            Predictions of one model.
        takes (`str`):
            What the metric is computed from, as in [`BuiltIn`].

    Returns:
        `tuple[Any, Any]`: references and predictions.
    """
    if takes == "pixels":
        return predictions.labels, predictions.logits
    if takes == "boxes":
        return by_image(predictions)
    if takes == "rankings":
        return by_query(predictions)
    if takes in ("texts", "answers"):
        if takes == "texts" and not all(isinstance(reference, str) for reference in predictions.references):
            raise EvaluationError(f"questions with several right answers are scored by {' or '.join(ANSWERS)}.")
        return predictions.references, predictions.texts
    if takes == "tags":
        return _tags(predictions, predictions.labels), _tags(predictions, decisions(predictions))
    compute = {"decisions": decisions, "probabilities": probabilities, "losses": losses}[takes]
    return predictions.labels, compute(predictions)


def _tags(predictions: Predictions, classes: np.ndarray) -> list[list[str]]:
    """The names of classes, or their numbers if they have none, row by row."""
    if predictions.names:
        tags = [predictions.names[index] for index in classes]
    else:
        tags = [str(index) for index in classes]
    starts = predictions.starts
    ends = [*starts[1:], len(tags)]
    return [tags[start:end] for start, end in zip(starts, ends, strict=True)]
