"""Runs as values, and the files in their folders that say which runs are whole and which have failed."""

from __future__ import annotations

import json
import re
import shutil
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoints.staging import write_json
from ..checkpoints.targets import as_output_error
from ..errors import SoupError, TrainingError
from ..publishing.bases import RUN_FILE
from ..publishing.privacy import PUSHED_FILE
from ..types import Ingredient, Score
from ..untrusted import read_json
from .processes import is_main
from .resume import checkpoints_in


Job = tuple[str, Mapping[str, Any]]  # the name of a run, and its settings

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
LARGEST = 2**63  # of the whole numbers of a record; much larger ones are no floating-point numbers


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
        if self.folder.name == self.state["run"]:
            return self.folder.name
        return f"{self.state['run']}-{self.folder.name}"

    @property
    def score(self) -> Score | None:
        """On the validation data, by the metric of the sweep; `None` if there is no such data."""
        score = self.state.get("score")
        return Score(**score) if score else None

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
        cause (`str`):
            `"diverged"`, which a later sweep does not try again, `"memory"` or `"error"`.
    """

    name: str
    params: Mapping[str, Any]
    reason: str
    cause: str


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON has them, so that those of a file can be compared with those of a call."""
    return json.loads(json.dumps(settings, default=str))  # such as a path


def load_runs(folder: Path) -> tuple[Run, ...]:
    """The run in a folder, the checkpoints on its way before it if they are kept; nothing if it is not whole."""
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
    for name, own in state["checkpoints"].items():  # of keep="all"; they have steps and scores of their own
        runs.append(replace(whole, folder=folder / name, state={**state, **own}))
    return (*runs, whole)


def _is_record(state: Any) -> bool:
    """Whether `run.json` says all that a run is asked for, in the form that is written."""
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
    """Whether content of a file is a mapping with these keys, each with a value of its type."""
    if not isinstance(content, dict):
        return False
    return all(isinstance(content.get(key), expected) for key, expected in types.items())


def _is_score(content: Any) -> bool:
    """Whether content of a file is a score as it is written; a run without validation data has none."""
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
    """Write down in its folder why a run failed.

    Args:
        sweep (`Path`):
            The folder of the sweep.
        job (`tuple[str, Mapping[str, Any]]`):
            Name and settings of the run.
        reason (`str`), cause (`str`, *optional*, defaults to `"error"`):
            As of [`FailedRun`].
    """
    name, params = job
    failed = FailedRun(name, dict(params), reason, cause)
    if is_main():
        with as_output_error(sweep / name):
            (sweep / name).mkdir(exist_ok=True)
        # the cause is "kind" in the file, whose format stays
        record = {"params": failed.params, "reason": reason, "kind": cause, "traceback": traceback.format_exc()}
        write_json(sweep / name / FAILED_FILE, record)
    return failed


def tidy(folder: Path, keep: Mapping[str, Any]) -> None:
    """Delete the checkpoints of a whole run, but those that are ingredients too."""
    for checkpoint in list(checkpoints_in(folder)):
        if checkpoint.name not in keep:
            shutil.rmtree(checkpoint, ignore_errors=True)
