"""A sweep: one start, many runs. Runs that are whole are not repeated; a new space adds runs beside them."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.staging import write_json
from ..errors import IngredientError, OutputError, SoupWarning, TrainingError
from ..evaluation.running import is_launched
from ..hub.bases import START
from ..lookup import load_module
from ..parallel import gpus, run_all
from ..progress import progress_bar
from ..sweep_plot import Line, Setting, plot_sweep
from ..tables import align, cell, shared_line
from ..untrusted import as_error, read_json
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
from .records import FailedRun, Run, load_failure, load_runs, record_failure, tidy
from .resume import STATE
from .run import train_run
from .start import make_start


if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from tqdm import tqdm


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
        scored = [run for run in self.runs if run.score is not None]
        if not scored:
            raise TrainingError("no run has a score: give the sweep validation data.")
        best = scored[0]
        for run in scored[1:]:
            best = run if run.score.beats(best.score) else best
        return best

    def table(self) -> str:
        """A row for each run: what it has of its own, its score, best first; then those that failed, and what all runs
        have alike.
        """
        varied, shared = self._settings()
        ranked = sorted(self.runs, key=lambda run: run.score.rank_key if run.score else float("-inf"), reverse=True)
        metric = next((run.score.metric for run in self.runs if run.score), "score")
        lines = [["run", *varied, metric, "loss", "step", "seconds"]]
        for run in ranked:
            own = [cell(run.params.get(key)) for key in varied]
            score = f"{run.score.value:.4f}" if run.score else "-"
            timing = [f"{run.state['step']:,}", f"{run.state['seconds']:.0f}"]
            lines.append([run.name, *own, score, f"{run.state['train_loss']:.4f}", *timing])
        for failure in self.failed:
            own = [cell(failure.params.get(key)) for key in varied]
            lines.append([failure.name, *own, failure.kind, "-", "-", "-"])
        common = shared_line({**self.training_args, **shared}, varied)
        notes = [f"{failure.name} failed: {failure.reason}" for failure in self.failed]
        return "\n".join([align(lines), *common, *(["", *notes] if notes else [])])

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
        whole = [run for run in self.runs if run.folder.name == run.state["run"]]
        best = replace(self, runs=tuple(whole)).best()
        metric = best.score.metric
        scored = [run for run in whole if run.score]
        varied, _ = self._settings()
        scores, place = [run.score.value for run in scored], scored.index(best)
        settings = [Setting(key, [run.params.get(key) for run in scored], scores, place) for key in varied]
        lines = []
        for run in whole:
            with as_error(TrainingError, f"the history of {run.name} cannot be read from {run.folder / STATE}"):
                history = [dict(row) for row in read_json(run.folder / STATE)["log_history"]]
            for key in ("loss", f"eval_{metric}"):
                points = [(row["epoch"], row[key]) for row in history if key in row and "epoch" in row]
                lines.append(
                    Line(run.name, key, *(tuple(axis) for axis in zip(*points, strict=True)))
                ) if points else None
        title = f"{best.name} is the best of {len(whole)} runs: {metric} {best.score.value:.4f} on validation"
        return plot_sweep(settings, lines, metric=metric, best=best.name, title=title)

    def _settings(self) -> tuple[list[str], dict[str, Any]]:
        """What the runs differ in, and what all have alike."""
        every = [item.params for item in (*self.runs, *self.failed)]
        keys = list(dict.fromkeys(key for params in every for key in params))
        shared = {key: every[0][key] for key in keys if all(p.get(key, p) == every[0].get(key) for p in every)}
        shared = {} if len(every) == 1 else shared
        return [key for key in keys if key not in shared], shared


def load_sweep(folder: str | os.PathLike) -> Sweep:
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


def run_plan(
    plan: SweepPlan,
    *,
    executor: str = "local",
    resources: dict[str, float] | None = None,
    on_error: str = "continue",
    publisher: Publisher | None = None,
) -> Sweep:
    """Train what a plan says; the arguments are those of [`hf_soup.sweep`].

    Returns:
        [`Sweep`]: of all runs of the plan that are whole.

    Raises:
        [`RecipeError`]: if callbacks cannot be sent to the processes that train on several GPUs.
        [`TrainingError`]: if every run failed, or one did and `on_error="raise"`; or if another process trains there.
    """
    context, folder = plan.context, plan.context.folder
    devices = gpus() if executor == "local" and not is_launched() else ()
    if context.callbacks and len(devices) > 1:
        from .callbacks import check_picklable

        check_picklable(context.callbacks)
    if context.own_heads:
        warnings.warn(
            'head="independent": every run has a head of its own, and averages of such runs are rarely good.',
            SoupWarning,
            stacklevel=3,
        )
    wait()  # until every process has read what is there
    with only_one(folder):
        if is_main():
            _refuse_changed(plan)
            write_json(folder / SWEEP_FILE, plan.manifest)
        if plan.origin is not None:
            make_start(plan.origin, context, **plan.init)
            # as a later call reads it, so that runs that it adds or finishes have the same files
            processing_class = load_module("task", context.task).load_processing_class(str(folder / START), None)
            plan = replace(plan, context=replace(context, processing_class=processing_class))
        if is_main():
            check_start(plan.manifest, folder / START)
            write_json(folder / SWEEP_FILE, {**plan.manifest, "start": start_digests(folder / START)})
        if publisher is not None:
            publisher = publisher.with_start(folder / START)
        _train_all(plan, executor, devices, resources, on_error, publisher)
    sweep = _loaded(folder, plan.runs, context.training_args)
    if sweep.failed and not sweep.runs:
        raise TrainingError(f"every run failed, such as {sweep.failed[0].name}: {sweep.failed[0].reason}")
    for failure in sweep.failed:
        warnings.warn(f"{failure.name} failed and is left out of soups: {failure.reason}", SoupWarning, stacklevel=3)
    return sweep


def _refuse_changed(plan: SweepPlan) -> None:
    """Another process may have begun, or added runs, since the plan was made."""
    folder = plan.context.folder
    there = find_manifest(folder)
    planned = whole_runs(plan.manifest)
    if there is not None and any(planned.get(name) != settings for name, settings in whole_runs(there).items()):
        raise TrainingError(f"another process has added runs to {folder} in the meantime. Call it again.")


def _train_all(
    plan: SweepPlan,
    executor: str,
    devices: Sequence[str],
    resources: dict[str, float] | None,
    on_error: str,
    publisher: Publisher | None,
) -> None:
    todo = plan.todo
    alone = executor == "local" and len(devices) < 2
    work = Work(replace(plan.context, bars=plan.context.bars and alone and is_main()), publisher)
    silent = not is_main() or bool(plan.context.training_args.get("disable_tqdm"))
    bar = progress_bar(total=len(plan.runs), desc="Sweep", unit="run", hidden=silent)
    jobs = [(name, plan.runs[name]) for name in todo]
    best = _best_of([run for name in plan.done for run in load_runs(plan.context.folder / name)])
    with bar:
        bar.update(len(plan.done))
        _show_best(bar, best)
        for name in plan.done:
            if on_error == "raise" and (failure := load_failure(plan.context.folder / name)):
                raise TrainingError(f"{name} failed: {failure.reason}")
            _finish(plan.context.folder / name, publisher)
        results = run_all(
            work,
            jobs,
            executor=executor,
            devices=devices,
            resources=resources,
            lost=partial(record_failure, plan.context.folder),
        )
        for index, outcome in results:
            if isinstance(outcome, FailedRun):
                if is_main() and load_failure(plan.context.folder / outcome.name) is None:  # of a worker elsewhere
                    record_failure(plan.context.folder, (outcome.name, outcome.params), outcome.reason, outcome.kind)
                if on_error == "raise":
                    results.close()
                    raise TrainingError(f"{outcome.name} failed: {outcome.reason}")
                bar.write(f"{outcome.name} failed: {outcome.reason}", file=sys.stderr) if not bar.disable else None
            else:
                if publisher is not None:
                    _collect(publisher, plan.context.folder / todo[index])
                best = _best_of([*filter(None, [best]), *outcome])
            bar.update()
            _show_best(bar, best)


@dataclass(frozen=True)
class Work:
    """What a worker does with one job: a run's name and its settings."""

    context: Any
    publisher: Publisher | None

    def __call__(self, job: tuple[str, dict[str, Any]]) -> tuple[Run, ...] | FailedRun:
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
    found = load_runs(folder)
    if found and is_main():
        tidy(folder, keep=found[-1].state["checkpoints"])
    if found and publisher is not None:
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
        found, failure = load_runs(folder / name), load_failure(folder / name)
        if found:
            runs += [replace(run, params=own) for run in found]
        elif failure is not None:
            failed.append(replace(failure, params=own))
        else:
            waiting.append(name)
    return Sweep(folder / START, tuple(runs), tuple(failed), tuple(waiting), shared)


def _best_of(runs: list[Run]) -> Run | None:
    return Sweep(Path(), tuple(runs)).best() if any(run.score for run in runs) else None


def _show_best(bar: tqdm, best: Run | None) -> None:
    if best is not None:
        bar.set_postfix_str(f"best so far: {best.name}, {best.score.metric} {best.score.value:.4f}")
