"""Scores agree with computations by hand with transformers and scikit-learn."""

import copy
import math
import pickle
import types

import datasets
import evaluate
import numpy as np
import pytest
import torch
import transformers
from sklearn import metrics as sk

import hf_soup
from hf_soup import plugins, testing
from hf_soup.errors import DataError, EvaluationError, RecipeError
from hf_soup.tasks._model_inputs import ModelInputs
from hf_soup.types import best_of, gain


@pytest.fixture(scope="module")
def tokenizer(text_runs):
    """The tokenizer of the tiny models."""
    return transformers.AutoTokenizer.from_pretrained(text_runs[0])


def test_predictions_are_in_the_order_of_the_data(tokenizer):
    """Batches are sorted by length, but predictions are in the order of the data and equal those made one by one."""
    model, data = testing.tiny_text_model(0), testing.tiny_texts(23)
    found = hf_soup.Evaluator(data, processing_class=tokenizer, batch_size=4).predict(model)
    with torch.no_grad():
        one_by_one = [model(**tokenizer(text, return_tensors="pt")).logits[0].numpy() for text in data["text"]]
    assert np.allclose(found.logits, one_by_one, atol=1e-5)
    assert found.labels.tolist() == data["label"]


def test_images_are_processed_as_transformers_does(image_runs):
    """Predictions for images equal those of the image processor and the model called directly."""
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
        ("f1", sk.f1_score),
        ("f1_micro", lambda true, said: sk.f1_score(true, said, average="micro")),
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
    assert score.dataset == evaluator.content_hashes.fingerprint


def test_pairs_of_texts(tokenizer):
    """Two text columns are encoded as a pair."""
    data = datasets.Dataset.from_dict({"a": ["good film", "bad"], "b": ["the plot", "a cast"], "label": [0, 1]})
    model = testing.tiny_text_model(0)
    found = hf_soup.Evaluator(data, processing_class=tokenizer).predict(model)
    with torch.no_grad():
        by_hand = model(**tokenizer(data["a"][:], data["b"][:], return_tensors="pt", padding=True)).logits.numpy()
    assert np.allclose(found.logits, by_hand, atol=1e-5)


def test_what_an_evaluator_refuses(tokenizer):
    """Empty data, several splits, unknown metrics or tasks, and missing columns raise errors that name the problem."""
    data, model = testing.tiny_texts(5), testing.tiny_text_model(0)
    with pytest.raises(DataError, match="is empty"):
        hf_soup.Evaluator(data.select([]))
    with pytest.raises(DataError, match=r'no split "validation"\. Known: test, train'):
        hf_soup.Evaluator(datasets.DatasetDict({"train": data, "test": data}))
    with pytest.raises(DataError, match=r"takes one split: choose one of train, test, as in data\['test'\]"):
        hf_soup.Evaluator({"train": data, "test": data})
    for other in (data.to_iterable_dataset(), [{"text": "a", "label": 0}]):
        with pytest.raises(DataError, match=r"takes a datasets\.Dataset or its path, not"):
            hf_soup.Evaluator(other)
    with pytest.raises(RecipeError, match='no metric "acuracy"; did you mean "accuracy"'):
        hf_soup.Evaluator(data, metric="acuracy", processing_class=tokenizer)(model)
    with pytest.raises(RecipeError, match='no task called "text-clasification"'):
        hf_soup.Evaluator(data, task="text-clasification", processing_class=tokenizer)(model)
    with pytest.raises(DataError, match="no tokenizer or image processor"):
        hf_soup.Evaluator(data)(model)
    with pytest.raises(DataError, match='no label column "label"'):
        hf_soup.Evaluator(data.remove_columns("label"), processing_class=tokenizer)(model)


