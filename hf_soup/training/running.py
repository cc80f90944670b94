"""From the plan of a sweep to its runs: the start is made first, then the runs are trained, here or on workers.

Complete runs are not repeated; a larger space adds runs.
"""

from __future__ import annotations

import contextlib
import json
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
from .records import FailedRun, Job, load_failure, load_runs, plain_settings, record_failure, tidy
from .run import train_run
from .start import make_start
from .sweep import Scored, Sweep, best_run, sweep_in


if TYPE_CHECKING:
    from tqdm import tqdm


def run_plan(plan: SweepPlan, *, publisher: Publisher | None = None) -> Sweep:
    """Train the runs of a plan.

    Args:
        plan ([`SweepPlan`]):
            Plan of the sweep, made just before.
        publisher ([`Publisher`], *optional*):
            Pushes each run to the Hub.

    Returns:
        [`Sweep`]: the complete runs of the plan.

    Raises:
        [`RecipeError`]: if callbacks cannot be sent to the processes that train on several GPUs.
        [`TrainingError`]: if every run failed, a run failed with `on_error="raise"`, or another process trains in
            the same folder.
    """
    folder = plan.context.folder
    devices = _devices(plan)
    if plan.context.own_heads:
        warn('head="independent": every run has its own head, and averages of such runs are rarely good.')
    wait()  # until every process has read the folder
    with only_one(folder):
        plan = _begin(plan)
        if publisher is not None:
            publisher = publisher.with_start(folder / START)
        if plan.options.executor == "jobs" and publisher is not None:
            plan = _with_runs_on_hub(plan, publisher)
        _train_all(plan, devices, publisher)
    sweep = sweep_in(folder, plan.runs, plan.context.training_args)
    if sweep.failed and not sweep.runs:
        raise TrainingError(f"every run failed, such as {sweep.failed[0].name}: {sweep.failed[0].reason}")
    for failure in sweep.failed:
        if not failure.is_stopped:
            warn(f"{failure.name} failed and is left out of soups: {failure.reason}")
    return sweep


def _with_runs_on_hub(plan: SweepPlan, publisher: Publisher) -> SweepPlan:
    """Download the runs that jobs of an earlier call have pushed, which are not trained again.

    Raises:
        [`OutputError`]: if a repository that a run would be pushed to has something else.
    """
    folder, shared = plan.context.folder, plan.context.training_args
    found = set()
    for name in plan.todo:
        expected = {
            **plan.context.about,
            "setup": plan.context.setup,
            "settings": plain_settings({**shared, **plan.runs[name]}),
        }
        if publisher.has_run(folder / name, expected):
            publisher.collect(folder / name)
            found.add(name)
    return replace(plan, done=plan.done | found)


def _devices(plan: SweepPlan) -> Sequence[str]:
    """The GPUs to distribute runs over; empty if other machines train, or if all processes share each run.

    Raises:
        [`RecipeError`]: if there are several GPUs, and callbacks or the metric cannot be sent to their processes.
    """
    if plan.options.executor != "local" or is_launched():
        return ()
    devices = gpus()
    if len(devices) > 1:
        from .callbacks import check_picklable

        check_picklable("callbacks", plan.context.callbacks)
        check_picklable("metric", [plan.context.metric])
    return devices


def _begin(plan: SweepPlan) -> SweepPlan:
    """Write `sweep.json` and make the start; return the plan with the saved processing class."""
    context, folder = plan.context, plan.context.folder
    if is_main():
        _refuse_changed(plan)
        # before the start is made: the next call raises an error for a start without this file
        write_json(folder / SWEEP_FILE, plan.manifest)
    if plan.origin is not None:
        probe_args = plan.options.probe_args or {}
        make_start(plan.origin, context, init_seed=plan.options.init_seed, probe_args=probe_args)
        # read as by a later call, so that all runs have the same files
        processing_class = load_module("task", context.task).load_processing_class(str(folder / START), None)
        plan = replace(plan, context=replace(context, processing_class=processing_class))
    if is_main():
        check_start(plan.manifest, folder / START)
        write_json(folder / SWEEP_FILE, {**plan.manifest, "start": start_digests(folder / START)})
    return plan


def _refuse_changed(plan: SweepPlan) -> None:
    """Raise an error if another process has started, or has added runs, since the plan was made."""
    folder = plan.context.folder
    manifest = find_manifest(folder)
    if manifest is None:
        return
    planned = whole_runs(plan.manifest)
    for name, settings in whole_runs(manifest).items():
        if planned.get(name) != settings:
            raise TrainingError(f"another process has added runs to {folder} in the meantime. Repeat the call.")


