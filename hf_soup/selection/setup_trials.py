"""The parts of trials that do not depend on what scores: the modules of the ingredients, a bar, and the calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

from ..checkpoints.layout import names_in_depth
from ..checkpoints.modules import by_depth, group, head_names, own_prefix
from ..checkpoints.reader import TensorSpec
from ..progress import progress_bar
from ..types import Ingredient, Mixture, Rejected, Score, Threshold


if TYPE_CHECKING:
    from ..merging.setup import MergeSetup


class SetupTrials(ABC):
    """The parts of [`Trials`] that do not depend on what scores.

    Args:
        setup ([`MergeSetup`]):
            Ingredients, which have the same tensors, and how they are averaged.
    """

    def __init__(self, setup: MergeSetup):
        self._setup = setup
        self._bar = progress_bar(desc="Scoring recipes", unit="recipe")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """The named modules from the inputs to the outputs, as the model's class defines them."""
        return by_depth(self._specs, names_in_depth(self._setup.candidates[0].config))

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """The modules outside of the body."""
        prefix = own_prefix(self._specs)
        return tuple(dict.fromkeys(group(name, prefix) for name in head_names(self._specs)))

    def lacking(self, ingredient: Ingredient) -> tuple[str, ...]:
        """The modules of which an ingredient lacks a tensor."""
        present, prefix = self._setup.by_name[ingredient.name].specs, own_prefix(self._specs)
        missing = [name for name, spec in self._specs.items() if spec.is_floating and name not in present]
        return tuple(dict.fromkeys(group(name, prefix) for name in missing))

    @overload
    def score(self, mixture: Mixture) -> Score: ...
    @overload
    def score(self, mixture: Mixture, beat: Threshold) -> Score | Rejected: ...
    def score(self, mixture: Mixture, beat: Threshold | None = None) -> Score | Rejected:
        """Average and score one mixture; results are kept.

        Raises:
            [`EvaluationError`]: if the score is not a number.
        """
        return self._map([mixture], beat)[0]

    @overload
    def map(self, mixtures: Sequence[Mixture]) -> list[Score]: ...
    @overload
    def map(self, mixtures: Sequence[Mixture], beat: Threshold) -> list[Score | Rejected]: ...
    def map(self, mixtures: Sequence[Mixture], beat: Threshold | None = None) -> list[Score] | list[Score | Rejected]:
        """Score independent mixtures."""
        return self._map(mixtures, beat)

    @abstractmethod
    def _map(self, mixtures: Sequence[Mixture], threshold: Threshold | None) -> list[Any]:
        """The score of each mixture, or a bound for one that cannot reach the threshold."""

    @property
    def _specs(self) -> Mapping[str, TensorSpec]:
        """The tensors of the ingredient whose name comes first: the order of the ingredients must not matter."""
        return min(self._setup.candidates, key=lambda item: item.name).specs
