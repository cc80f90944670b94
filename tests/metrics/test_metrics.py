"""Metrics agree with scikit-learn, scipy, torchmetrics and seqeval on the same arrays."""

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as tm
from made_up import predictions
from scipy import stats
from seqeval.metrics import f1_score as entity_f1
from sklearn import metrics as sk

from hf_soup import plugins
from hf_soup.errors import EvaluationError, RecipeError
from hf_soup.metrics.built_in import BUILT_IN, metric_inputs
from hf_soup.metrics.calibration import calibrate, fit_temperature, reliability, with_temperature
from hf_soup.metrics.load import load_metric, load_metrics
from hf_soup.metrics.predictions import KINDS, Predictions, decisions, losses, probabilities


def by_torchmetrics(name):
    """A metric of torchmetrics on four classes."""
    function = getattr(tm, name)
    return lambda said: float(function(torch.tensor(probabilities(said)), torch.tensor(said.labels), num_classes=4))


REFERENCES = [
    ("accuracy", "classes", lambda said: sk.accuracy_score(said.labels, said.logits.argmax(1))),
    ("f1_macro", "classes", lambda said: sk.f1_score(said.labels, said.logits.argmax(1), average="macro")),
    ("f1_micro", "classes", lambda said: sk.f1_score(said.labels, said.logits.argmax(1), average="micro")),
    ("matthews_correlation", "classes", lambda said: sk.matthews_corrcoef(said.labels, said.logits.argmax(1))),
    ("matthews_correlation", "classes", by_torchmetrics(["classification", "multiclass_matthews_corrcoef"][1])),
    ("nll", "classes", lambda said: sk.log_loss(said.labels, probabilities(said))),
    ("loss", "classes", lambda said: sk.log_loss(said.labels, probabilities(said))),
    ("brier", "classes", lambda said: np.square(probabilities(said) - np.eye(4)[said.labels]).sum(1).mean()),
    ("ece", "classes", by_torchmetrics("multiclass_calibration_error")),
    ("accuracy", "labels", lambda said: sk.accuracy_score(said.labels, said.logits > 0)),
    ("f1_macro", "labels", lambda said: sk.f1_score(said.labels, said.logits > 0, average="macro")),
    ("f1_micro", "labels", lambda said: sk.f1_score(said.labels, said.logits > 0, average="micro")),
    (
        "loss",
        "labels",
        lambda said: float(
            torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor(said.logits), torch.tensor(said.labels))
        ),
    ),
    ("pearsonr", "values", lambda said: stats.pearsonr(said.logits, said.labels)[0]),
    ("spearmanr", "values", lambda said: stats.spearmanr(said.logits, said.labels)[0]),
    ("mse", "values", lambda said: sk.mean_squared_error(said.labels, said.logits)),
    ("loss", "values", lambda said: sk.mean_squared_error(said.labels, said.logits)),
    ("loss", "tokens", lambda said: -said.logits.astype(float).mean()),
    ("perplexity", "tokens", lambda said: np.exp(-said.logits.astype(float).mean())),
    ("seqeval_f1", "tags", lambda said: entity_f1(*metric_inputs(said, "tags"))),
]


@pytest.mark.parametrize(
    ("name", "kind", "reference"), REFERENCES, ids=lambda value: value if type(value) is str else ""
)
def test_metrics_agree_with_the_libraries(name, kind, reference):
    """To 1e-6, on outputs of every kind that a metric is defined for."""
    said = predictions(kind)
    (metric,) = load_metrics(name)
    assert metric.compute(said)[name] == pytest.approx(reference(said), abs=1e-6)


def test_metrics_of_two_classes():
    """Binary F1 and Brier score are of the second class."""
    said = predictions(classes=2)
    p, told = probabilities(said)[:, 1], said.logits.argmax(1)
    assert load_metrics("f1")[0].compute(said)["f1"] == pytest.approx(sk.f1_score(said.labels, told), abs=1e-9)
    assert load_metrics("brier")[0].compute(said)["brier"] == pytest.approx(
        sk.brier_score_loss(said.labels, p), abs=1e-9
    )


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_is_an_evaluate_metric_too(name):
    """`compute` of the `evaluate.Metric` gives what the evaluator computes."""
    metric, built_in = load_metric(name), BUILT_IN[name]
    kind = "tags" if built_in.takes == "tags" else built_in.kinds[0]
    said = predictions(kind, classes=2 if name == "f1" else 4)
    if built_in.takes == "texts":
        said = said._replace(texts=("a", "b "), references=("a", "b"))
    references, told = metric_inputs(said, built_in.takes)
    if built_in.takes == "losses":
        references = np.zeros(len(told))
    found = metric.compute(predictions=told, references=references)
    assert found == pytest.approx(load_metrics(name)[0].compute(said), abs=1e-9)