@pytest.mark.parametrize(
    "task", ["text-classification", "token-classification", "text-generation", "text2text-generation"]
)
def test_an_image_processor_reads_no_texts(task, image_runs):
    """An image processor for a text task raises a DataError that asks for the tokenizer."""
    module = plugins.load_module("task", task)
    data = datasets.Dataset.from_dict(module.EXAMPLE)
    processor = transformers.AutoImageProcessor.from_pretrained(image_runs[0], backend="pil")
    inputs = ModelInputs("Model", frozenset({"input_ids"}), None, None, 0, None)
    label = module.label_column(data, None)
    columns = module.columns(data, None, label)
    right = data[label][:] if label else None
    with pytest.raises(DataError, match=f"texts, and {type(processor).__name__} is no tokenizer: pass the tok"):
        module.encode(data, processor, columns, right, inputs)


def test_a_processor_of_both_has_the_tokenizer(tokenizer):
    """A processor that contains a tokenizer raises a DataError that asks for its `.tokenizer`."""
    both = types.SimpleNamespace(tokenizer=tokenizer)
    with pytest.raises(DataError, match=r"SimpleNamespace is no tokenizer: pass its \.tokenizer"):
        hf_soup.Evaluator(testing.tiny_texts(4), processing_class=both).predict(testing.tiny_text_model(0))


def test_an_unknown_problem_type_is_told(tokenizer):
    """An unknown `problem_type` raises a DataError that lists those transformers knows."""
    model = testing.tiny_text_model(0)
    model.config.problem_type = "multilabel"
    with pytest.raises(DataError, match=r"problem_type is 'multilabel', .* multi_label_classification, single_l"):
        hf_soup.Evaluator(testing.tiny_texts(4), processing_class=tokenizer)(model)


def test_a_tokenizer_reads_no_images(tokenizer):
    """A tokenizer for an image task raises a DataError that asks for the image processor."""
    evaluator = hf_soup.Evaluator(testing.tiny_images(4), processing_class=tokenizer)
    with pytest.raises(DataError, match=r"images, and \w+ is no image processor: pass the image processor"):
        evaluator.predict(testing.tiny_image_model(0))


def test_scores_compare_themselves():
    """`beats` respects direction and ties; scores of different metrics, and NaN, raise an EvaluationError."""
    low, high = hf_soup.Score("loss", 0.1, higher_is_better=False), hf_soup.Score("loss", 0.2, higher_is_better=False)
    assert low.beats(high)
    assert not high.beats(low)
    assert not low.beats(low)
    assert low.beats(low, ties=True)
    for compare in (low.beats, low.gain_over):
        with pytest.raises(EvaluationError, match="cannot be compared"):
            compare(hf_soup.Score("accuracy", 0.1))
    with pytest.raises(EvaluationError, match="NaN"):
        hf_soup.Score("accuracy", float("nan"))


@pytest.mark.parametrize(("higher_is_better", "sign"), [(True, 1), (False, -1)])
def test_a_gain_is_positive_where_a_score_is_better(higher_is_better, sign):
    """A gain is positive for the better score, whether given as scores, numbers or values on resamples."""
    better, worse = (hf_soup.Score("m", value, higher_is_better=higher_is_better) for value in (sign * 0.5, 0.0))
    assert better.gain_over(worse) == 0.5
    assert worse.gain_over(better) == -0.5
    assert gain(sign * np.array([0.5, 0.25]), 0.0, higher_is_better).tolist() == [0.5, 0.25]
    assert math.copysign(1, gain(0.5, 0.5, higher_is_better)) == 1  # a difference of zero is not negative zero
    assert best_of({"a": 0.0, "b": sign * 0.5, "c": sign * 0.5}, higher_is_better) == "b"


def test_several_metrics_and_one_that_selects(tokenizer):
    """The first metric selects unless another is named, and the other values are reported with it."""
    data, model = testing.tiny_texts(30), testing.tiny_text_model(1)
    first = hf_soup.Evaluator(data, metric=["accuracy", "loss"], processing_class=tokenizer)(model)
    assert (first.metric, first.higher_is_better, set(first.others)) == ("accuracy", True, {"loss"})
    other = hf_soup.Evaluator(data, metric=["accuracy", "loss"], select_by="loss", processing_class=tokenizer)(model)
    assert (other.metric, other.higher_is_better) == ("loss", False)
    assert (other.value, other.others["accuracy"]) == (first.others["loss"], first.value)
    with pytest.raises(EvaluationError, match=r"no metric gives 'los', .*did you mean \"loss\""):
        hf_soup.Evaluator(data, metric="loss", select_by="los", processing_class=tokenizer)(model)


