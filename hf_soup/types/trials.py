"""The interface of strategies: the trials that they get, and the choice that they return."""

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
    """The choice of a strategy, with its trials. A strategy without trials may return just a [`Mixture`].

    Args:
        mixture ([`Mixture`]):
            Chosen mixture.
        trials (`tuple[Trial, ...]`, *optional*):
            Trials in the order in which they were made.
        alpha (`float`, *optional*):
            Interpolation coefficient between the base model (0) and the fine-tuned models (1), for strategies that
            interpolate.
        temperature (`float`, *optional*):
            Temperature that divides logits, for strategies that learn it with the weights.
    """

    mixture: Mixture
    trials: tuple[Trial, ...] = ()
    alpha: float | None = None
    temperature: float | None = None


class Gradient(NamedTuple):
    """The gradient of the loss of a mixture.

    Args:
        loss (`float`):
            Mean loss over the items.
        weights (`dict[str, tuple[float, ...]]`):
            Derivatives with respect to the weight of each ingredient, by module.
        scale (`float`):
            Derivative with respect to the factor of the logits.
    """

    loss: float
    weights: dict[str, tuple[float, ...]]
    scale: float


class Trials(Protocol):
    """The interface through which a strategy scores mixtures.

    The method, data type and seed are those of the merge.
    """

    @property
    def examples(self) -> int:
        """Number of validation examples."""
        ...

    @property
    def modules(self) -> tuple[str, ...]:
        """The named modules of the model, from the inputs to the outputs."""
        ...

    @property
    def heads(self) -> tuple[str, ...]:
        """The named modules outside of the body."""
        ...

    def lacking(self, ingredient: Ingredient) -> tuple[str, ...]:
        """The modules of which an ingredient lacks a tensor, such as the head of a base model."""
        ...

    @overload
    def score(self, mixture: Mixture) -> Score: ...
    @overload
    def score(self, mixture: Mixture, beat: Threshold) -> Score | Rejected: ...
    def score(self, mixture: Mixture, beat: Threshold | None = None) -> Score | Rejected:
        """Average and score on validation data; with `beat`, stop when the threshold can no longer be reached."""
        ...

    @overload
    def map(self, mixtures: Sequence[Mixture]) -> list[Score]: ...
    @overload
    def map(self, mixtures: Sequence[Mixture], beat: Threshold) -> list[Score | Rejected]: ...
    def map(self, mixtures: Sequence[Mixture], beat: Threshold | None = None) -> list[Score] | list[Score | Rejected]:
        """Score independent mixtures, in parallel if there are workers."""
        ...

    def difference(self, mixture: Mixture, other: Mixture) -> tuple[float, float] | None:
        """The 95 % interval of the difference of two scores; `None` if predictions are not known."""
        ...

    def loss(self, mixture: Mixture) -> float | None:
        """The mean loss of a mixture that was scored in full; `None` if predictions are not known."""
        ...

    def logits(self, ingredient: Ingredient) -> Predictions:
        """The predictions of one ingredient on validation data."""
        ...

    def ensemble(self, mixture: Mixture) -> Score:
        """The score of the ensemble of the ingredients, whose outputs are averaged."""
        ...

    def gradient(self, mixture: Mixture, examples: np.ndarray, scale: float = 1.0) -> Gradient:
        """The gradient of the loss on some examples, with logits multiplied by `scale`."""
        ...

    def subset(self, examples: np.ndarray) -> Trials:
        """Trials on some of the examples."""
        ...
