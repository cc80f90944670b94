"""What a user gives to score with -> an evaluator that knows its task, or a function of a model that gives a score."""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from ..checkpoints.check import is_statistic
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.companions import giver_of_files
from ..errors import EvaluationError, RecipeError, did_you_mean
from ..tasks import task_of
from ..types import BatchNormRecord, Score, is_better_higher
from .evaluator import Evaluator


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

    # What a user may give to score with.
    Evaluation: TypeAlias = (
        Evaluator | Dataset | str | os.PathLike[str] | Callable[[PreTrainedModel], Score | float | Mapping[str, float]]
    )


def bind_evaluator(
    evaluator: Evaluation,
    candidates: Sequence[Checkpoint],
    *,
    split: str = "validation",
    metric: Any = None,
    higher_is_better: bool | None = None,
) -> Evaluator | Callable[[PreTrainedModel], Score]:
    """An evaluator with the ingredients' tokenizer or image processor, or a function of a model that gives a score.

    Raises:
        [`RecipeError`]: if it is neither an evaluator, nor data, nor a function.
    """
    import datasets

    if isinstance(evaluator, (str, os.PathLike, datasets.Dataset)):
        evaluator = Evaluator(evaluator, split=split)
    if isinstance(evaluator, Evaluator):
        if metric is not None:
            evaluator = replace(evaluator, metric=metric)
        if higher_is_better is not None:
            evaluator = replace(evaluator, higher_is_better=higher_is_better)
        giver = giver_of_files(candidates)
        source = None
        if giver is not None and giver.folder is not None:
            source = str(giver.folder)
        return evaluator.bound(source, task_of(candidates[0].config, evaluator.task))
    if not callable(evaluator):
        raise RecipeError(f"an evaluator is an Evaluator, a data set, or a function of a model, not {evaluator!r}.")

    def score(model: PreTrainedModel) -> Score:
        return as_score(evaluator(model), metric, is_better_higher(higher_is_better))

    return score


def bind_training(data: Any, candidates: Sequence[Checkpoint]) -> Evaluator | None:
    """The training data for BatchNorm, bound to the ingredients' processing; `None` if they have no BatchNorm."""
    if data is None or not any(map(is_statistic, candidates[0].specs)):
        return None
    bound = bind_evaluator(data, candidates, split="train")
    if not isinstance(bound, Evaluator):
        raise RecipeError("BatchNorm is estimated on examples: give a data set as batchnorm_data.")
    return bound


def batchnorm_record(training: Evaluator | None) -> BatchNormRecord | None:
    """What recipes record of the training data for BatchNorm; `None` where there is none."""
    if training is None:
        return None
    return training.described_batches()


def as_score(value: Any, metric: str | None = None, higher_is_better: bool = True) -> Score:
    """What a function returned as a [`Score`].

    Args:
        value (`Score`, `float` or `Mapping[str, float]`):
            A bare number is one of the metric `score`.
        metric (`str`, *optional*):
            Which value of a mapping selects; not needed where it has one.
        higher_is_better (`bool`, *optional*, defaults to `True`):
            Direction of numbers.

    Raises:
        [`EvaluationError`]: if it is something else, or has no such value.
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
    if metric is not None and isinstance(value, Mapping):  # a bare number has no name that could differ
        name = metric
    if name not in values:
        raise EvaluationError(f"the evaluator returned no {name!r}, which is to select{did_you_mean(name, values)}")
    return Score(name, values.pop(name), higher_is_better, split="validation", others=values)


def _numbers_by_name(value: Any) -> dict[str, float]:
    """The numbers that a function returned, one or a mapping of them; other values of a mapping are left out."""
    named = value if isinstance(value, Mapping) else {"score": value}
    numbers_by_name: dict[str, float] = {}
    for name, entry in named.items():
        number = _plain_number(entry)
        if isinstance(number, numbers.Real):
            numbers_by_name[str(name)] = float(number)
    return numbers_by_name


def _plain_number(value: Any) -> Any:
    """Arrays and tensors of no dimension are numbers."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value.item()
    return value
