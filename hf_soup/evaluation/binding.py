"""Turns what a user passes as an evaluator into an evaluator with a task, or a function of a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from ..checkpoints.check import is_statistic
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.companions import giver_of_files
from ..errors import RecipeError
from ..tasks import task_of
from ..types import Score, StatisticsRecord
from .evaluator import Evaluator
from .lm_harness import lacks_tokenizer, with_tokenizer


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedModel

    # What a user may pass as an evaluator.
    Evaluation: TypeAlias = (
        Evaluator
        | Dataset
        | DatasetDict
        | str
        | os.PathLike[str]
        | Callable[[PreTrainedModel], Score | float | Mapping[str, float]]
    )


def bind_evaluator(
    evaluator: Evaluation,
    candidates: Sequence[Checkpoint],
    *,
    split: str = "validation",
) -> Evaluator | Callable[[PreTrainedModel], Score]:
    """An evaluator with the ingredients' tokenizer or image processor, or a function of a model that returns a score.

    Raises:
        [`RecipeError`]: if the value is neither an evaluator, nor data, nor a function.
    """
    import datasets

    if not isinstance(evaluator, Evaluator):
        is_data = isinstance(evaluator, (str, os.PathLike, datasets.Dataset, datasets.DatasetDict))
        if not is_data and not callable(evaluator):
            raise RecipeError(
                f"an evaluator is an Evaluator, a data set, or a function of a model, not {evaluator!r}."
            )
        evaluator = Evaluator(evaluator, split=split)
    if evaluator.function is not None:
        if lacks_tokenizer(evaluator.function):
            function = with_tokenizer(evaluator.function, _processing_source(candidates))
            evaluator = replace(evaluator, dataset=function)
        return evaluator.__call__
    columns = evaluator.dataset.column_names
    return evaluator.bound(
        _processing_source(candidates), task_of(candidates[0].config, evaluator.task, columns=columns)
    )


def _processing_source(candidates: Sequence[Checkpoint]) -> str | None:
    """The folder with the tokenizer or image processor of the ingredients, if one has it."""
    giver = giver_of_files(candidates)
    if giver is None or giver.processing_folder is None:
        return None
    return str(giver.processing_folder)


def bind_training(data: Any, candidates: Sequence[Checkpoint]) -> Evaluator | None:
    """The training data for BatchNorm, with the ingredients' processing; `None` if they have no BatchNorm."""
    if data is None or not any(map(is_statistic, candidates[0].specs)):
        return None
    bound = bind_evaluator(data, candidates, split="train")
    if not isinstance(bound, Evaluator):
        raise RecipeError("BatchNorm is estimated on examples: give a data set as batchnorm_data.")
    return bound


def batchnorm_record(training: Evaluator | None) -> StatisticsRecord | None:
    """The description of the training data for BatchNorm in recipes; `None` if there is none."""
    if training is None:
        return None
    return training.described_batches()
