"""How many steps and evaluations a run will have, as Trainer counts them. Nothing is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..metrics.load import Metric
from .context import SweepContext
from .settings import separate, training_arguments


if TYPE_CHECKING:
    from transformers import TrainingArguments


class Length(NamedTuple):
    """How long one run is.

    Args:
        steps (`int`):
            Optimizer steps.
        evaluations (`int`):
            Evaluations, each with a checkpoint.
    """

    steps: int
    evaluations: int


def run_length(context: SweepContext, name: str, settings: Mapping[str, Any], metric: Metric) -> Length:
    """Steps and evaluations of one run.

    Args:
        context ([`SweepContext`]):
            What all runs share.
        name (`str`):
            Of the run.
        settings (`Mapping[str, Any]`):
            Its own settings.
        metric ([`Metric`]):
            The metric that decides which evaluation is the best.
    """
    fields, extra = separate({**context.training_args, **settings})
    args = training_arguments(
        context.folder / name,
        fields,
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
    # from one evaluation to the next; checkpoints are saved with them
    interval: float = args.save_steps if args.save_strategy == "steps" else epoch
    if 0 < interval < 1:  # a share of all steps
        interval = interval * steps
    return Length(steps, math.ceil(steps / interval))


def _steps_of_an_epoch(rows: int, args: TrainingArguments) -> int:
    """Optimizer steps in which a run sees each of its rows once."""
    batch_size = args.train_batch_size * args.world_size
    if args.dataloader_drop_last:
        batches = max(rows // batch_size, 1)
    else:
        batches = math.ceil(rows / batch_size)
    return max(math.ceil(batches / args.gradient_accumulation_steps), 1)
