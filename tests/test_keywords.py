"""Keywords that a function does not take, because they are misspelt or from other libraries, raise an error."""

import inspect

import pytest

import hf_soup
from hf_soup import testing
from hf_soup.errors import RecipeError


DATA = testing.tiny_texts(8)


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (lambda runs: hf_soup.merge(runs, stratgy="greedy"), "strategy"),
        (lambda runs: hf_soup.merge(runs, evalutor=DATA), "evaluator"),
        (lambda runs: hf_soup.merge(runs, torch_dtype="float16"), "dtype"),
        (lambda runs: hf_soup.merge(runs, eval_dataset=DATA), "evaluator"),
        (lambda runs: hf_soup.merge(runs, strategy="greedy", evaluator=DATA, acept=">"), "accept"),
        (lambda runs: hf_soup.check(runs, base="x"), "base_model"),
        (lambda runs: hf_soup.compare(hf_soup.merge(runs), test=DATA, eval_dataset=DATA), "validation"),
        (lambda runs: hf_soup.compare(hf_soup.merge(runs), test=DATA, compute_metrics=len), "test"),
        (lambda runs: hf_soup.analyze(runs, dataset=DATA), "evaluator"),
        (lambda runs: hf_soup.advise(runs, budgt=3), "budget"),
        (lambda runs: hf_soup.Evaluator(DATA, compute_metrics=len), "metric"),
        (lambda runs: hf_soup.Evaluator(DATA, greater_is_better=True), "higher_is_better"),
        (lambda runs: hf_soup.Evaluator(DATA, tokenizer=None), "processing_class"),
        (lambda runs: hf_soup.sweep(runs[0], DATA, space=[{}], output_dir="x", lr=1e-5), "training_args"),
        (lambda runs: hf_soup.sweep(runs[0], DATA, space=[{}], output_dir="x", eval_dataset=DATA), "validation"),
        (lambda runs: hf_soup.sweep(runs[0], DATA, space=[{}], output="x"), "output_dir"),
        (
            lambda runs: hf_soup.sweep(runs[0], DATA, validation=DATA, space=[{"lr": 1}], output_dir="x"),
            "learning_rate",
        ),
        (lambda runs: hf_soup.cook("a.yaml", output="x"), "output_dir"),
        (lambda runs: hf_soup.verify("a", allow_pickles=True), "allow_pickle"),
        (lambda runs: hf_soup.data.load_training(DATA, sed=1), "seed"),
        (lambda runs: hf_soup.merge(runs).save_pretrained("x", max_shards="1GB"), "max_shard_size"),
        (lambda runs: hf_soup.merge(runs).push_to_hub("a/b", is_private=True), "private"),
    ],
)
def test_the_right_one_is_named(call, meant, text_runs, tmp_path, monkeypatch):
    """An unknown keyword raises a RecipeError that suggests the right one, before anything is written."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=f'did you mean "{meant}"'):
        call(text_runs)
    assert not list(tmp_path.iterdir())


def test_a_far_name_is_not_guessed(text_runs):
    """A keyword that resembles no parameter raises a RecipeError without a suggestion."""
    with pytest.raises(RecipeError, match=r"merge|neither") as caught:
        hf_soup.merge(text_runs, zzz=1)
    assert "did you mean" not in str(caught.value)


def test_signatures_stay_readable():
    """Public functions keep their own signatures, which editors and `help` show."""
    verbs = (hf_soup.check, hf_soup.compare, hf_soup.analyze, hf_soup.cook, hf_soup.Evaluator, hf_soup.sweep)
    for verb in (*verbs, hf_soup.data.load_training):
        parameters = inspect.signature(verb).parameters
        assert not {"args", "kwargs"} & set(parameters), verb.__name__
    assert hf_soup.compare.__doc__
