"""A sweep: one start, many runs. Runs that are whole are not repeated; a new space adds runs beside them."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checkpoints.staging import write_json
from ..errors import IngredientError, OutputError, SoupWarning, TrainingError
from ..evaluation.running import is_launched
from ..hub.bases import START
from ..lookup import load_module
from ..parallel import gpus, run_all
from ..progress import progress_bar
from ..sweep_plot import Line, Setting, plot_sweep
from ..tables import align, cell, shared_line
from ..types import Score
from ..untrusted import as_error, read_json
from .context import SweepContext
from .manifest import (
    SHARED,
    SWEEP_FILE,
    check_start,
    find_manifest,
    read_manifest,
    start_digests,
    whole_runs,
)
from .planning import SweepPlan
from .processes import is_main, only_one, wait
from .publish import Publisher
from .records import FailedRun, Job, Run, load_failure, load_runs, record_failure, tidy
from .resume import STATE
from .run import train_run
from .start import make_start


if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from tqdm import tqdm

CALLER = 4  # frames from a warning of the whole sweep up to the verb: `_warn`, `run_plan`, `train`, `sweep`


@dataclass(frozen=True)
class Sweep(Sequence[Run]):
    """Runs that share their start; a sequence that [`merge`] takes as it is.

    Args:
        base_model (`Path`):
            What all runs started from, head included.
        runs (`tuple[Run, ...]`):
            Those that are whole, in the order of the space; with `keep="all"` the checkpoints on the way of each as
            well, before it.
        failed (`tuple[FailedRun, ...]`, *optional*):
            Those that came to nothing, with the reason.
        waiting (`tuple[str, ...]`, *optional*):
            Names of those that are not whole yet.
        training_args (`Mapping[str, Any]`, *optional*):
            Settings that all runs share.
    """

    base_model: Path
    runs: tuple[Run, ...]
    failed: tuple[FailedRun, ...] = ()
    waiting: tuple[str, ...] = ()
    training_args: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, index: Any) -> Any:
        return self.runs[index]

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def best(self) -> Run:
        """The run with the best score on the validation data; of equals the first.

        Raises:
            [`TrainingError`]: if none has a score.
        """
        best = _best_of(self.runs)
        if best is None:
            raise TrainingError("no run has a score: give the sweep validation data.")
        return best.run

    def table(self) -> str:
        """A row for each run: what it has of its own, its score, best first; then those that failed, and what all runs
        have alike.
        """
        varied, shared = self._settings()
        metrics = [run.score.metric for run in self.runs if run.score]
        lines = [["run", *varied, metrics[0] if metrics else "score", "loss", "step", "seconds"]]
        for run in sorted(self.runs, key=_rank, reverse=True):
            own = [cell(run.params.get(key)) for key in varied]
            score = f"{run.score.value:.4f}" if run.score else "-"
            timing = [f"{run.state['step']:,}", f"{run.state['seconds']:.0f}"]
            lines.append([run.name, *own, score, f"{run.state['train_loss']:.4f}", *timing])
        for failure in self.failed:
            own = [cell(failure.params.get(key)) for key in varied]
            lines.append([failure.name, *own, failure.kind, "-", "-", "-"])
        paragraphs = [align(lines), *shared_line({**self.training_args, **shared}, varied)]
        if self.failed:
            paragraphs += ["", *(f"{failure.name} failed: {failure.reason}" for failure in self.failed)]
        return "\n".join(paragraphs)

    def to_pandas(self) -> pd.DataFrame:
        """A row for each run, its settings and metrics as columns; those that failed have a `reason`."""
        import pandas as pd

        rows = [
            {
                "run": run.name,
                **run.params,
                "seed": run.seed,
                **run.state["metrics"],
                "train_loss": run.state["train_loss"],
                "step": run.state["step"],
                "seconds": run.state["seconds"],
                "folder": str(run.folder),
            }
            for run in self.runs
        ]
        return pd.DataFrame(rows + [{"run": item.name, **item.params, "reason": item.reason} for item in self.failed])

    def plot(self) -> Figure:
        """The validation score against each setting that varies, and the curves of training and validation.

        Returns:
            `matplotlib.figure.Figure`

        Raises:
            [`MissingExtraError`]: if matplotlib is not installed.
            [`TrainingError`]: if no run has a score.
        """
        whole = [run for run in self.runs if run.folder.name == run.state["run"]]  # not the checkpoints on their way
        best = _best_of(whole)
        if best is None:
            raise TrainingError("no run has a score: give the sweep validation data.")
        metric = best.score.metric
        scored = [_Scored(run, run.score) for run in whole if run.score]
        varied, _ = self._settings()
        settings = []
        for name in varied:
            values = [item.run.params.get(name) for item in scored]
            settings.append(Setting(name, values, [item.score.value for item in scored], scored.index(best)))
        lines = [line for run in whole for line in _lines(run, metric)]
        title = f"{best.run.name} is the best of {len(whole)} runs: {metric} {best.score.value:.4f} on validation"
        return plot_sweep(settings, lines, metric=metric, best=best.run.name, title=title)

    def _settings(self) -> tuple[list[str], dict[str, Any]]:
        """What the runs differ in, and what all have alike."""
        settings = [run.params for run in self.runs] + [failure.params for failure in self.failed]
        names = dict.fromkeys(name for params in settings for name in params)
        shared: dict[str, Any] = {}
        if len(settings) > 1:
            for name in names:
                first = settings[0].get(name)
                if all(name in params and params[name] == first for params in settings):
                    shared[name] = first
        return [name for name in names if name not in shared], shared


class _Scored(NamedTuple):
    """A run and its score."""

    run: Run
    score: Score


def _best_of(runs: Sequence[Run]) -> _Scored | None:
    """The run with the best score, of equals the first; `None` where none has a score."""
    best: _Scored | None = None
    for run in runs:
        score = run.score
        if score is not None and (best is None or score.beats(best.score)):
            best = _Scored(run, score)
    return best


def _rank(run: Run) -> float:
    """By which tables order runs: those without a score come last."""
    return run.score.rank_key if run.score else -math.inf


def _lines(run: Run, metric: str) -> Iterator[Line]:
    """The curves of one run: the loss in training, and the score on the validation data."""
    with as_error(TrainingError, f"the history of {run.name} cannot be read from {run.folder / STATE}"):
        history = [dict(row) for row in read_json(run.folder / STATE)["log_history"]]
    for key in ("loss", f"eval_{metric}"):
        points = [row for row in history if key in row and "epoch" in row]
        if points:
            yield Line(run.name, key, [row["epoch"] for row in points], [row[key] for row in points])


def load_sweep(folder: str | os.PathLike[str]) -> Sweep:
    """The whole runs of a sweep's folder, and why others failed.

    Args:
        folder (`str` or `os.PathLike`):
            The `output_dir` of [`sweep`].

    Returns:
        [`Sweep`]

    Raises:
        [`TrainingError`]: if it is no folder of a sweep.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    return _loaded(folder, manifest["runs"], manifest["fixed"].get(SHARED, {}))


