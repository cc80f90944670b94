"""One fine-tune: settings -> a folder. This file alone calls `transformers.Trainer`; nobody subclasses it."""

from __future__ import annotations

import errno
import math
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.memory import quiet_transformers
from ..checkpoints.reader import read_json
from ..checkpoints.writer import write_json
from ..data import UNSCORED
from ..errors import OutputError, SoupError, TrainingError
from ..lookup import load_module
from ..metrics import Metric, load_metrics
from ..outputs import Predictions
from ..types import Ingredient, Score
from ..version import versions
from .optimizer import optimizer_of
from .processes import give_up, is_main, wait
from .resume import STATE, adopt, checkpoints_in, forget_training, newest_whole_checkpoint, step_of
from .settings import separate, training_arguments


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, Trainer

RUN_FILE = "run.json"  # written last: a folder without it is no whole run
FAILED_FILE = "failed.json"
PUSHED_FILE = "pushed.json"
START = "start"


class DivergedError(TrainingError):
    """The loss or a weight is no number; training again would give the same."""


@dataclass(frozen=True)
class Run:
    """One fine-tune that is whole, or with `keep="all"` one checkpoint on its way.

    Args:
        params (`Mapping[str, Any]`):
            What this run has of its own: learning rate, seed ...
        seed (`int`):
            Of data order and dropout.
        folder (`Path`):
            A checkpoint that loads with `from_pretrained`; that of a whole run has `run.json` and
            `trainer_state.json` too.
        state (`Mapping[str, Any]`):
            What `run.json` holds: metrics, steps, seconds, versions, fingerprints of the data, commit of the base.
    """

    params: Mapping[str, Any]
    seed: int
    folder: Path
    state: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Such as `run-3`, or `run-3-checkpoint-40`."""
        return self.folder.name if self.folder.name == self.state["run"] else f"{self.state['run']}-{self.folder.name}"

    @property
    def score(self) -> Score | None:
        """On the validation data, by the metric of the sweep; `None` if there is no such data."""
        found = self.state.get("score")
        return Score(**found) if found else None

    def as_ingredient(self) -> Ingredient:
        """The reference that a soup takes."""
        return Ingredient(self.name, str(self.folder))


@dataclass(frozen=True)
class FailedRun:
    """One fine-tune that came to nothing; no soup takes it.

    Args:
        name (`str`):
            Of its folder.
        params (`Mapping[str, Any]`):
            What it had of its own.
        reason (`str`):
            Why, in one line.
        kind (`str`):
            `"diverged"`, which a later sweep does not try again, `"memory"` or `"error"`.
    """

    name: str
    params: Mapping[str, Any]
    reason: str
    kind: str


@dataclass(frozen=True)
class Bench:
    """What all runs of a sweep share; it can be sent to another process.

    Args:
        folder (`Path`):
            Of the sweep; every run starts from `start/` in it.
        task (`str`):
            Name of a file of `hf_soup.tasks`.
        processing_class:
            The tokenizer or image processor.
        train (`Dataset`), validation (`Dataset`, *optional*):
            Encoded.
        metric (`str`):
            What tells the best evaluation.
        training_args (`Mapping`):
            Settings that all runs have.
        keep (`str`):
            `"best"`, `"last"` or `"all"`.
        own_heads (`bool`):
            Whether each run draws a head of its own.
        about (`Mapping`):
            For `run.json`: base model and data.
        bars (`bool`, *optional*, defaults to `True`):
            Whether Trainer's bar is shown.
    """

    folder: Path
    task: str
    processing_class: Any
    train: Dataset
    validation: Dataset | None
    metric: str
    training_args: Mapping[str, Any]
    keep: str
    own_heads: bool
    about: Mapping[str, Any]
    bars: bool = True


def load_runs(folder: Path) -> tuple[Run, ...]:
    """The run in a folder, the checkpoints on its way before it if they are kept; nothing if it is not whole."""
    try:
        state = read_json(folder / RUN_FILE)
        if (folder / PUSHED_FILE).is_file():
            state["hub"] = read_json(folder / PUSHED_FILE)
        whole = Run(state["params"], state["seed"], folder, state)
    except (OSError, ValueError, KeyError, SoupError):
        return ()
    way = [replace(whole, folder=folder / name, state={**state, **own}) for name, own in state["checkpoints"].items()]
    return (*way, whole)


def load_failure(folder: Path) -> FailedRun | None:
    """Why the run in a folder failed, if it did."""
    try:
        found = read_json(folder / FAILED_FILE)
        return FailedRun(folder.name, found["params"], found["reason"], found["kind"])
    except (OSError, ValueError, KeyError, SoupError):
        return None


def train_run(bench: Bench, name: str, params: Mapping[str, Any]) -> tuple[Run, ...] | FailedRun:
    """Train one run from the shared start, or go on from the newest whole checkpoint of one that was interrupted.

    Args:
        bench ([`Bench`]):
            What all runs share.
        name (`str`):
            Of its folder.
        params (`Mapping[str, Any]`):
            What is this run's own.

    Returns:
        `tuple[Run, ...]` or [`FailedRun`]: the run, behind the checkpoints on its way if all are kept; or why it
        failed, which is recorded in its folder as well.

    Raises:
        [`OutputError`]: if the disk is full: the runs to come would fail too.
        [`TrainingError`]: if a worker does not see the folder of the sweep.
    """
    folder = bench.folder / name
    if not (bench.folder / START).is_dir():
        raise TrainingError(
            f"{bench.folder} is not there for every worker: put output_dir on storage that all of them share."
        )
    try:
        _train(bench, folder, params)
    except Exception as error:  # whatever Trainer, a model or its data trip over ends this run alone
        _refuse_full_disk(error, bench.folder)
        failed = record_failure(bench.folder, (name, params), _reason(error), _kind(error))
        if not isinstance(error, DivergedError):
            give_up(error)  # processes that share a run cannot go on when one of them fails
        return failed
    return load_runs(folder)


def record_failure(sweep: Path, job: tuple[str, Mapping[str, Any]], reason: str, kind: str = "error") -> FailedRun:
    """Write down in its folder why a run failed.

    Args:
        sweep (`Path`):
            The folder of the sweep.
        job (`tuple[str, Mapping[str, Any]]`):
            Name and settings of the run.
        reason (`str`), kind (`str`, *optional*, defaults to `"error"`):
            As of [`FailedRun`].
    """
    name, params = job
    failed = FailedRun(name, dict(params), reason, kind)
    if is_main():
        (sweep / name).mkdir(exist_ok=True)
        record = {"params": failed.params, "reason": reason, "kind": kind, "traceback": traceback.format_exc()}
        write_json(sweep / name / FAILED_FILE, record)
    return failed


def _train(bench: Bench, folder: Path, params: Mapping[str, Any]) -> None:
    import transformers

    started = time.perf_counter()
    task = load_module("task", bench.task)
    fields, extra = separate({**bench.training_args, **params})
    resume = _prepared(folder)
    seed = fields.get("seed", transformers.TrainingArguments.seed)
    with quiet_transformers():
        transformers.set_seed(seed)
        # Trainer itself would load weights by their names on disk, which may be others in memory, and skip those
        model = getattr(transformers, task.AUTO_CLASS).from_pretrained(resume or bench.folder / START)
        if bench.own_heads and resume is None:
            from .start import with_new_head

            model = with_new_head(model, seed)
        trainer, result = fit(bench, model, fields, extra, folder, keep=bench.keep, resume=resume)
        _refuse_divergence(model)
        history, state = trainer.state.log_history, trainer.state
        kept = state.best_global_step if bench.keep == "best" and state.best_global_step else state.global_step
        metrics = evaluation_at(history, kept)
        if bench.validation is not None and not metrics:
            metrics = trainer.evaluate()
    if is_main():
        adopt(folder / f"checkpoint-{kept}", folder)
        if state.best_model_checkpoint:  # it will be gone, and a path of this machine is nobody's business
            state.best_model_checkpoint = f"checkpoint-{state.best_global_step}"
        state.save_to_json(str(folder / STATE))
        way = _way(bench, folder, history, kept)
        write_json(
            folder / RUN_FILE,
            {
                "run": folder.name,
                "params": dict(params),
                "seed": seed,
                "training_args": dict(bench.training_args),
                **_scored(bench, metrics),
                "train_loss": next((row["loss"] for row in reversed(history) if "loss" in row), result.training_loss),
                "step": kept,
                "steps": state.global_step,
                "epochs": state.epoch,
                "resumed_from": step_of(resume) if resume else None,
                "seconds": round(time.perf_counter() - started, 2),
                "checkpoints": way,
                **bench.about,
                "versions": versions(),
            },
        )
        tidy(folder, keep=way)
    wait()


def fit(
    bench: Bench,
    model: PreTrainedModel,
    fields: Mapping[str, Any],
    extra: Any,
    folder: Path,
    *,
    keep: str,
    resume: Path | None = None,
    saves: bool = True,
) -> tuple[Trainer, Any]:
    """Train a model with Trainer.

    Args:
        bench ([`Bench`]):
            Data, task and metric.
        model (`transformers.PreTrainedModel`):
            Changed in place.
        fields (`Mapping[str, Any]`), extra ([`Extra`]):
            Settings, as [`separate`] gives them.
        folder (`Path`):
            For checkpoints.
        keep (`str`):
            `"best"`, `"last"` or `"all"`.
        resume (`Path`, *optional*):
            A checkpoint to go on from.
        saves (`bool`, *optional*, defaults to `True`):
            Whether to write checkpoints.

    Returns:
        `tuple[transformers.Trainer, transformers.trainer_utils.TrainOutput]`
    """
    import transformers
    from transformers.trainer_callback import PrinterCallback

    from .callbacks import Bar, EndTracking, KeepWeightsAlone, StopWhenDiverged, one_group

    task = load_module("task", bench.task)
    (metric,) = load_metrics(bench.metric)
    metric = metric if task.KIND != "tokens" else Metric("loss", metric.compute, False)
    rules = {"keep": keep, "evaluates": bench.validation is not None, "metric": metric, "saves": saves}
    named = {"run_name": f"{bench.folder.name}/{folder.name}", "project": bench.folder.name, **fields}
    args = training_arguments(folder, named, **rules)
    shown = bench.bars and not fields.get("disable_tqdm")
    callbacks = [StopWhenDiverged(), EndTracking()]
    callbacks += [Bar(folder.name)] if shown else []
    callbacks += [KeepWeightsAlone()] if keep == "all" else []
    train = _part(bench.train, extra.bagging_fraction, args.seed)
    if extra.augment:
        train = task.augmented(train, extra.augment, bench.processing_class)
    with one_group(bench.folder, folder.name):
        trainer = transformers.Trainer(
            model=model,
            args=args,
            train_dataset=train,
            eval_dataset=bench.validation,
            data_collator=task.collator(bench.processing_class, model.config),
            processing_class=bench.processing_class,
            compute_metrics=compute_metrics(metric, task.KIND, model.config),
            callbacks=callbacks,
        )
        trainer.remove_callback(PrinterCallback)
        choice = {"name": extra.optimizer, "momentum": extra.momentum, "layer_decay": extra.layer_decay}
        trainer.optimizer_cls_and_kwargs = optimizer_of(trainer, **choice)
        return trainer, trainer.train(resume_from_checkpoint=str(resume) if resume else None)


def compute_metrics(metric: Metric, kind: str, config: PretrainedConfig) -> Callable[[Any], dict[str, float]] | None:
    """What Trainer calls after each evaluation; of language models it is told the loss alone."""
    import numpy as np

    names = tuple(config.id2label[index] for index in sorted(config.id2label)) if kind == "classes" else ()

    if kind == "tokens":
        return None

    def compute(said: Any) -> dict[str, float]:
        labels = said.label_ids
        words = kind == "classes" and labels.ndim == 2
        scored = labels != UNSCORED if words or labels.ndim == 1 else np.ones(len(labels), dtype=bool)
        rows = np.nonzero(scored)[0]
        logits = said.predictions[0] if isinstance(said.predictions, tuple) else said.predictions  # others follow
        logits = logits[:, 0] if kind == "values" else logits
        return metric.compute(Predictions(logits[scored], labels[scored], rows, kind, names))

    return compute


def evaluation_at(history: list[dict[str, Any]], step: int) -> dict[str, float]:
    """The scores that Trainer logged at one step, without timings; empty if it did not evaluate there."""
    for row in history:
        if row.get("step") == step and "eval_loss" in row:
            return {key: value for key, value in row.items() if key.startswith("eval_") and not _is_timing(key)}
    return {}


def tidy(folder: Path, keep: Mapping[str, Any]) -> None:
    """Delete the checkpoints of a whole run, but those that are ingredients too."""
    for checkpoint in list(checkpoints_in(folder)):
        if checkpoint.name not in keep:
            shutil.rmtree(checkpoint, ignore_errors=True)


def _is_timing(key: str) -> bool:
    return key.endswith(("runtime", "per_second"))


def _prepared(folder: Path) -> Path | None:
    """The checkpoint to go on from; what else an interrupted run left is deleted."""
    if is_main():
        if newest_whole_checkpoint(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
        (folder / FAILED_FILE).unlink(missing_ok=True)
    wait()
    return next(reversed(list(checkpoints_in(folder))), None)


def _part(train: Dataset, fraction: float, seed: int) -> Dataset:
    import numpy as np

    if fraction == 1:
        return train
    size = max(round(len(train) * fraction), 1)
    return train.select(np.sort(np.random.default_rng(seed).permutation(len(train))[:size]))


def _way(bench: Bench, folder: Path, history: list[dict[str, Any]], last: int) -> dict[str, Any]:
    """The checkpoints before the last one that are kept, with what each scored."""
    if bench.keep != "all":
        return {}
    steps = [step_of(checkpoint) for checkpoint in checkpoints_in(folder)]
    way = {}
    for step in steps:
        if step != last:
            forget_training(folder / f"checkpoint-{step}")
            way[f"checkpoint-{step}"] = {"step": step, **_scored(bench, evaluation_at(history, step))}
    return way


def _scored(bench: Bench, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What an evaluation says, and the score that selects."""
    (metric,) = load_metrics(bench.metric)
    metrics = {key: float(value) for key, value in metrics.items() if not _is_timing(key) and key != "epoch"}
    tokens = load_module("task", bench.task).KIND == "tokens"
    name, higher = ("loss", False) if tokens else (metric.name, metric.higher_is_better is not False)
    value = metrics.get(f"eval_{name}")
    if value is None or math.isnan(value):
        return {"metrics": metrics, "score": None}
    split = {"split": "validation", "n": len(bench.validation)}
    return {"metrics": metrics, "score": {"metric": name, "value": value, "higher_is_better": higher, **split}}


