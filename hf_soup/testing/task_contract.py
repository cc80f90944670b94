"""The contract of tasks: what the rest of the package relies on, to be checked in tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..evaluation.evaluator import Evaluator
from ..metrics.built_in import BUILT_IN
from ..metrics.predictions import KINDS, WITHOUT_LOSS, Predictions, losses
from ..tasks import ColumnsTask, LossTask, WholeTask, training_collator
from ..tasks._model_inputs import inputs_of
from ..tasks._sentences import AUTO_CLASS as SENTENCES
from .tiny import example_of, model_for


if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasets import Dataset
    from transformers import PreTrainedModel

    from ..tasks import Task


def check_task(task: Task) -> None:
    """Check the contract of a task: its example is scored completely, in any batches and order, with the model's loss.

    Args:
        task (`ModuleType`):
            A file of `hf_soup.tasks`, or one of an extension author's.
    """
    name = task.__name__.rsplit(".", 1)[-1]
    _check_declarations(task, name)
    model, processing_class = model_for(task)
    data = example_of(task)
    # A loaded configuration names the class; that of a model that was just built does not.
    config = type(model.config).from_dict({**model.config.to_dict(), "architectures": [type(model).__name__]})
    fits = task.fits(config)
    if isinstance(task, ColumnsTask):
        fits = task.fits_columns(config, data.column_names)
    assert fits, f"{name} does not fit its own example"
    predictions = _check_predictions(task, name, model, processing_class, data)
    if predictions.kind in WITHOUT_LOSS or task.AUTO_CLASS == SENTENCES:  # without a loss of the model
        return
    own_losses = losses(predictions)
    for row, model_loss in enumerate(_model_losses(task, model, processing_class, data)):
        own_loss = own_losses[predictions.rows == row].mean()
        assert abs(own_loss - model_loss) < 1e-4, f"{name} has another loss than its model: {own_loss}, {model_loss}"


def _check_declarations(task: Task, name: str) -> None:
    """Check the declarations of a task."""
    import transformers

    assert task.__doc__, f"{name} does not say what it is"
    for auto_class in [task.AUTO_CLASS] if isinstance(task.AUTO_CLASS, str) else task.AUTO_CLASS:
        is_there = hasattr(transformers, auto_class) or auto_class == SENTENCES
        assert is_there, f"{name}: transformers has no {auto_class}"
    assert task.KIND in KINDS, f"{name} gives {task.KIND}, which is none of {', '.join(KINDS)}"
    assert task.KIND in BUILT_IN[task.METRIC].kinds, f"{name}: {task.METRIC} is not defined for {task.KIND}"


def _check_predictions(
    task: Task, name: str, model: PreTrainedModel, processing_class: Any, data: Dataset
) -> Predictions:
    """Predictions for a task's example, which have to be complete and the same in any batches and order."""
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
    if isinstance(task, WholeTask):  # documents are in the order of the data
        in_order = (np.lexsort((each.labels, each.logits, each.rows)) for each in (whole, turned_back))
        whole, turned_back = (
            each._replace(logits=each.logits[order], labels=each.labels[order], rows=each.rows[order])
            for each, order in zip((whole, turned_back), in_order, strict=True)
        )
    assert np.allclose(whole.logits, turned_back.logits, atol=1e-5), f"{name} depends on the order of the data"
    assert np.array_equal(whole.labels, turned_back.labels), f"{name} gives labels to other rows"
    return whole


def _model_losses(task: Task, model: PreTrainedModel, processing_class: Any, data: Dataset) -> Iterator[float]:
    """The loss that a model computes itself on each row of a task's example; by itself, because some count padding."""
    import torch

    label = task.label_column(data, None)
    labels = task.labels(data, label, model.config)
    inputs = inputs_of(model)
    encoded = task.encode(data, processing_class, task.columns(data, None, label), labels, inputs)
    collate = training_collator(task, processing_class, inputs)
    for row in range(len(data)):
        batch = collate(encoded.__getitems__([row]))
        with torch.no_grad():
            if isinstance(task, LossTask):
                right = batch.pop("labels")
                yield float(task.training_loss(model(**batch), right))
            else:
                yield float(model(**batch).loss)
