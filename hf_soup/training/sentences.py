"""Models of sentence-transformers in a sweep: their start, their losses by name, and the Trainers of that library."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.hub import split_revision
from ..checkpoints.inside import json_inside
from ..checkpoints.memory import quiet_transformers
from ..errors import MissingExtraError, RecipeError, TrainingError, did_you_mean
from ..evaluation.evaluator import Evaluator
from ..merging.sentence_models import EXTRA, SETTINGS
from ..metrics.load import Metric
from ..plugins import load_module
from ..tasks import SentenceTask, Task
from ..untrusted import as_error, one_line
from .context import SweepContext


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer, TrainerCallback, TrainingArguments

LOSS = "loss"  # the setting of a run
# Settings that the losses and Trainers of sentence-transformers have no place for.
NOT_TAKEN = ("augment", "class_weights", "label_smoothing_factor", "peft")


def arguments_class(task: Task) -> type[TrainingArguments]:
    """The class of the training arguments for a task.

    Raises:
        [`MissingExtraError`]: if it is one of sentence-transformers, which is not installed.
    """
    if not isinstance(task, SentenceTask):
        from transformers import TrainingArguments

        return TrainingArguments
    return _parts_of(task)[1]


def _parts_of(task: SentenceTask) -> tuple[Any, Any, Any, Any]:
    """The class of the models of a task, of their training arguments and of their Trainer, and the losses."""
    try:
        import sentence_transformers as library
    except ImportError:
        raise MissingExtraError(EXTRA) from None
    folder = {"SentenceTransformer": "sentence_transformer", "CrossEncoder": "cross_encoder"}[task.TRAINED_AS]
    losses = importlib.import_module(f"sentence_transformers.{folder}.losses")
    names = [task.TRAINED_AS, f"{task.TRAINED_AS}TrainingArguments", f"{task.TRAINED_AS}Trainer"]
    model, arguments, trainer = (getattr(library, name) for name in names)
    return model, arguments, trainer, losses


def check_sentence_settings(settings: Mapping[str, Any], task: SentenceTask) -> None:
    """Raise an error for settings that these Trainers do not take, and for an unknown loss.

    Args:
        settings (`Mapping[str, Any]`):
            Settings of one run, including the shared ones.
        task ([`SentenceTask`]):
            A file of `hf_soup.tasks`.

    Raises:
        [`RecipeError`]: naming the setting, or the known losses.
    """
    for name in settings:
        if name in NOT_TAKEN or name.startswith("peft."):
            raise RecipeError(f'"{name}" is not for {task.PIPELINE}, which sentence-transformers trains.')
    loss = settings.get(LOSS)
    known = [name for name in dir(_parts_of(task)[3]) if name.endswith("Loss")]
    if loss is not None and loss not in known:
        raise RecipeError(f"{task.TRAINED_AS} has no loss {one_line(repr(loss))}{did_you_mean(str(loss), known)}")


def load_sentence_model(task: SentenceTask, source: str | Path, max_length: int | None = None) -> Any:
    """Load a model to train; one of transformers alone gets the mean of its outputs, or a head of one number.

    Args:
        task ([`SentenceTask`]):
            A file of `hf_soup.tasks`.
        source (`str` or `Path`):
            Folder, or Hub id with an optional `@revision`.
        max_length (`int`, *optional*):
            Number of tokens at which texts are truncated; by default that of the model.

    Raises:
        [`TrainingError`]: if it does not load, or is a sparse encoder.
    """
    model_class = _parts_of(task)[0]
    name, revision = split_revision(str(source))
    folder = Path(source)
    if folder.is_dir():
        name, revision = str(source), None
        settings = json_inside(folder, SETTINGS) if (folder / SETTINGS).is_file() else {}
        kind = settings.get("model_type", model_class.__name__)
        if kind != model_class.__name__:
            raise TrainingError(f"{source} is a {one_line(kind, 40)}, and {task.PIPELINE} trains a {task.TRAINED_AS}.")
    options = {"num_labels": 1} if task.TRAINED_AS == "CrossEncoder" else {}
    with as_error(TrainingError, f"{source} does not load as a {task.TRAINED_AS}"), quiet_transformers():
        model = model_class(name, revision=revision, device="cpu", trust_remote_code=False, **options)
    if max_length is not None:
        model.max_seq_length = max_length
    return model


def sentence_trainer(
    context: SweepContext,
    model: Any,
    args: TrainingArguments,
    *,
    train: Dataset,
    loss: str | None,
    metric: Metric,
    callbacks: Sequence[TrainerCallback],
) -> Trainer:
    """The Trainer of a run.

    Args:
        context ([`SweepContext`]):
            Data, task and metric of the sweep.
        model (`SentenceTransformer` or `CrossEncoder`):
            Model to train.
        args (`transformers.TrainingArguments`):
            Arguments of the class that [`arguments_class`] returns.
        train (`datasets.Dataset`):
            The rows of `training_rows` that the run uses.
        loss (`str`, *optional*):
            Name of the loss; by default that of the rows.
        metric ([`Metric`]):
            Metric that determines the best evaluation.
        callbacks (`Sequence[transformers.TrainerCallback]`):
            Callbacks.

    Raises:
        [`RecipeError`]: if the loss needs more than the model.
    """
    from sentence_transformers.base.evaluation import BaseEvaluator

    task: Any = load_module("task", context.task)
    _, _, trainer_class, losses = _parts_of(task)
    chosen = loss or task.default_loss(train)
    with as_error(RecipeError, f"{chosen} cannot be made from the model alone"):
        loss_of_model = getattr(losses, chosen)(model)
    evaluator = None
    if context.validation is not None:
        evaluator = Evaluator(
            context.validation,
            task=context.task,
            metric=context.metric,
            higher_is_better=context.higher_is_better,
            label_column=context.label_column,
            text_columns=context.text_columns,
            processing_class=None if task.TRAINED_AS == "SentenceTransformer" else context.processing_class,
            cache=False,
        )

    # Defined here, because the library is imported only on demand.
    class Scored(BaseEvaluator):
        def __call__(
            self, trained: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1
        ) -> dict[str, float]:
            if output_path is not None:
                with contextlib.suppress(OSError):  # made for files of evaluators, of which there are none
                    os.rmdir(output_path)
            return {} if evaluator is None else {metric.name: evaluator(trained).value}

    # The library's way to leave out its card, which takes long: hf_soup writes one.
    class Quiet(trainer_class):  # type: ignore[misc, valid-type]
        def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
            pass

    return Quiet(
        model=model,
        args=args,
        train_dataset=train,
        loss=loss_of_model,
        evaluator=None if evaluator is None else Scored(),
        callbacks=list(callbacks),
    )
