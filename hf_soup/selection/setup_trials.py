"""What trials on the ingredients of a merge share, whatever scores: their modules, a bar, and the forms of a call."""

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
    """The part of [`Trials`] that does not depend on what scores.

    Args:
        setup ([`MergeSetup`]):
            The ingredients, which have the same tensors.
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
        """The named modules from the bottom up, as the model's class defines them."""
        return by_depth(self._specs, names_in_depth(self._setup.candidates[0].config))

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """The modules outside of the body."""
        prefix = own_prefix(self._specs)
        return tuple(dict.fromkeys(group(name, prefix) for name in head_names(self._specs)))

    def lacking(self, ingredient: Ingredient) -> tuple[str, ...]:
        """The modules of which an ingredient has not every tensor."""
        present, prefix = self._setup.by_name[ingredient.name].specs, own_prefix(self._specs)
        missing = [name for name, spec in self._specs.items() if spec.is_floating and name not in present]
        return tuple(dict.fromkeys(group(name, prefix) for name in missing))

    @overload
    def score(self, mixture: Mixture) -> Score: ...
    @overload
    def score(self, mixture: Mixture, beat: Threshold) -> Score | Rejected: ...
    def score(self, mixture: Mixture, beat: Threshold | None = None) -> Score | Rejected:
        """Average and score one mixture; the same one again costs nothing.

        Raises:
            [`EvaluationError`]: if there is no number.
        """
        return self._map([mixture], beat)[0]

    @overload
    def map(self, mixtures: Sequence[Mixture]) -> list[Score]: ...
    @overload
    def map(self, mixtures: Sequence[Mixture], beat: Threshold) -> list[Score | Rejected]: ...
    def map(self, mixtures: Sequence[Mixture], beat: Threshold | None = None) -> list[Score] | list[Score | Rejected]:
        """Score mixtures that do not depend on each other."""
        return self._map(mixtures, beat)

    @abstractmethod
    def _map(self, mixtures: Sequence[Mixture], threshold: Threshold | None) -> list[Any]:
        """The score of each mixture, or what is known of one that cannot reach the threshold."""

    @property
    def _specs(self) -> Mapping[str, TensorSpec]:
        """The tensors of the first ingredient by name: the order in which ingredients are given must not matter."""
        return min(self._setup.candidates, key=lambda item: item.name).specs
