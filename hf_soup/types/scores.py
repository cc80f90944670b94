"""Scores, what a trial has to reach, and what is known of a trial that was stopped."""

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

ROUNDING = 1e-12  # of a tolerance: 0.912 is within 0.002 of 0.914


@dataclass(frozen=True)
class Score:
    """What a metric said about one model on one set of examples.

    Args:
        metric (`str`):
            Its name.
        value (`float`):
            In the metric's own unit (accuracy: 0 to 1).
        higher_is_better (`bool`, *optional*, defaults to `True`):
            Direction of the metric.
        split (`str`, *optional*):
            Which part of the data, such as `"validation"`.
        dataset (`str`, *optional*):
            Fingerprint of the examples.
        n (`int`, *optional*):
            How many examples.
        others (`Mapping[str, float]`, *optional*):
            Values of other metrics on the same predictions; they do not select.

    Raises:
        [`EvaluationError`]: if the value is NaN or no number.
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
        """Sorts scores of one metric from worst to best."""
        return self.value if self.higher_is_better else -self.value

    def gain_over(self, other: Score) -> float:
        """How much better this score is than `other`, in the metric's unit; negative where it is worse.

        Args:
            other ([`Score`]):
                Of the same metric.

        Raises:
            [`EvaluationError`]: if the two are scores of different metrics.
        """
        self._check_comparable(other)
        return gain(self.value, other.value, self.higher_is_better)

    def beats(self, other: Score, *, ties: bool = False, tolerance: float = 0.0) -> bool:
        """Whether this score is better than `other`.

        Args:
            other ([`Score`]):
                Of the same metric.
            ties (`bool`, *optional*, defaults to `False`):
                Whether to be as good is enough.
            tolerance (`float`, *optional*, defaults to 0.0):
                How much worse is still good enough, in the metric's unit.

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
        """Refuse a score of another metric."""
        if (self.metric, self.higher_is_better) != (other.metric, other.higher_is_better):
            raise EvaluationError(f"scores of {self.metric!r} and {other.metric!r} cannot be compared.")

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.4f}"


@overload
def gain(value: float, other: float, higher_is_better: bool) -> float: ...
@overload
def gain(value: np.ndarray, other: np.ndarray | float, higher_is_better: bool) -> np.ndarray: ...
def gain(value: float | np.ndarray, other: float | np.ndarray, higher_is_better: bool) -> float | np.ndarray:
    """How much better one value of a metric is than another, in the metric's unit; negative where it is worse.

    Args:
        value (`float` or `np.ndarray`), other (`float` or `np.ndarray`):
            Two values of one metric, or arrays of them, such as its values on resamples.
        higher_is_better (`bool`):
            Direction of the metric.
    """
    if higher_is_better:
        return value - other
    return other - value


def best_of(values: Mapping[T, float], higher_is_better: bool) -> T:
    """The key of the best value of one metric; of equal ones the first.

    Args:
        values (`Mapping[T, float]`):
            At least one value.
        higher_is_better (`bool`):
            Direction of the metric.
    """
    return max(values, key=lambda key: gain(values[key], 0.0, higher_is_better))


def is_better_higher(direction: bool | None) -> bool:
    """Which way a metric is read: higher is better, unless it says that lower is.

    Args:
        direction (`bool`, *optional*):
            What the metric says; `None` for one that says nothing.
    """
    return direction is not False


@dataclass(frozen=True)
class Threshold:
    """What a trial has to reach.

    Args:
        score ([`Score`]):
            Of what it is measured against.
        ties (`bool`, *optional*, defaults to `True`):
            Whether to be as good is enough.
        tolerance (`float`, *optional*, defaults to 0.0):
            How much worse is still good enough, in the metric's unit.
    """

    score: Score
    ties: bool = True
    tolerance: float = 0.0

    def reached_by(self, score: Score | Rejected) -> bool:
        """Whether a trial is good enough; one that was stopped is not."""
        return isinstance(score, Score) and score.beats(self.score, ties=self.ties, tolerance=self.tolerance)

    def needed(self, n: int) -> int:
        """How many of `n` have to be right, for a metric that is their share; `n + 1` if all are not enough."""
        # A bisection with the comparison itself, whose rounding a formula for the number would not share. More right
        # examples never make a share worse, so that `reached_by` is False up to some number and True from there on.
        return bisect_left(range(n + 1), True, key=lambda right: self.reached_by(replace(self.score, value=right / n)))


@dataclass(frozen=True)
class Rejected:
    """What is known of a trial that was stopped because it could no longer reach its threshold. It is no score.

    Args:
        right (`int`):
            How many can be right at most.
        n (`int`):
            Of how many.
        after (`int`):
            How many the model was run on.
    """

    right: int
    n: int
    after: int

    def __str__(self) -> str:
        return f"at most {self.right} of {self.n}, after {self.after}"
