"""The contracts of methods, strategies and tasks: what the rest of the package relies on, to be checked in tests.

A function raises `AssertionError` where what it is given breaks its contract.
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

WEIGHTS = (1.0, 2.0, 0.5)  # of the three tensors that methods are tried on


def check_method(function: Callable[..., Any]) -> None:
    """The contract of a method: help, pure, repeatable, shape and type kept, weights relative, copies give the tensor.

    Copies of the base give the base where a method asks for one, copies of any tensor give that tensor where not. What
    `hf_soup.methods` says of `out` and of `elementwise` is checked where a method uses them.

    Args:
        function (`Callable`):
            `f(tensors, weights, *, ...) -> Tensor`.
    """
    import torch

    _check_documented(function)
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        for shape in ((), (3,), (4, 5), (0, 2)):  # a single number and an empty tensor as well
            _check_combination(function, shape, dtype, generator)
    # Only such methods are ever handed pieces of a tensor.
    if asks_for(function, "out") or method_traits(function).elementwise:
        _check_pieces(function)


def _check_combination(
    function: Callable[..., Any], shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    """What every method promises, on tensors of one shape and type."""
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
    # With few bits the sum of three copies is exact, so that nothing but the copy itself will do.
    copy = tensors[0].to(torch.bfloat16).to(dtype)
    of_copies = _combine(function, [copy] * 3, (1.0, 1.0, 1.0), copy)
    assert torch.equal(of_copies, copy), f"{name} of copies"


def _check_pieces(function: Callable[..., Any]) -> None:
    """What a method promises that asks for `out` or declares itself elementwise."""
    import torch

    generator = torch.Generator().manual_seed(0)
    # Tensors of a checkpoint in bfloat16, and the type that they are averaged in.
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
    """What a method promises that writes its result into `out`.

    Args:
        function (`Callable`):
            The method.
        tensors (`Sequence[torch.Tensor]`):
            In bfloat16, three of shape `(20,)`.
        whole (`torch.Tensor`):
            What the method made of the same in float32, without `out`.
    """
    import torch

    name = function.__name__
    buffer, out = torch.empty(20), torch.empty(20)

    def in_one_buffer() -> Iterator[torch.Tensor]:
        """The first as it is stored, the others one after the other in the same memory, as a merge hands them over."""
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
    """What a method makes of tensors, which it sees once; it gets the base only if it asks for one."""
    result: torch.Tensor
    if asks_for(function, "base"):
        result = function(iter(tensors), weights, base=base)
    else:
        result = function(iter(tensors), weights)
    return result


def check_strategy(function: Callable[..., Mixture | Choice]) -> None:
    """The contract of a strategy: help, finite weights with a positive sum, no ingredient of its own invention, the
    same mixture in any order of arguments, and never worse than the best single ingredient where it promises that.

    Args:
        function (`Callable`):
            `f(ingredients, trials, *, ...) -> Mixture | Choice`.
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

    # With a metric where lower is better, the same score makes another search.
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
    """A score with ties among the ingredients, and a bonus for mixing."""
    values = []
    for name in mixture.names:
        # `run-0` to `run-4` score 0, 1, 2, 0 and 1 alone, the base model, which has no number, 1
        values.append(int(name[-1]) % 3 if name[-1].isdecimal() else 1)
    total = 0.0
    for weights in mixture.weights_by_module.values():
        shares = [weight / sum(weights) for weight in weights]
        total += sum(share * value for share, value in zip(shares, values, strict=True))
        total += 0.3 * sum(share * (1 - share) for share in shares)
    # Rounded, so that ties are ties in whatever order numbers were summed.
    return round(total / len(mixture.weights_by_module), 6)


def _weights_by_place(mixture: Mixture, name: str) -> dict[tuple[str, str], float]:
    """(Module prefix, ingredient) -> weight, of those that have one."""
    weight_by_place = {}
    for prefix, weights in mixture.weights_by_module.items():
        assert all(map(math.isfinite, weights)), f"{name} gives a weight that is not finite"
        assert sum(weights) > 0, f"{name} gives weights whose sum is not positive"
        for ingredient, weight in zip(mixture.names, weights, strict=True):
            if weight:
                weight_by_place[prefix, ingredient] = weight
    return weight_by_place


def check_task(task: Task) -> None:
    """The contract of a task: its example is scored whole, in any batches and order, with the loss of the model.

    Args:
        task (`ModuleType`):
            A file of `hf_soup.tasks`, or one of an extension author's.
    """
    name = task.__name__.rsplit(".", 1)[-1]
    _check_declarations(task, name)
    model, processing_class = model_for(task)
    data = example_of(task)
    # A configuration that was loaded names the class; that of a model that was just built does not.
    config = type(model.config).from_dict({**model.config.to_dict(), "architectures": [type(model).__name__]})
    assert task.fits(config), f"{name} does not fit its own example"
    predictions = _check_predictions(task, name, model, processing_class, data)
    model_loss = _model_loss(task, model, processing_class, data)
    has_same_loss = abs(losses(predictions).mean() - model_loss) < 1e-4
    assert has_same_loss, f"{name} has another loss than its model: {model_loss}"


def _check_declarations(task: Task, name: str) -> None:
    """What a task says of itself."""
    import transformers

    assert task.__doc__, f"{name} does not say what it is"
    assert hasattr(transformers, task.AUTO_CLASS), f"{name}: transformers has no {task.AUTO_CLASS}"
    assert task.KIND in KINDS, f"{name} gives {task.KIND}, which is none of {', '.join(KINDS)}"
    assert task.KIND in BUILT_IN[task.METRIC].kinds, f"{name}: {task.METRIC} is not defined for {task.KIND}"


def _check_predictions(
    task: Task, name: str, model: PreTrainedModel, processing_class: Any, data: Dataset
) -> Predictions:
    """Predictions of a task's example, which are whole and the same in any batches and order."""
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
    """The loss that a model computes itself, on all of a task's example as one batch."""
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
    """Every parameter has an entry in the docstring, which is its help on the command line."""
    text = inspect.getdoc(function) or ""
    assert text, f"{function.__name__} has no docstring, and its first line is its help"
    for name in parameters(function):
        assert f"{name} (" in text, f"{function.__name__} does not document {name}"
