"""Language models are scored by lm_eval, with a value for each task, from which strategies choose."""

import json

import lm_eval
import pytest
import tokenizers
import torch
import transformers
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

import hf_soup
from hf_soup import testing
from hf_soup.errors import EvaluationError, RecipeError
from hf_soup.evaluation import lm_harness
from hf_soup.testing import tiny


TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: "{data}"}}
test_split: test
fewshot_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: ["good", "bad"]
doc_to_target: "{{{{label}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
PERPLEXITY = """task: reading
dataset_path: json
dataset_kwargs:
  data_files: {{test: "{data}"}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - {{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}}
"""


@pytest.fixture
def tasks(tmp_path):
    """Two tasks of different data, and one that is better with a lower value."""
    files = {}
    for seed, name in enumerate(("first", "second")):
        data = tmp_path / f"{name}.jsonl"
        rows = [{"text": row["text"], "label": 1 - row["label"]} for row in testing.tiny_texts(20, seed=seed)]
        data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        files[name] = tmp_path / f"{name}.yaml"
        files[name].write_text(TASK.format(name=name, data=data), encoding="utf-8")
    files["reading"] = tmp_path / "reading.yaml"
    files["reading"].write_text(PERPLEXITY.format(data=data), encoding="utf-8")
    return {name: str(path) for name, path in files.items()}


@pytest.fixture
def models(tmp_path):
    """Three language models with a tokenizer."""
    folders = []
    for seed in range(3):
        transformers.set_seed(seed)
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**tiny.TINY["gpt2"]))
        with torch.no_grad():
            model.lm_head.weight.mul_(20)
        folders.append(tmp_path / f"model-{seed}")
        model.save_pretrained(folders[-1])
        words().save_pretrained(folders[-1])
    return folders


def words():
    """A tokenizer of words that adds nothing at the ends of a text, and has the tokens that lm_eval needs."""
    model = tokenizers.models.WordLevel({word: place for place, word in enumerate(tiny.WORDS)}, unk_token="[UNK]")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    ends = {"bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", **ends)


