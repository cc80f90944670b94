"""Trains a model with `transformers.Trainer`, or with that of sentence-transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..plugins import load_module
from ..tasks import LossTask, SentenceTask, training_collator
from ..tasks._model_inputs import inputs_of
from .adapters import plain
from .averages import average_of
from .class_weights import WeightedLoss, class_names, resolve_class_weights, scored_labels
from .context import SweepContext
from .metric import compute_metrics, selecting_metric
from .optimizer import optimizer_of
from .resume import STATE, add_callback_states, has_ended
from .sentences import arguments_class, sentence_trainer
from .settings import Extra, training_arguments


if TYPE_CHECKING:
    import transformers
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, Trainer


def fit(
    context: SweepContext,
    model: PreTrainedModel,
    fields: Mapping[str, Any],
    extra: Extra,
    folder: Path,
    *,
    keep: str,
    resume: Path | None = None,
    saves: bool = True,
) -> Trainer:
    """Train a model with Trainer.

    Args:
        context ([`SweepContext`]):
            Data, task and metric of the sweep.
        model (`transformers.PreTrainedModel`):
            Model to train, which is changed in place.
        fields (`Mapping[str, Any]`), extra ([`Extra`]):
            Settings, as returned by [`separate`].
        folder (`Path`):
            Folder for checkpoints.
        keep (`str`):
            `"best"`, `"last"` or `"all"`.
        resume (`Path`, *optional*):
            Checkpoint to resume from.
        saves (`bool`, *optional*, defaults to `True`):
            Whether checkpoints are saved.

    Returns:
        `transformers.Trainer`: the Trainer in its final state.
    """
    import transformers
    from transformers.trainer_callback import PrinterCallback

    from .callbacks import ended_tracking, one_group, stop_early
    from .halving import StopLowerHalf

    task = load_module("task", context.task)
    metric = selecting_metric(context.metric, context.higher_is_better, task.KIND)
    has_bar = context.bars and not fields.get("disable_tqdm")
    callbacks = _callbacks(context, extra, folder.name, keep=keep, has_bar=has_bar)
    if context.halves:
        callbacks.append(StopLowerHalf(folder, metric))
    named = {"run_name": f"{context.folder.name}/{folder.name}", "project": context.folder.name, **fields}
    args = training_arguments(
        folder,
        named,
        arguments_class(task),
        keep=keep,
        evaluates=context.validation is not None,
        metric=metric,
        saves=saves,
        stops_early=stop_early(callbacks),
    )
    train = _draw_rows(context.train, extra.bagging_fraction, args.seed)
    if extra.augment:
        train = task.augmented(train, extra.augment, context.processing_class)
    loss = None
    with one_group(context.folder, folder.name), ended_tracking(args):
        if isinstance(task, SentenceTask):
            trainer = sentence_trainer(
                context, model, args, train=train, loss=extra.loss, metric=metric, callbacks=callbacks
            )
        else:
            loss = _weighted_loss(context, extra, model.config, args.label_smoothing_factor)
            own_loss = task.training_loss if isinstance(task, LossTask) else None
            if own_loss is not None:
                args.label_names = ["labels"]  # Trainer would read them off the model, which takes none
            trainer = transformers.Trainer(
                model=model,
                args=args,
                train_dataset=train,
                eval_dataset=context.validation,
                data_collator=training_collator(task, context.processing_class, inputs_of(plain(model))),
                processing_class=context.processing_class,  # saved in each checkpoint
                compute_loss_func=loss or own_loss,
                compute_metrics=compute_metrics(metric, task.KIND, model.config),
                callbacks=callbacks,
                preprocess_logits_for_metrics=_logits_alone,
            )
        trainer.remove_callback(PrinterCallback)  # Trainer adds it if its own progress bar is disabled
        # set afterwards, because the Trainer knows its own optimizers and the parameters with weight decay
        trainer.optimizer_cls_and_kwargs = optimizer_of(
            trainer,
            model,
            name=extra.optimizer,
            momentum=extra.momentum,
            layer_decay=extra.layer_decay,
        )
        if loss is not None:
            loss.attach(trainer)
        if resume is None:
            trainer.train()
        else:
            _go_on(trainer, resume)
    return trainer


def _callbacks(
    context: SweepContext, extra: Extra, name: str, *, keep: str, has_bar: bool
) -> list[transformers.TrainerCallback]:
    """The callbacks of one run: those of the user first, then those of hf_soup."""
    from transformers import EarlyStoppingCallback

    from .callbacks import Bar, KeepWeightsAlone, LogBeforeSaving, StopWhenDiverged, fresh_callbacks

    callbacks = fresh_callbacks(context.callbacks)
    if extra.early_stopping_patience is not None:
        threshold = extra.early_stopping_threshold or 0.0
        callbacks.append(EarlyStoppingCallback(extra.early_stopping_patience, threshold))
    if extra.average is not None:
        callbacks.append(average_of(extra.average))
    callbacks += [StopWhenDiverged(), LogBeforeSaving()]
    if has_bar:
        callbacks.append(Bar(name))
    if keep == "all":
        callbacks.append(KeepWeightsAlone())
    return callbacks


def _weighted_loss(
    context: SweepContext, extra: Extra, config: PretrainedConfig, label_smoothing: float
) -> WeightedLoss | None:
    """The loss of a run with class weights; `None` if the model computes its own."""
    if extra.class_weights is None:
        return None
    # balanced weights use all training data, even if a run uses only a part of it
    labels = scored_labels(context.train)
    weights = resolve_class_weights(extra.class_weights, class_names(config), labels)
    return WeightedLoss(weights, label_smoothing)


def _go_on(trainer: Trainer, checkpoint: Path) -> None:
    """Resume training from a checkpoint of an interrupted run."""
    from transformers.trainer_callback import TrainerState

    from .callbacks import exportable_states

    state = TrainerState.load_from_json(str(checkpoint / STATE))
    if has_ended(state):  # interrupted after its last step: Trainer would add another one
        trainer.state = state
        return
    trainer.args.eval_on_start = False  # this is not a start, and early stopping would count the evaluation
    add_callback_states(checkpoint, exportable_states(trainer))
    trainer.train(resume_from_checkpoint=str(checkpoint))


def without_trackers(trainer: Trainer) -> None:
    """Remove the callbacks that report to trackers."""
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__module__.endswith("integration_utils"):
            trainer.remove_callback(callback)


def _logits_alone(logits: Any, labels: Any) -> Any:
    """The logits without the encoder states that encoder-decoder models also return."""
    return logits[0] if isinstance(logits, tuple) else logits


def _draw_rows(train: Dataset, fraction: float, seed: int) -> Dataset:
    """The subset of the training data that a run uses, in the order of the data."""
    import numpy as np

    if fraction == 1:
        return train
    size = max(round(len(train) * fraction), 1)
    drawn = np.random.default_rng(seed).permutation(len(train))[:size]
    return train.select(np.sort(drawn))