def test_metrics_of_others(tokenizer, tmp_path):
    """A function as for Trainer, an `evaluate.Metric`, a combination and a script give the same score."""
    from hf_soup.metrics.load import load_metric

    def share(said):
        return {"share": (said.predictions.argmax(-1) == said.label_ids).mean(), "n": len(said.label_ids)}

    script = tmp_path / "same.py"
    script.write_text(SCRIPT)
    data, model = testing.tiny_texts(30), testing.tiny_text_model(1)
    ours = load_metric("accuracy")
    combined = evaluate.combine([load_metric("accuracy"), load_metric("f1_macro")])
    right = hf_soup.Evaluator(data, processing_class=tokenizer)(model).value
    for metric, name in (
        (share, "share"),
        (ours, "accuracy"),
        (combined, "accuracy"),
        (str(script), "accuracy"),
        (lambda said: float((said.predictions.argmax(-1) == said.label_ids).mean()), "<lambda>"),
    ):
        score = hf_soup.Evaluator(data, metric=metric, select_by=name, processing_class=tokenizer)(model)
        assert (score.metric, score.value, score.higher_is_better) == (name, pytest.approx(right), True)
    score = hf_soup.Evaluator(data, metric=share, select_by="n", higher_is_better=False, processing_class=tokenizer)(
        model
    )
    assert (score.value, score.higher_is_better) == (30, False)


def test_a_function_of_one_value_keeps_its_direction(tokenizer):
    """If `compute_metrics` returns a single value, that value selects in the direction of `higher_is_better`."""

    def compute_metrics(said):
        return {"mae": 0.25}

    options = {"metric": compute_metrics, "processing_class": tokenizer}
    for higher in (True, False):
        score = hf_soup.Evaluator(testing.tiny_texts(4), higher_is_better=higher, **options)(
            testing.tiny_text_model(0)
        )
        assert (score.metric, score.higher_is_better) == ("mae", higher)


def test_functions_get_what_trainer_gives():
    """A metric function gets tokens padded with -100 to the longest row, as in `Trainer`, and values as a column."""
    seen = []
    for name in ("token-classification", "regression"):
        task = plugins.load_module("task", name)
        model, processing_class = testing.model_for(task)
        data = testing.example_of(task)
        run = hf_soup.Evaluator(data, metric=lambda said: seen.append(said) or 0.5, processing_class=processing_class)
        run(model)
        words = run.predict(model)
    assert seen[0].predictions.shape == (3, 3, 3)
    assert seen[0].label_ids.tolist() == [[0, 1, -100], [2, 0, 1], [1, -100, -100]]
    assert seen[1].predictions.shape == (3, 1)
    assert np.array_equal(seen[1].label_ids, words.labels)


@pytest.mark.filterwarnings("ignore:.*rows have no text")
def test_texts_without_tokens():
    """Texts without tokens are skipped by a language model, and raise a DataError with the row for a classifier."""
    model, tokenizer = testing.model_for(plugins.load_module("task", "text-generation"))
    bare = transformers.BertTokenizer(vocab=tokenizer.get_vocab(), model_input_names=["input_ids", "attention_mask"])
    bare.backend_tokenizer.post_processor = None  # like that of GPT-2, which adds no tokens
    assert bare("")["input_ids"] == []
    lines = datasets.Dataset.from_dict({"text": ["", "good film", "", *[""] * 9, "the bad plot"]})
    with pytest.warns(hf_soup.SoupWarning, match="11 of 13 rows have no text"):
        found = hf_soup.Evaluator(lines, processing_class=bare, batch_size=2).predict(model)
    assert found.rows.tolist() == [1, 12, 12]
    empty = datasets.Dataset.from_dict({"text": ["good", ""], "label": [0, 1]})
    refused = pytest.raises(DataError, match="row 1 has no token at all")
    with refused, pytest.warns(hf_soup.SoupWarning, match="1 of 2 rows have no text"):
        hf_soup.Evaluator(empty, processing_class=bare).predict(testing.tiny_text_model(0))


