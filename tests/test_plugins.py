"""Methods, strategies and tasks are found by name and fulfil their contracts."""

import inspect
import itertools
import types
import typing

import numpy as np
import pytest
import torch

from hf_soup import plugins, testing
from hf_soup.errors import RecipeError
from hf_soup.merging.sentence_models import body_of
from hf_soup.tasks import ColumnsTask, Task, TokensTask, WritingTask, task_of
from hf_soup.types import Ingredient, Mixture


RUNS = tuple(Ingredient(f"run-{index}", f"runs/{index}") for index in range(4))


@pytest.mark.parametrize("name", plugins.names("method"))
def test_method_contract(name):
    """Every built-in method fulfils the contract of methods."""
    testing.check_method(plugins.load_function("method", name))


@pytest.mark.parametrize("name", plugins.names("strategy"))
def test_strategy_contract(name):
    """Every built-in strategy fulfils the contract of strategies."""
    testing.check_strategy(plugins.load_function("strategy", name))


@pytest.mark.parametrize("name", plugins.names("task"))
def test_task_contract(name):
    """Every built-in task fulfils the contract of tasks."""
    testing.check_task(plugins.load_module("task", name))


@pytest.mark.parametrize("name", plugins.names("task"))
def test_a_model_has_one_task(name):
    """No model and data fit two tasks, so that `task="auto"` does not depend on the order of their names."""
    task = plugins.load_module("task", name)
    model, _ = testing.model_for(task)
    model = body_of(model)
    columns = testing.example_of(task).column_names
    assert task_of(model.config, architecture=type(model).__name__, columns=columns) == name
    config = type(model.config).from_dict({**model.config.to_dict(), "architectures": [type(model).__name__]})
    tasks = {other: plugins.load_module("task", other) for other in plugins.names("task")}
    by_columns = [key for key, each in tasks.items() if isinstance(each, ColumnsTask)]
    assert [key for key in by_columns if tasks[key].fits_columns(config, columns)] == [name] * (name in by_columns)
    if name not in by_columns:
        assert [key for key, each in tasks.items() if each.fits(config)] == [name]


def unexplained(tensors, weights, *, strength=1):
    """Has an option that its docstring does not explain."""
    return next(tensors)


def absolute(tensors, weights):
    """Uses weights as absolute, without dividing by their sum."""
    return sum(weight * tensor for weight, tensor in zip(weights, tensors, strict=True))


def careless(tensors, weights):
    """Changes the first of its inputs."""
    tensors = list(tensors)
    return tensors[0].add_(1)


CALLS = itertools.count()


def pair(tensors, weights):
    """Returns a tuple."""
    return next(tensors), 1.0


def forgetful(tensors, weights):
    """Forgets to return its result."""
    next(tensors)


def narrow(tensors, weights):
    """Returns a tensor of another type than its inputs."""
    return next(tensors).to(torch.float16)


def flat(tensors, weights):
    """Returns a tensor of another shape than its inputs."""
    return next(tensors).reshape(-1)


def counting(tensors, weights):
    """Treats the iterator as a list."""
    return tensors[0] / len(tensors)


def rebased(tensors, weights, *, base):
    """Changes the tensor of the base model."""
    next(tensors)
    return base.mul_(1.5)


def summed(tensors, weights, *, base, out):
    """Adds differences from the base model and does not return `out`."""
    total = torch.zeros_like(base)
    for weight, tensor in zip(weights, tensors, strict=True):
        total += weight * (tensor - base)
    return base + total / sum(weights)


