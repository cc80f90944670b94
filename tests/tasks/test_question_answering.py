"""Extractive question answering: windows, spans and scores equal those of plain code, of Trainer and of SQuAD."""

import datasets
import evaluate
import numpy as np
import pytest
import torch
import transformers

import hf_soup
from hf_soup import plugins, testing
from hf_soup.errors import DataError, EvaluationError, RecipeError
from hf_soup.metrics.answers import values_of_answers
from hf_soup.metrics.predictions import losses
from hf_soup.metrics.statistics import metric_sums
from hf_soup.tasks._model_inputs import inputs_of


TASK = plugins.load_module("task", "question-answering")
WORDS = (*testing.tiny.POSITIVE, *testing.tiny.NEGATIVE, *testing.tiny.NEUTRAL)


def made_up(rows=8, *, none=False, seed=0):
    """Questions on texts of up to 40 words, more than a window of 16 tokens has room for."""
    rng = np.random.default_rng(seed)
    examples = []
    for row in range(rows):
        words = list(rng.choice(WORDS, size=rng.integers(3, 40)))
        first = int(rng.integers(len(words)))
        answer = " ".join(words[first : first + 2])
        begin = len(" ".join([*words[:first], ""]))
        answers = {"text": [answer], "answer_start": [begin]}
        if none and row % 3 == 0:
            answers = {"text": [], "answer_start": []}
        examples.append({"question": "the film", "context": " ".join(words), "answers": answers})
    return datasets.Dataset.from_list(examples)


@pytest.fixture
def answering():
    """A model with large outputs, so that answers differ, and its tokenizer."""
    model, tokenizer = testing.model_for(TASK)
    with torch.no_grad():
        model.qa_outputs.weight.mul_(30)
    return model, tokenizer


