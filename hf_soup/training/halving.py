"""Successive halving: runs whose score is in the lower half after a part of the training are stopped.

Source: Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning (ASHA), [arXiv
1810.05934](https://arxiv.org/abs/1810.05934), algorithm 2, with a reduction factor of 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback

from ..errors import SoupError
from ..metrics.load import Metric
from ..types import gain, is_better_higher
from ..untrusted import read_json
from .records import StoppedError
from .resume import STATE


RUNGS = (0.25, 0.5)  # parts of the training after which runs are compared


class Evaluated(NamedTuple):
    """The score of a run at one evaluation.

    Args:
        step (`int`):
            Number of optimizer steps before it.
        score (`float`):
            Score on validation.
    """

    step: int
    score: float


class StopLowerHalf(TrainerCallback):
    """Stops a run that is in the lower half of the runs that have come as far.

    A run is compared with those that are complete or stopped; the first run has none to be compared with.

    Args:
        folder (`Path`):
            Folder of the run, beside those of the others.
        metric ([`Metric`]):
            Metric that ranks the runs.
    """

    def __init__(self, folder: Path, metric: Metric):
        self._folder = folder
        self._key = f"eval_{metric.name}"
        self._higher_is_better = is_better_higher(metric.higher_is_better)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Compare the runs if this is the first evaluation after a part of the training.

        Raises:
            [`StoppedError`]: if the run is in the lower half.
        """
        if state.global_step >= state.max_steps:
            return
        for rung in RUNGS:
            own = _at(rung, self._key, {"max_steps": state.max_steps, "log_history": state.log_history})
            if own is None or own.step != state.global_step:
                continue
            others = self._others_at(rung)
            better = sum(self._is_better(other, own.score) for other in others)
            runs = len(others) + 1
            if better >= math.ceil(runs / 2):
                if state.is_world_process_zero:  # later runs are compared with this one
                    state.save_to_json(str(self._folder / STATE))
                raise StoppedError(
                    f"its {self._key.removeprefix('eval_')} of {own.score:.4f} after {own.step} of {state.max_steps} "
                    f"steps was in the lower half of {runs} runs"
                )

    def _others_at(self, rung: float) -> list[float]:
        """The scores of the other runs after this part of their training."""
        scores = []
        for path in sorted(self._folder.parent.glob(f"run-*/{STATE}")):
            if path.parent == self._folder:
                continue
            try:
                found = _at(rung, self._key, read_json(path))
            except (OSError, SoupError, KeyError, TypeError):  # a file that is being written, or is damaged
                continue
            if found is not None:
                scores.append(found.score)
        return scores

    def _is_better(self, other: float, own: float) -> bool:
        """Whether another score is better; every number is better than NaN."""
        if math.isnan(own) or math.isnan(other):
            return not math.isnan(other)
        return gain(other, own, self._higher_is_better) > 0


def _at(rung: float, key: str, state: Mapping[str, Any]) -> Evaluated | None:
    """The first evaluation after a part of the training; `None` if there was none."""
    history: Sequence[Mapping[str, Any]] = state["log_history"]
    for record in history:
        if key in record and record["step"] >= rung * state["max_steps"]:
            return Evaluated(record["step"], float(record[key]))
    return None
