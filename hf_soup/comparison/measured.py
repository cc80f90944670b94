"""The measurements of each model in a comparison: predictions, estimates of scores, and calibration.

No model is run here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from ..evaluation.ensemble import ENSEMBLES
from ..evaluation.evaluator import Evaluator
from ..metrics.built_in import BUILT_IN
from ..metrics.calibration import calibrate, fit_temperature, with_temperature
from ..metrics.load import Metric
from ..metrics.predictions import Predictions
from ..metrics.statistics import Interval, interval, resampled
from ..types import Score, best_of
from .comparison import SHIFTS, VALIDATION, Calibrated


if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from transformers import PreTrainedModel

    ScoredSet = Evaluator | Callable[[PreTrainedModel], Score]


class Estimate(NamedTuple):
    """The score of one model by one metric on one data set.

    Args:
        score ([`Interval`]):
            Score, with its interval if there are resamples.
        resampled (`np.ndarray` of shape `(resamples,)`, *optional*):
            Scores on resamples of the examples, which are the same for all models; `None` if a function scored.
    """

    score: Interval
    resampled: np.ndarray | None = None


@dataclass(frozen=True)
class Measured:
    """The measurements of one model.

    Args:
        predictions (`Mapping[str, Predictions]`):
            Predictions by data set.
        function_scores (`Mapping[str, Score]`):
            Scores by data set, if a function scores.
        weights (`Mapping[str, float]`):
            Weights of the ingredients in a learned mixture.
        estimates (`Mapping[str, Mapping[str, Estimate]]`):
            Scores by data set and metric.
    """

    predictions: Mapping[str, Predictions] = field(default_factory=dict)
    function_scores: Mapping[str, Score] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    estimates: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)

    def equals(self, other: Measured) -> bool:
        """Whether two models gave the same outputs, bit for bit, and the same scores by functions."""
        if self is other:
            return True
        if not self.predictions or self.predictions.keys() != other.predictions.keys():
            return False
        if self.function_scores != other.function_scores:
            return False
        return all(_same_outputs(mine, other.predictions[name]) for name, mine in self.predictions.items())

    def estimate(self, set_name: str, metric: str) -> Estimate | None:
        """The score by one metric on one data set, if it is known."""
        return self.estimates.get(set_name, {}).get(metric)

    @property
    def scores(self) -> dict[str, dict[str, Interval]]:
        """Scores by data set and metric, without resamples."""
        scores: dict[str, dict[str, Interval]] = {}
        for set_name, estimates in self.estimates.items():
            scores[set_name] = {metric: estimate.score for metric, estimate in estimates.items()}
        return scores


def _same_outputs(mine: Predictions, others: Predictions) -> bool:
    """Whether two models predict the same for every item, bit for bit."""
    import numpy as np

    return mine.texts == others.texts and np.array_equal(mine.logits, others.logits)


def estimate_scores(measured: Mapping[str, Measured], sets: Mapping[str, ScoredSet]) -> dict[str, Measured]:
    """Add estimates of scores on every data set.

    Args:
        measured (`Mapping[str, Measured]`):
            Predictions and function scores by model.
        sets (`Mapping[str, Evaluator | Callable]`):
            Data sets by name.
    """
    estimates: dict[str, dict[str, dict[str, Estimate]]] = {}
    for name, model in measured.items():
        estimates[name] = {set_name: _of_function(score) for set_name, score in model.function_scores.items()}
    # Each data set has its own seed, so that data sets of the same size have different resamples.
    for seed, (set_name, scored_set) in enumerate(sets.items()):
        if not isinstance(scored_set, Evaluator):
            continue
        predictions = {name: model.predictions[set_name] for name, model in measured.items()}
        for metric in scored_set.metrics:
            for name, by_value in _by_metric(metric, predictions, seed).items():
                estimates[name].setdefault(set_name, {}).update(by_value)
    return {name: replace(model, estimates=estimates[name]) for name, model in measured.items()}


def _of_function(score: Score) -> dict[str, Estimate]:
    """The score of a function as estimates, without resamples, because single examples are not known."""
    values = {score.metric: score.value, **score.others}
    return {metric: Estimate(Interval(value)) for metric, value in values.items()}


def _by_metric(metric: Metric, predictions: Mapping[str, Predictions], seed: int) -> dict[str, dict[str, Estimate]]:
    """Estimates of each value of one metric on one data set by model; all models share the resamples."""
    fitting = _models_with_metric(metric, predictions)
    values = {name: metric.compute(outputs) for name, outputs in fitting.items()}
    names_of_values = next(iter(values.values()), {})  # a metric returns the same values for all models
    estimates: dict[str, dict[str, Estimate]] = {name: {} for name in fitting}
    for value_name in names_of_values:
        distributions = resampled(metric, value_name, list(fitting.values()), seed=seed)
        for name, distribution in zip(fitting, distributions, strict=True):
            score = interval(values[name][value_name], distribution)
            estimates[name][value_name] = Estimate(score, distribution)
    return estimates


def _models_with_metric(metric: Metric, predictions: Mapping[str, Predictions]) -> dict[str, Predictions]:
    """Predictions of the models that a metric is defined for."""
    built_in = None
    if metric.identity is not None:
        built_in = BUILT_IN.get(metric.identity)
    models_write = any(outputs.texts for outputs in predictions.values())
    # A custom metric gets generated texts, and an ensemble generates none.
    reads_texts = metric.needs_texts or (built_in is None and models_write)
    fitting = {}
    for name, outputs in predictions.items():
        if outputs.texts or not reads_texts:
            fitting[name] = outputs
    if built_in is not None and built_in.takes in ("probabilities", "losses"):
        fitting.pop(ENSEMBLES["vote"], None)  # shares of votes are not probabilities
    return fitting


def with_mean_of_shifts(model: Measured, shifted_sets: Sequence[str]) -> Measured:
    """Add the plain mean over the shifted test sets as another data set, if the model was scored on all of them.

    Args:
        model ([`Measured`]):
            Model with estimates.
        shifted_sets (`Sequence[str]`):
            Names of the shifted test sets.
    """
    if not model.estimates.keys() >= set(shifted_sets):
        return model
    by_metric: dict[str, list[Estimate]] = {}
    for set_name in shifted_sets:
        for metric, estimate in model.estimates[set_name].items():
            by_metric.setdefault(metric, []).append(estimate)
    means = {}
    for metric, estimates in by_metric.items():
        if len(estimates) == len(shifted_sets):  # a function may use another metric
            means[metric] = _mean(estimates)
    return replace(model, estimates={**model.estimates, SHIFTS: means})


def mean_of_models(members: Sequence[Measured]) -> Measured:
    """The mean score of the ingredients on each data set.

    Args:
        members (`Sequence[Measured]`):
            Ingredients, which have the same data sets and metrics.
    """
    means: dict[str, dict[str, Estimate]] = {}
    for set_name, metrics in members[0].estimates.items():
        means[set_name] = {}
        for metric in metrics:
            means[set_name][metric] = _mean([member.estimates[set_name][metric] for member in members])
    return Measured(estimates=means)


def best_of_each_set(members: Sequence[Measured], directions: Mapping[str, bool | None]) -> Measured:
    """The best ingredient on each data set by each metric: an upper bound for selection, which cannot know it.

    Args:
        members (`Sequence[Measured]`):
            Ingredients, which have the same data sets and metrics.
        directions (`Mapping[str, bool | None]`):
            Whether higher is better, by metric; metrics without a direction have no best ingredient.
    """
    best: dict[str, dict[str, Estimate]] = {}
    for set_name, metrics in members[0].estimates.items():
        for metric in metrics:
            higher_is_better = directions.get(metric)
            if higher_is_better is None:
                continue
            estimates = [member.estimates[set_name][metric] for member in members]
            values = {index: estimate.score.value for index, estimate in enumerate(estimates)}
            # The interval is that of the ingredient, although choosing the best of several depends on chance too.
            best.setdefault(set_name, {})[metric] = estimates[best_of(values, higher_is_better)]
    return Measured(estimates=best)


def calibrations(predictions: Mapping[str, Predictions]) -> dict[str, Calibrated]:
    """Calibration of one classifier on each data set; the temperature is fitted on validation data, if there is any.

    Args:
        predictions (`Mapping[str, Predictions]`):
            Predictions by data set.

    Returns:
        `dict[str, Calibrated]`: calibration by data set; empty for models that are no classifiers.
    """
    if any(outputs.kind != "classes" for outputs in predictions.values()):
        return {}
    temperature = None
    if VALIDATION in predictions:
        temperature = fit_temperature(predictions[VALIDATION])
    by_set = {}
    for set_name, outputs in predictions.items():
        plain = calibrate(outputs)
        calibrated = Calibrated(plain.ece, plain.ece_mass, plain.mce, plain.brier, plain.nll)
        if temperature is not None:
            scaled = calibrate(with_temperature(outputs, temperature))
            calibrated = replace(calibrated, temperature=temperature, ece_scaled=scaled.ece, nll_scaled=scaled.nll)
        by_set[set_name] = calibrated
    return by_set


def reliability_curve(predictions: Predictions) -> dict[str, list[float]]:
    """Confidence, accuracy and count of each non-empty bin of a reliability diagram.

    Args:
        predictions ([`Predictions`]):
            Predictions of classes.
    """
    bins = calibrate(predictions).bins
    filled = bins.count > 0  # an empty bin has neither a confidence nor an accuracy
    return {
        "confidence": bins.confidence[filled].tolist(),
        "accuracy": bins.accuracy[filled].tolist(),
        "count": bins.count[filled].tolist(),
    }


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of scores, with an interval if all of them have resamples."""
    import numpy as np

    value = math.fsum(estimate.score.value for estimate in estimates) / len(estimates)
    distributions = []
    for estimate in estimates:
        if estimate.resampled is None:
            return Estimate(Interval(value))
        distributions.append(estimate.resampled)
    mean = np.mean(distributions, axis=0)
    return Estimate(interval(value, mean), mean)
