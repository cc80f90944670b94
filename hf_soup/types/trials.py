"""What a strategy returns, and all that it sees of the world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, overload

from .recipe import Ingredient, Mixture
from .scores import Rejected, Score, Threshold
from .selection import Trial


if TYPE_CHECKING:
    import numpy as np

    from ..metrics.predictions import Predictions


@dataclass(frozen=True)
class Choice:
    """What a strategy chose, and how it got there. A strategy that tries nothing returns its [`Mixture`] alone.

    Args:
        mixture ([`Mixture`]):
            What it chose.
        trials (`tuple[Trial, ...]`, *optional*):
            What it tried, in order.
        alpha (`float`, *optional*):
            How far along the way from the base model the mixture lies, of a strategy that follows that way.
        temperature (`float`, *optional*):
            By what logits are divided, of a strategy that learned it beside the weights.
    """

    mixture: Mixture
    trials: tuple[Trial, ...] = ()
    alpha: float | None = None
    temperature: float | None = None


class Gradient(NamedTuple):
    """The derivative of the loss of a mixture.

    Args:
        loss (`float`):
            Mean over the items.
        weights (`dict[str, tuple[float, ...]]`):
            Module -> for each ingredient the derivative by its weight there, as the mean of the mixture defines it.
        scale (`float`):
            The derivative by what logits are multiplied with.
    """

    loss: float
    weights: dict[str, tuple[float, ...]]
    scale: float


class Trials(Protocol):
    """All that a strategy sees of the world: mixtures in, numbers out.

    Method, type and seed are those of the merge.
    """

    @property
    def examples(self) -> int:
        """How many examples validation has."""
        ...

    @property
    def modules(self) -> tuple[str, ...]:
        """The named modules of the model, from the bottom up."""
        ...

    @property
    def heads(self) -> tuple[str, ...]:
        """Those of them that lie outside of the body."""
        ...

    def lacking(self, ingredient: Ingredient) -> tuple[str, ...]:
        """Modules of which an ingredient has not every tensor: a base model may have no head."""
        ...

    @overload
    def score(self, mixture: Mixture) -> Score: ...
    @overload
    def score(self, mixture: Mixture, beat: Threshold) -> Score | Rejected: ...
    def score(self, mixture: Mixture, beat: Threshold | None = None) -> Score | Rejected:
        """Average in memory and score on validation; with `beat` stop when the threshold can no longer be reached."""
        ...

    @overload
    def map(self, mixtures: Sequence[Mixture]) -> list[Score]: ...
    @overload
    def map(self, mixtures: Sequence[Mixture], beat: Threshold) -> list[Score | Rejected]: ...
    def map(self, mixtures: Sequence[Mixture], beat: Threshold | None = None) -> list[Score] | list[Score | Rejected]:
        """Score mixtures that do not depend on each other, at once where there are workers."""
        ...

    def difference(self, mixture: Mixture, other: Mixture) -> tuple[float, float] | None:
        """The 95 % interval of the difference of two scores, where the predictions of both are known."""
        ...

    def logits(self, ingredient: Ingredient) -> Predictions:
        """The predictions of one ingredient on validation."""
        ...

    def ensemble(self, mixture: Mixture) -> Score:
        """The score of the ingredients' averaged outputs, without a forward pass of their soup."""
        ...

    def gradient(self, mixture: Mixture, examples: np.ndarray, scale: float = 1.0) -> Gradient:
        """The derivative of the loss on some examples, with logits multiplied by `scale`."""
        ...

    def subset(self, examples: np.ndarray) -> Trials:
        """Trials on some of the examples."""
        ...
