"""A sweep as a value: the runs in its folder, as a table and as a picture. Nothing is trained."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from ..display.results import Result
from ..display.sweep import Line, Setting, plot_sweep
from ..display.tables import align, cell, shared_line
from ..errors import TrainingError
from ..options import answers_keywords
from ..publishing.bases import START
from ..types import Score
from ..untrusted import as_error, read_json
from .edges import edge_notes
from .folds import kind_of
from .manifest import SHARED, read_manifest
from .records import FailedRun, Run, load_failure, load_runs
from .refinement import best_settings
from .resume import STATE


if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Sweep(Result, Sequence[Run]):
    """Training runs with a shared start, as a sequence that can be passed to [`merge`].

    Args:
        base_model (`Path`):
            Model that all runs started from, head included.
        runs (`tuple[Run, ...]`):
            Complete runs, in the order of the space; with `keep="all"` each follows its intermediate checkpoints.
        failed (`tuple[FailedRun, ...]`, *optional*):
            Runs that failed, with the reasons.
        waiting (`tuple[str, ...]`, *optional*):
            Names of runs that are not complete yet.
        training_args (`Mapping[str, Any]`, *optional*):
            Settings that all runs share.
    """

    base_model: Path
    runs: tuple[Run, ...]
    failed: tuple[FailedRun, ...] = ()
    waiting: tuple[str, ...] = ()
    training_args: Mapping[str, Any] = field(default_factory=dict)

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Run, ...]: ...
    def __getitem__(self, index: int | slice) -> Run | tuple[Run, ...]:
        return self.runs[index]

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def best(self) -> Run:
        """The run with the best score on the validation data; the first one if several are equal.

        Raises:
            [`TrainingError`]: if no run has a score.
        """
        best = best_run(self.runs)
        if best is None:
            raise TrainingError("no run has a score: give the sweep validation data.")
        return best.run

    def best_settings(self) -> Sweep:
        """The runs of the best settings, whatever their seeds and folds: ingredients of like quality.

        Of the settings with the most runs, which are those that `refine` has added runs of, those with the best mean
        score are the best. The few runs of other settings may be good by chance.

        Returns:
            [`Sweep`]: with `keep="all"`, the intermediate checkpoints of these runs as well.

        Raises:
            [`TrainingError`]: if no run has a score.
        """
        complete = [run for run in self.runs if not run.is_intermediate]
        counts = Counter(kind_of(run.params) for run in complete)
        most = max(counts.values(), default=0)
        best = kind_of(best_settings([run for run in complete if counts[kind_of(run.params)] == most]))
        return replace(self, runs=tuple(run for run in self.runs if kind_of(run.params) == best))

    def table(self) -> str:
        """A row for each run with its settings and score, best first; then the failed runs and the shared settings."""
        varied, shared = self._settings()
        metrics = [run.score.metric for run in self.runs if run.score]
        metric = metrics[0] if metrics else "score"  # all runs of a sweep have one metric
        validated = all(_loss_of(run) is not None for run in self.runs)
        loss_name = "validation loss" if validated else "training loss"
        lines = [["run", *varied, metric, loss_name, "step", "seconds"]]
        for run in sorted(self.runs, key=_rank, reverse=True):
            lines.append(_line(run, varied, validated=validated))
        for failure in self.failed:
            own = [cell(failure.params.get(key)) for key in varied]
            lines.append([failure.name, *own, failure.cause, "-", "-", "-"])
        paragraphs = [align(lines), *shared_line({**self.training_args, **shared}, varied)]
        whole = [run for run in self.runs if not run.is_intermediate]
        best = best_run(whole)
        notes = [] if best is None else edge_notes(whole, best.run)
        if notes:
            paragraphs += ["", *notes]
        if self.failed:
            paragraphs.append("")
            paragraphs += [failure.line for failure in self.failed]
        return "\n".join(paragraphs)

    def to_pandas(self) -> pd.DataFrame:
        """A row for each run, with settings and metrics as columns; failed runs have a `reason`."""
        import pandas as pd

        records: list[dict[str, Any]] = []
        for run in self.runs:
            record = {
                "run": run.name,
                **run.params,
                "seed": run.seed,
                **run.state["metrics"],
                "train_loss": run.state["train_loss"],
                "step": run.state["step"],
                "seconds": run.state["seconds"],
                "folder": str(run.folder),
            }
            records.append(record)
        for failure in self.failed:
            records.append({"run": failure.name, **failure.params, "reason": failure.reason})
        return pd.DataFrame(records)

    def plot(self) -> Figure:
        """Plot the validation score against each setting that varies, and the curves of training and validation.

        Returns:
            `matplotlib.figure.Figure`

        Raises:
            [`MissingExtraError`]: if matplotlib is not installed.
            [`TrainingError`]: if no run has a score.
        """
        whole = [run for run in self.runs if not run.is_intermediate]
        best = best_run(whole)
        if best is None:
            raise TrainingError("no run has a score: give the sweep validation data.")
        metric = best.score.metric
        scored = [Scored(run, run.score) for run in whole if run.score]
        scores = [candidate.score.value for candidate in scored]
        varied, _ = self._settings()
        settings = []
        for name in varied:
            values = [candidate.run.params.get(name) for candidate in scored]
            settings.append(Setting(name, values, scores, scored.index(best)))
        lines: list[Line] = []
        for run in whole:
            lines += _lines(run, metric)
        title = (
            f"{best.run.name} is the best of {len(whole)} runs: {metric} {best.score.value:.4f} on {best.score.split}"
        )
        return plot_sweep(
            settings,
            lines,
            metric=metric,
            best=best.run.name,
            title=title,
            higher_is_better=best.score.higher_is_better,
        )

    def _settings(self) -> tuple[list[str], dict[str, Any]]:
        """Names of the settings that differ between runs, and the settings that are the same in all."""
        settings = [run.params for run in self.runs]
        settings += [failure.params for failure in self.failed]
        names: dict[str, None] = {}  # in order of first appearance
        for params in settings:
            names.update(dict.fromkeys(params))
        varied: list[str] = []
        shared: dict[str, Any] = {}
        for name in names:
            if _is_shared(name, settings):
                shared[name] = settings[0][name]
            else:
                varied.append(name)
        return varied, shared


def _is_shared(name: str, settings: Sequence[Mapping[str, Any]]) -> bool:
    """Whether several runs have the same value of a setting; settings of a single run are not shared."""
    if len(settings) < 2 or name not in settings[0]:
        return False
    first = settings[0][name]
    return all(name in params and params[name] == first for params in settings)


class Scored(NamedTuple):
    """A run and its score."""

    run: Run
    score: Score


def best_run(runs: Sequence[Run], best: Scored | None = None) -> Scored | None:
    """The run with the best score, the first one if several are equal; `None` if no run has a score.

    Args:
        runs (`Sequence[Run]`):
            Runs to compare.
        best ([`Scored`], *optional*):
            Best run among earlier ones.
    """
    for run in runs:
        score = run.score
        if score is not None and (best is None or score.beats(best.score)):
            best = Scored(run, score)
    return best


def _line(run: Run, varied: Sequence[str], *, validated: bool) -> list[str]:
    """The line of a run in the table: its settings, score, loss, step and seconds."""
    own = [cell(run.params.get(key)) for key in varied]
    score = f"{run.score.value:.4f}" if run.score else "-"
    loss = _loss_of(run) if validated else run.state["train_loss"]
    return [run.name, *own, score, f"{loss:.4f}", f"{run.state['step']:,}", f"{run.state['seconds']:.0f}"]


def _loss_of(run: Run) -> float | None:
    """The validation loss of the step that is kept, to which the score belongs; `None` without validation data."""
    loss = run.state["metrics"].get("eval_loss")
    return float(loss) if isinstance(loss, (int, float)) else None


def _rank(run: Run) -> float:
    """Sort key of runs in tables: runs without a score come last."""
    score = run.score
    return -math.inf if score is None else score.rank_key


def _lines(run: Run, metric: str) -> Iterator[Line]:
    """The curves of one run: the training loss, and the score on the validation data."""
    with as_error(TrainingError, f"the history of {run.name} cannot be read from {run.folder / STATE}"):
        history = [dict(record) for record in read_json(run.folder / STATE)["log_history"]]
    for key in ("loss", f"eval_{metric}"):
        epochs = []
        values = []
        for record in history:
            if key in record and "epoch" in record:
                epochs.append(record["epoch"])
                values.append(record[key])
        if epochs:
            yield Line(run.name, key, epochs, values)


@answers_keywords
def load_sweep(folder: str | os.PathLike[str]) -> Sweep:
    """Load the runs of a sweep from its folder, with the reasons why others failed.

    Args:
        folder (`str` or `os.PathLike`):
            Folder of the sweep, the `output_dir` of [`sweep`].

    Returns:
        [`Sweep`]

    Raises:
        [`TrainingError`]: if the folder is not that of a sweep.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    return sweep_in(folder, manifest["runs"], manifest["fixed"].get(SHARED, {}))


def sweep_in(folder: Path, settings: Mapping[str, Mapping[str, Any]], shared: Mapping[str, Any]) -> Sweep:
    """The sweep in a folder. Each run gets its current settings, because a setting may have been shared by all runs
    when it was trained.
    """
    runs: list[Run] = []
    failed: list[FailedRun] = []
    waiting: list[str] = []
    for name, own in settings.items():
        whole = load_runs(folder / name)
        failure = load_failure(folder / name)
        if whole:
            runs += [replace(run, params=own) for run in whole]
        elif failure is not None:
            failed.append(replace(failure, params=own))
        else:
            waiting.append(name)
    return Sweep(folder / START, tuple(runs), tuple(failed), tuple(waiting), shared)
