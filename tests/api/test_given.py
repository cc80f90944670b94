"""Arguments that `merge` takes in several forms: weights by name, torch types, functions as methods and strategies."""

import numpy as np
import pytest
import torch

import hf_soup
from hf_soup import testing
from hf_soup.errors import RecipeError
from hf_soup.methods.median import median
from hf_soup.plugins import method, strategy
from hf_soup.strategies.greedy import greedy
from hf_soup.types import Mixture


DATA = testing.tiny_texts(24)


@method(elementwise=True)
def first_one(tensors, weights):
    """A method at module level that returns the first model unchanged."""
    return next(iter(tensors))


@strategy(scores=False)
def last_one(ingredients, trials):
    """A strategy at module level that returns the last ingredient alone."""
    return Mixture((ingredients[-1],), (1.0,))


def tensors_of(soup):
    """All tensors of a soup's model."""
    return soup.model.state_dict()


def test_weights_by_name(text_runs):
    """Ingredients without a named weight have the weight 0, and the order of the names does not matter."""
    soup = hf_soup.merge(text_runs, weights={"run-2": 1, "run-0": 3})
    assert soup.recipe.weights == (3.0, 0.0, 1.0)
    plain = hf_soup.merge(text_runs, weights=[3, 0, 1])
    assert all(torch.equal(value, tensors_of(plain)[name]) for name, value in tensors_of(soup).items())
    with pytest.raises(RecipeError, match=r'no ingredient "run-9"\. Known: run-0, run-1, run-2'):
        hf_soup.merge(text_runs, weights={"run-9": 1})


def test_weights_by_module_are_as_before(text_runs):
    """A sequence of numbers for a prefix holds the weights of all ingredients."""
    soup = hf_soup.merge(text_runs, weights={"classifier": [1, 0, 0], "": np.ones(3)})
    assert soup.recipe.weights_by_module == {"classifier": (1.0, 0.0, 0.0), "": (1.0, 1.0, 1.0)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_types_of_torch(dtype, text_runs):
    """`merge` and `Evaluator` take types of torch like their names, and refuse integer types."""
    soup = hf_soup.merge(text_runs, dtype=dtype)
    assert soup.recipe.dtype == str(dtype).removeprefix("torch.")
    assert {value.dtype for value in tensors_of(soup).values()} == {dtype}
    assert hf_soup.Evaluator(DATA, dtype=torch.float32).dtype == "float32"
    with pytest.raises(RecipeError, match="int8"):
        hf_soup.merge(text_runs, dtype=torch.int8)


def test_functions_of_the_package_go_by_their_names(text_runs):
    """The recipe names a method or strategy function of the package by its plugin name."""
    recipe = hf_soup.merge(text_runs, method=median).recipe
    assert recipe.method == "median"
    soup = hf_soup.merge(text_runs, strategy=greedy, evaluator=DATA)
    assert soup.recipe.selection.strategy == "greedy"


def test_functions_that_a_module_has_go_by_their_paths(text_runs, tmp_path):
    """A recipe with the path of a function is cooked again only with `allow_code=True`."""
    soup = hf_soup.merge(text_runs, method=first_one, strategy=last_one)
    assert soup.recipe.method == f"{__name__}:first_one"
    assert soup.recipe.selection.strategy == f"{__name__}:last_one"
    assert soup.recipe.names == ("run-2",)
    folder = soup.save_pretrained(tmp_path / "soup")
    assert " --allow-code " in (folder / "README.md").read_text()
    with pytest.raises(RecipeError, match="allow_code=True"):
        hf_soup.cook(folder)
    assert hf_soup.cook(folder, allow_code=True).soup.recipe.method == f"{__name__}:first_one"


def test_functions_of_no_module_cannot_be_cooked_again(text_runs, tmp_path):
    """The recipe marks a local function as `memory:`, and such a recipe cannot be loaded again."""

    def largest(tensors, weights):
        return torch.stack(list(tensors)).amax(0)

    soup = hf_soup.merge(text_runs, method=largest)
    assert soup.recipe.method == "memory:largest"
    stacked = [hf_soup.merge([run]).model.state_dict() for run in text_runs]
    for name, value in tensors_of(soup).items():
        if value.is_floating_point():
            assert torch.equal(value, torch.stack([state[name] for state in stacked]).amax(0)), name
    folder = soup.save_pretrained(tmp_path / "soup")
    with pytest.raises(RecipeError, match=r"a function that was in memory.* cannot be cooked again"):
        hf_soup.load_recipe(folder)
    assert "the method memory:largest came from memory" in (folder / "README.md").read_text()


def test_two_functions_of_one_name_are_two_methods(text_runs):
    """Two different functions of the same name, such as an edited notebook cell, get different names in recipes."""

    def make(pick):
        def chosen(tensors, weights):
            return list(tensors)[pick]

        return chosen

    first, second = (hf_soup.merge(text_runs, method=make(pick)) for pick in (0, 1))
    assert first.recipe.method == "memory:chosen"
    assert second.recipe.method == "memory:chosen-2"
    weight = "classifier.weight"
    assert not torch.equal(tensors_of(first)[weight], tensors_of(second)[weight])


@pytest.mark.parametrize("name", ["method", "strategy"])
def test_what_is_no_function_is_refused(name, text_runs):
    """A method or strategy that is neither a name nor a function raises a RecipeError that says what it may be."""
    with pytest.raises(RecipeError, match=f"a {name} is a name.* or a function, not 3"):
        hf_soup.merge(text_runs, **{name: 3})


def best_two(ingredients, trials):
    """A strategy that returns only its mixture, without its trials."""
    scores = {item.name: trials.score(Mixture.equal([item])) for item in ingredients}
    ranked = sorted(ingredients, key=lambda item: scores[item.name].rank_key, reverse=True)
    pair = Mixture.equal(ranked[:2])
    trials.map([pair, Mixture.equal(ranked)])
    return pair


def test_what_a_strategy_of_the_user_tried_is_in_the_selection(text_runs):
    """The selection of a user's strategy lists every mixture it scored, once, and the best single ingredient."""
    soup = hf_soup.merge(text_runs, strategy=best_two, evaluator=DATA)
    trials = soup.selection.trials
    assert [trial.ingredient for trial in trials[:3]] == ["run-0", "run-1", "run-2"]
    assert [trial.kept for trial in trials] == [False, False, False, True, False]
    assert trials[3].tried == " + ".join(soup.recipe.names)
    assert trials[3].score == soup.selection.score
    assert set(soup.scores) == {"run-0", "run-1", "run-2"}
    assert soup.selection.reference["best single ingredient"] == max(score.value for score in soup.scores.values())
    assert "2 of 3 ingredients are in the soup" in soup.selection.why
    assert soup.selection.plot()


def test_without_single_scores_nothing_is_compared_with_the_best(text_runs):
    """Without scores of single ingredients the selection has no reference and no reason."""

    def one_try(ingredients, trials):
        everything = Mixture.equal(ingredients)
        trials.score(everything)
        return everything

    selection = hf_soup.merge(text_runs, strategy=one_try, evaluator=DATA).selection
    assert [(trial.tried, trial.kept) for trial in selection.trials] == [("run-0 + run-1 + run-2", True)]
    assert (selection.why, selection.reference) == ("", {})
    assert "run-0 + run-1 + run-2" in selection.table()
