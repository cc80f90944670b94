"""What adapters have in common: one base model, the weights that they change, and the start of their factors."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..errors import IncompatibleError, listed
from ..types import Ingredient
from .adapter import AdapterCheckpoint
from .adapter_changes import LowRank
from .checkpoint import MEMORY, Checkpoint
from .modules import head_names


# Classes whose head is that of the base model, and not a new one for a task.
LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForMaskedLM")
ONE_START = 0.5  # cosine of factors above which they have one start


def base_of_adapters(items: Sequence[Checkpoint], given: Checkpoint | None = None) -> Checkpoint | None:
    """The base model of the adapters among some ingredients; `None` if there are no adapters.

    Args:
        items (`Sequence[Checkpoint]`):
            Opened ingredients.
        given (`Checkpoint`, *optional*):
            The base model that the user names.

    Raises:
        [`IncompatibleError`]: if they have several, or another one than the given one.
    """
    adapters = _adapters(items)
    if not adapters:
        return None
    first = adapters[0].base
    problems = []
    for item in adapters[1:]:
        own = item.base.ingredient
        if base_identity(own) != base_identity(first.ingredient):
            problems.append(
                f"{item.name} is an adapter of {_place(own)}, and {adapters[0].name} of {_place(first.ingredient)}: "
                "changes of different base models have no mean"
            )
    if given is not None and base_identity(given.ingredient) != base_identity(first.ingredient):
        problems.append(
            f"{adapters[0].name} is an adapter of {_place(first.ingredient)}, and base_model is "
            f"{_place(given.ingredient)}: leave base_model out, since adapters name theirs"
        )
    if problems:
        raise IncompatibleError(problems)
    return first


def base_problems(items: Sequence[Checkpoint]) -> tuple[str, ...]:
    """The problems of adapters that do not share a base model, or have no head where others have one."""
    try:
        base_of_adapters(items)
    except IncompatibleError as error:
        return tuple(error.problems)
    adapters = _adapters(items)
    if not adapters or adapters[0].architecture.endswith(LANGUAGE_MODELS):
        return ()
    heads = set(head_names(adapters[0].specs))
    own = [item for item in adapters if not heads.isdisjoint(item.saved)]
    others = [item.name for item in adapters if heads.isdisjoint({*item.saved, *item.changes})]
    if not own or not others:
        return ()
    names = listed(sorted(heads & set(own[0].saved)), 2)
    return (
        f"{listed(others)} holds no head, and {own[0].name} one of its own ({names}): a mean with the head of the "
        "base model is none of fine-tunes. Train them with the same modules_to_save",
    )


def adapter_notes(items: Sequence[Checkpoint]) -> list[str]:
    """Notes on adapters that change other weights than the first one, or did not start from its factors.

    Args:
        items (`Sequence[Checkpoint]`):
            Opened ingredients, of which some may be adapters.
    """
    adapters = _adapters(items)
    if len(adapters) < 2:
        return []
    first, notes, apart = adapters[0], [], []
    for item in adapters[1:]:
        others = sorted(item.changes.keys() ^ first.changes.keys())
        if others:
            notes.append(
                f"{item.name} and {first.name} change different weights, such as {listed(others, 2)}: an adapter that "
                "leaves a weight counts as no change of it"
            )
        cosine = _cosine_of_starts(first, item)
        if cosine is not None and cosine < ONE_START:
            apart.append(item.name)
    if apart:
        notes.append(
            f"{listed(apart)} did not start from the factors of {first.name}: they changed the model in other "
            "directions, and averages of such adapters may be worse than each of them"
        )
    return notes


def _adapters(items: Sequence[Checkpoint]) -> list[AdapterCheckpoint]:
    return [item for item in items if isinstance(item, AdapterCheckpoint)]


def _cosine_of_starts(first: AdapterCheckpoint, second: AdapterCheckpoint) -> float | None:
    """The mean cosine of LoRA's factors A, which stay near their random start; `None` if no weight is changed by both.

    Of different ranks, the rows that both have are compared: sweeps start these from the same numbers.
    """
    cosines = []
    for name in sorted(first.changes.keys() & second.changes.keys()):
        one, other = first.changes[name], second.changes[name]
        if isinstance(one, LowRank) and isinstance(other, LowRank) and one.a.shape[1:] == other.a.shape[1:]:
            rank = min(one.rank, other.rank)
            x, y = (change.a.read()[:rank].double().reshape(-1) for change in (one, other))
            cosines.append(float((x @ y) / (x.norm() * y.norm()).clamp(min=1e-30)))
    return sum(cosines) / len(cosines) if cosines else None


def base_identity(base: Ingredient) -> object:
    """What two references to one base model have in common; a model in memory is known by its content."""
    if base.source == MEMORY:
        return tuple(base.files.items())
    return (base.source, base.revision) if base.revision else os.path.realpath(base.source)


def _place(base: Ingredient) -> str:
    if base.source == MEMORY:
        return "a base model in memory (save the adapter, and give its folder)"
    return f"{base.source}@{base.revision[:7]}" if base.revision else base.source
