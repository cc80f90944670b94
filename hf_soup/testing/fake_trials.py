"""Trials without models, for tests of strategies: a function defines the score of a mixture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, overload

from ..metrics.predictions import Predictions
from ..types import Gradient, Ingredient, Mixture, Rejected, Score, Threshold


if TYPE_CHECKING:
    import numpy as np


class FakeTrials:
    """Trials without models: a function defines the score of a mixture, or the examples on which it is correct.

    Args:
        score (`Callable[[Mixture], float]`, *optional*):
            Function that returns the score of a mixture.
        right (`Callable[[Mixture], np.ndarray]`, *optional*):
            Function used instead of `score`, which returns a mask of the examples on which a mixture is correct. The
            score is their share, and with `beat` examples are run one by one, first those that most ingredients get
            wrong.
        higher_is_better (`bool`, *optional*, defaults to `True`):
            Whether a higher score is better.
        stop_early (`bool`, *optional*, defaults to `True`):
            Whether a trial stops when it can no longer reach its threshold.
        modules (`Sequence[str]`), heads (`Sequence[str]`), lacks (`Sequence[str]`):
            Names of the model's modules from the inputs to the outputs, of its heads, and of those a base model lacks.
        examples (`int`, *optional*, defaults to 100):
            Number of examples.
    """

    def __init__(
        self,
        score: Callable[[Mixture], float] | None = None,
        *,
        right: Callable[[Mixture], np.ndarray] | None = None,
        higher_is_better: bool = True,
        stop_early: bool = True,
        modules: Sequence[str] = ("embeddings", "encoder.layer.0", "encoder.layer.1", "classifier"),
        heads: Sequence[str] = ("classifier",),
        lacks: Sequence[str] = (),
        examples: int = 100,
    ):
        self._value_of, self._right, self._higher, self._stop_early = score, right, higher_is_better, stop_early
        self.modules, self.heads, self.lacks, self.examples = tuple(modules), tuple(heads), tuple(lacks), examples
        self._times_wrong: np.ndarray | None = None  # number of single ingredients that are wrong on each example
        self.asked: list[Mixture] = []  # every mixture whose score was requested
        self.passes = 0.0  # forward passes over all examples

    @overload
    def score(self, mixture: Mixture) -> Score: ...
    @overload
    def score(self, mixture: Mixture, beat: Threshold) -> Score | Rejected: ...
    def score(self, mixture: Mixture, beat: Threshold | None = None) -> Score | Rejected:
        """The score of the function; the request is recorded."""
        self.asked.append(mixture)
        if self._right is None:
            self.passes += 1
            return self._scored(self._value(mixture))
        right = self._right(mixture)
        if len(mixture.names) == 1:
            wrong = (~right).astype(int)
            if self._times_wrong is None:
                self._times_wrong = wrong
            else:
                self._times_wrong = self._times_wrong + wrong
        elif beat is not None and self._stop_early:
            rejected = self._stopped(right, beat)
            if rejected is not None:
                self.passes += rejected.after / len(right)
                return rejected
        self.passes += 1
        return self._scored(int(right.sum()) / len(right))

    def _stopped(self, right: np.ndarray, threshold: Threshold) -> Rejected | None:
        """Run the examples one by one, hardest first, until too few can still be correct."""
        needed = threshold.needed(len(right))
        order: Iterable[int] = range(len(right))
        if self._times_wrong is not None:
            order = (-self._times_wrong).argsort(kind="stable")
        most = len(right)
        for count, example in enumerate(order, start=1):
            most -= not right[example]
            if most < needed:
                return Rejected(int(most), len(right), count)
        return None

    @overload
    def map(self, mixtures: Sequence[Mixture]) -> list[Score]: ...
    @overload
    def map(self, mixtures: Sequence[Mixture], beat: Threshold) -> list[Score | Rejected]: ...
    def map(self, mixtures: Sequence[Mixture], beat: Threshold | None = None) -> list[Score] | list[Score | Rejected]:
        """Score the mixtures one by one."""
        if beat is None:
            return [self.score(mixture) for mixture in mixtures]
        return [self.score(mixture, beat) for mixture in mixtures]

    def difference(self, mixture: Mixture, other: Mixture) -> tuple[float, float] | None:
        """`None`, because examples are not known."""
        return None

    def loss(self, mixture: Mixture) -> float | None:
        """`None`, because examples are not known."""
        return None

    def lacking(self, ingredient: Ingredient) -> tuple[str, ...]:
        """The modules that a base model lacks."""
        return self.lacks

    def logits(self, ingredient: Ingredient) -> Predictions:
        """Random predictions of two classes, which only depend on the name of the ingredient."""
        import numpy as np

        rng = np.random.default_rng(list(ingredient.name.encode()))  # `hash` differs between processes
        rows = np.arange(self.examples)
        return Predictions(rng.normal(size=(self.examples, 2)), rows % 2, rows)

    def ensemble(self, mixture: Mixture) -> Score:
        """The score of the soup."""
        if self._right is None:
            return self._scored(self._value(mixture))
        return self._scored(float(self._right(mixture).mean()))

    def gradient(self, mixture: Mixture, examples: np.ndarray, scale: float = 1.0) -> Gradient:
        """A numerical gradient of the score, which is taken as the loss (or its negative)."""
        sign = -1 if self._higher else 1
        step = 1e-4
        # A weight for each module and ingredient, even if the mixture has one row for all modules.
        weights_by_module = {}
        for module in self.modules:
            weights_by_module[module] = mixture.weights_by_module.get(module) or mixture.weights_by_module[""]
        gradient = {}
        for module, weights in weights_by_module.items():
            slopes = []
            for index in range(len(weights)):
                above = self._nudged(mixture, weights_by_module, module, index, step)
                below = self._nudged(mixture, weights_by_module, module, index, -step)
                slopes.append(sign * (above - below) / (2 * step))
            gradient[module] = tuple(slopes)
        return Gradient(sign * self._value(mixture), gradient, 0.0)

    def subset(self, examples: np.ndarray) -> FakeTrials:
        """The same trials, because every subset is like the whole."""
        return self

    def _nudged(
        self, mixture: Mixture, weights_by_module: dict[str, tuple[float, ...]], module: str, index: int, step: float
    ) -> float:
        """The score with a slightly larger weight of one ingredient in one module."""
        weights = list(weights_by_module[module])
        weights[index] += step
        return self._value(Mixture(mixture.ingredients, {**weights_by_module, module: tuple(weights)}))

    def _value(self, mixture: Mixture) -> float:
        """The value of the function for a mixture."""
        if self._value_of is None:
            raise TypeError("FakeTrials(right=...) has no function that returns a score.")
        return self._value_of(mixture)

    def _scored(self, value: float) -> Score:
        """A value as the score of a made-up metric."""
        return Score("made_up", value, self._higher, split="validation", n=self.examples)