def test_images_meet_models_of_small_types(tmp_path):
    """A bfloat16 ResNet, which does not cast its input, can be scored and its statistics re-estimated."""
    transformers.set_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_labels=3
    )
    net = transformers.ResNetForImageClassification(config).eval()
    folder = testing.save_image_model(net.to(torch.bfloat16), tmp_path / "run")
    data = testing.tiny_images(9)
    soup = hf_soup.merge([folder, folder], strategy="greedy", evaluator=data, batchnorm_data=data)
    assert soup.model.dtype == torch.bfloat16


def test_a_classifier_without_padding_token_is_told(tokenizer):
    """A GPT-2 classifier without a padding token raises a DataError that says what to set."""
    transformers.set_seed(0)
    config = transformers.GPT2Config(**{**testing.TINY["gpt2"], "pad_token_id": None}, num_labels=2)
    model = transformers.GPT2ForSequenceClassification(config).eval()
    with pytest.raises(DataError, match=r"no padding token.*set config\.pad_token_id"):
        hf_soup.Evaluator(testing.tiny_texts(5), processing_class=tokenizer).predict(model)


SCRIPT = """
import datasets
import evaluate

class Same(evaluate.Metric):
    def _info(self):
        whole = datasets.Value("int64")
        features = datasets.Features({"predictions": whole, "references": whole})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"accuracy": sum(a == b for a, b in zip(predictions, references)) / len(references)}
"""


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda said: {"a": 1, "b": 2}, "gives several values \\(a, b\\): name one with select_by="),
        (lambda said: {"a": "high"}, "has to return a number or a dict of numbers"),
        (lambda said: None, "has to return a number"),
        (lambda said: float("nan"), "NaN"),
        ("perplexity", "not defined for a model of classes: use one of accuracy"),
        ("pearsonr", "not defined for a model of classes"),
    ],
)
def test_metrics_that_give_no_score(tokenizer, metric, message):
    """Metrics that return several values, text, nothing or NaN, or suit other tasks, raise an EvaluationError."""
    evaluator = hf_soup.Evaluator(testing.tiny_texts(8), metric=metric, processing_class=tokenizer)
    with pytest.raises(EvaluationError, match=message):
        evaluator(testing.tiny_text_model(0))


def test_f1_is_of_two_classes(tokenizer):
    """`f1` for a model of three classes raises an EvaluationError that suggests f1_macro or f1_micro."""
    model = testing.tiny_text_model(0, labels=("a", "b", "c"))
    data = testing.tiny_texts(8).cast_column("label", datasets.Value("int64"))
    data = data.map(lambda row: {"label": 2})
    with pytest.raises(DataError, match='no class "negative"'):
        hf_soup.Evaluator(testing.tiny_texts(8), metric="f1", processing_class=tokenizer)(model)
    numbered = testing.tiny_text_model(0, labels=("LABEL_0", "LABEL_1", "LABEL_2"))
    with pytest.raises(EvaluationError, match="use f1_macro or f1_micro"):
        hf_soup.Evaluator(data, metric="f1", processing_class=tokenizer)(numbered)


def test_arguments_are_checked_before_anything_runs():
    """An invalid metric, task, dtype or batch size raises a RecipeError when the evaluator is created."""
    data = testing.tiny_texts(5)
    with pytest.raises(RecipeError, match=r'no metric "acuracy"; did you mean "accuracy".*evaluate\.load'):
        hf_soup.Evaluator(data, metric="acuracy")
    with pytest.raises(RecipeError, match="is not a metric"):
        hf_soup.Evaluator(data, metric=3)
    with pytest.raises(RecipeError, match="with different names"):
        hf_soup.Evaluator(data, metric=["accuracy", "accuracy"])
    with pytest.raises(RecipeError, match='no task called "regresion"'):
        hf_soup.Evaluator(data, task="regresion")
    with pytest.raises(RecipeError, match="dtype is one of"):
        hf_soup.Evaluator(data, dtype="float16")
    with pytest.raises(RecipeError, match="at least one example"):
        hf_soup.Evaluator(data, batch_size=0)


