"""The number of steps and evaluations of a run, as Trainer counts them. Nothing is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..metrics.load import Metric
from ..plugins import load_module
from .context import SweepContext
from .folds import in_fold
from .sentences import arguments_class
from .settings import separate, training_arguments


if TYPE_CHECKING:
    from transformers import TrainingArguments


class Length(NamedTuple):
    """The length of one run.

    Args:
        steps (`int`):
            Number of optimizer steps.
        evaluations (`int`):
            Number of evaluations, each with a checkpoint.
    """

    steps: int
    evaluations: int


def run_length(context: SweepContext, name: str, settings: Mapping[str, Any], metric: Metric) -> Length:
    """The number of steps and evaluations of one run.

    Args:
        context ([`SweepContext`]):
            Values that all runs share.
        name (`str`):
            Name of the run.
        settings (`Mapping[str, Any]`):
            Settings of the run.
        metric ([`Metric`]):
            Metric that determines the best evaluation.
    """
    context = in_fold(context, settings)
    fields, extra = separate({**context.training_args, **settings})
    args = training_arguments(
        context.folder / name,
        fields,
        arguments_class(load_module("task", context.task)),
        keep=context.keep,
        evaluates=context.validation is not None,
        metric=metric,
    )
    rows = max(round(len(context.train) * extra.bagging_fraction), 1)
    epoch = _steps_of_an_epoch(rows, args)
    if args.max_steps > 0:  # -1 stands for none
        steps = args.max_steps
    else:
        steps = math.ceil(args.num_train_epochs * epoch)
    # steps between evaluations, at which checkpoints are saved too
    interval: float = args.save_steps if args.save_strategy == "steps" else epoch
    if 0 < interval < 1:  # a fraction of all steps
        interval = interval * steps
    return Length(steps, math.ceil(steps / interval))


def _steps_of_an_epoch(rows: int, args: TrainingArguments) -> int:
    """The number of optimizer steps of one epoch."""
    batch_size = args.train_batch_size * args.world_size
    if args.dataloader_drop_last:
        batches = max(rows // batch_size, 1)
    else:
        batches = math.ceil(rows / batch_size)
    return max(math.ceil(batches / args.gradient_accumulation_steps), 1)