def _train_all(plan: SweepPlan, devices: Sequence[str], publisher: Publisher | None) -> None:
    """Train the remaining runs, with a progress bar that shows the best score so far."""
    options, folder = plan.options, plan.context.folder
    raises = options.on_error == "raise"
    jobs: list[Job] = [(name, plan.runs[name]) for name in plan.todo]
    hidden = not is_main() or bool(plan.context.training_args.get("disable_tqdm"))
    with progress_bar(total=len(plan.runs), desc="Sweep", unit="run", hidden=hidden) as bar:
        bar.update(len(plan.done))
        # in the order of the runs: the first failure is raised, and the first of equal scores is the best
        done = [name for name in plan.runs if name in plan.done]
        best: Scored | None = None
        for name in done:
            best = best_run(load_runs(folder / name), best)
        _show_best(bar, best)
        for name in done:
            _finish(folder / name, publisher, raises=raises)
        in_jobs = options.executor == "jobs"
        results = run_all(
            Work(_context_of_workers(plan, devices), publisher, keeps_runs=not in_jobs),
            jobs,
            executor=options.executor,
            devices=devices,
            resources=options.resources,
            lost=partial(record_failure, folder),  # a worker that died has recorded nothing
            key=_key_of_jobs(plan, publisher) if in_jobs and publisher is not None else None,
        )
        with contextlib.closing(results):  # ends the workers when a failure ends the sweep
            for index, outcome in results:
                name, _ = jobs[index]
                if isinstance(outcome, FailedRun):
                    _take_failure(outcome, folder, bar, raises=raises)
                else:
                    _collect(folder / name, publisher)
                    best = best_run(load_runs(folder / name), best)
                bar.update()
                _show_best(bar, best)


def _context_of_workers(plan: SweepPlan, devices: Sequence[str]) -> SweepContext:
    """The values that runs share, with Trainer's progress bar if runs are trained one at a time.

    The bars of runs that are trained in parallel would overwrite each other.
    """
    context = plan.context
    side_by_side = plan.options.executor != "local" or len(devices) > 1
    if plan.options.executor == "jobs":  # which have no such folder, and train in their own
        context = replace(context, folder=Path(context.folder.name))
    return replace(context, bars=context.bars and not side_by_side and is_main())


def _key_of_jobs(plan: SweepPlan, publisher: Publisher) -> str:
    """What determines the runs of a sweep besides their own settings, by which its jobs are found again."""
    context = plan.context
    values = [publisher.prefix, publisher.start, context.about, context.setup, context.training_args]
    return json.dumps(values, sort_keys=True, default=str)


def _take_failure(failure: FailedRun, folder: Path, bar: tqdm[Any], *, raises: bool) -> None:
    """Record a failure, and report it above the bar or as an error."""
    known = load_failure(folder / failure.name)
    if is_main() and (known is None or known.reason != failure.reason):  # of a worker on another machine
        record_failure(folder, (failure.name, failure.params), failure.reason, failure.cause)
    if raises and not failure.is_stopped:
        raise TrainingError(failure.line)
    if not bar.disable:
        bar.write(failure.line, file=sys.stderr)


@dataclass(frozen=True)
class Work:
    """The work of a worker on one job, which is the name and the settings of a run.

    Args:
        context ([`SweepContext`]):
            Values that all runs share.
        publisher ([`Publisher`], *optional*):
            Pushes the run.
        keeps_runs (`bool`, *optional*, defaults to `True`):
            Whether the folder of the run is there when the work is done, so that a later call can push it.
    """

    context: SweepContext
    publisher: Publisher | None
    keeps_runs: bool = True

    def __call__(self, job: Job) -> FailedRun | None:
        """Train the run, and push it to the Hub if the sweep does so; a failure is returned."""
        name, params = job
        if self.publisher is not None:
            self.publisher.fetch_start(self.context.folder / START)
        outcome = train_run(self.context, name, params)
        if isinstance(outcome, FailedRun):
            return outcome
        if self.publisher is not None:
            try:
                self.publisher.publish(self.context.folder / name)
            except OutputError as error:
                if not self.keeps_runs:
                    return FailedRun(name, dict(params), f"it was trained, and could not be pushed: {error}", "error")
                warn(f"{name} is not on the Hub yet: {error}")  # the next call pushes it
        return None


def _finish(folder: Path, publisher: Publisher | None, *, raises: bool) -> None:
    """Finish a complete run that may have been interrupted: delete its checkpoints, and push it to the Hub.

    Raises:
        [`TrainingError`]: if the run failed, and failures are to be raised.
    """
    failure = load_failure(folder)
    if failure is not None and raises and not failure.is_stopped:
        raise TrainingError(failure.line)
    runs = load_runs(folder)
    if not runs:
        return
    if is_main():
        tidy(folder, keep=runs[-1].state["checkpoints"])
    if publisher is not None:
        publisher.publish(folder)


def _collect(folder: Path, publisher: Publisher | None) -> None:
    """Download a run from the Hub, if the worker that trained it has no shared storage with this process."""
    if publisher is None:
        return
    try:
        publisher.collect(folder)
    except IngredientError as error:  # its push failed: the run only exists where it was trained
        warn(f"{folder.name} was trained elsewhere and is not on the Hub: {error}")


def _show_best(bar: tqdm[Any], best: Scored | None) -> None:
    """Show the best score so far after the bar."""
    if best is not None:
        bar.set_postfix_str(f"best so far: {best.run.name}, {best.score.metric} {best.score.value:.4f}")
