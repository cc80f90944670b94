"""The history that Trainer logs: scores of evaluations, and a form that does not depend on interruptions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


LOSSES = ("loss", "eval_loss")


def is_timing(key: str) -> bool:
    """Whether a logged value is a duration."""
    return key.endswith(("runtime", "per_second"))


def evaluation_at(history: Sequence[Mapping[str, Any]], step: int) -> dict[str, float]:
    """The scores that Trainer logged at one step, without timings; empty if there was no evaluation."""
    for record in history:
        # the training loss of a step has a separate record
        if record.get("step") == step and any(key.startswith("eval_") for key in record):
            return {key: value for key, value in record.items() if key.startswith("eval_") and not is_timing(key)}
    return {}


def without_timings(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records of a history without timings; in each, the loss comes first, then the rest by name."""
    records = []
    for record in history:
        names = [name for name in record if not is_timing(name)]
        names.sort(key=lambda name: (name not in LOSSES, name))
        records.append({name: record[name] for name in names})
    return records


def lasting_history(history: Sequence[Mapping[str, Any]], totals: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The history to save, which is the same whether a run was interrupted or not.

    Trainer's last record is for the whole run, but its times and mean loss are those since the last interruption. It
    is replaced by one with the mean loss of all steps.

    Args:
        history (`Sequence[Mapping[str, Any]]`):
            Records of Trainer.
        totals (`Mapping[str, Any]`):
            Other values of the last record, such as the number of steps.
    """
    records = [record for record in history if "train_runtime" not in record]
    return [*without_timings(records), {**totals, "train_loss": _mean_loss(history)}]


def last_loss(history: Sequence[Mapping[str, Any]]) -> float:
    """The last training loss that was logged; the mean of the whole run if nothing else was logged."""
    logged = [record["loss"] for record in history if "loss" in record]
    return logged[-1] if logged else _mean_loss(history)


def _mean_loss(history: Sequence[Mapping[str, Any]]) -> float:
    """The mean loss of all steps; each record holds the mean since the record before it."""
    total = 0.0
    last_step = 0
    for record in history:
        if "loss" in record:
            total += record["loss"] * (record["step"] - last_step)
            last_step = record["step"]
    if last_step:
        return total / last_step
    # a run that ended before its first log only has the mean of Trainer's last record
    return next((record["train_loss"] for record in history if "train_loss" in record), math.nan)
