"""Checks of the contracts of methods, strategies and tasks, on which the rest of the package relies.

Each function raises an `AssertionError` if a contract is broken.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..evaluation.evaluator import Evaluator
from ..metrics.built_in import BUILT_IN
from ..metrics.predictions import KINDS, Predictions, losses
from ..plugins import asks_for, method_traits, parameters, strategy_traits
from ..tasks._model_inputs import inputs_of
from ..types import Choice, Ingredient, Mixture, gain
from .fake_trials import FakeTrials
from .tiny import example_of, model_for


if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel

    from ..tasks import Task

WEIGHTS = (1.0, 2.0, 0.5)  # weights of the three tensors that methods are tested on


def check_method(function: Callable[..., Any]) -> None:
    """Check the contract of a method.

    A method has a documented signature, does not change its inputs, is reproducible, keeps shape and data type, and
    treats weights as relative. Copies of the base model give the base model if the method needs one; otherwise copies
    of any tensor give that tensor. The rules of `hf_soup.methods` for `out` and `elementwise` are checked if the
    method uses them.

    Args:
        function (`Callable`):
            The method, `f(tensors, weights, *, ...) -> Tensor`.
    """
    import torch

    _check_documented(function)
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        for shape in ((), (3,), (4, 5), (0, 2)):  # including a single number and an empty tensor
            _check_combination(function, shape, dtype, generator)
    # Only such methods get pieces of a tensor.
    if asks_for(function, "out") or method_traits(function).elementwise:
        _check_pieces(function)


def _check_combination(
    function: Callable[..., Any], shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    """Check the promises of every method, on tensors of one shape and data type."""
    import torch

    name = function.__name__
    tensors = [torch.randn(shape, generator=generator, dtype=dtype) for _ in WEIGHTS]
    before = [tensor.clone() for tensor in tensors]
    base = torch.randn(shape, generator=generator, dtype=dtype) if asks_for(function, "base") else None
    result = _combine(function, tensors, WEIGHTS, base)
    again = _combine(function, tensors, WEIGHTS, base)
    doubled = _combine(function, tensors, tuple(2 * weight for weight in WEIGHTS), base)
    assert result.dtype == dtype, f"{name} changed the type"
    assert result.shape == torch.Size(shape), f"{name} changed the shape"
    assert torch.equal(result, again), f"{name} gave two results for one input"
    assert torch.allclose(result, doubled), f"{name} does not take weights as relative"
    assert all(map(torch.equal, tensors, before)), f"{name} changed its inputs"
    # With few bits the sum of three copies is exact, so the result has to be identical to the copy.
    copy = tensors[0].to(torch.bfloat16).to(dtype)
    of_copies = _combine(function, [copy] * 3, (1.0, 1.0, 1.0), copy)
    assert torch.equal(of_copies, copy), f"{name} of copies"


def _check_pieces(function: Callable[..., Any]) -> None:
    """Check the promises of a method that takes `out` or is declared elementwise."""
    import torch

    generator = torch.Generator().manual_seed(0)
    # Tensors of a checkpoint in bfloat16, and in the data type of the computation.
    tensors = [torch.randn(20, generator=generator).to(torch.bfloat16) for _ in WEIGHTS]
    wide = [tensor.float() for tensor in tensors]
    base = wide[0] * 2
    whole = _combine(function, wide, WEIGHTS, base)
    pieces = []
    for piece in (slice(0, 7), slice(7, 20)):
        pieces.append(_combine(function, [tensor[piece] for tensor in wide], WEIGHTS, base[piece]))
    assert torch.equal(torch.cat(pieces), whole), f"{function.__name__} does not work in pieces"
    if asks_for(function, "out"):
        _check_out(function, tensors, whole)


def _check_out(function: Callable[..., Any], tensors: Sequence[torch.Tensor], whole: torch.Tensor) -> None:
    """Check the promises of a method that writes its result into `out`.

    Args:
        function (`Callable`):
            Method to check.
        tensors (`Sequence[torch.Tensor]`):
            Three tensors of shape `(20,)` in bfloat16.
        whole (`torch.Tensor`):
            Result of the method for the same tensors in float32, without `out`.
    """
    import torch

    name = function.__name__
    buffer, out = torch.empty(20), torch.empty(20)

    def in_one_buffer() -> Iterator[torch.Tensor]:
        """The tensors as a merge passes them: the first in its stored type, the others in the same memory."""
        first, *others = tensors
        yield first
        for tensor in others:
            yield buffer.copy_(tensor)

    result = function(in_one_buffer(), WEIGHTS, out=out)
    assert result is out, f"{name} does not return `out`"
    assert torch.equal(result, whole), f"{name} keeps tensors, or does not widen the first to `out`"
    first, _, last = [tensor.float() for tensor in tensors]
    spoiled = [first, torch.full((20,), torch.nan), last]
    assert function(iter(spoiled), WEIGHTS).isnan().all(), f"{name} hides NaN"


def _combine(
    function: Callable[..., Any],
    tensors: Sequence[torch.Tensor],
    weights: Sequence[float],
    base: torch.Tensor | None,
) -> torch.Tensor:
    """Call a method with tensors in an iterator, and with the base model only if it takes one."""
    result: torch.Tensor
    if asks_for(function, "base"):
        result = function(iter(tensors), weights, base=base)
    else:
        result = function(iter(tensors), weights)
    return result


def check_strategy(function: Callable[..., Mixture | Choice]) -> None:
    """Check the contract of a strategy.

    A strategy has a documented signature and returns finite weights with a positive sum, for given ingredients only.
    The mixture does not depend on the order of the ingredients. It is never worse than the best single ingredient, if
    the strategy promises that.

    Args:
        function (`Callable`):
            The strategy, `f(ingredients, trials, *, ...) -> Mixture | Choice`.
    """
    _check_documented(function)
    name = function.__name__
    items = tuple(Ingredient(f"run-{index}", f"runs/run-{index}") for index in range(5))
    base = Ingredient("start", "runs/start")

    def choose(order: Sequence[Ingredient], *, higher_is_better: bool = True) -> Mixture:
        options: dict[str, Any] = {}
        if asks_for(function, "base"):
            options["base"] = base
        if "weights" in parameters(function):
            options["weights"] = {item.name: items.index(item) + 1 for item in order}
        result = function(order, FakeTrials(_made_up_score, higher_is_better=higher_is_better), **options)
        mixture = result.mixture if isinstance(result, Choice) else result
        assert isinstance(mixture, Mixture), f"{name} returns neither a mixture nor a choice"
        assert all(item in (*items, base) for item in mixture.ingredients), f"{name} invented an ingredient"
        return mixture

    # If lower is better, the same scores lead to another search.
    for higher in (True, False):
        mixture = choose(items, higher_is_better=higher)
        weights = _weights_by_place(mixture, name)
        for order in (items[::-1], items[2:] + items[:2]):
            again = _weights_by_place(choose(order, higher_is_better=higher), name)
            assert weights == again, f"{name} depends on the order of its ingredients"
        if strategy_traits(function).never_worse:
            for item in items:
                change = gain(_made_up_score(mixture), _made_up_score(Mixture.equal([item])), higher)
                assert change >= 0, f"{name} promises never to be worse than the best single ingredient"
    single = choose(items[:1])
    assert all(item in (items[0], base) for item in single.ingredients), f"{name} of one ingredient"


def _made_up_score(mixture: Mixture) -> float:
    """A score with ties among the ingredients, and a bonus for mixtures."""
    values = []
    for name in mixture.names:
        # the single scores of `run-0` to `run-4` are 0, 1, 2, 0 and 1; that of the base model is 1
        values.append(int(name[-1]) % 3 if name[-1].isdecimal() else 1)
    total = 0.0
    for weights in mixture.weights_by_module.values():
        shares = [weight / sum(weights) for weight in weights]
        total += sum(share * value for share, value in zip(shares, values, strict=True))
        total += 0.3 * sum(share * (1 - share) for share in shares)
    # Rounded, so that ties do not depend on the order of summation.
    return round(total / len(mixture.weights_by_module), 6)


def _weights_by_place(mixture: Mixture, name: str) -> dict[tuple[str, str], float]:
    """The weights that are not 0, by module prefix and ingredient."""
    weight_by_place = {}
    for prefix, weights in mixture.weights_by_module.items():
        assert all(map(math.isfinite, weights)), f"{name} gives a weight that is not finite"
        assert sum(weights) > 0, f"{name} gives weights whose sum is not positive"
        for ingredient, weight in zip(mixture.names, weights, strict=True):
            if weight:
                weight_by_place[prefix, ingredient] = weight
    return weight_by_place


def check_task(task: Task) -> None:
    """Check the contract of a task.

    All rows of its example are scored, with the same result in any batches and order, and the loss is that of the
    model.

    Args:
        task (`ModuleType`):
            The task, a module of `hf_soup.tasks` or of an extension.
    """
    name = task.__name__.rsplit(".", 1)[-1]
    _check_declarations(task, name)
    model, processing_class = model_for(task)
    data = example_of(task)
    # A loaded configuration names the class; that of a newly built model does not.
    config = type(model.config).from_dict({**model.config.to_dict(), "architectures": [type(model).__name__]})
    assert task.fits(config), f"{name} does not fit its own example"
    predictions = _check_predictions(task, name, model, processing_class, data)
    model_loss = _model_loss(task, model, processing_class, data)
    has_same_loss = abs(losses(predictions).mean() - model_loss) < 1e-4
    assert has_same_loss, f"{name} has another loss than its model: {model_loss}"


def _check_declarations(task: Task, name: str) -> None:
    """Check the constants of a task."""
    import transformers

    assert task.__doc__, f"{name} does not say what it is"
    assert hasattr(transformers, task.AUTO_CLASS), f"{name}: transformers has no {task.AUTO_CLASS}"
    assert task.KIND in KINDS, f"{name} gives {task.KIND}, which is none of {', '.join(KINDS)}"
    assert task.KIND in BUILT_IN[task.METRIC].kinds, f"{name}: {task.METRIC} is not defined for {task.KIND}"


def _check_predictions(
    task: Task, name: str, model: PreTrainedModel, processing_class: Any, data: Dataset
) -> Predictions:
    """Predictions for a task's example, checked to be complete and the same in any batches and order."""
    import numpy as np

    def predict(rows: Dataset, batch_size: int | None = None) -> Predictions:
        evaluator = Evaluator(
            rows, task=name.replace("_", "-"), processing_class=processing_class, batch_size=batch_size
        )
        return evaluator.predict(model)

    whole = predict(data)
    assert whole.kind == task.KIND, f"{name} gives another kind than it says"
    assert len(whole.logits) == len(whole.labels) == len(whole.rows), f"{name}: an item has no label, or no row"
    assert set(whole.rows.tolist()) == set(range(len(data))), f"{name} leaves rows out"
    assert (np.diff(whole.rows) >= 0).all(), f"{name} is not in the order of the data"
    row_by_row = predict(data, batch_size=1)
    assert np.allclose(whole.logits, row_by_row.logits, atol=1e-5), f"{name} depends on what else is in a batch"
    backwards = range(len(data))[::-1]
    turned_back = predict(data.select(backwards)).take(np.array(backwards))
    assert np.allclose(whole.logits, turned_back.logits, atol=1e-5), f"{name} depends on the order of the data"
    assert np.array_equal(whole.labels, turned_back.labels), f"{name} gives labels to other rows"
    return whole


def _model_loss(task: Task, model: PreTrainedModel, processing_class: Any, data: Dataset) -> float:
    """The loss computed by a model itself, on a task's example as one batch."""
    import torch

    label = task.label_column(data, None)
    labels = task.labels(data, label, model.config)
    inputs = inputs_of(model)
    encoded = task.encode(data, processing_class, task.columns(data, None, label), labels, inputs)
    rows = encoded.__getitems__(list(range(len(data))))
    batch = task.collator(processing_class, inputs)(rows)
    with torch.no_grad():
        return float(model(**batch).loss)


def _check_documented(function: Callable[..., Any]) -> None:
    """Check that every parameter has an entry in the docstring, which is its help on the command line."""
    text = inspect.getdoc(function) or ""
    assert text, f"{function.__name__} has no docstring, and its first line is its help"
    for name in parameters(function):
        assert f"{name} (" in text, f"{function.__name__} does not document {name}"