def test_data_that_is_encoded_already(tokenizer):
    """Data with token ids needs no tokenizer and gives the same predictions."""
    model, data = testing.tiny_text_model(0), testing.tiny_texts(13)
    encoded = data.map(lambda row: dict(tokenizer(row["text"])), remove_columns="text")
    plain = hf_soup.Evaluator(data, processing_class=tokenizer).predict(model)
    without_mask = encoded.remove_columns(["attention_mask", "token_type_ids"])
    for rows in (encoded, without_mask):
        found = hf_soup.Evaluator(rows, batch_size=4).predict(model)
        assert np.allclose(found.logits, plain.logits, atol=1e-5)
        assert np.array_equal(found.labels, plain.labels)


def test_bfloat16_arithmetic_is_near(tokenizer):
    """Predictions with bfloat16 autocast differ slightly from those in full precision."""
    model, data = testing.tiny_text_model(0), testing.tiny_texts(9)
    exact, fast = (
        hf_soup.Evaluator(data, processing_class=tokenizer, dtype=dtype).predict(model)
        for dtype in ("auto", "bfloat16")
    )
    assert not np.array_equal(exact.logits, fast.logits)
    assert np.allclose(exact.logits, fast.logits, atol=0.02)
    assert np.array_equal(exact.labels, fast.labels)


class Greedy(torch.nn.Module):
    """A model that runs out of memory on more than a given number of examples."""

    def __init__(self, model, most):
        super().__init__()
        self.inner, self.most, self.sizes = model, most, []
        self.config, self.device, self.dtype = model.config, model.device, model.dtype

    def forward(self, input_ids, **inputs):
        """Run the model, or raise OutOfMemoryError for too many examples."""
        self.sizes.append(len(input_ids))
        if len(input_ids) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.inner(input_ids=input_ids, **inputs)


def test_memory_that_runs_out_halves_the_batch(tokenizer):
    """Running out of memory halves the batch size with a warning, loses no example and is remembered."""
    data = testing.tiny_texts(40)
    evaluator = hf_soup.Evaluator(data, task="text-classification", processing_class=tokenizer, batch_size=16)
    model = Greedy(testing.tiny_text_model(0), 5)
    with pytest.warns(UserWarning, match="memory ran out with") as told:
        found = evaluator.predict(model)
    assert [str(item.message) for item in told] == [
        "memory ran out with a batch of 16 examples: continuing with 8.",
        "memory ran out with a batch of 8 examples: continuing with 4.",
    ]
    assert model.sizes[-12:] == [16, 8, *[4] * 10]  # a few rows run first to test for effects of padding
    assert np.allclose(found.logits, evaluator.predict(model.inner).logits, atol=1e-5)
    with pytest.raises(EvaluationError, match=r"memory runs out for one example \(row"), pytest.warns():
        evaluator.predict(Greedy(testing.tiny_text_model(0), 0))


def broken_images(rows, broken):
    """Images, of which the given rows are truncated."""
    data = testing.tiny_images(rows).cast_column("image", datasets.Image(decode=False))
    cut = {"bytes": data[0]["image"]["bytes"][:40], "path": "cat.png"}
    images = [cut if row in broken else image for row, image in enumerate(data["image"])]
    columns = {"image": images, "label": data["label"][:]}
    return datasets.Dataset.from_dict(columns, datasets.Features({**data.features, "image": datasets.Image()}))


def test_images_that_do_not_decode(image_runs):
    """Images that cannot be decoded are counted and skipped with a warning; if over 1 % are, a DataError is raised."""
    processor = transformers.AutoImageProcessor.from_pretrained(image_runs[0], backend="pil")
    model = testing.tiny_image_model(0)
    whole = hf_soup.Evaluator(testing.tiny_images(120), processing_class=processor, batch_size=50).predict(model)
    few = hf_soup.Evaluator(broken_images(120, {7}), processing_class=processor, batch_size=50)
    with pytest.warns(UserWarning, match=r"1 of 120 images .* do not decode: row 7 \(cat.png\); they are left out"):
        found = few.predict(model)
    assert found.rows.tolist() == [row for row in range(120) if row != 7]
    assert np.allclose(found.logits, np.delete(whole.logits, 7, axis=0), atol=1e-5)
    many = hf_soup.Evaluator(broken_images(120, {7, 90}), processing_class=processor)
    with pytest.raises(DataError, match=r"2 of 120 images .* do not decode: row 7"):
        many.predict(model)


