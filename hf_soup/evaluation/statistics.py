"""How sure a difference is: paired bootstrap over examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple


if TYPE_CHECKING:
    import numpy as np


class Interval(NamedTuple):
    """An estimate and its 95 % interval, in the unit of what was measured."""

    value: float
    low: float
    high: float


def paired_difference(a: np.ndarray, b: np.ndarray, *, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Mean of `a - b` with a 95 % bootstrap interval; the examples are resampled in pairs.

    Args:
        a (`np.ndarray` of shape `(examples,)`):
            What one model got on each example, such as 1 for right and 0 for wrong.
        b (`np.ndarray` of shape `(examples,)`):
            The same of the other model, on the same examples.
        resamples (`int`, *optional*, defaults to 10,000):
            How many.
        seed (`int`, *optional*, defaults to 0):
            Of the resampling.

    Returns:
        [`Interval`]: percentile interval.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    import numpy as np
    from scipy import stats

    difference = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    if np.ptp(difference) == 0:  # the same on every example: nothing to resample
        return Interval(float(difference[0]), float(difference[0]), float(difference[0]))
    found = stats.bootstrap(
        (difference,), np.mean, n_resamples=resamples, batch=1000, method="percentile", rng=np.random.default_rng(seed)
    )
    return Interval(float(difference.mean()), *map(float, found.confidence_interval))


def mean_interval(values: np.ndarray, **options: int) -> Interval:
    """Mean of per-example values with a 95 % bootstrap interval; `options` as in [`paired_difference`]."""
    import numpy as np

    return paired_difference(values, np.zeros_like(np.asarray(values, dtype=float)), **options)
