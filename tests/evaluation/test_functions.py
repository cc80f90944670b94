"""An evaluator that is a function of a model has a metric name and a direction."""

import datasets
import pytest

import hf_soup
from hf_soup import testing
from hf_soup.errors import DataError, EvaluationError, RecipeError


DATA = testing.tiny_texts(24, seed=5)


def size(model):
    """Two values of a model, one of which selects."""
    return {"acc": 0.5, "norm": float(model.classifier.weight.detach().norm())}


def norms(runs):
    """Name of each run -> norm of its classifier."""
    return {run.name: size(hf_soup.merge([run]).model)["norm"] for run in runs}


@pytest.mark.parametrize(("higher", "pick"), [(True, max), (False, min)])
def test_the_metric_and_its_direction_are_of_the_evaluator(higher, pick, text_runs):
    """`metric` and `higher_is_better` of the evaluator decide which value selects and which run is the best."""
    evaluator = hf_soup.Evaluator(size, metric="norm", higher_is_better=higher)
    model = hf_soup.merge(text_runs[:1]).model
    score = evaluator(model)
    assert (score.metric, score.higher_is_better, score.others) == ("norm", higher, {"acc": 0.5})
    soup = hf_soup.merge(text_runs, strategy="greedy", evaluator=evaluator)
    by_run = norms(text_runs)
    assert {name: score.value for name, score in soup.scores.items()} == pytest.approx(by_run)
    best = pick(by_run, key=by_run.get)
    assert best in soup.recipe.names
    assert (soup.selection.score >= by_run[best]) is higher or soup.selection.score == pytest.approx(by_run[best])


def test_what_is_of_data_is_refused(text_runs):
    """For a function, options for data, several metrics or an undecided choice of values raise an error."""
    with pytest.raises(RecipeError, match="batch_size is an option for data"):
        hf_soup.Evaluator(size, batch_size=3)
    with pytest.raises(RecipeError, match="the name of the value that selects"):
        hf_soup.Evaluator(size, metric=["acc", "norm"])
    with pytest.raises(EvaluationError, match="say with metric= which selects"):
        hf_soup.merge(text_runs, strategy="greedy", evaluator=size)


def test_a_dataset_dict_goes_wherever_data_goes(text_runs):
    """A DatasetDict may be passed wherever data is accepted, and each place uses its own split."""
    sets = {"train": 7, "validation": 1, "test": 2}
    data = datasets.DatasetDict({name: testing.tiny_texts(20 + seed, seed=seed) for name, seed in sets.items()})
    assert len(hf_soup.Evaluator(data).dataset) == 21
    assert len(hf_soup.Evaluator(data, split="test[:5]").dataset) == 5
    soup = hf_soup.merge(text_runs, strategy="greedy", evaluator=data)
    assert soup.selection.examples == 21
    comparison = hf_soup.compare(soup, test=data, validation=data, shifted={"more": data["train"]})
    assert comparison.sizes == {"validation": 21, "test": 22, "more": 27}
    assert hf_soup.analyze(text_runs, evaluator=data, parts="diversity").diversity is not None
    with pytest.raises(DataError, match='no split "validation"'):
        hf_soup.Evaluator(datasets.DatasetDict({"train": DATA}))