def run_task(name, data, **options):
    """The predictions of a task's tiny model for other data."""
    model, processing_class = testing.model_for(plugins.load_module("task", name))
    return hf_soup.Evaluator(data, processing_class=processing_class, **options).predict(model)


@pytest.mark.parametrize(
    ("task", "columns", "message"),
    [
        ("regression", {"text": ["a"], "label": ["4.5"]}, "such as '4.5', but numbers are needed"),
        ("regression", {"text": ["a", "b"], "label": [1.0, None]}, "1 of 2 values .* missing or not finite"),
        ("text-classification", {"text": ["a"], "label": [2]}, "go from 2 to 2, the model has 2 classes"),
        ("text-classification", {"text": [1], "label": [1]}, "0 text columns"),
        ("multi-label-classification", {"text": ["a"], "labels": [1]}, "holds one label a row"),
        ("multi-label-classification", {"text": ["a"], "labels": [[7]]}, "go from 7 to 7, the model has 3"),
        ("token-classification", {"tokens": [["a", "the"]], "tags": [[1]]}, "row 0 has 2 words in .* and 1 labels"),
        ("token-classification", {"tokens": [["a"]], "tags": [1]}, "takes one for each word"),
        ("token-classification", {"text": ["a"], "tags": [[1]]}, "0 columns of lists of words"),
        ("text-generation", {"number": [1]}, "0 text columns"),
        ("text2text-generation", {"text": ["a"], "targt": ["b"]}, 'no label column "target"; did you mean "targt"'),
        ("text2text-generation", {"text": ["a"], "target": [1.5]}, "the right texts are needed"),
    ],
)
def test_data_that_does_not_fit_the_task(task, columns, message):
    """Data that does not fit its task raises a DataError about the column or values at fault."""
    with pytest.raises(DataError, match=message):
        run_task(task, datasets.Dataset.from_dict(columns))


def test_multi_label_takes_lists_names_and_zeros_and_ones():
    """Labels given as lists of ids, as names or as zeros and ones are equivalent."""
    names = datasets.List(datasets.ClassLabel(names=["LABEL_0", "LABEL_1", "LABEL_2"]))
    text = datasets.Value("string")
    rows = {"text": ["good", "bad", "a"]}
    ids = datasets.Dataset.from_dict({**rows, "labels": [[0, 2], [], [1]]})
    named = datasets.Dataset.from_dict(
        {**rows, "labels": [["LABEL_0", "LABEL_2"], [], ["LABEL_1"]]},
        datasets.Features({"text": text, "labels": names}),
    )
    flags = datasets.Dataset.from_dict({**rows, "labels": [[1.0, 0.0, 1.0], [0.0] * 3, [0.0, 1.0, 0.0]]})
    for data in (ids, named, flags):
        assert run_task("multi-label-classification", data).labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_words_are_scored_by_their_first_token():
    """The first token of each word is scored, and words cut off by the maximum length are counted in a warning."""
    data = datasets.Dataset.from_dict({"tokens": [["goodx", "a-b", "film"]], "tags": [[2, 0, 1]]})
    found = run_task("token-classification", data)
    assert found.labels.tolist() == [2, 0, 1]
    model, tokenizer = testing.model_for(plugins.load_module("task", "token-classification"))
    inputs = tokenizer(data["tokens"][0], is_split_into_words=True, return_tensors="pt")
    firsts = [inputs.word_ids(0).index(word) for word in range(3)]
    assert len(inputs.word_ids(0)) > 3 + 2  # the second word has several tokens
    with torch.no_grad():
        assert np.allclose(found.logits, model(**inputs).logits[0, firsts], atol=1e-5)
    long = datasets.Dataset.from_dict({"tokens": [["good"] * 20], "tags": [[0] * 19 + [2]]})
    with pytest.warns(UserWarning, match="6 words have no token among the 16"):
        assert len(run_task("token-classification", long).labels) == 14


