"""Further runs around the best settings of a sweep: other seeds, small steps in the learning rate, parts of the data.

Ingredients of like quality average better than those of a grid, half of which are far below the best.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from ..errors import RecipeError, TrainingError, did_you_mean
from .folds import kind_of, without_seed
from .records import Run


class Refinement(NamedTuple):
    """The further runs of a sweep.

    Args:
        runs (`int`):
            Number of further runs.
        learning_rate (`float`, *optional*, defaults to 1.0):
            Factor by which learning rates differ at most from the best one; 1 keeps the best one.
        bagging_fraction (`float`, *optional*):
            Fraction of the training examples that each further run is trained on, drawn by its seed.
        halving (`bool`, *optional*, defaults to `False`):
            Whether runs of the space whose score is in the lower half after a part of the training are stopped.
    """

    runs: int
    learning_rate: float = 1.0
    bagging_fraction: float | None = None
    halving: bool = False


def read_refinement(refine: int | Mapping[str, Any] | None) -> Refinement | None:
    """Read the option `refine`.

    Args:
        refine (`int` or `Mapping`, *optional*):
            Number of further runs, or a mapping with the fields of [`Refinement`].

    Raises:
        [`RecipeError`]: if it is neither, or a value is out of its range.
    """
    if refine is None:
        return None
    given = dict(refine) if isinstance(refine, Mapping) else {"runs": refine}
    for name in given:
        if name not in Refinement._fields:
            raise RecipeError(f'refine has no "{name}"{did_you_mean(str(name), Refinement._fields)}')
    runs, factor, fraction = given.get("runs"), given.get("learning_rate", 1.0), given.get("bagging_fraction")
    if isinstance(runs, float) and runs.is_integer():  # the numbers of a mapping in a cook file
        runs = int(runs)
    if not isinstance(runs, int) or isinstance(runs, bool) or runs < 0:
        raise RecipeError(f"refine is the number of further runs, 0 or more, or a mapping with runs, not {refine!r}.")
    if not _is_number(factor) or not 1 <= factor <= 100:
        raise RecipeError(f"refine: learning_rate is a factor from 1 to 100, not {factor!r}.")
    if fraction is not None and (not _is_number(fraction) or not 0 < fraction <= 1):
        raise RecipeError(f"refine: bagging_fraction is above 0 and at most 1, not {fraction!r}.")
    halving = given.get("halving", False)
    if not isinstance(halving, bool):
        raise RecipeError(f"refine: halving is true or false, not {halving!r}.")
    return Refinement(runs, float(factor), fraction, halving) if runs else None


def _is_number(value: object) -> bool:
    """Whether a value is a number; `True` and `False` are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def settings_around_best(
    runs: Sequence[Run],
    shared: Mapping[str, Any],
    refinement: Refinement,
    *,
    seed: int = 0,
    seeds: Collection[int] = (),
) -> list[dict[str, Any]]:
    """The settings of the further runs: those of the best runs with new seeds.

    The best settings are those with the best mean score over their seeds.

    Args:
        runs (`Sequence[Run]`):
            Complete runs, without intermediate checkpoints.
        shared (`Mapping[str, Any]`):
            Settings that all runs share.
        refinement ([`Refinement`]):
            What differs between the further runs.
        seed (`int`, *optional*, defaults to 0):
            Seed of the steps in the learning rate.
        seeds (`Collection[int]`, *optional*):
            Further seeds that are taken, such as those of runs that were stopped.

    Raises:
        [`TrainingError`]: if no run has a score.
        [`RecipeError`]: if the learning rate is to vary and the best settings do not name it.
    """
    import numpy as np

    best = best_settings(runs)
    used = {run.seed for run in runs} | set(seeds)
    rate = {**shared, **best}.get("learning_rate")
    if refinement.learning_rate > 1 and rate is None:
        raise RecipeError("refine: learning_rate varies around the best one: name it in space or training_args.")
    rng = np.random.default_rng(seed)
    further: list[dict[str, Any]] = []
    next_seed = 0
    while len(further) < refinement.runs:
        if next_seed not in used:
            own = {**best, "seed": next_seed}
            if refinement.learning_rate > 1:
                own["learning_rate"] = float(f"{rate * refinement.learning_rate ** rng.uniform(-1, 1):.3g}")
            if refinement.bagging_fraction is not None:
                own["bagging_fraction"] = refinement.bagging_fraction
            further.append(own)
        next_seed += 1
    return further


def best_settings(runs: Sequence[Run]) -> dict[str, Any]:
    """The settings, without seed and fold, with the best mean score; of several equal ones those with the lowest loss.

    Args:
        runs (`Sequence[Run]`):
            Complete runs, without intermediate checkpoints.

    Raises:
        [`TrainingError`]: if no run has a score.
    """
    scores: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for run in runs:
        if run.score is None:
            continue
        key = kind_of(run.params)
        settings.setdefault(key, without_seed(run.params))
        scores.setdefault(key, []).append(run.score.rank_key)
        losses.setdefault(key, []).append(float(run.state["metrics"].get("eval_loss", 0.0)))
    if not scores:
        raise TrainingError("no run has a score, so that there are no best settings.")
    return settings[max(scores, key=lambda key: (fmean(scores[key]), -fmean(losses[key])))]
