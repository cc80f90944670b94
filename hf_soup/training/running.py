"""From the plan of a sweep to its runs: one start, then run after run, here or on workers.

Runs that are whole are not repeated; a new space adds runs beside them.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.staging import write_json
from ..errors import IngredientError, OutputError, TrainingError, warn
from ..evaluation.running import is_launched
from ..parallel import gpus, run_all
from ..plugins import load_module
from ..progress import progress_bar
from ..publishing.bases import START
from .context import SweepContext
from .manifest import SWEEP_FILE, check_start, find_manifest, start_digests, whole_runs
from .planning import SweepPlan
from .processes import is_main, only_one, wait
from .publish import Publisher
from .records import FailedRun, Job, Run, load_failure, load_runs, record_failure, tidy
from .run import train_run
from .start import make_start
from .sweep import Scored, Sweep, best_run, sweep_in


if TYPE_CHECKING:
    from tqdm import tqdm


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
    folder = plan.context.folder
    devices = _devices(plan)
    if plan.context.own_heads:
        warn('head="independent": every run has a head of its own, and averages of such runs are rarely good.')
    wait()  # until every process has read what is there
    with only_one(folder):
        plan = _begin(plan)
        if publisher is not None:
            publisher = publisher.with_start(folder / START)
        _train_all(plan, devices, publisher)
    sweep = sweep_in(folder, plan.runs, plan.context.training_args)
    if sweep.failed and not sweep.runs:
        raise TrainingError(f"every run failed, such as {sweep.failed[0].name}: {sweep.failed[0].reason}")
    for failure in sweep.failed:
        warn(f"{failure.name} failed and is left out of soups: {failure.reason}")
    return sweep


def _devices(plan: SweepPlan) -> Sequence[str]:
    """The GPUs that runs are shared out to: none where Ray does so, or where all processes share each run.

    Raises:
        [`RecipeError`]: if there are several, and callbacks cannot be sent to their processes.
    """
    if plan.options.executor != "local" or is_launched():
        return ()
    devices = gpus()
    if plan.context.callbacks and len(devices) > 1:
        from .callbacks import check_picklable

        check_picklable(plan.context.callbacks)
    return devices


def _begin(plan: SweepPlan) -> SweepPlan:
    """Write `sweep.json` and make the start; the plan with the processing class that was saved with it."""
    context, folder = plan.context, plan.context.folder
    if is_main():
        _refuse_changed(plan)
        # before the start is made: without it, a folder with a start is refused by the next call
        write_json(folder / SWEEP_FILE, plan.manifest)
    if plan.origin is not None:
        probe_args = plan.options.probe_args or {}
        make_start(plan.origin, context, init_seed=plan.options.init_seed, probe_args=probe_args)
        # as a later call reads it, so that runs that it adds or finishes have the same files
        processing_class = load_module("task", context.task).load_processing_class(str(folder / START), None)
        plan = replace(plan, context=replace(context, processing_class=processing_class))
    if is_main():
        check_start(plan.manifest, folder / START)
        write_json(folder / SWEEP_FILE, {**plan.manifest, "start": start_digests(folder / START)})
    return plan


def _refuse_changed(plan: SweepPlan) -> None:
    """Another process may have begun, or added runs, since the plan was made."""
    folder = plan.context.folder
    manifest = find_manifest(folder)
    if manifest is None:
        return
    planned = whole_runs(plan.manifest)
    for name, settings in whole_runs(manifest).items():
        if planned.get(name) != settings:
            raise TrainingError(f"another process has added runs to {folder} in the meantime. Call it again.")


def _train_all(plan: SweepPlan, devices: Sequence[str], publisher: Publisher | None) -> None:
    """Train the runs that are not done, with a bar that shows the best score so far."""
    options, folder = plan.options, plan.context.folder
    raises = options.on_error == "raise"
    jobs: list[Job] = [(name, plan.runs[name]) for name in plan.todo]
    hidden = not is_main() or bool(plan.context.training_args.get("disable_tqdm"))
    with progress_bar(total=len(plan.runs), desc="Sweep", unit="run", hidden=hidden) as bar:
        bar.update(len(plan.done))
        # in the order of the runs: of failures the first is raised, of equal scores the first is the best so far
        done = [name for name in plan.runs if name in plan.done]
        best: Scored | None = None
        for name in done:
            best = best_run(load_runs(folder / name), best)
        _show_best(bar, best)
        for name in done:
            _finish(folder / name, publisher, raises=raises)
        results = run_all(
            Work(_context_of_workers(plan, devices), publisher),
            jobs,
            executor=options.executor,
            devices=devices,
            resources=options.resources,
            lost=partial(record_failure, folder),  # a worker that died has written nothing down
        )
        with contextlib.closing(results):  # which ends the workers when a failure ends the sweep
            for index, outcome in results:
                name, _ = jobs[index]
                if isinstance(outcome, FailedRun):
                    _take_failure(outcome, folder, bar, raises=raises)
                else:
                    _collect(folder / name, publisher)
                    best = best_run(outcome, best)
                bar.update()
                _show_best(bar, best)


def _context_of_workers(plan: SweepPlan, devices: Sequence[str]) -> SweepContext:
    """What the runs share, with Trainer's bar where runs are trained one after the other.

    The bars of runs that are trained side by side would write over each other.
    """
    context = plan.context
    side_by_side = plan.options.executor != "local" or len(devices) > 1
    return replace(context, bars=context.bars and not side_by_side and is_main())


def _take_failure(failure: FailedRun, folder: Path, bar: tqdm[Any], *, raises: bool) -> None:
    """Write down a failure, and tell it above the bar or as an error."""
    if is_main() and load_failure(folder / failure.name) is None:  # of a worker that wrote it elsewhere
        record_failure(folder, (failure.name, failure.params), failure.reason, failure.cause)
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
                warn(f"{name} is not on the Hub yet: {error}")
        return outcome


def _finish(folder: Path, publisher: Publisher | None, *, raises: bool) -> None:
    """What an interruption may have kept a whole run from: its checkpoints go, and it goes to the Hub.

    Raises:
        [`TrainingError`]: if the run failed, and failures are to be raised.
    """
    failure = load_failure(folder)
    if failure is not None and raises:
        raise TrainingError(f"{folder.name} failed: {failure.reason}")
    runs = load_runs(folder)
    if not runs:
        return
    if is_main():
        tidy(folder, keep=runs[-1].state["checkpoints"])
    if publisher is not None:
        publisher.publish(folder)


def _collect(folder: Path, publisher: Publisher | None) -> None:
    """Bring a run here from the Hub, if the worker that trained it shares no storage with this process."""
    if publisher is None:
        return
    try:
        publisher.collect(folder)
    except IngredientError as error:  # its push failed: the run is whole where it was trained, and nowhere else
        warn(f"{folder.name} was trained elsewhere and is not on the Hub: {error}")


def _show_best(bar: tqdm[Any], best: Scored | None) -> None:
    """Write the best score so far behind the bar."""
    if best is not None:
        bar.set_postfix_str(f"best so far: {best.run.name}, {best.score.metric} {best.score.value:.4f}")