def counted(tensors, weights, *, rng):
    """Draws its numbers from a state of its own instead of from `rng`."""
    return next(tensors) + next(CALLS)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (unexplained, "does not document strength"),
        (absolute, "does not take weights as relative: it returned .* for "),
        (careless, "leave its inputs as they are, but it changed its inputs: tensor 1 was "),
        (rebased, "changed its inputs: the tensor of the base model was "),
        (pair, "return one torch.Tensor, but it returned a tuple of 2 values, .* for 3 tensors of shape "),
        (forgetful, "return one torch.Tensor, but it returned None for 3 tensors of shape "),
        (narrow, "keep the type of the tensors, torch.float32, but it returned a tensor of type torch.float16 "),
        (flat, r"keep the shape of the tensors, \(\), but it returned a tensor of shape \(1,\) "),
        (counting, "`tensors` is an iterator .* it raised TypeError: 'list_iterator' object is not subscriptable"),
        (counted, "return the same result for the same input, but it returned "),
        (summed, "return `out`, because it asks for it, but it returned a Tensor, "),
    ],
)
def test_the_contract_of_methods_names_the_promise(method, message):
    """A mistake in a method raises an AssertionError with the method's name, the broken promise and the result."""
    with pytest.raises(AssertionError, match=f'^the method "{method.__name__}" has to .*{message}'):
        testing.check_method(method)


def test_a_method_may_ask_for_all_that_is_provided():
    """A method that asks for the base model and for `out`, or for random numbers, fulfils the contract."""

    def task_arithmetic(tensors, weights, *, base, out):
        """Add the mean difference from the base model to the base model, in `out`."""
        result = plugins.load_function("method", "linear")(tensors, weights, out=out)
        return result.sub_(base).add_(base)

    def dropped(tensors, weights, *, rng):
        """Pick each number from one tensor or from another."""
        stack = torch.stack(list(tensors))
        return torch.where(torch.rand(stack.shape[1:], generator=rng) < 0.5, stack[0], stack[1])

    testing.check_method(task_arithmetic)
    testing.check_method(dropped)


def test_a_contract_checks_functions():
    """`check_method` with a name instead of a function raises an AssertionError that says so."""
    with pytest.raises(AssertionError, match="a method is checked as a function, but 'median' cannot be called"):
        testing.check_method("median")


def test_the_task_contract_can_fail(monkeypatch):
    """A task with another loss than its model, reordered labels or an unsuitable metric fails the contract."""
    task = plugins.load_module("task", "text-classification")
    plain = task.forward
    monkeypatch.setattr(task, "forward", lambda model, batch: (plain(model, batch)[0] * 2, *plain(model, batch)[1:]))
    with pytest.raises((AssertionError, KeyError)):
        testing.check_task(task)
    monkeypatch.setattr(task, "forward", plain)
    monkeypatch.setattr(task, "METRIC", "pearsonr")
    with pytest.raises(AssertionError, match="pearsonr is not defined for classes"):
        testing.check_task(task)
    monkeypatch.setattr(task, "METRIC", "accuracy")
    monkeypatch.setattr(task, "labels", lambda dataset, label, config: np.sort(dataset[label]))
    with pytest.raises(AssertionError, match="gives labels to other rows"):
        testing.check_task(task)


def first(ingredients, trials):
    """Take the first ingredient, regardless of the scores."""
    return Mixture(ingredients[:1], (1.0,))


def a_tuple(ingredients, trials):
    """Returns a tuple instead of a mixture."""
    return ingredients, (1.0,) * len(ingredients)


def nothing(ingredients, trials):
    """Forgets to return its mixture."""


def short(ingredients, trials):
    """Returns one weight too few."""
    return Mixture(ingredients, (1.0,) * (len(ingredients) - 1))


def by_names(ingredients, trials):
    """Returns the names of its ingredients instead of the ingredients."""
    return Mixture(tuple(item.name for item in ingredients), (1.0,) * len(ingredients))


def inventive(ingredients, trials):
    """Adds an ingredient that was not given."""
    return Mixture.equal([*ingredients, Ingredient("run-9", "runs/run-9")])


def negative(ingredients, trials):
    """Returns weights whose sum is negative."""
    return Mixture(ingredients, (-1.0,) * len(ingredients))


