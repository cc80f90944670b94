"""Scores, thresholds of trials, and results of trials that were stopped."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar, overload

from ..errors import EvaluationError
from ..untrusted import one_line


if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")

ROUNDING = 1e-12  # added to a tolerance: 0.912 is within 0.002 of 0.914


@dataclass(frozen=True)
class Score:
    """The value of a metric for one model on one data set.

    Args:
        metric (`str`):
            Name of the metric.
        value (`float`):
            Value in the unit of the metric (accuracy: 0 to 1).
        higher_is_better (`bool`, *optional*, defaults to `True`):
            Whether a higher value is better.
        split (`str`, *optional*):
            Name of the split, such as `"validation"`.
        dataset (`str`, *optional*):
            Fingerprint of the examples.
        n (`int`, *optional*):
            Number of examples.
        others (`Mapping[str, float]`, *optional*):
            Values of other metrics on the same predictions, which do not select.

    Raises:
        [`EvaluationError`]: if the value is NaN or not a number.
    """

    metric: str
    value: float
    higher_is_better: bool = True
    split: str | None = None
    dataset: str | None = None
    n: int | None = None
    others: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.value, (int, float)):
            raise EvaluationError(f"the metric {self.metric!r} gave {one_line(repr(self.value))}, which is no number.")
        object.__setattr__(self, "value", float(self.value))
        if math.isnan(self.value):
            raise EvaluationError(
                f"the metric {self.metric!r} gave NaN on {self.split or 'the data'}; it cannot rank models."
            )

    @property
    def rank_key(self) -> float:
        """A key that sorts scores of one metric from worst to best."""
        return self.value if self.higher_is_better else -self.value

    def gain_over(self, other: Score) -> float:
        """How much better this score is than `other`, in the unit of the metric; negative if it is worse.

        Args:
            other ([`Score`]):
                Another score of the same metric.

        Raises:
            [`EvaluationError`]: if the two are scores of different metrics.
        """
        self._check_comparable(other)
        return gain(self.value, other.value, self.higher_is_better)

    def beats(self, other: Score, *, ties: bool = False, tolerance: float = 0.0) -> bool:
        """Whether this score is better than `other`.

        Args:
            other ([`Score`]):
                Another score of the same metric.
            ties (`bool`, *optional*, defaults to `False`):
                Whether an equal score counts as better.
            tolerance (`float`, *optional*, defaults to 0.0):
                How much worse this score may be, in the unit of the metric.

        Raises:
            [`EvaluationError`]: if the two are scores of different metrics.
        """
        self._check_comparable(other)
        needed = other.rank_key
        if tolerance:
            needed -= tolerance + ROUNDING
        if ties:
            return self.rank_key >= needed
        return self.rank_key > needed

    def _check_comparable(self, other: Score) -> None:
        """Raise an error for a score of another metric."""
        if (self.metric, self.higher_is_better) != (other.metric, other.higher_is_better):
            raise EvaluationError(f"scores of {self.metric!r} and {other.metric!r} cannot be compared.")

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.4f}"


@overload
def gain(value: float, other: float, higher_is_better: bool) -> float: ...
@overload
def gain(value: np.ndarray, other: np.ndarray | float, higher_is_better: bool) -> np.ndarray: ...
def gain(value: float | np.ndarray, other: float | np.ndarray, higher_is_better: bool) -> float | np.ndarray:
    """How much better one value of a metric is than another, in the unit of the metric; negative if it is worse.

    Args:
        value (`float` or `np.ndarray`), other (`float` or `np.ndarray`):
            Two values of one metric, or arrays of them, such as its values on resamples.
        higher_is_better (`bool`):
            Whether a higher value is better.
    """
    if higher_is_better:
        return value - other
    return other - value


def best_of(values: Mapping[T, float], higher_is_better: bool) -> T:
    """The key of the best value of one metric; the first one if several are equal.

    Args:
        values (`Mapping[T, float]`):
            Values of the metric, at least one.
        higher_is_better (`bool`):
            Whether a higher value is better.
    """
    return max(values, key=lambda key: gain(values[key], 0.0, higher_is_better))


def is_better_higher(direction: bool | None) -> bool:
    """Whether a higher value is better, which is the default for metrics without a direction.

    Args:
        direction (`bool`, *optional*):
            Direction of the metric; `None` if it has none.
    """
    return direction is not False


@dataclass(frozen=True)
class Threshold:
    """The score that a trial has to reach.

    Args:
        score ([`Score`]):
            Score that the trial is compared with.
        ties (`bool`, *optional*, defaults to `True`):
            Whether an equal score counts as better.
        tolerance (`float`, *optional*, defaults to 0.0):
            How much worse this score may be, in the unit of the metric.
    """

    score: Score
    ties: bool = True
    tolerance: float = 0.0

    def reached_by(self, score: Score | Rejected) -> bool:
        """Whether a trial reaches the threshold; a stopped trial does not."""
        return isinstance(score, Score) and score.beats(self.score, ties=self.ties, tolerance=self.tolerance)

    def needed(self, n: int) -> int:
        """How many of `n` items have to be correct, for a metric that is their share; `n + 1` if all are too few."""
        # A bisection with the comparison itself, because a formula would round differently. More correct examples
        # never make a share worse, so `reached_by` is False up to some number and True from there on.
        return bisect_left(range(n + 1), True, key=lambda right: self.reached_by(replace(self.score, value=right / n)))


@dataclass(frozen=True)
class Rejected:
    """The result of a trial that was stopped because it could no longer reach its threshold. It is not a score.

    Args:
        right (`int`):
            Maximum number of items that can be correct.
        n (`int`):
            Number of items.
        after (`int`):
            Number of items that the model was run on.
    """

    right: int
    n: int
    after: int

    def __str__(self) -> str:
        return f"at most {self.right} of {self.n}, after {self.after}"
