"""Callbacks of Trainer: copies of the user's callbacks for each run, and those of hf_soup.

Those of hf_soup show a progress bar, end runs that diverge, and save disk space. The runs of a sweep are also grouped
for trackers. Nothing is trained here.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import EarlyStoppingCallback, ProgressCallback, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState

from ..errors import RecipeError
from ..progress import progress_bar
from .history import is_timing
from .records import DivergedError
from .resume import checkpoints_in, forget_training


if TYPE_CHECKING:
    from transformers import Trainer


class Bar(ProgressCallback):
    """Trainer's progress bar with the name of the run; logged values are shown in the bar instead of above it.

    Args:
        name (`str`):
            Name of the run.
    """

    def __init__(self, name: str):
        super().__init__()
        self._name = name

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar, in the main process only."""
        if state.is_world_process_zero:
            # transformers declares None here, and sets a bar in the method that this one replaces
            self.training_bar = progress_bar(total=state.max_steps, desc=self._name, unit="step", dynamic_ncols=True)  # type: ignore[assignment]
        self.current_step = 0  # which transformers' bar counts in its other methods

    def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kw: Any) -> None:
        """Show no second bar for evaluations."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Show the newest loss and scores."""
        if self.training_bar is None:
            return
        numbers = {}
        for key, value in (logs or {}).items():
            if key == "loss" or (key.startswith("eval_") and not is_timing(key)):
                numbers[key] = f"{value:.4g}"
        if numbers:
            self.training_bar.set_postfix(numbers)


class StopWhenDiverged(TrainerCallback):
    """Ends a run whose loss is NaN or infinite.

    Raises:
        [`DivergedError`]: if such a loss is logged.
    """

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Check the loss."""
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise DivergedError(f"its loss is {loss} at step {state.global_step}")


class LogBeforeSaving(TrainerCallback):
    """Logs the loss at each checkpoint: a Trainer that resumes from it does not know the earlier losses."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log at a checkpoint after a number of steps."""
        control.should_log |= control.should_save

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log at a checkpoint after an epoch."""
        control.should_log |= control.should_save


class KeepWeightsAlone(TrainerCallback):
    """Deletes the optimizer state of all checkpoints except the newest, if all checkpoints are kept."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Delete the optimizer states of older checkpoints."""
        if state.is_world_process_zero:
            checkpoints = list(checkpoints_in(Path(args.output_dir)))
            for checkpoint in checkpoints[:-1]:  # an interrupted run resumes from the last one
                forget_training(checkpoint)


def listed_callbacks(callbacks: Any) -> tuple[Any, ...]:
    """The user's callbacks as a tuple, without checking them.

    Args:
        callbacks (`Iterable`, *optional*):
            Callbacks, as for [`hf_soup.sweep`].

    Raises:
        [`RecipeError`]: if `callbacks` is not a list.
    """
    if callbacks is None:
        return ()
    if isinstance(callbacks, (str, bytes)) or not isinstance(callbacks, Iterable):
        raise RecipeError(f"callbacks is a list of transformers.TrainerCallback, not {callbacks!r}.")
    return tuple(callbacks)


def fresh_callbacks(callbacks: Sequence[Any]) -> list[TrainerCallback]:
    """The user's callbacks for one run: copies of instances, and new instances made by classes and factories.

    Args:
        callbacks (`Sequence`):
            Callbacks, as returned by [`listed_callbacks`].

    Raises:
        [`RecipeError`]: if an item is not a callback, cannot be copied, or cannot be made without arguments.
    """
    return [_fresh_callback(item) for item in callbacks]


def _fresh_callback(item: Any) -> TrainerCallback:
    """A copy of a callback, or a new one from a class or factory, so that runs share no state."""
    make: Callable[[], Any]
    if isinstance(item, TrainerCallback):
        make = partial(copy.deepcopy, item)
    elif callable(item):
        make = item
    else:
        raise RecipeError(f"callbacks: {item!r} is no transformers.TrainerCallback, and no class or factory of one.")
    try:
        callback = make()
    except Exception as error:  # the user's code may raise anything
        why = f"{type(error).__name__}: {error}"
        raise RecipeError(f"callbacks: {item!r} cannot be copied or made for each run ({why}).") from error
    if not isinstance(callback, TrainerCallback):
        raise RecipeError(f"callbacks: {item!r} makes {callback!r}, which is no transformers.TrainerCallback.")
    return callback


def check_picklable(argument: str, values: Sequence[Any]) -> None:
    """Raise an error for callbacks or a metric that cannot be sent to other processes.

    Args:
        argument (`str`):
            Name of the argument that the values were given as.
        values (`Sequence`):
            Values of the argument.

    Raises:
        [`RecipeError`]: for the first value that cannot be pickled.
    """
    for item in values:
        try:
            pickle.dumps(item)
        except Exception as error:  # pickle may raise anything
            raise RecipeError(
                f"{argument}: {item!r} cannot be sent to the processes that train on several GPUs ({error}). Write a "
                "class or function at the top level of a module."
            ) from None


def stop_early(callbacks: Iterable[TrainerCallback]) -> bool:
    """Whether a callback ends runs whose score no longer improves, for which Trainer has to track the best score."""
    return any(isinstance(callback, EarlyStoppingCallback) for callback in callbacks)


def exportable_states(trainer: Trainer) -> dict[str, Any]:
    """The states that a Trainer's callbacks save in its checkpoints, by class name."""
    states = {}
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, ExportableState):
            states[type(callback).__name__] = callback.state()
    return states


@contextlib.contextmanager
def ended_tracking(args: TrainingArguments) -> Iterator[None]:
    """End the W&B run however training ends: Trainer leaves it open, and the next run would continue it."""
    try:
        yield
    finally:
        wandb = sys.modules.get("wandb")
        if wandb is not None and "wandb" in (args.report_to or ()) and wandb.run is not None:
            wandb.finish()


@contextlib.contextmanager
def one_group(sweep: Path, name: str) -> Iterator[None]:
    """Group the runs of a sweep for trackers, by environment variables; variables that are already set are kept."""
    group = {"WANDB_RUN_GROUP": sweep.name, "TENSORBOARD_LOGGING_DIR": str(sweep / "tensorboard" / name)}
    unset = [key for key in group if key not in os.environ]
    for key in unset:
        os.environ[key] = group[key]
    try:
        yield
    finally:
        for key in unset:
            os.environ.pop(key, None)