def sorting(ingredients, trials):
    """Sorts the ingredients, which belong to the caller, in place."""
    ingredients.sort()
    return Mixture.equal(ingredients)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (first, "it depends on the order of its ingredients: it chose run-0 .* and run-4 .* from run-4, run-3, "),
        (
            a_tuple,
            "return a hf_soup.types.Mixture .*, but it returned a tuple of 2 values, .* for the ingredients run-0, ",
        ),
        (nothing, "return a hf_soup.types.Mixture .*, but it returned None for the ingredients run-0, "),
        (short, "for the ingredients run-0, .* it raised RecipeError: the weights are 4 .* for 5 ingredients"),
        (by_names, "takes the ingredients themselves, not their names, .*, but for .* it raised AttributeError"),
        (inventive, "only ingredients that it is given, but it invented an ingredient: 'run-9' from 'runs/run-9' "),
        (negative, r"weights whose sum is positive, but it returned the weights \(-1.0, .* for the ingredients run-0"),
        (sorting, "it raised AttributeError: 'tuple' object has no attribute 'sort'"),
    ],
)
def test_the_contract_of_strategies_names_the_promise(strategy, message):
    """A mistake in a strategy raises an AssertionError with the strategy's name and the broken promise."""
    with pytest.raises(AssertionError, match=f'^the strategy "{strategy.__name__}" has to .*{message}'):
        testing.check_strategy(strategy)


def test_a_method_is_no_strategy():
    """The name of a strategy given as a method, or the reverse, raises a RecipeError that names the right argument."""
    with pytest.raises(RecipeError, match='"greedy" is a strategy, not a method: write strategy="greedy"'):
        plugins.load_function("method", "greedy")
    with pytest.raises(RecipeError, match='"linear" is a method, not a strategy: write method="linear"'):
        plugins.load_function("strategy", "linear")


def test_unknown_names_are_told_with_the_nearest():
    """A misspelt name raises a RecipeError with the nearest name and the list of known ones."""
    with pytest.raises(RecipeError, match=r'"gredy"; did you mean "greedy"\? Known: auto, bagged_greedy, diverse, '):
        plugins.load_function("strategy", "gredy")


def test_a_dotted_path_is_a_name():
    """`package.module:function` works as a name, and a path that cannot be imported raises a RecipeError."""
    assert plugins.load_function("method", "hf_soup.methods.linear:linear") is plugins.load_function(
        "method", "linear"
    )
    for path in ("no.such.module:f", "hf_soup.methods.linear:nothing"):
        with pytest.raises(RecipeError, match="cannot be imported"):
            plugins.load_function("method", path)


def test_linear_reads_one_tensor_at_a_time():
    """`linear` reads the next tensor only after adding the previous one, so memory does not grow with their number."""
    alive = []

    def stream():
        for index in range(5):
            alive.append(index)
            yield torch.full((3,), float(index))

    assert torch.equal(plugins.load_function("method", "linear")(stream(), (1.0,) * 5), torch.full((3,), 2.0))
    assert alive == [0, 1, 2, 3, 4]


def greedy(scores, *, higher=True, **params):
    """Run greedy on made-up scores of sets of names."""
    trials = testing.FakeTrials(lambda mixture: scores["+".join(mixture.names)], higher_is_better=higher)
    return plugins.load_function("strategy", "greedy")(RUNS[: sum("+" not in key for key in scores)], trials, **params)


SCORES = {
    "run-0": 0.80,
    "run-1": 0.90,
    "run-2": 0.85,
    "run-1+run-2": 0.90,
    "run-1+run-2+run-0": 0.92,
    "run-1+run-0": 0.88,
}


def test_greedy_keeps_what_does_not_lower_the_score():
    """Greedy makes one pass, best first; it keeps a candidate that ties with `>=` and rejects it with `>`."""
    mixture = greedy(SCORES).mixture
    assert mixture.names == ("run-1", "run-2", "run-0")
    assert mixture.weights == (1, 1, 1)
    assert greedy(SCORES, accept=">").mixture.names == ("run-1",)


def test_greedy_says_why_for_each_candidate():
    """Each trial records its score, whether it was kept and the reason."""
    trials = greedy(SCORES, accept=">").trials
    assert [(trial.tried, trial.kept, trial.score, trial.why) for trial in trials] == [
        ("run-1", True, 0.90, "best single ingredient"),
        ("run-2", False, 0.85, "a candidate"),
        ("run-0", False, 0.80, "a candidate"),
        ("+ run-2", False, 0.90, "stays at 0.9000"),
        ("+ run-0", False, 0.88, "would lose 0.0200 (0.9000 to 0.8800)"),
    ]


