"""Scores agree with doing it by hand with transformers and scikit-learn."""

import datasets
import numpy as np
import pytest
import torch
from sklearn import metrics as sk

import hf_soup
from hf_soup import testing
from hf_soup.evaluation.ensemble import mean_logits
from hf_soup.evaluation.evaluator import Predictions
from hf_soup.evaluation.statistics import paired_difference


@pytest.fixture(scope="module")
def tokenizer(text_runs):
    """That of the tiny models."""
    import transformers

    return transformers.AutoTokenizer.from_pretrained(text_runs[0])


def test_predictions_are_in_the_order_of_the_data(tokenizer):
    """Sorting by length for speed does not show: logits are those of one example after the other."""
    model, data = testing.tiny_text_model(0), testing.tiny_texts(23)
    found = hf_soup.Evaluator(data, processing_class=tokenizer, batch_size=4).predict(model)
    with torch.no_grad():
        one_by_one = [model(**tokenizer(text, return_tensors="pt")).logits[0].numpy() for text in data["text"]]
    assert np.allclose(found.logits, one_by_one, atol=1e-5)
    assert found.labels.tolist() == data["label"]


def test_images_are_processed_as_transformers_does(image_runs):
    """Logits are those of the image processor and the model by hand."""
    import transformers

    model, data = testing.tiny_image_model(0), testing.tiny_images(10)
    processor = transformers.AutoImageProcessor.from_pretrained(image_runs[0], backend="pil")
    found = hf_soup.Evaluator(data, processing_class=processor, batch_size=3).predict(model)
    with torch.no_grad():
        by_hand = model(**processor(list(data["image"]), return_tensors="pt")).logits.numpy()
    assert np.allclose(found.logits, by_hand, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("accuracy", sk.accuracy_score),
        ("f1_macro", lambda true, said: sk.f1_score(true, said, average="macro")),
        ("matthews_correlation", sk.matthews_corrcoef),
    ],
)
def test_metrics_are_those_of_scikit_learn(tokenizer, name, function):
    """Each built-in metric agrees with scikit-learn on the same predictions."""
    model, data = testing.tiny_text_model(2), testing.tiny_texts(40)
    evaluator = hf_soup.Evaluator(data, metric=name, processing_class=tokenizer)
    said = evaluator.predict(model).logits.argmax(1)
    score = evaluator(model)
    assert score.value == pytest.approx(function(data["label"], said), abs=1e-12)
    assert (score.metric, score.n, score.split, score.higher_is_better) == (name, 40, "validation", True)
    assert score.dataset == evaluator.rows.fingerprint


def test_pairs_of_texts(tokenizer):
    """Two text columns are one input with two parts."""
    data = datasets.Dataset.from_dict({"a": ["good film", "bad"], "b": ["the plot", "a cast"], "label": [0, 1]})
    model = testing.tiny_text_model(0)
    found = hf_soup.Evaluator(data, processing_class=tokenizer).predict(model)
    with torch.no_grad():
        by_hand = model(**tokenizer(data["a"][:], data["b"][:], return_tensors="pt", padding=True)).logits.numpy()
    assert np.allclose(found.logits, by_hand, atol=1e-5)


def test_what_an_evaluator_refuses(tokenizer):
    """No rows, an unknown metric or task, no tokenizer: each has its error."""
    data, model = testing.tiny_texts(5), testing.tiny_text_model(0)
    with pytest.raises(hf_soup.DataError, match="is empty"):
        hf_soup.Evaluator(data.select([]))
    with pytest.raises(hf_soup.RecipeError, match='no metric "acuracy"; did you mean "accuracy"'):
        hf_soup.Evaluator(data, metric="acuracy", processing_class=tokenizer)(model)
    with pytest.raises(hf_soup.RecipeError, match='no task called "text-clasification"'):
        hf_soup.Evaluator(data, task="text-clasification", processing_class=tokenizer)(model)
    with pytest.raises(hf_soup.DataError, match="no tokenizer or image processor"):
        hf_soup.Evaluator(data)(model)
    with pytest.raises(hf_soup.DataError, match='no label column "label"'):
        hf_soup.Evaluator(data.remove_columns("label"), processing_class=tokenizer)(model)


def test_scores_compare_themselves():
    """`beats` knows the direction and ties; scores of two metrics do not compare; NaN is no score."""
    low, high = hf_soup.Score("loss", 0.1, higher_is_better=False), hf_soup.Score("loss", 0.2, higher_is_better=False)
    assert low.beats(high)
    assert not high.beats(low)
    assert not low.beats(low)
    assert low.beats(low, ties=True)
    with pytest.raises(hf_soup.EvaluationError, match="cannot be compared"):
        low.beats(hf_soup.Score("accuracy", 0.1))
    with pytest.raises(hf_soup.EvaluationError, match="NaN"):
        hf_soup.Score("accuracy", float("nan"))


def test_ensemble_is_the_mean_of_logits():
    """The ensemble averages logits; members that saw other examples are refused."""
    rng = np.random.default_rng(0)
    labels = np.array([0, 1, 1])
    members = [Predictions(rng.normal(size=(3, 2)).astype(np.float32), labels) for _ in range(4)]
    reference = np.mean([member.logits.astype(float) for member in members], axis=0)
    assert np.allclose(mean_logits(members).logits, reference, atol=1e-6)
    with pytest.raises(hf_soup.EvaluationError, match="same examples"):
        mean_logits([members[0], Predictions(members[1].logits, labels[::-1])])


def test_paired_difference_has_the_normal_interval():
    """On many examples the bootstrap interval is that of the normal distribution, and it is repeatable."""
    rng = np.random.default_rng(0)
    a, b = rng.random(2000) < 0.8, rng.random(2000) < 0.75
    found = paired_difference(a, b, resamples=4000)
    difference = a.astype(float) - b
    half = 1.96 * difference.std() / np.sqrt(len(difference))
    assert found.value == pytest.approx(difference.mean())
    assert found.low == pytest.approx(difference.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(difference.mean() + half, abs=0.15 * half)
    assert paired_difference(a, b, resamples=4000) == found
    assert paired_difference(a, a) == (0, 0, 0)