def test_every_kind_has_metrics_and_every_other_is_refused():
    """No metric is computed on outputs that it is not defined for."""
    for name, built_in in BUILT_IN.items():
        for kind in set(KINDS) - set(built_in.kinds):
            with pytest.raises(EvaluationError, match=f"{name} is not defined for a model of {kind}"):
                load_metrics(name)[0].compute(predictions(kind))
    assert {kind for built_in in BUILT_IN.values() for kind in built_in.kinds} == set(KINDS)


def test_every_task_has_a_metric_of_its_kind():
    """A task's own metric, and `loss`, are defined for what it gives."""
    for name in plugins.names("task"):
        task = plugins.load_module("task", name)
        assert task.KIND in BUILT_IN[task.METRIC].kinds
        assert task.KIND in BUILT_IN["loss"].kinds


def test_an_unknown_metric_is_told_with_the_ways():
    """The built-in ones, functions, scripts and the network are named."""
    for load in (load_metric, load_metrics):
        with pytest.raises(
            RecipeError, match=r'"f1_makro"; did you mean "f1_macro"\? Known: accuracy.*EvalPrediction'
        ):
            load("f1_makro")


def test_decisions_and_losses_of_each_kind():
    """Shapes are those of the labels; a language model decides nothing."""
    for kind in KINDS[:3]:
        said = predictions(kind)
        assert decisions(said).shape == said.labels.shape
        assert losses(said).shape == (200,)
    with pytest.raises(EvaluationError, match="loss or perplexity"):
        decisions(predictions("tokens"))
    with pytest.raises(EvaluationError, match="the model gives values"):
        probabilities(predictions("values"))


def test_rows_are_taken_whole():
    """All items of a row go together, as often as the row is asked for."""
    said = predictions("tags", rows=12)._replace(rows=np.repeat([0, 2, 3], [5, 3, 4]))
    taken = said.take(np.array([3, 0, 3]))
    assert taken.rows.tolist() == [0] * 4 + [1] * 5 + [2] * 4
    assert np.array_equal(taken.labels, said.labels[[8, 9, 10, 11, 0, 1, 2, 3, 4, 8, 9, 10, 11]])


def test_calibration_errors_agree_with_torchmetrics():
    """Expected and maximum error of 15 bins of equal width."""
    for seed in range(5):
        said = predictions(seed=seed)
        p, right = torch.tensor(probabilities(said)), torch.tensor(said.labels)
        found = calibrate(said)
        for norm, value in (("l1", found.ece), ("max", found.mce)):
            assert value == pytest.approx(
                float(tm.multiclass_calibration_error(p, right, num_classes=4, norm=norm)), abs=1e-6
            )
        assert (found.brier, found.nll) == tuple(load_metrics(n)[0].compute(said)[n] for n in ("brier", "nll"))


def test_bins_of_equal_mass_hold_equally_many():
    """Each has a fifteenth of the examples, give or take one; the error is their mean gap."""
    said = predictions(rows=300)
    bins = reliability(probabilities(said), said.labels, by="mass")
    assert set(bins.count) <= {19, 20, 21}
    confidence = np.sort(probabilities(said).max(1))
    assert bins.confidence @ bins.count == pytest.approx(confidence.sum())
    assert bins.error == pytest.approx(np.abs(bins.accuracy - bins.confidence) @ bins.count / 300)
    sure = said._replace(logits=np.full((300, 4), 0.0, dtype=np.float32))  # one confidence for all
    assert reliability(probabilities(sure), sure.labels, by="mass").count.sum() == 300


def test_a_model_that_is_as_sure_as_right_has_no_error():
    """Confidence 0.75 and three of four right: no gap. Confidence 1 and one of two right: a gap of a half."""
    logits = np.log(np.array([[0.75, 0.25]] * 4, dtype=np.float32))
    fair = Predictions(logits, np.array([0, 0, 0, 1]), np.arange(4))
    assert calibrate(fair).ece == pytest.approx(0, abs=1e-6)
    sure = Predictions(np.array([[50, -50]] * 4, dtype=np.float32), np.array([0, 0, 1, 1]), np.arange(4))
    assert calibrate(sure).ece == calibrate(sure).mce == pytest.approx(0.5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(temperature):
    """Labels drawn from the model's own probabilities want its logits unscaled; scaled logits want them back."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (rng.random((len(p), 1)) > p.cumsum(1)).sum(1)
    said = Predictions((logits * temperature).astype(np.float32), labels, np.arange(len(p)))
    found = fit_temperature(said)
    assert found == pytest.approx(temperature, rel=0.03)
    assert losses(with_temperature(said, found)).mean() <= losses(said).mean() + 1e-9
