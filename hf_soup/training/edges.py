"""Notes on a sweep that ended too early: the best settings lie at the edge of the space, or scores still rise."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import SoupError
from ..metrics.statistics import SHARES
from ..types import gain
from ..untrusted import read_json
from .records import Run
from .resume import STATE


FEWEST = 3  # different values of a setting from which on it has an edge
UNCHECKED = ("seed", "data_seed", "fold")  # numbers without an order


def edge_notes(runs: Sequence[Run], best: Run) -> list[str]:
    """Sentences on what to try beyond the space of a sweep.

    Args:
        runs (`Sequence[Run]`):
            Complete runs, without intermediate checkpoints.
        best ([`Run`]):
            The best of them.
    """
    edges = []
    for name, value in best.params.items():
        values: set[float] = {run.params[name] for run in runs if _is_number(run.params.get(name))}
        if name in UNCHECKED or not _is_number(value) or len(values) < FEWEST:
            continue
        as_good = {run.params.get(name) for run in runs if run.score == best.score}
        if as_good == {value} and value in (max(values), min(values)):
            end = "highest" if value == max(values) else "lowest"
            edges.append(f"its {name}, {value:g}, is the {end} that was tried")
    rise = _last_rise(best)
    if rise is not None:
        before, after = rise
        edges.append(f"its score still rose in the last evaluation, from {before:.4f} to {after:.4f}")
    if not edges:
        return []
    advice = "train longer, or widen the space" if rise is not None else "widen the space"
    return [f"{best.name} may not be the best that can be had: {' and '.join(edges)}. To find out, {advice}."]


def _is_number(value: object) -> bool:
    """Whether a value is a number with an order; `True` and `False` have none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _last_rise(run: Run) -> tuple[float, float] | None:
    """The scores of the last two evaluations, if the last is better by more than one standard error of the score."""
    score = run.score
    if score is None or score.metric not in SHARES or not score.n:
        return None
    try:
        history = read_json(run.folder / STATE)["log_history"]
        values = [float(record[f"eval_{score.metric}"]) for record in history if f"eval_{score.metric}" in record]
    except (OSError, SoupError, KeyError, TypeError, ValueError):  # a note is not worth an error
        return None
    if len(values) < 2 or score.value != values[-1]:
        return None
    error = math.sqrt(max(values[-1] * (1 - values[-1]), 0.0) / score.n)
    if gain(values[-1], values[-2], score.higher_is_better) <= error:
        return None
    return values[-2], values[-1]
