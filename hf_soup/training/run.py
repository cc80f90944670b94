"""One run: trains from the start or resumes, and writes the folder of the run or the reason for a failure."""

from __future__ import annotations

import errno
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.memory import quiet_transformers
from ..checkpoints.staging import flush_folder, write_json
from ..errors import OutputError, TrainingError
from ..plugins import load_module
from ..publishing.bases import RUN_FILE, START
from ..publishing.run_card import render_run_card, write_card
from ..tasks import SentenceTask
from ..tasks._model_inputs import auto_class
from ..types import is_better_higher
from ..version import versions
from .adapters import with_adapter
from .context import SweepContext
from .folds import in_fold
from .head import with_new_head
from .history import evaluation_at, is_timing, last_loss, lasting_history
from .metric import selecting_metric
from .processes import give_up, is_main, wait
from .records import (
    FAILED_FILE,
    DivergedError,
    FailedRun,
    Run,
    StoppedError,
    load_runs,
    plain_settings,
    record_failure,
    tidy,
)
from .resume import AVERAGE, STATE, adopt, checkpoints_in, forget_training, newest_whole_checkpoint, step_of
from .sentences import load_sentence_model
from .settings import separate
from .trainer import fit, without_trackers


if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer, TrainerState

    from ..tasks import Task

FULL = 1_000_000  # bytes; a disk with fewer free bytes is full, whatever the error says
LONGEST_REASON = 300  # characters


def train_run(context: SweepContext, name: str, params: Mapping[str, Any]) -> tuple[Run, ...] | FailedRun:
    """Train one run from the shared start, or resume an interrupted run from its newest complete checkpoint.

    Args:
        context ([`SweepContext`]):
            Values that all runs share.
        name (`str`):
            Name of the run and its folder.
        params (`Mapping[str, Any]`):
            Settings of this run.

    Returns:
        `tuple[Run, ...]` or [`FailedRun`]: the run, after its intermediate checkpoints if these are kept; or the
        failure, which is also recorded in its folder.

    Raises:
        [`OutputError`]: if the disk is full, so that further runs would fail too.
        [`TrainingError`]: if a worker cannot access the folder of the sweep.
    """
    from accelerate.utils.memory import clear_device_cache

    folder = context.folder / name
    if not (context.folder / START).is_dir():
        raise TrainingError(
            f"{context.folder} is not accessible to every worker: put output_dir on storage that all of them share."
        )
    runs = load_runs(folder)
    if runs:  # trained by a worker that died before it could report them
        trained_with = {**runs[-1].state.get("training_args", {}), **runs[-1].params}
        if trained_with == plain_settings({**context.training_args, **params}):
            return runs
    try:
        _train(context, folder, params)
    except Exception as error:  # an error of Trainer, the model or the data only ends this run
        _refuse_full_disk(error, context.folder)
        failed = record_failure(context.folder, (name, params), _reason(error), _cause(error))
        if not failed.is_final:
            give_up(error)  # processes that share a run cannot continue if one of them fails
        elif is_main():
            tidy(folder, keep={})
        return failed
    finally:
        clear_device_cache(garbage_collection=True)  # a Trainer refers to itself and holds the model
    return load_runs(folder)


def _train(context: SweepContext, folder: Path, params: Mapping[str, Any]) -> None:
    """Train one run and write its folder; the record is written last."""
    import transformers

    started = time.perf_counter()
    task = load_module("task", context.task)
    context = in_fold(context, params)
    fields, extra = separate({**context.training_args, **params})
    resume = _prepared(folder, with_average=extra.average is not None)
    seed = fields.get("seed", transformers.TrainingArguments.seed)
    with quiet_transformers():
        transformers.set_seed(seed)
        # Trainer would load weights by their names on disk and skip those with other names in memory
        source = resume if resume is not None and extra.peft is None else context.folder / START
        if isinstance(task, SentenceTask):
            model = load_sentence_model(task, context.folder / START, extra.max_length)
            if resume is not None:  # its weights alone: a tokenizer that was used is saved with how it was
                model.load_state_dict(load_sentence_model(task, resume).state_dict())
        else:
            model = _load(task, source)
        if context.own_heads and resume is None:
            model = with_new_head(model, seed)
        if extra.peft is not None:
            model = with_adapter(model, extra.peft, context.task, resume)
        trainer = fit(context, model, fields, extra, folder, keep=context.keep, resume=resume)
        _refuse_divergence(model)
        kept = _kept_step(context, trainer)
        metrics = evaluation_at(trainer.state.log_history, kept)
        if context.validation is not None and not metrics:
            without_trackers(trainer)  # their runs have ended
            metrics = trainer.evaluate()
        if not (folder / f"checkpoint-{kept}").is_dir():  # a callback stopped training between two checkpoints
            trainer.save_model(str(folder / f"checkpoint-{kept}"))
    if is_main():
        adopt(folder / f"checkpoint-{kept}", folder)
        history = _save_state(trainer.state, folder)
        checkpoints = _kept_checkpoints(context, folder, history, kept)
        record = {
            "run": folder.name,
            "params": dict(params),
            "seed": seed,
            "training_args": dict(context.training_args),
            **_scored(context, metrics),
            "train_loss": last_loss(history),
            "step": kept,
            "steps": trainer.state.global_step,
            "epochs": trainer.state.epoch,
            "resumed_from": step_of(resume) if resume else None,
            "seconds": round(time.perf_counter() - started, 2),
            "checkpoints": checkpoints,
            **context.about,
            "setup": context.setup,
            "versions": versions(),
        }
        card = render_run_card(record, history, sweep=context.folder.name, task=task, base=context.base_card)
        write_card(folder, card)
        flush_folder(folder)  # the record promises that these files are complete
        write_json(folder / RUN_FILE, record)
        tidy(folder, keep=checkpoints)
    wait()