class Seen(evaluate.Metric):
    """A third-party metric that remembers its input."""

    def _info(self):
        tags = datasets.Sequence(datasets.Value("string"))
        features = datasets.Features({"predictions": tags, "references": tags})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        self.seen = predictions, references
        return {"seen": 1.0}


def test_metrics_of_others_get_tags_row_by_row():
    """A third-party metric gets tags as lists of class names, one per row, as seqeval expects."""
    metric = Seen(keep_in_memory=True)
    task = plugins.load_module("task", "token-classification")
    model, tokenizer = testing.model_for(task)
    hf_soup.Evaluator(testing.example_of(task), metric=metric, processing_class=tokenizer)(model)
    predictions, references = metric.seen
    assert references == [["LABEL_0", "LABEL_1"], ["LABEL_2", "LABEL_0", "LABEL_1"], ["LABEL_1"]]
    assert [len(row) for row in predictions] == [2, 3, 1]


def test_a_language_model_is_scored_token_by_token():
    """Perplexity is the exponential of the mean loss over all tokens except the first of each text."""
    data = datasets.Dataset.from_dict({"text": ["good film", "the very bad plot and a cast"]})
    model, tokenizer = testing.model_for(plugins.load_module("task", "text-generation"))
    total, count = 0.0, 0
    for text in data["text"]:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            loss = model(input_ids=ids, labels=ids).loss
        total, count = total + float(loss) * (ids.shape[1] - 1), count + ids.shape[1] - 1
    score = hf_soup.Evaluator(data, metric=["perplexity", "loss"], processing_class=tokenizer)(model)
    assert score.value == pytest.approx(np.exp(total / count), rel=1e-5)
    assert score.others["loss"] == pytest.approx(total / count, rel=1e-5)
    assert not score.higher_is_better


def test_tokens_that_come_with_labels_are_scored_where_these_say():
    """Tokens are scored where their labels say so, without padding; a label column beside text raises a DataError."""
    model, _ = testing.model_for(plugins.load_module("task", "text-generation"))
    ids, mask = [[2, 7, 9, 11, 3], [2, 8, 3, 0, 0]], [[1] * 5, [1, 1, 1, 0, 0]]
    plain = datasets.Dataset.from_dict({"input_ids": ids, "attention_mask": mask})
    padded = hf_soup.Evaluator(plain).predict(model)
    assert padded.labels.tolist() == [7, 9, 11, 3, 8, 3]
    masked = plain.add_column("labels", [[-100, -100, -100, 11, 3], [2, 8, 3, -100, -100]])
    found = hf_soup.Evaluator(masked).predict(model)
    assert found.labels.tolist() == [11, 3, 8, 3]
    assert np.allclose(found.logits, padded.logits[2:])
    text = datasets.Dataset.from_dict({"text": ["a"], "label": [1]})
    with pytest.raises(DataError, match="a text is its own label"):
        run_task("text-generation", text, label_column="label")


def test_a_model_that_gives_nan_has_no_score(tokenizer):
    """NaN logits raise an EvaluationError with the first row, since NaN would count as the first class."""
    model = testing.tiny_text_model(0)
    with torch.no_grad():
        model.classifier.bias[1] = torch.nan
    with pytest.raises(EvaluationError, match="NaN or infinity on validation, first on row 0"):
        hf_soup.Evaluator(testing.tiny_texts(5), processing_class=tokenizer)(model)


def test_data_may_be_a_path(tokenizer, tmp_path):
    """Data may be the path of a folder or of a file, as a `Path` or a string."""
    data = testing.tiny_texts(9)
    data.to_csv(tmp_path / "validation.csv")
    model = testing.tiny_text_model(0)
    right = hf_soup.Evaluator(data, processing_class=tokenizer)(model).value
    for path in (tmp_path, tmp_path / "validation.csv", str(tmp_path)):
        assert hf_soup.Evaluator(path, processing_class=tokenizer)(model).value == right


