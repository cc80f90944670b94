"""Callbacks of Trainer: a bar that prints nothing, an end to runs that diverge, less disk, one group for a sweep."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerCallback, TrainingArguments

from .processes import hidden
from .records import DivergedError
from .resume import checkpoints_in, forget_training


class Bar(ProgressCallback):
    """Trainer's bar, with the name of the run; what Trainer logs stands behind it instead of above it.

    Args:
        name (`str`):
            Of the run.
    """

    def __init__(self, name: str):
        super().__init__()
        self._name = name

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open it, where people look."""
        if state.is_world_process_zero:
            self.training_bar = tqdm(
                total=state.max_steps, desc=self._name, unit="step", leave=False, dynamic_ncols=True, disable=hidden()
            )
        self.current_step = 0

    def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kw: Any) -> None:
        """No second bar for evaluations."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Show the newest loss and scores."""
        if self.training_bar is not None:
            shown = {key: value for key, value in (logs or {}).items() if key == "loss" or key.startswith("eval_")}
            timings = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
            numbers = {key: f"{value:.4g}" for key, value in shown.items() if key not in timings}
            if numbers:
                self.training_bar.set_postfix(numbers)


class StopWhenDiverged(TrainerCallback):
    """Ends a run whose loss is no number any more.

    Raises:
        [`DivergedError`]: when such a loss is logged.
    """

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Look at the loss."""
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise DivergedError(f"its loss is {loss} at step {state.global_step}")


class KeepWeightsAlone(TrainerCallback):
    """Takes the state of the optimizer out of all checkpoints but the newest, where all are kept."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tidy up behind the newest."""
        if state.is_world_process_zero:
            for checkpoint in list(checkpoints_in(Path(args.output_dir)))[:-1]:
                forget_training(checkpoint)


@contextlib.contextmanager
def ended_tracking(args: TrainingArguments) -> Iterator[None]:
    """End the run of W&B, however training ends: Trainer leaves it open, and the next one would go on in it."""
    try:
        yield
    finally:
        wandb = sys.modules.get("wandb")
        if wandb is not None and "wandb" in (args.report_to or ()) and wandb.run is not None:
            wandb.finish()


@contextlib.contextmanager
def one_group(sweep: Path, name: str) -> Iterator[None]:
    """Tell the trackers that read the environment that a run is one of a sweep; what is set already stays."""
    ours = {"WANDB_RUN_GROUP": sweep.name, "TENSORBOARD_LOGGING_DIR": str(sweep / "tensorboard" / name)}
    ours = {key: value for key, value in ours.items() if key not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for key in ours:
            os.environ.pop(key, None)