def _load(task: Task, source: Path) -> PreTrainedModel:
    """Load the model of a task from a folder."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(source)
    model: PreTrainedModel = auto_class(task.AUTO_CLASS, config).from_pretrained(source)
    return model


def _kept_step(context: SweepContext, trainer: Trainer) -> int:
    """The step of the checkpoint that is kept as the run."""
    state = trainer.state
    if context.keep == "best" and state.best_global_step:
        return int(state.best_global_step)
    return int(state.global_step)


def _save_state(state: TrainerState, folder: Path) -> list[dict[str, Any]]:
    """Write the state of Trainer in the form to keep, and return its history."""
    if state.best_model_checkpoint:  # it will be deleted, and paths of this machine must not be published
        state.best_model_checkpoint = f"checkpoint-{state.best_global_step}"
    totals = {"epoch": state.epoch, "step": state.global_step, "total_flos": state.total_flos}
    state.log_history = lasting_history(state.log_history, totals)
    state.save_to_json(str(folder / STATE))
    return state.log_history


def _prepared(folder: Path, *, with_average: bool) -> Path | None:
    """The checkpoint to resume from; other files of an interrupted run are deleted."""
    if is_main():
        for checkpoint in reversed(list(checkpoints_in(folder)) if with_average else []):
            if (checkpoint / AVERAGE).is_file():  # older ones that are kept as models have lost theirs
                break
            shutil.rmtree(checkpoint, ignore_errors=True)  # interrupted before the average was saved
        if newest_whole_checkpoint(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
        (folder / FAILED_FILE).unlink(missing_ok=True)
    wait()
    return next(reversed(list(checkpoints_in(folder))), None)


def _kept_checkpoints(
    context: SweepContext, folder: Path, history: Sequence[Mapping[str, Any]], last: int
) -> dict[str, Any]:
    """The intermediate checkpoints that are kept, with their scores."""
    kept: dict[str, Any] = {}
    if context.keep != "all":
        return kept
    for checkpoint in list(checkpoints_in(folder)):
        step = step_of(checkpoint)
        if step != last:
            forget_training(checkpoint)
            kept[checkpoint.name] = {"step": step, **_scored(context, evaluation_at(history, step))}
    return kept


def _scored(context: SweepContext, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of an evaluation, and the score that selects."""
    kind = load_module("task", context.task).KIND
    metric = selecting_metric(context.metric, context.higher_is_better, kind)
    values = {}
    for key, value in metrics.items():
        if not is_timing(key) and key != "epoch":
            values[key] = float(value)
    value = values.get(f"eval_{metric.name}", math.nan)
    if context.validation is None or math.isnan(value):
        return {"metrics": values, "score": None}
    score = {
        "metric": metric.name,
        "value": value,
        "higher_is_better": is_better_higher(metric.higher_is_better),
        "split": "out-of-fold" if "folds" in context.training_args else "validation",
        "n": len(context.validation),
    }
    return {"metrics": values, "score": score}


def _refuse_divergence(model: PreTrainedModel) -> None:
    """Raise an error for NaN or infinite weights, which the last step may have made: its loss was computed before it.

    Raises:
        [`DivergedError`]: naming the first such weight.
    """
    for name, weight in model.named_parameters():
        if not bool(weight.isfinite().all()):
            raise DivergedError(f"its weights are not finite, such as {name}")


def _refuse_full_disk(error: Exception, folder: Path) -> None:
    """Raise an error if the disk is full, which is not a failure of the run.

    Raises:
        [`OutputError`]: if the disk is full.
    """
    has_code = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    has_words = "No space left on device" in str(error)  # the message of safetensors, which is written in Rust
    if has_code or has_words or shutil.disk_usage(folder).free < FULL:
        raise OutputError(
            f"the disk of {folder} is full. Finished work is kept: free some space and repeat the call to resume."
        ) from error


def _cause(error: Exception) -> str:
    """The `cause` of a [`FailedRun`] for an error."""
    from accelerate.utils.memory import should_reduce_batch_size

    if isinstance(error, DivergedError):
        return "diverged"
    if isinstance(error, StoppedError):
        return "stopped"
    if should_reduce_batch_size(error) or isinstance(error, MemoryError):
        return "memory"
    return "error"


def _reason(error: Exception) -> str:
    """The reason why a run failed, in one line, with what to do about it."""
    text = (str(error) or type(error).__name__).strip().splitlines()[0][:LONGEST_REASON]
    cause = _cause(error)
    if cause == "stopped":
        return text
    if cause == "diverged":
        return f"it diverged: {text}. Lower the learning rate, or warm up longer."
    if cause == "memory":
        return f"it ran out of memory ({text}). Lower per_device_train_batch_size, or set auto_find_batch_size."
    return f"{type(error).__name__}: {text}"
