"""Runs as values, and the files in their folders that record which runs are complete and which have failed."""

from __future__ import annotations

import json
import re
import shutil
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoints.pushed import PUSHED_FILE
from ..checkpoints.staging import write_json
from ..checkpoints.targets import as_output_error
from ..errors import SoupError, TrainingError
from ..publishing.bases import RUN_FILE
from ..types import Ingredient, Score
from ..untrusted import read_json
from .processes import is_main
from .resume import checkpoints_in


Job = tuple[str, Mapping[str, Any]]  # name of a run, and its settings

FAILED_FILE = "failed.json"
RECORD = {  # key of `run.json` -> type of its value
    "run": str,
    "params": dict,
    "seed": int,
    "metrics": dict,
    "checkpoints": dict,
    "step": int,
    "train_loss": (int, float),
    "seconds": (int, float),
}
LARGEST = 2**63  # limit of integers in a record; much larger ones do not fit into floating-point numbers


class DivergedError(TrainingError):
    """The loss or a weight is NaN or infinite; training again would give the same result."""


class StoppedError(TrainingError):
    """Successive halving has stopped a run whose score was in the lower half."""


@dataclass(frozen=True)
class Run:
    """One complete training run, or one of its intermediate checkpoints with `keep="all"`.

    Args:
        params (`Mapping[str, Any]`):
            Settings of this run, such as learning rate and seed.
        seed (`int`):
            Random seed of data order and dropout.
        folder (`Path`):
            Folder of the checkpoint, which loads with `from_pretrained`; that of a complete run also has `run.json`
            and `trainer_state.json`.
        state (`Mapping[str, Any]`):
            Content of `run.json`: metrics, steps, seconds, versions, fingerprints of the data, commit of the base
            model.
    """

    params: Mapping[str, Any]
    seed: int
    folder: Path
    state: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the run, such as `run-3` or `run-3-checkpoint-40`."""
        if self.is_intermediate:
            return f"{self.state['run']}-{self.folder.name}"
        return self.folder.name

    @property
    def is_intermediate(self) -> bool:
        """Whether it is a checkpoint before the end of a run, which `keep="all"` keeps."""
        return self.folder.name != self.state["run"]

    @property
    def score(self) -> Score | None:
        """Score on the validation data by the metric of the sweep; `None` if there is no validation data."""
        score = self.state.get("score")
        return Score(**score) if score else None

    def as_ingredient(self) -> Ingredient:
        """The run as an ingredient of a soup."""
        return Ingredient(self.name, str(self.folder))


@dataclass(frozen=True)
class FailedRun:
    """One training run that failed; it is left out of soups.

    Args:
        name (`str`):
            Name of its folder.
        params (`Mapping[str, Any]`):
            Settings of the run.
        reason (`str`):
            Reason for the failure, in one line.
        cause (`str`):
            Kind of failure: `"diverged"`, `"stopped"` (by successive halving), `"memory"` or `"error"`.
    """

    name: str
    params: Mapping[str, Any]
    reason: str
    cause: str

    @property
    def is_final(self) -> bool:
        """Whether the run would end in the same way again, so that it is not repeated."""
        return self.cause == "diverged" or self.is_stopped

    @property
    def is_stopped(self) -> bool:
        """Whether successive halving stopped the run, which is no failure."""
        return self.cause == "stopped"

    @property
    def line(self) -> str:
        """The run and the reason in one line."""
        return f"{self.name} {'was stopped' if self.is_stopped else 'failed'}: {self.reason}"


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with JSON types, so that those of a file and of a call can be compared."""
    return json.loads(json.dumps(settings, default=str))  # such as a path


def load_runs(folder: Path) -> tuple[Run, ...]:
    """The run in a folder, after its intermediate checkpoints if these are kept; empty if it is not complete."""
    try:
        state = read_json(folder / RUN_FILE)
        if not _is_record(state):
            return ()
        if (folder / PUSHED_FILE).is_file():
            state["hub"] = read_json(folder / PUSHED_FILE)
        whole = Run(state["params"], state["seed"], folder, state)
    except (OSError, SoupError):
        return ()
    runs = []
    for name, own in state["checkpoints"].items():  # with keep="all"; each has its own step and score
        runs.append(replace(whole, folder=folder / name, state={**state, **own}))
    return (*runs, whole)


def _is_record(state: Any) -> bool:
    """Whether `run.json` has all keys of a record, with values of the right types."""
    if not _has(state, RECORD):
        return False
    for key in ("step", "seed", "train_loss", "seconds"):
        if isinstance(state[key], int) and abs(state[key]) > LARGEST:
            return False
    for name, own in state["checkpoints"].items():
        if not re.fullmatch(r"checkpoint-[0-9]+", name) or not isinstance(own, dict):
            return False
        if not _is_score(own.get("score")):
            return False
    return _is_score(state.get("score"))


def _has(content: Any, types: Mapping[str, Any]) -> bool:
    """Whether the content of a file is a mapping with these keys and values of these types."""
    if not isinstance(content, dict):
        return False
    return all(isinstance(content.get(key), expected) for key, expected in types.items())


def _is_score(content: Any) -> bool:
    """Whether the content of a file is a valid score; a run without validation data has none."""
    if content is None:
        return True
    try:
        Score(**content)
    except (TypeError, OverflowError, SoupError):
        return False
    return True


def load_failure(folder: Path) -> FailedRun | None:
    """Why the run in a folder failed, if it did."""
    try:
        record = read_json(folder / FAILED_FILE)
    except (OSError, SoupError):
        return None
    if not _has(record, {"params": dict, "reason": str, "kind": str}):
        return None
    return FailedRun(folder.name, record["params"], record["reason"], record["kind"])


def record_failure(sweep: Path, job: Job, reason: str, cause: str = "error") -> FailedRun:
    """Record in its folder why a run failed.

    Args:
        sweep (`Path`):
            Folder of the sweep.
        job (`tuple[str, Mapping[str, Any]]`):
            Name and settings of the run.
        reason (`str`), cause (`str`, *optional*, defaults to `"error"`):
            Reason and kind of failure, as for [`FailedRun`].
    """
    name, params = job
    failed = FailedRun(name, dict(params), reason, cause)
    if is_main():
        with as_output_error(sweep / name):
            (sweep / name).mkdir(exist_ok=True)
        # the cause is called "kind" in the file, whose format is kept
        record = {"params": failed.params, "reason": reason, "kind": cause, "traceback": traceback.format_exc()}
        write_json(sweep / name / FAILED_FILE, record)
    return failed


def tidy(folder: Path, keep: Mapping[str, Any]) -> None:
    """Delete the checkpoints of a complete run, except those that are ingredients too."""
    for checkpoint in list(checkpoints_in(folder)):
        if checkpoint.name not in keep:
            shutil.rmtree(checkpoint, ignore_errors=True)
