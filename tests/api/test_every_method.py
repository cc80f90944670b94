"""Every method works with the strategies that do not say otherwise, and its recipe gives the same bits again."""

import pytest
import torch

import hf_soup
from hf_soup import plugins, testing
from hf_soup.errors import RecipeError


DATA = testing.tiny_texts(24, seed=5)
STRATEGIES = [
    name
    for name in plugins.names("strategy")
    if not plugins.strategy_traits(plugins.load_function("strategy", name)).linear_only
    and plugins.chooses(name)
    and name != "search"  # which is tried with a small budget
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base model and three fine-tunes of it."""
    folder = tmp_path_factory.mktemp("models")
    saved = []
    for seed in range(4):
        model = testing.tiny_text_model(0)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * bool(seed) * torch.randn_like(parameter)
        saved.append(testing.save_text_model(model, folder / f"m{seed}"))
    return saved


def options_for(method, models):
    """The base model, and data for the importance of weights, if a method takes them."""
    function = plugins.load_function("method", method)
    options = {"method": method}
    if plugins.asks_for(function, "base"):
        options["base_model"] = models[0]
    if plugins.asks_for(function, "importance"):
        options["importance_data"] = DATA
    return options


def is_the_same(one, other):
    """Whether two soups have the same weights, to the bit."""
    first, second = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("method", plugins.names("method"))
def test_a_recipe_of_every_method_gives_the_same_bits(models, tmp_path, method):
    """A saved soup is cooked again from its recipe, with finite weights and the same bits."""
    most = plugins.method_traits(plugins.load_function("method", method)).ingredients
    soup = hf_soup.merge(models[1 : 1 + (most or 3)], **options_for(method, models))
    soup.save_pretrained(tmp_path / "soup")
    assert all(tensor.isfinite().all() for tensor in soup.model.state_dict().values())
    assert is_the_same(hf_soup.cook(tmp_path / "soup").soup, soup)


@pytest.mark.parametrize(
    "method", ["median", "ties", "dare_ties", "model_stock", "multislerp", "slerp", "passthrough", "fisher", "regmean"]
)
def test_methods_are_searched_greedily(models, method):
    """A greedy search makes its soup by the method; a method of few ingredients says so before anything is scored."""
    options = options_for(method, models)
    if plugins.method_traits(plugins.load_function("method", method)).ingredients is not None:
        with pytest.raises(RecipeError, match=r"tries more: give the ingredients without"):
            hf_soup.merge(models[1:], strategy="greedy", evaluator=DATA, **options)
        return
    soup = hf_soup.merge(models[1:], strategy="greedy", evaluator=DATA, **options)
    names = {path.name: path for path in models}
    again = hf_soup.merge([names[name] for name in soup.recipe.names], weights=soup.recipe.weights, **options)
    assert is_the_same(soup, again)


@pytest.mark.parametrize("strategy", [*STRATEGIES, "search"])
def test_every_strategy_takes_other_methods(models, strategy):
    """A strategy chooses among soups that are made with random numbers and a base model."""
    params = {"budget": 3} if strategy == "search" else {}
    soup = hf_soup.merge(
        models[1:], method="dare_ties", density=0.5, base_model=models[0], strategy=strategy, evaluator=DATA, **params
    )
    assert soup.selection.score is not None


def test_a_search_for_two_takes_a_method_of_two(models):
    """A strategy that is limited to two ingredients takes a method that combines two."""
    soup = hf_soup.merge(models[1:], method="slerp", strategy="greedy", evaluator=DATA, max_ingredients=2)
    assert len(soup.recipe.names) <= 2


def test_a_search_over_parameters_of_the_method(models):
    """`search` finds weights and parameters within their ranges; the recipe has them and gives the same bits."""
    options = {"method": "ties", "base_model": models[0]}
    soup = hf_soup.merge(
        models[1:],
        strategy="search",
        evaluator=hf_soup.Evaluator(DATA, metric="loss"),
        budget=12,
        over={"density": [0.1, 0.9], "scale": [0.5, 1.5]},
        **options,
    )
    tried = [trial.tried for trial in soup.selection.trials if "density=" in trial.tried]
    assert len(set(tried)) == 11
    if soup.recipe.params:  # a single ingredient has those of the merge
        assert 0.1 < soup.recipe.params["density"] < 0.9
        assert 0.5 < soup.recipe.params["scale"] < 1.5
    names = {path.name: path for path in models}
    sources = [names[name] for name in soup.recipe.names]
    again = hf_soup.merge(sources, weights=soup.recipe.weights, **options, **soup.recipe.params)
    assert is_the_same(soup, again)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"density": [1, 0.5]}, 'the range of "density" is its lowest and its highest value'),
        ({"density": [1]}, "is its lowest and its highest value"),
        ({"gamma": [0, 1]}, 'the method "ties" takes no parameter "gamma"'),
    ],
)
def test_wrong_ranges_are_refused(models, over, message):
    """A range that is none, or a parameter that the method lacks, is an error before the ingredients are scored."""
    calls = []

    def evaluator(model):
        calls.append(model)
        return 0.0

    with pytest.raises(RecipeError, match=message):
        hf_soup.merge(
            models[1:], method="ties", base_model=models[0], strategy="search", evaluator=evaluator, over=over
        )
    assert not calls