def test_a_loaded_model_brings_its_own_tokenizer(text_runs, tokenizer):
    """Without a processing class, the tokenizer in the folder of the loaded model is used."""
    model, data = transformers.BertForSequenceClassification.from_pretrained(text_runs[0]), testing.tiny_texts(9)
    right = hf_soup.Evaluator(data, processing_class=tokenizer).predict(model)
    assert np.array_equal(hf_soup.Evaluator(data).predict(model).logits, right.logits)


def test_images_in_parquet(image_runs, tmp_path):
    """A Parquet file with encoded images gives the same predictions as the data in memory."""
    data = testing.tiny_images(12)
    data.to_parquet(tmp_path / "validation.parquet")
    processor = transformers.AutoImageProcessor.from_pretrained(image_runs[0], backend="pil")
    model = testing.tiny_image_model(0)
    right = hf_soup.Evaluator(data, processing_class=processor).predict(model)
    for path in (tmp_path, tmp_path / "validation.parquet"):
        found = hf_soup.Evaluator(path, processing_class=processor).predict(model)
        assert np.array_equal(found.logits, right.logits)


def test_our_own_metrics_as_objects_are_themselves(tokenizer):
    """`load_metric` gives the same score as a metric's name; `loss` in `evaluate.combine` raises a RecipeError."""
    from hf_soup.metrics.load import load_metric

    data, model = testing.tiny_texts(30), testing.tiny_text_model(1)
    for name in ("loss", "ece", "accuracy"):
        named, given = (
            hf_soup.Evaluator(data, metric=each, processing_class=tokenizer)(model)
            for each in (name, load_metric(name))
        )
        assert given == named
    with pytest.raises(RecipeError, match="loss cannot be combined, because it takes losses"):
        hf_soup.Evaluator(data, metric=evaluate.combine([load_metric("accuracy"), load_metric("loss")]))


def test_what_a_model_writes_is_compared_with_texts():
    """A text metric or `generate` makes the model generate texts, which third-party metrics then receive."""
    task = plugins.load_module("task", "text2text-generation")
    model, tokenizer = testing.model_for(task)
    data = testing.example_of(task)
    options = {"max_new_tokens": 4, "num_beams": 1}
    said = hf_soup.Evaluator(data, processing_class=tokenizer, generate=options).predict(model)
    ids = tokenizer(data["text"][0], return_tensors="pt")
    by_hand = tokenizer.decode(model.generate(**ids, **options)[0], skip_special_tokens=True)
    assert said.texts[0] == by_hand
    assert said.references == tuple(data["target"])
    echo = data.map(lambda row, at: {"target": said.texts[at] if at else "no"}, with_indices=True)
    for metric in ("exact_match", lambda made: sum(a == b for a, b in zip(*made, strict=True)) / len(made[0])):
        evaluator = hf_soup.Evaluator(echo, metric=metric, processing_class=tokenizer, generate=options)
        assert evaluator(model).value == pytest.approx(2 / 3)
    with pytest.raises(EvaluationError, match="texts are not generated by models"):
        run_task("text-generation", datasets.Dataset.from_dict({"text": ["a"]}), generate=True)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_what_was_used_can_be_copied(tokenizer, resnet_runs, copied):
    """Copies and pickles of an evaluator, or of a soup with data for BatchNorm, give the same results."""
    model, evaluator = testing.tiny_text_model(0), hf_soup.Evaluator(testing.tiny_texts(8), processing_class=tokenizer)
    score = evaluator(model)
    assert copied(evaluator)(model) == score
    soup = hf_soup.merge(resnet_runs, batchnorm_data=testing.tiny_images(8))
    assert copied(soup).recipe == soup.recipe


def test_what_only_a_model_tells_is_said(tokenizer):
    """`score` on predictions raises a RecipeError if the task was to be inferred from the model."""
    evaluator = hf_soup.Evaluator(testing.tiny_texts(8), processing_class=tokenizer)
    predictions = evaluator.predict(testing.tiny_text_model(0))
    with pytest.raises(RecipeError, match="the task is inferred from a model"):
        evaluator.score(predictions)
