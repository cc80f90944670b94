"""Functions of a model as evaluators: checks their arguments, and turns their results into scores."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ..errors import EvaluationError, RecipeError, did_you_mean
from ..types import Score


if TYPE_CHECKING:
    from .evaluator import Evaluator

OF_FUNCTIONS = ("dataset", "metric", "higher_is_better", "split")  # arguments that apply to a function


def as_score(value: Any, metric: str | None = None, higher_is_better: bool = True) -> Score:
    """Convert the result of a function to a [`Score`].

    Args:
        value (`Score`, `float` or `Mapping[str, float]`):
            Result of the function; a plain number is a value of the metric `score`.
        metric (`str`, *optional*):
            Name of the value of a mapping that selects; not needed if there is only one.
        higher_is_better (`bool`, *optional*, defaults to `True`):
            Whether a higher value is better.

    Raises:
        [`EvaluationError`]: if the result has another type, or lacks the value that selects.
    """
    if isinstance(value, Score):
        return value
    values = _numbers_by_name(value)
    if not values:
        raise EvaluationError(
            f"the evaluator returned {value!r}; it has to return a Score, a number, or a dict of numbers."
        )
    if metric is None and len(values) != 1:
        raise EvaluationError(f"the evaluator returned {', '.join(values)}: say with metric= which selects.")
    name = next(iter(values))
    if metric is not None and isinstance(value, Mapping):  # a plain number has no name that could differ
        name = metric
    if name not in values:
        raise EvaluationError(f"the evaluator returned no {name!r}, which is to select{did_you_mean(name, values)}")
    return Score(name, values.pop(name), higher_is_better, split="validation", others=values)


def _numbers_by_name(value: Any) -> dict[str, float]:
    """The numbers that a function returned, by name; other values of a mapping are left out."""
    named = value if isinstance(value, Mapping) else {"score": value}
    numbers_by_name: dict[str, float] = {}
    for name, entry in named.items():
        number = _plain_number(entry)
        if isinstance(number, numbers.Real):
            numbers_by_name[str(name)] = float(number)
    return numbers_by_name


def _plain_number(value: Any) -> Any:
    """Convert arrays and tensors without dimensions to numbers."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value.item()
    return value


def check_function_evaluator(evaluator: Evaluator) -> None:
    """Raise an error for arguments that do not apply to a function, which does everything itself.

    Raises:
        [`RecipeError`]: naming the argument.
    """
    if evaluator.metric is not None and not isinstance(evaluator.metric, str):
        raise RecipeError("the metric of a function is the name of the value that selects, among those it returns.")
    for item in fields(evaluator):
        if item.name in OF_FUNCTIONS:
            continue
        if getattr(evaluator, item.name) != item.default:
            raise RecipeError(f"{item.name} is an option for data, and this evaluator is a function of a model.")
