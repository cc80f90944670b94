"""Masked words and multiple choice: outputs equal those of the model on each row by itself."""

import datasets
import numpy as np
import pytest
import torch
import transformers

import hf_soup
from hf_soup import plugins, testing
from hf_soup.errors import DataError, RecipeError


TEXTS = testing.tiny_texts(12, seed=4)["text"][:]


@pytest.fixture
def words():
    """A model for masked words, and its tokenizer."""
    return testing.model_for(plugins.load_module("task", "fill-mask"))


@pytest.fixture
def choosing():
    """A model for multiple choice, and its tokenizer."""
    return testing.model_for(plugins.load_module("task", "multiple-choice"))


def test_masks_are_those_of_the_text(words):
    """The same in any order, 15 % and at least one; the probabilities are those of the model on these inputs."""
    model, tokenizer = words
    data = datasets.Dataset.from_dict({"text": [*TEXTS, "good " * 14]})
    predicted = hf_soup.Evaluator(data, processing_class=tokenizer).predict(model)
    counts = np.bincount(predicted.rows)
    assert counts[-1] == 2  # of 14
    assert (counts[:-1] == 1).all()
    turned = hf_soup.Evaluator(data.select(range(len(data))[::-1]), processing_class=tokenizer).predict(model)
    assert sorted(turned.labels) == sorted(predicted.labels)
    ids = tokenizer(TEXTS[0])["input_ids"]
    found = []
    for place in range(1, len(ids) - 1):
        masked = torch.tensor([[*ids[:place], tokenizer.mask_token_id, *ids[place + 1 :]]])
        logs = model(input_ids=masked).logits[0, place].log_softmax(-1).detach()
        found.append(float(logs[ids[place]]))
    assert min(abs(value - predicted.logits[0]) for value in found) < 1e-5
    loss = hf_soup.Evaluator(data, processing_class=tokenizer)(model)
    assert loss.metric == "loss"
    assert loss.value == pytest.approx(-predicted.logits.mean())


def test_words_cannot_be_masked_without_a_mask(words):
    """A tokenizer without a mask, and masks as augmentation, are refused."""
    model, tokenizer = words
    tokenizer.mask_token = None
    with pytest.raises(DataError, match=r"BertTokenizer.* has no mask token"):
        hf_soup.Evaluator(datasets.Dataset.from_dict({"text": TEXTS}), processing_class=tokenizer)(model)
    with pytest.raises(RecipeError, match="have no augmentation: 15 %"):
        plugins.load_module("task", "fill-mask").check_augment({"mask": 0.1}, tokenizer)


FORMS = {
    "a list": {"question": TEXTS[:3], "choices": [TEXTS[3:5], TEXTS[5:8], TEXTS[8:12]], "label": [0, 2, 1]},
    "columns": {"context": TEXTS[:3], "ending0": TEXTS[3:6], "ending1": TEXTS[6:9], "label": [1, 0, 1]},
    "as in SWAG": {
        "sent1": TEXTS[:2],
        "sent2": ["the film", "a plot"],
        "ending0": ["was good", "was bad"],
        "ending1": ["was dull", "was fine"],
        "label": [1, 0],
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_choices_are_scored_as_each_row_by_itself(choosing, form):
    """Rows may have different numbers of choices, which depend on no other row."""
    model, tokenizer = choosing
    data = datasets.Dataset.from_dict(FORMS[form])
    predicted = hf_soup.Evaluator(data, processing_class=tokenizer).predict(model)
    for row, example in enumerate(data):
        question = example.get("question") or example.get("context") or example["sent1"]
        choices = example.get("choices") or [example["ending0"], example["ending1"]]
        choices = [f"{example['sent2']} {choice}" if "sent2" in example else choice for choice in choices]
        inputs = tokenizer([question] * len(choices), choices, padding=True, truncation=True, return_tensors="pt")
        expected = model(**{name: tensor[None] for name, tensor in inputs.items()}).logits[0]
        np.testing.assert_allclose(predicted.logits[row][: len(choices)], expected.detach(), rtol=1e-4, atol=1e-6)
        assert (predicted.logits[row][len(choices) :] < -1e8).all()
    right = predicted.logits.argmax(1) == data["label"]
    assert hf_soup.Evaluator(data, processing_class=tokenizer)(model).value == pytest.approx(right.mean())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"question": ["a"], "choices": [["b"]], "label": [0]}, "row 0 has 1 choices and the label 0"),
        ({"question": ["a"], "choices": [["b", "c"]], "label": [2]}, "row 0 has 2 choices and the label 2"),
        ({"question": ["a"], "choices": [["b", "c"]], "label": ["b"]}, "label 'b' in \"label\", which is no number"),
        ({"question": ["a"], "label": [0]}, "takes columns such as question and choices"),
        ({"question": ["a"], "choices": [[1, 2]], "label": [0]}, 'the column "choices" holds no texts'),
    ],
)
def test_choices_that_are_refused(choosing, columns, message):
    """With the row and what it has."""
    model, tokenizer = choosing
    with pytest.raises(DataError, match=message):
        hf_soup.Evaluator(datasets.Dataset.from_dict(columns), processing_class=tokenizer)(model)


@pytest.mark.parametrize("task", ["fill-mask", "multiple-choice"])
def test_sweeps_and_soups(task, tmp_path):
    """A sweep from a model with the head trains, and a greedy soup is chosen, saved and verified."""
    module = plugins.load_module("task", task)
    base = testing.save_model_for(module, tmp_path / "base")
    data = testing.example_of(module)
    options = {"task": task, "validation": data, "space": {"seed": [0, 1]}, "on_error": "raise"}
    args = {"epochs": 2, "batch_size": 2, "learning_rate": 1e-2}
    runs = hf_soup.sweep(base, data, output_dir=tmp_path / "runs", training_args=args, **options)
    soup = hf_soup.merge(runs, strategy="greedy", evaluator=data)
    assert hf_soup.verify(soup.save_pretrained(tmp_path / "soup")).ok
    if task == "multiple-choice":
        transformers.BertModel(soup.model.config).save_pretrained(tmp_path / "bare")
        transformers.AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "bare")
        (run,) = hf_soup.sweep(
            tmp_path / "bare",
            data,
            output_dir=tmp_path / "more",
            training_args=args,
            **{**options, "space": {"seed": [0]}},
        )
        assert run.score.metric == "accuracy"