def test_greedy_of_a_loss_goes_down():
    """If lower is better, the lowest score comes first and a candidate that raises it is rejected."""
    choice = greedy({"run-0": 0.5, "run-1": 0.4, "run-1+run-0": 0.45}, higher=False)
    assert choice.mixture.names == ("run-1",)


def test_greedy_breaks_ties_by_name():
    """Candidates with equal scores are ordered by name, so the sum has the same bits in any order of ingredients."""
    pick = plugins.load_function("strategy", "greedy")
    for order in (RUNS, RUNS[::-1], RUNS[2:] + RUNS[:2]):
        mixture = pick(order, testing.FakeTrials(lambda mixture: 0.5)).mixture
        assert mixture.names == ("run-0", "run-1", "run-2", "run-3")


def test_greedy_asks_once_for_each():
    """Greedy needs 2 n - 1 scores for n ingredients."""
    trials = testing.FakeTrials(lambda mixture: 0.5)
    plugins.load_function("strategy", "greedy")(RUNS, trials)
    assert len(trials.asked) == 2 * len(RUNS) - 1


def test_a_parameter_of_few_values_has_one_of_them():
    """The choices of a parameter are the values of its `Literal` annotation."""
    function = plugins.load_function("strategy", "greedy")
    assert plugins.choices(plugins.parameters(function)["accept"], function) == (">=", ">", "loss")
    function = plugins.load_function("method", "linear")
    assert plugins.choices(plugins.parameters(function)["normalize"], function) == ()


def test_functions_declare_their_traits():
    """Declared traits are read from the function, which the decorator returns; other functions have the defaults."""
    uniform = plugins.load_function("strategy", "uniform")
    assert plugins.strategy_traits(uniform) == plugins.StrategyTraits(scores=False)
    assert plugins.strategy_traits(first) == plugins.StrategyTraits(scores=True, linear_only=False, never_worse=False)
    assert plugins.method_traits(plugins.load_function("method", "median")) == plugins.MethodTraits(elementwise=True)
    assert plugins.method_traits(uniform) == plugins.MethodTraits(elementwise=False)

    def best(ingredients, trials):
        """Take the best."""

    assert plugins.strategy(never_worse=True)(best) is best
    assert plugins.strategy_traits(best).never_worse
    with pytest.raises(AssertionError, match="promises never to be worse"):
        testing.check_strategy(plugins.strategy(never_worse=True)(first_by_name))


def first_by_name(ingredients, trials):
    """Take the ingredient whose name sorts first, regardless of its score."""
    return Mixture((min(ingredients, key=lambda item: item.name),), (1.0,))


def functions_of(protocol):
    """The functions that a protocol itself declares, without those of its bases."""
    return {name: value for name, value in vars(protocol).items() if inspect.isfunction(value) and name[0] != "_"}


@pytest.mark.parametrize("name", plugins.names("task"))
def test_a_task_has_what_the_protocol_says(name):
    """Every task has the constants of `Task` with their types, and its functions have the declared parameters."""
    task = plugins.load_module("task", name)
    for constant, kind in typing.get_type_hints(Task).items():
        kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
        assert isinstance(getattr(task, constant), tuple(typing.get_origin(each) or each for each in kinds)), constant
    functions = functions_of(Task)
    if hasattr(task, "write") or hasattr(task, "references"):
        assert isinstance(task, WritingTask)
        functions |= functions_of(WritingTask)
    assert isinstance(task, TokensTask) == (task.KIND == "tokens")
    if isinstance(task, TokensTask):
        functions |= functions_of(TokensTask)
    assert {"forward", "encode"} <= set(functions)
    for function, declared in functions.items():
        own = inspect.signature(getattr(task, function)).parameters.values()
        wanted = [parameter for key, parameter in inspect.signature(declared).parameters.items() if key != "self"]
        required = [parameter for parameter in own if parameter.default is inspect.Parameter.empty]
        assert [parameter.name for parameter in own][: len(wanted)] == [parameter.name for parameter in wanted], (
            function
        )
        assert len(required) <= len(wanted), f"{function} needs more than callers give"
