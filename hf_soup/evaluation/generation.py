"""Texts that models write: the options of `model.generate`, and the texts beside what they should have been."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import DataError, EvaluationError
from ..metrics.predictions import Predictions
from ..tasks import WritingTask
from .running import BatchOutput


if TYPE_CHECKING:
    from .evaluator import Evaluator


def generation_options(evaluator: Evaluator) -> dict[str, Any] | None:
    """Options of `model.generate`, or `None` where no texts are written.

    Args:
        evaluator ([`Evaluator`]):
            Whose task is known.

    Raises:
        [`EvaluationError`]: if texts are asked for, and models of the task write none.
        [`DataError`]: if there is no tokenizer to read them with.
    """
    generate = evaluator.generate
    if not generate and not any(metric.needs_texts for metric in evaluator.metrics):
        return None
    if not isinstance(evaluator.task_module, WritingTask):
        raise EvaluationError(f"models for {evaluator.task} are not asked to write texts; leave `generate` out.")
    if evaluator.processing_class is None:
        raise DataError("what a model writes is read with its tokenizer: Evaluator(..., processing_class=...).")
    if isinstance(generate, bool):
        return {}
    return dict(generate)


def with_texts(
    predictions: Predictions, batch_outputs: Sequence[BatchOutput], evaluator: Evaluator, task: WritingTask
) -> Predictions:
    """Predictions with the texts that a model wrote, and those that it should have written.

    Args:
        predictions ([`Predictions`]):
            Of all batches.
        batch_outputs (`Sequence[BatchOutput]`):
            What was written for the rows of each batch.
        evaluator ([`Evaluator`]):
            Holds the data.
        task (`WritingTask`):
            Says where the data has the texts to be written.
    """
    written: dict[int, str] = {}
    for output in batch_outputs:
        written.update(zip(output.rows, output.texts, strict=True))
    label = task.label_column(evaluator.dataset, evaluator.label_column)
    references = task.references(evaluator.dataset, label)
    # One for each row of the data set, as metrics take them; rows that were not run have none.
    texts = tuple(written.get(row, "") for row in range(len(references)))
    return predictions._replace(texts=texts, references=references)
