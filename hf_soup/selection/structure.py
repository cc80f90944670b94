"""The named modules of the models that a strategy mixes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from ..checkpoints.layout import names_in_depth
from ..checkpoints.modules import by_depth, group, head_names, own_prefix
from ..checkpoints.reader import TensorSpec
from ..types import Ingredient


if TYPE_CHECKING:
    from ..merging.setup import MergeSetup


class Structure:
    """What strategies may know of the models: their modules, heads, and what a base model lacks.

    Args:
        setup ([`MergeSetup`]):
            The ingredients, which have the same tensors.
    """

    def __init__(self, setup: MergeSetup):
        self._setup = setup

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

    @property
    def _specs(self) -> Mapping[str, TensorSpec]:
        return min(self._setup.candidates, key=lambda item: item.name).specs
