"""What differing ingredients are converted to: one order and spelling of classes, and one ingredient's settings.

The decision is made here; `plan.py` and the analyses apply it. No weights are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..checkpoints.check import CheckReport, check_checkpoints
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.labels import class_names, is_identity, label_orders, usual_names
from .plan import find_settings, tensors_to_permute


class Agreement(NamedTuple):
    """How differing ingredients are made compatible.

    Args:
        settings (`Checkpoint`, *optional*):
            The ingredient that gives the settings, if the user named one.
        labels (`tuple[str, ...]`, *optional*):
            Names of the classes of all.
        alignments (`Mapping[str, Sequence[int]]`, *optional*):
            Ingredient -> the order in which its classes are taken.
    """

    settings: Checkpoint | None = None
    labels: tuple[str, ...] = ()
    alignments: Mapping[str, tuple[int, ...]] = {}

    @property
    def take_from(self) -> str | None:
        """Name of the ingredient that gives the settings, if the user named one."""
        if self.settings is None:
            return None
        return self.settings.name

    def of(self, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """The alignments of some ingredients."""
        return {name: tuple(order) for name, order in self.alignments.items() if name in names}

    def check(self, checkpoints: Sequence[Checkpoint], base: Checkpoint | None = None) -> CheckReport:
        """Check whether ingredients can be averaged with this agreement.

        Args:
            checkpoints (`Sequence[Checkpoint]`):
                The ingredients, opened.
            base (`Checkpoint`, *optional*):
                The base model as one more ingredient, which may lack tensors.
        """
        items = list(checkpoints)
        base_name = None
        if base is not None:
            items.append(base)
            base_name = base.name
        return check_checkpoints(
            items,
            self.of([item.name for item in items]),
            labels=self.labels,
            base=base_name,
            settings=self.settings,
        )

    def moved(self, first: Checkpoint) -> dict[tuple[str, str], tuple[int, ...]]:
        """Ingredient and tensor -> the order in which its rows are taken, if it is not the ingredient's own.

        Args:
            first (`Checkpoint`):
                One of the ingredients, all of which have the same tensors.

        Raises:
            [`RecipeError`]: if it cannot be told which rows are the classes.
        """
        tensors = tensors_to_permute(first, self.alignments)
        moved: dict[tuple[str, str], tuple[int, ...]] = {}
        for name, order in self.alignments.items():
            if not is_identity(order):
                moved |= dict.fromkeys([(name, tensor) for tensor in tensors], tuple(order))
        return moved


def agree(
    checkpoints: Sequence[Checkpoint],
    *,
    take_from: str | None,
    align_labels: bool,
    labels: tuple[str, ...] = (),
) -> Agreement:
    """Determine the settings and classes to which ingredients are converted.

    Args:
        checkpoints (`Sequence[Checkpoint]`):
            All opened ingredients.
        take_from (`str`, *optional*):
            Name of the one that gives the settings, and the names of the classes.
        align_labels (`bool`):
            Whether classes are matched by name.
        labels (`tuple[str, ...]`, *optional*):
            Names of the classes, where they are known and nothing else gives them; by default the most frequent ones.

    Raises:
        [`RecipeError`]: if no ingredient is called so.
    """
    settings = None
    if take_from is not None:
        settings = find_settings(take_from, checkpoints)
    if not align_labels:
        return Agreement(settings)
    if settings is not None or not labels:  # the ingredient that gives the settings also gives the class names
        labels = usual_names([class_names(item.config) for item in checkpoints], settings)
    alignments = label_orders(checkpoints, labels)
    if not alignments:
        labels = ()
    return Agreement(settings, labels, alignments)
