"""Metrics agree with scikit-learn, scipy, torchmetrics and seqeval on the same arrays."""

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as tm
from made_up import predictions
from scipy import stats
from seqeval.metrics import f1_score as entity_f1
from sklearn import metrics as sk
from torch.nn.functional import binary_cross_entropy_with_logits

from hf_soup import plugins
from hf_soup.errors import EvaluationError, RecipeError
from hf_soup.metrics.built_in import BUILT_IN, metric_inputs
from hf_soup.metrics.calibration import calibrate, fit_temperature, reliability, with_temperature
from hf_soup.metrics.load import load_metric, load_metrics
from hf_soup.metrics.predictions import KINDS, WITHOUT_LOSS, Predictions, decisions, losses, probabilities


def by_torchmetrics(name):
    """A metric of torchmetrics for four classes."""
    function = getattr(tm, name)
    return lambda preds: float(function(torch.tensor(probabilities(preds)), torch.tensor(preds.labels), num_classes=4))


REFERENCES = [
    ("accuracy", "classes", lambda preds: sk.accuracy_score(preds.labels, preds.logits.argmax(1))),
    ("f1_macro", "classes", lambda preds: sk.f1_score(preds.labels, preds.logits.argmax(1), average="macro")),
    ("f1_micro", "classes", lambda preds: sk.f1_score(preds.labels, preds.logits.argmax(1), average="micro")),
    ("matthews_correlation", "classes", lambda preds: sk.matthews_corrcoef(preds.labels, preds.logits.argmax(1))),
    ("matthews_correlation", "classes", by_torchmetrics("multiclass_matthews_corrcoef")),
    ("nll", "classes", lambda preds: sk.log_loss(preds.labels, probabilities(preds))),
    ("loss", "classes", lambda preds: sk.log_loss(preds.labels, probabilities(preds))),
    ("brier", "classes", lambda preds: np.square(probabilities(preds) - np.eye(4)[preds.labels]).sum(1).mean()),
    ("ece", "classes", by_torchmetrics("multiclass_calibration_error")),
    ("accuracy", "labels", lambda preds: sk.accuracy_score(preds.labels, preds.logits > 0)),
    ("f1_macro", "labels", lambda preds: sk.f1_score(preds.labels, preds.logits > 0, average="macro")),
    ("f1_micro", "labels", lambda preds: sk.f1_score(preds.labels, preds.logits > 0, average="micro")),
    (
        "loss",
        "labels",
        lambda preds: float(binary_cross_entropy_with_logits(torch.tensor(preds.logits), torch.tensor(preds.labels))),
    ),
    ("pearsonr", "values", lambda preds: stats.pearsonr(preds.logits, preds.labels)[0]),
    ("spearmanr", "values", lambda preds: stats.spearmanr(preds.logits, preds.labels)[0]),
    ("mse", "values", lambda preds: sk.mean_squared_error(preds.labels, preds.logits)),
    ("loss", "values", lambda preds: sk.mean_squared_error(preds.labels, preds.logits)),
    ("loss", "tokens", lambda preds: -preds.logits.astype(float).mean()),
    ("perplexity", "tokens", lambda preds: np.exp(-preds.logits.astype(float).mean())),
    ("seqeval_f1", "tags", lambda preds: entity_f1(*metric_inputs(preds, "tags"))),
]


@pytest.mark.parametrize(
    ("name", "kind", "reference"), REFERENCES, ids=lambda value: value if type(value) is str else ""
)
def test_metrics_agree_with_the_libraries(name, kind, reference):
    """A built-in metric agrees with a library to 1e-6, for every kind of output it is compared on."""
    predicted = predictions(kind)
    (metric,) = load_metrics(name)
    assert metric.compute(predicted)[name] == pytest.approx(reference(predicted), abs=1e-6)


def test_metrics_of_two_classes():
    """For two classes, F1 and Brier score are those of the second class."""
    predicted = predictions(classes=2)
    f1 = sk.f1_score(predicted.labels, predicted.logits.argmax(1))
    brier = sk.brier_score_loss(predicted.labels, probabilities(predicted)[:, 1])
    assert load_metrics("f1")[0].compute(predicted)["f1"] == pytest.approx(f1, abs=1e-9)
    assert load_metrics("brier")[0].compute(predicted)["brier"] == pytest.approx(brier, abs=1e-9)


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_is_an_evaluate_metric_too(name):
    """`compute` of the `evaluate.Metric` agrees with the metric that the evaluator computes."""
    metric, built_in = load_metric(name), BUILT_IN[name]
    kind = "tags" if built_in.takes == "tags" else built_in.kinds[0]
    predicted = predictions(kind, classes=2 if name == "f1" else 4)
    if built_in.takes in ("texts", "answers"):
        predicted = predicted._replace(texts=("a", "b "), references=("a", "b"))
    references, outputs = metric_inputs(predicted, built_in.takes)
    if built_in.takes == "losses":
        references = np.zeros(len(outputs))
    values = metric.compute(predictions=outputs, references=references)
    assert values == pytest.approx(load_metrics(name)[0].compute(predicted), abs=1e-9)