def run_plan(plan: SweepPlan, *, publisher: Publisher | None = None) -> Sweep:
    """Train what a plan says.

    Args:
        plan ([`SweepPlan`]):
            A plan that was made just before.
        publisher ([`Publisher`], *optional*):
            Puts each run on the Hub.

    Returns:
        [`Sweep`]: of all runs of the plan that are whole.

    Raises:
        [`RecipeError`]: if callbacks cannot be sent to the processes that train on several GPUs.
        [`TrainingError`]: if every run failed, or one did and `on_error="raise"`; or if another process trains there.
    """
    context, folder = plan.context, plan.context.folder
    devices = gpus() if plan.options.executor == "local" and not is_launched() else ()
    if context.callbacks and len(devices) > 1:
        from .callbacks import check_picklable

        check_picklable(context.callbacks)
    if context.own_heads:
        _warn('head="independent": every run has a head of its own, and averages of such runs are rarely good.')
    wait()  # until every process has read what is there
    with only_one(folder):
        if is_main():
            _refuse_changed(plan)
            write_json(folder / SWEEP_FILE, plan.manifest)
        if plan.origin is not None:
            make_start(
                plan.origin,
                context,
                init_seed=plan.options.init_seed,
                probe_args=plan.options.probe_args or {},
            )
            # as a later call reads it, so that runs that it adds or finishes have the same files
            processing_class = load_module("task", context.task).load_processing_class(str(folder / START), None)
            plan = replace(plan, context=replace(context, processing_class=processing_class))
        if is_main():
            check_start(plan.manifest, folder / START)
            write_json(folder / SWEEP_FILE, {**plan.manifest, "start": start_digests(folder / START)})
        if publisher is not None:
            publisher = publisher.with_start(folder / START)
        _train_all(plan, devices, publisher)
    sweep = _loaded(folder, plan.runs, context.training_args)
    if sweep.failed and not sweep.runs:
        raise TrainingError(f"every run failed, such as {sweep.failed[0].name}: {sweep.failed[0].reason}")
    for failure in sweep.failed:
        _warn(f"{failure.name} failed and is left out of soups: {failure.reason}")
    return sweep


def _warn(message: str) -> None:
    warnings.warn(message, SoupWarning, stacklevel=CALLER)


