"""Callbacks of Trainer: those of the user, a fresh copy for each run, and our own.

Ours show a bar that prints nothing, end runs that diverge, and save disk. It also groups the runs of a sweep for
trackers. It trains nothing.
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
    """Trainer's bar, with the name of the run; what Trainer logs stands behind it instead of above it.

    Args:
        name (`str`):
            Of the run.
    """

    def __init__(self, name: str):
        super().__init__()
        self._name = name

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar, in the process that people see."""
        if state.is_world_process_zero:
            # transformers declares None here, and sets a bar in the method that this one replaces
            self.training_bar = progress_bar(total=state.max_steps, desc=self._name, unit="step", dynamic_ncols=True)  # type: ignore[assignment]
        self.current_step = 0  # which transformers' bar counts in its other methods

    def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kw: Any) -> None:
        """No second bar for evaluations."""

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
    """Ends a run whose loss is no number any more.

    Raises:
        [`DivergedError`]: when such a loss is logged.
    """

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Look at the loss."""
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise DivergedError(f"its loss is {loss} at step {state.global_step}")


class LogBeforeSaving(TrainerCallback):
    """Logs the loss at each checkpoint: Trainer that goes on from there does not know the losses before it."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """At a checkpoint after so many steps."""
        control.should_log |= control.should_save

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """At a checkpoint after an epoch."""
        control.should_log |= control.should_save


class KeepWeightsAlone(TrainerCallback):
    """Takes the state of the optimizer out of all checkpoints but the newest, where all are kept."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tidy up behind the newest."""
        if state.is_world_process_zero:
            checkpoints = list(checkpoints_in(Path(args.output_dir)))
            for checkpoint in checkpoints[:-1]:  # an interrupted run goes on from the last one
                forget_training(checkpoint)


def listed_callbacks(callbacks: Any) -> tuple[Any, ...]:
    """The user's callbacks as a tuple; they are not looked at.

    Args:
        callbacks (`Iterable`, *optional*):
            As of [`hf_soup.sweep`].

    Raises:
        [`RecipeError`]: if it is no list.
    """
    if callbacks is None:
        return ()
    if isinstance(callbacks, (str, bytes)) or not isinstance(callbacks, Iterable):
        raise RecipeError(f"callbacks is a list of transformers.TrainerCallback, not {callbacks!r}.")
    return tuple(callbacks)


def fresh_callbacks(callbacks: Sequence[Any]) -> list[TrainerCallback]:
    """The user's callbacks for one run: copies of instances, and new instances of classes and of what factories make.

    Args:
        callbacks (`Sequence`):
            As [`listed_callbacks`] gives them.

    Raises:
        [`RecipeError`]: if one is none, cannot be copied, or cannot be made without arguments.
    """
    return [_fresh_callback(item) for item in callbacks]


def _fresh_callback(item: Any) -> TrainerCallback:
    """A copy of a callback, or what a class or factory makes: no run sees the state that another one left."""
    make: Callable[[], Any]
    if isinstance(item, TrainerCallback):
        make = partial(copy.deepcopy, item)
    elif callable(item):
        make = item
    else:
        raise RecipeError(f"callbacks: {item!r} is no transformers.TrainerCallback, and no class or factory of one.")
    try:
        callback = make()
    except Exception as error:  # whatever the code of others raises
        why = f"{type(error).__name__}: {error}"
        raise RecipeError(f"callbacks: of {item!r} no callback can be made for each run ({why}).") from error
    if not isinstance(callback, TrainerCallback):
        raise RecipeError(f"callbacks: {item!r} makes {callback!r}, which is no transformers.TrainerCallback.")
    return callback


def check_picklable(callbacks: Sequence[Any]) -> None:
    """Refuse callbacks that cannot be sent to processes of their own.

    Raises:
        [`RecipeError`]: for the first of them.
    """
    for item in callbacks:
        try:
            pickle.dumps(item)
        except Exception as error:  # pickle raises what it likes
            raise RecipeError(
                f"callbacks: {item!r} cannot be sent to the processes that train on several GPUs ({error}). Write a "
                "class or a function of a module."
            ) from None


def stop_early(callbacks: Iterable[TrainerCallback]) -> bool:
    """Whether one of them ends a run whose score no longer improves, for which Trainer has to know the best one."""
    return any(isinstance(callback, EarlyStoppingCallback) for callback in callbacks)


def exportable_states(trainer: Trainer) -> dict[str, Any]:
    """The states that the callbacks of a Trainer put into its checkpoints, by the name of their class."""
    states = {}
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, ExportableState):
            states[type(callback).__name__] = callback.state()
    return states


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
    group = {"WANDB_RUN_GROUP": sweep.name, "TENSORBOARD_LOGGING_DIR": str(sweep / "tensorboard" / name)}
    unset = [key for key in group if key not in os.environ]
    for key in unset:
        os.environ[key] = group[key]
    try:
        yield
    finally:
        for key in unset:
            os.environ.pop(key, None)