def test_every_kind_has_metrics_and_every_other_is_refused():
    """A metric on outputs of a kind for which it is not defined raises an EvaluationError."""
    for name, built_in in BUILT_IN.items():
        for kind in set(KINDS) - set(built_in.kinds):
            with pytest.raises(EvaluationError, match=f"{name} is not defined for a model of {kind}"):
                load_metrics(name)[0].compute(predictions(kind))
    assert {kind for built_in in BUILT_IN.values() for kind in built_in.kinds} == set(KINDS)


def test_every_task_has_a_metric_of_its_kind():
    """A task's own metric, and `loss`, are defined for the kind of output that the task gives."""
    for name in plugins.names("task"):
        task = plugins.load_module("task", name)
        assert task.KIND in BUILT_IN[task.METRIC].kinds
        assert (task.KIND in BUILT_IN["loss"].kinds) != (task.KIND in WITHOUT_LOSS)


def test_an_unknown_metric_is_told_with_the_ways():
    """An unknown metric raises a RecipeError that names the nearest ones and the alternatives."""
    for load in (load_metric, load_metrics):
        with pytest.raises(
            RecipeError, match=r'"f1_makro"; did you mean "f1_macro"\? The nearest of .*f1_micro.*EvalPrediction'
        ):
            load("f1_makro")


def test_decisions_and_losses_of_each_kind():
    """Decisions and losses have the shape of labels and rows; kinds without them raise an EvaluationError."""
    for kind in KINDS[:3]:
        predicted = predictions(kind)
        assert decisions(predicted).shape == predicted.labels.shape
        assert losses(predicted).shape == (200,)
    with pytest.raises(EvaluationError, match="loss or perplexity"):
        decisions(predictions("tokens"))
    with pytest.raises(EvaluationError, match="the model gives values"):
        probabilities(predictions("values"))


def test_rows_are_taken_whole():
    """`take` copies all items of a row, as often as the row is requested."""
    predicted = predictions("tags", rows=12)._replace(rows=np.repeat([0, 2, 3], [5, 3, 4]))
    taken = predicted.take(np.array([3, 0, 3]))
    assert taken.rows.tolist() == [0] * 4 + [1] * 5 + [2] * 4
    assert np.array_equal(taken.labels, predicted.labels[[8, 9, 10, 11, 0, 1, 2, 3, 4, 8, 9, 10, 11]])


def test_calibration_errors_agree_with_torchmetrics():
    """The expected and maximum calibration errors of 15 equal-width bins agree with torchmetrics."""
    for seed in range(5):
        predicted = predictions(seed=seed)
        p, right = torch.tensor(probabilities(predicted)), torch.tensor(predicted.labels)
        calibration = calibrate(predicted)
        for norm, value in (("l1", calibration.ece), ("max", calibration.mce)):
            assert value == pytest.approx(
                float(tm.multiclass_calibration_error(p, right, num_classes=4, norm=norm)), abs=1e-6
            )
        assert calibration.brier == load_metrics("brier")[0].compute(predicted)["brier"]
        assert calibration.nll == load_metrics("nll")[0].compute(predicted)["nll"]


def test_bins_of_equal_mass_hold_equally_many():
    """Equal-mass bins have nearly equal numbers of examples, and the error is their mean gap."""
    predicted = predictions(rows=300)
    bins = reliability(probabilities(predicted), predicted.labels, by="mass")
    assert set(bins.count) <= {19, 20, 21}
    confidence = np.sort(probabilities(predicted).max(1))
    assert bins.confidence @ bins.count == pytest.approx(confidence.sum())
    assert bins.error == pytest.approx(np.abs(bins.accuracy - bins.confidence) @ bins.count / 300)
    sure = predicted._replace(logits=np.full((300, 4), 0.0, dtype=np.float32))  # equal confidence everywhere
    assert reliability(probabilities(sure), sure.labels, by="mass").count.sum() == 300


def test_a_model_that_is_as_sure_as_right_has_no_error():
    """A confidence of 0.75 with three of four right has no error; a confidence of 1 with one of two right has 0.5."""
    logits = np.log(np.array([[0.75, 0.25]] * 4, dtype=np.float32))
    fair = Predictions(logits, np.array([0, 0, 0, 1]), np.arange(4))
    assert calibrate(fair).ece == pytest.approx(0, abs=1e-6)
    sure = Predictions(np.array([[50, -50]] * 4, dtype=np.float32), np.array([0, 0, 1, 1]), np.arange(4))
    assert calibrate(sure).ece == calibrate(sure).mce == pytest.approx(0.5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(temperature):
    """Fitting recovers the factor by which the logits were scaled relative to those the labels were drawn from."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (rng.random((len(p), 1)) > p.cumsum(1)).sum(1)
    predicted = Predictions((logits * temperature).astype(np.float32), labels, np.arange(len(p)))
    fitted = fit_temperature(predicted)
    assert fitted == pytest.approx(temperature, rel=0.03)
    assert losses(with_temperature(predicted, fitted)).mean() <= losses(predicted).mean() + 1e-9