def best_by_hand(model, tokenizer, example, *, may_be_none=False):
    """The answer of the window with the highest sum of two logits, by trying every pair of tokens of every window."""
    encoding = tokenizer(
        example["question"],
        example["context"],
        truncation="only_second",
        max_length=16,
        stride=5,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    best, none, windows = (-np.inf, ""), np.inf, 0
    for window, ids in enumerate(encoding["input_ids"]):
        windows += 1
        kinds = torch.tensor([encoding["token_type_ids"][window]])
        with torch.no_grad():
            outputs = model(input_ids=torch.tensor([ids]), token_type_ids=kinds)
        starts, ends = outputs.start_logits[0], outputs.end_logits[0]
        none = min(none, float(starts[0] + ends[0]))
        offsets = encoding["offset_mapping"][window]
        inside = [place for place, part in enumerate(encoding.sequence_ids(window)) if part == 1]
        for first in inside:
            for last in inside:
                score = float(starts[first] + ends[last])
                if first <= last < first + 30 and score > best[0]:
                    best = score, example["context"][offsets[first][0] : offsets[last][1]]
    return ("" if may_be_none and none > best[0] else best[1]), windows


@pytest.mark.parametrize("none", [False, True])
def test_answers_are_the_best_spans_of_all_windows(answering, none):
    """In batches, and with the answer "none" if the data has it."""
    model, tokenizer = answering
    data = made_up(24, none=none)
    evaluator = hf_soup.Evaluator(data, processing_class=tokenizer, batch_size=5)
    predicted = evaluator.predict(model)
    expected, counts = zip(*(best_by_hand(model, tokenizer, each, may_be_none=none) for each in data), strict=True)
    assert list(predicted.texts) == list(expected)
    assert max(counts) > 2
    assert np.bincount(predicted.rows).tolist() == [2 * count for count in counts]
    if none:
        assert "" in expected
        assert set(predicted.references) > {("",)}
    assert evaluator(model).value == pytest.approx(
        np.mean(values_of_answers("squad_f1", predicted.references, expected))
    )


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_answer_is_learned_in_the_windows_that_have_it(side):
    """In a batch with padding on either side, the labels of a window are the answer, or its first token without it."""
    data = made_up(20)
    model, tokenizer = testing.model_for(TASK)
    tokenizer.padding_side = side
    labels = TASK.labels(data, "answers", model.config)
    encoded = TASK.encode(data, tokenizer, ["question", "context"], labels, inputs_of(model))
    batch = TASK.collator(tokenizer, inputs_of(model))(encoded.__getitems__(list(range(20))))
    assert (batch["attention_mask"][:, -1 if side == "right" else 0] == 0).any()
    answers = np.repeat([each["text"][0] for each in data["answers"]], batch["windows"])
    texts = np.repeat(batch["context"], batch["windows"])
    found = set()
    for window, answer in enumerate(answers):
        start, end = int(batch["start_positions"][window]), int(batch["end_positions"][window])
        learned = tokenizer.decode(batch["input_ids"][window, start : end + 1])
        if learned == "[CLS]":
            assert start == batch["none"][window]
            continue
        assert learned == answer
        assert texts[window][batch["begins"][window, start] : batch["ends"][window, end]] == answer
        found.add(window)
    rows = np.repeat(np.arange(20), batch["windows"])
    assert {rows[window] for window in found} == set(range(20))
    assert len(found) < len(answers)


def test_the_loss_is_that_of_trainer(answering, tmp_path):
    """For windows of one length, in which no padding counts."""
    model, tokenizer = answering
    words = "the film was good and the plot was bad"
    rows = [{"text": ["good"], "answer_start": [13]}, {"text": ["bad"], "answer_start": [35]}]
    data = datasets.Dataset.from_dict({"question": ["a cast"] * 2, "context": [words] * 2, "answers": rows})
    predicted = hf_soup.Evaluator(data, processing_class=tokenizer, metric="loss").predict(model)
    encoding = tokenizer(data["question"][:], data["context"][:], return_tensors="pt")
    place = [encoding.char_to_token(row, rows[row]["answer_start"][0], sequence_index=1) for row in range(2)]
    features = datasets.Dataset.from_dict({**encoding, "start_positions": place, "end_positions": place})
    args = transformers.TrainingArguments(tmp_path, report_to=[], use_cpu=True)
    trainer = transformers.Trainer(model, args, eval_dataset=features, processing_class=tokenizer)
    assert losses(predicted).mean() == pytest.approx(trainer.evaluate()["eval_loss"], rel=1e-5)


def test_metrics_are_those_of_squad():
    """Equal to SQuAD's own examples; and sums over answers give the value of all, and of any resample."""
    right = [("the Denver Broncos", "Denver"), ("",), ("1,000 m",)]
    said = ["Denver broncos!", "", "100 m"]
    assert values_of_answers("squad_exact_match", right, said) == [1, 1, 0]
    assert values_of_answers("squad_f1", right, said) == [1, 1, pytest.approx(0.5)]
    predicted = hf_soup.metrics.predictions.Predictions(
        np.zeros(6, dtype=np.float32), np.zeros(6), np.repeat([0, 1, 2], 2), "tokens", texts=tuple(said),
        references=tuple(right),
    )  # fmt: skip
    for name in ("squad_f1", "squad_exact_match"):
        sums = metric_sums(name, predicted)
        drawn = np.array([2, 2, 0])
        again = hf_soup.metrics.load.load_metrics(name)[0].compute(predicted.take(drawn))[name]
        assert sums.value(sums.columns[drawn].sum(axis=0)) == pytest.approx(again)
    with pytest.raises(EvaluationError, match="scored by squad_exact_match or squad_f1"):
        hf_soup.metrics.load.load_metrics("exact_match")[0].compute(predicted)


def test_a_metric_of_evaluate_gets_answers_and_references(answering):
    """As they are; a function of Trainer's kind too."""
    model, tokenizer = answering
    data = made_up(4)

    class Longest(evaluate.Metric):
        def _info(self):
            form = datasets.Features(
                predictions=datasets.Value("string"), references=datasets.Sequence(datasets.Value("string"))
            )
            return evaluate.MetricInfo(description="", citation="", features=form)

        def _compute(self, predictions, references):
            return {"longest": max(map(len, predictions)), "right": len(references)}

    evaluator = hf_soup.Evaluator(
        data, processing_class=tokenizer, metric=Longest(), select_by="longest", generate={"max_answer_length": 1}
    )
    score = evaluator(model)
    assert score.value == max(map(len, evaluator.predict(model).texts))
    assert all(" " not in text for text in evaluator.predict(model).texts)
    assert score.others == {"right": 4}
    never = hf_soup.Evaluator(
        made_up(9, none=True), processing_class=tokenizer, generate={"null_score_diff_threshold": 1e9}
    )
    assert "" not in never.predict(model).texts
    with pytest.raises(EvaluationError, match=r'no option "max_answer_lenght"; did you mean "max_answer_length"'):
        hf_soup.Evaluator(data, processing_class=tokenizer, generate={"max_answer_lenght": 3})(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": [{"text": ["bad"], "answer_start": [3]}]}, "row 0 has the answer 'bad' at 3, where the text has"),
        ({"answers": ["good"]}, "row 0 has the answers 'good': a dict of `text` and `answer_start`"),
        ({"question": ["good " * 12]}, "row 0 has a question of 12 tokens, and windows of 16 leave room for 7"),
        ({"context": [[1]]}, 'no column "context" of texts'),
    ],
)
def test_data_that_is_refused(answering, changes, message):
    """With the row and what it has."""
    model, tokenizer = answering
    answers = [{"text": ["good"], "answer_start": [9]}]
    columns = {"question": ["film"], "context": ["the film good"], "answers": answers, **changes}
    with pytest.raises(DataError, match=message):
        hf_soup.Evaluator(datasets.Dataset.from_dict(columns), processing_class=tokenizer)(model)
    with pytest.raises(RecipeError, match="have no augmentation"):
        TASK.check_augment({"mask": 0.1}, tokenizer)