def accuracy(folder, data):
    """The share of texts after which the right word is likelier, by hand."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    right = 0
    for row in data:
        ids = tokenizer(row["text"], add_special_tokens=False, return_tensors="pt")["input_ids"]
        logits = model(input_ids=ids).logits[0, -1]
        good, bad = (logits[tokenizer.convert_tokens_to_ids(word)] for word in ("good", "bad"))
        right += (good > bad) == (row["label"] == 1)
    return float(right) / len(data)


def test_scores_are_those_of_each_model_by_hand(tasks, models):
    """For each task, their mean and the worst; the random generators stay as they are."""
    names = ["first", "second"]
    expected = [accuracy(models[0], testing.tiny_texts(20, seed=seed)) for seed in range(2)]
    assert expected[0] != expected[1]
    model = transformers.AutoModelForCausalLM.from_pretrained(models[0])
    before = torch.get_rng_state()
    for metric, value in {"mean": sum(expected) / 2, "worst": min(expected), "second": expected[1]}.items():
        score = hf_soup.Evaluator.lm_eval([tasks[name] for name in names], metric=metric)(model)
        assert (score.metric, score.n, score.higher_is_better) == (metric, 40, True)
        assert score.value == pytest.approx(value)
        others = dict(zip(names, expected, strict=True))
        others.pop(metric, None)
        assert score.others == pytest.approx(others)
    assert torch.equal(torch.get_rng_state(), before)
    score = hf_soup.Evaluator.lm_eval([tasks["first"]], limit=5)(model)
    assert score.n == 5
    assert score.value == pytest.approx(accuracy(models[0], testing.tiny_texts(20, seed=0).select(range(5))))


def test_examples_in_prompts_are_those_of_lm_eval(tasks, models):
    """With the same number of examples, the values are those of `lm_eval.simple_evaluate`, in every call."""
    options = {"bootstrap_iters": 0, "task_manager": TaskManager(include_defaults=False)}
    table = []
    for folder in models:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        harness = HFLM(pretrained=model, tokenizer=words())
        for count in (2, 0, 2):
            found = lm_eval.simple_evaluate(model=harness, tasks=[tasks["first"]], num_fewshot=count, **options)
            table.append(found["results"]["first"]["acc,none"])
            assert hf_soup.Evaluator.lm_eval([tasks["first"]], num_fewshot=count)(model).value == table[-1]
    assert table[0::3] != table[1::3]


def test_strategies_choose_by_the_mean_the_worst_or_the_experts(tasks, models):
    """A greedy soup and a soup of experts, with the scores of all ingredients as lm_eval gives them."""
    names = [tasks["first"], tasks["second"]]
    soup = hf_soup.merge(models, strategy="greedy", evaluator=hf_soup.Evaluator.lm_eval(names, metric="worst"))
    table = [[accuracy(folder, testing.tiny_texts(20, seed=seed)) for seed in range(2)] for folder in models]
    worst = [min(row) for row in table]
    assert soup.selection.score >= max(worst)
    assert soup.selection.trials[0].score == pytest.approx(max(worst))
    expert = hf_soup.merge(models, strategy="soce", evaluator=hf_soup.Evaluator.lm_eval(names), step=0.5)
    assert expert.selection.score >= max(sum(row) / 2 for row in table)


def test_what_is_refused(tasks, models):
    """No tasks, tasks and categories that do not exist, and tasks of different directions."""
    model = transformers.AutoModelForCausalLM.from_pretrained(models[0])
    with pytest.raises(RecipeError, match=r"tasks are a list of names, such as \[\"hellaswag\"\], not 'hellaswag'"):
        hf_soup.Evaluator.lm_eval("hellaswag")
    with pytest.raises(RecipeError, match="lm_eval does not load nowhere"):
        hf_soup.Evaluator.lm_eval(["nowhere.yaml"])(model)
    with pytest.raises(RecipeError, match=r'lm_eval gave no "frist"; did you mean "first"'):
        hf_soup.Evaluator.lm_eval([tasks["first"]], metric="frist")(model)
    reading = hf_soup.Evaluator.lm_eval([tasks["reading"]])(model)
    assert not reading.higher_is_better
    assert reading.value > 1
    with pytest.raises(EvaluationError, match="make one evaluator for each direction"):
        hf_soup.Evaluator.lm_eval([tasks["first"], tasks["reading"]])(model)


def test_values_of_groups_and_metrics():
    """A preferred metric counts, and the first of others; a group without one has the mean of its parts."""
    results = {
        "results": {
            "a": {"alias": "a", "f1,none": 0.1, "acc,none": 0.5, "acc_stderr,none": 0.01, "acc_norm,none": 0.7},
            "b": {"f1,strict": 0.2, "f1,loose": 0.9},
            "c": {"alias": "c", "word_perplexity,none": 8.0},
            "d": {"alias": "d", "bypass,none": "N/A"},
            "whole": {"acc,none": 0.4},
        },
        "higher_is_better": {"a": {"acc_norm": True}, "b": {"f1": None}, "c": {"word_perplexity": False}},
        "group_subtasks": {"outer": ["inner", "d"], "inner": ["a", "b"], "whole": ["a"]},
    }
    values, directions = lm_harness._values(results)
    assert values == {
        "a": 0.7,
        "b": 0.2,
        "c": 8.0,
        "whole": 0.4,
        "inner": pytest.approx(0.45),
        "outer": pytest.approx(0.45),
    }
    assert directions == {"a": True, "b": True, "c": False, "whole": True, "inner": True, "outer": True}


def test_a_file_that_refers_to_others_needs_the_index(tmp_path, tasks):
    """Of groups and files that include others; a file with functions of its own is a task like any other."""
    group = tmp_path / "group.yaml"
    group.write_text("group: mine\ntask: [hellaswag]\n", encoding="utf-8")
    functions = tmp_path / "functions.yaml"
    functions.write_text("task: own\nprocess_docs: !function utils.process\n", encoding="utf-8")
    assert not lm_harness._is_task_file(str(group))
    assert not lm_harness._is_task_file("hellaswag")
    assert lm_harness._is_task_file(str(functions))
    assert lm_harness._is_task_file(tasks["first"])