def _refuse_changed(plan: SweepPlan) -> None:
    """Another process may have begun, or added runs, since the plan was made."""
    folder = plan.context.folder
    there = find_manifest(folder)
    planned = whole_runs(plan.manifest)
    if there is not None and any(planned.get(name) != settings for name, settings in whole_runs(there).items()):
        raise TrainingError(f"another process has added runs to {folder} in the meantime. Call it again.")


def _train_all(plan: SweepPlan, devices: Sequence[str], publisher: Publisher | None) -> None:
    """Train the runs that are not done, with a bar that shows the best score so far."""
    options, folder = plan.options, plan.context.folder
    todo = plan.todo
    side_by_side = options.executor != "local" or len(devices) > 1  # whose bars would write over each other
    context = replace(plan.context, bars=plan.context.bars and not side_by_side and is_main())
    silent = not is_main() or bool(plan.context.training_args.get("disable_tqdm"))
    with progress_bar(total=len(plan.runs), desc="Sweep", unit="run", hidden=silent) as bar:
        bar.update(len(plan.done))
        best = _best_of([run for name in plan.done for run in load_runs(folder / name)])
        _show_best(bar, best)
        for name in plan.done:
            failure = load_failure(folder / name)
            if failure is not None and options.on_error == "raise":
                raise TrainingError(f"{name} failed: {failure.reason}")
            _finish(folder / name, publisher)
        results = run_all(
            Work(context, publisher),
            [(name, plan.runs[name]) for name in todo],
            executor=options.executor,
            devices=devices,
            resources=options.resources,
            lost=partial(record_failure, folder),
        )
        with contextlib.closing(results):  # which ends the workers when a failure ends the sweep
            for index, outcome in results:
                if isinstance(outcome, FailedRun):
                    _take_failure(outcome, folder, bar, raises=options.on_error == "raise")
                else:
                    if publisher is not None:
                        _collect(publisher, folder / todo[index])
                    best = _best_of([*([best.run] if best else []), *outcome])
                bar.update()
                _show_best(bar, best)


def _take_failure(failure: FailedRun, folder: Path, bar: tqdm[Any], *, raises: bool) -> None:
    """Write down a failure, and tell it above the bar or as an error."""
    if is_main() and load_failure(folder / failure.name) is None:  # of a worker that wrote it elsewhere
        record_failure(folder, (failure.name, failure.params), failure.reason, failure.kind)
    line = f"{failure.name} failed: {failure.reason}"
    if raises:
        raise TrainingError(line)
    if not bar.disable:
        bar.write(line, file=sys.stderr)


@dataclass(frozen=True)
class Work:
    """What a worker does with one job: a run's name and its settings."""

    context: SweepContext
    publisher: Publisher | None

    def __call__(self, job: Job) -> tuple[Run, ...] | FailedRun:
        """Train it, and put it on the Hub where the sweep does so."""
        name, params = job
        if self.publisher is not None:
            self.publisher.fetch_start(self.context.folder / START)
        outcome = train_run(self.context, name, params)
        if self.publisher is not None and not isinstance(outcome, FailedRun):
            try:
                self.publisher.publish(self.context.folder / name)
            except OutputError as error:  # the run is whole: the next call pushes it
                warnings.warn(f"{name} is not on the Hub yet: {error}", SoupWarning, stacklevel=2)
        return outcome


def _finish(folder: Path, publisher: Publisher | None) -> None:
    """What an interruption may have kept a whole run from: its checkpoints go, and it goes to the Hub."""
    runs = load_runs(folder)
    if not runs:
        return
    if is_main():
        tidy(folder, keep=runs[-1].state["checkpoints"])
    if publisher is not None:
        publisher.publish(folder)


def _collect(publisher: Publisher, folder: Path) -> None:
    try:
        publisher.collect(folder)
    except IngredientError as error:  # its push failed: the run is whole where it was trained, and nowhere else
        warnings.warn(f"{folder.name} was trained elsewhere and is not on the Hub: {error}", SoupWarning, stacklevel=2)


def _loaded(folder: Path, settings: Mapping[str, Mapping[str, Any]], shared: Mapping[str, Any]) -> Sweep:
    """What is there of some runs, with the settings that they have of their own now: a run that is whole may have been
    trained when all runs shared one of them.
    """
    runs: list[Run] = []
    failed: list[FailedRun] = []
    waiting: list[str] = []
    for name, own in settings.items():
        whole, failure = load_runs(folder / name), load_failure(folder / name)
        if whole:
            runs += [replace(run, params=own) for run in whole]
        elif failure is not None:
            failed.append(replace(failure, params=own))
        else:
            waiting.append(name)
    return Sweep(folder / START, tuple(runs), tuple(failed), tuple(waiting), shared)


def _show_best(bar: tqdm[Any], best: _Scored | None) -> None:
    if best is not None:
        bar.set_postfix_str(f"best so far: {best.run.name}, {best.score.metric} {best.score.value:.4f}")