def test_sweeps_soups_and_learned_weights(tmp_path):
    """A sweep trains a new head from the columns alone; strategies and a comparison work, and the soup verifies."""
    bare = transformers.BertModel(transformers.BertConfig(**testing.tiny.TINY["bert"], num_labels=3))
    base = testing.save_text_model(bare, tmp_path / "base")
    data = made_up(16)
    args = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2}
    runs = hf_soup.sweep(
        base, data, output_dir=tmp_path / "runs", validation=data, space={"seed": [0, 1]}, training_args=args,
        on_error="raise",
    )  # fmt: skip
    assert all(run.score.metric == "loss" for run in runs)
    for strategy in ("greedy", "learned"):
        metric = "squad_f1" if strategy == "greedy" else "loss"
        soup = hf_soup.merge(runs, strategy=strategy, evaluator=hf_soup.Evaluator(data, metric=metric))
        assert hf_soup.verify(soup.save_pretrained(tmp_path / strategy)).ok
    report = hf_soup.compare(soup, test=hf_soup.Evaluator(made_up(12, seed=3), metric=["squad_f1", "loss"]))
    assert "squad_f1" in str(report)


def test_a_tokenizer_without_padding(answering):
    """Windows are padded with the model's own token, and a batch gives what each row gives by itself."""
    model, tokenizer = answering
    data = made_up(6)
    expected = hf_soup.Evaluator(data, processing_class=tokenizer).predict(model)
    tokenizer.pad_token = None
    predicted = hf_soup.Evaluator(data, processing_class=tokenizer).predict(model)
    np.testing.assert_allclose(predicted.logits, expected.logits, atol=1e-5)
    assert predicted.texts == expected.texts
    tokenizer.padding_side = "left"
    moved = hf_soup.Evaluator(data, processing_class=tokenizer, metric="loss").predict(model)
    assert moved.labels.tolist() == predicted.labels.tolist()


def test_what_is_encoded_already_is_refused(answering):
    """Windows are made here, so model inputs cannot be given."""
    model, tokenizer = answering
    data = datasets.Dataset.from_dict({"input_ids": [[1, 2]], "start_positions": [0], "end_positions": [0]})
    with pytest.raises(DataError, match="data for question-answering is encoded here"):
        hf_soup.Evaluator(data, processing_class=tokenizer)(model)
    with pytest.raises(RecipeError, match='"label_smoothing" is not for question-answering'):
        hf_soup.training.settings.check_settings(
            {"label_smoothing_factor": 0.1}, TASK, tokenizer, evaluates=False, metric=None, stops_early=False
        )