def _refuse_divergence(model: PreTrainedModel) -> None:
    for name, weight in model.named_parameters():
        if not bool(weight.isfinite().all()):
            raise DivergedError(f"its weights are not finite, such as {name}")


def _refuse_full_disk(error: Exception, folder: Path) -> None:
    """A full disk is no fault of the run.

    Raises:
        [`OutputError`]: if the disk is full.
    """
    told = getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in str(error)
    if told or shutil.disk_usage(folder).free < 1_000_000:
        raise OutputError(
            f"the disk of {folder} is full. What is whole is kept: make room, and the same call goes on from there."
        ) from error


def _kind(error: Exception) -> str:
    from accelerate.utils.memory import should_reduce_batch_size

    if isinstance(error, DivergedError):
        return "diverged"
    return "memory" if should_reduce_batch_size(error) or isinstance(error, MemoryError) else "error"


def _reason(error: Exception) -> str:
    text = (str(error) or type(error).__name__).strip().splitlines()[0][:300]
    advice = {
        "diverged": "it diverged: {}. Lower the learning rate, or warm up longer.",
        "memory": "it ran out of memory ({}). Lower per_device_train_batch_size, or set auto_find_batch_size.",
        "error": f"{type(error).__name__}: {{}}",
    }
    return advice[_kind(error)].format(text)
