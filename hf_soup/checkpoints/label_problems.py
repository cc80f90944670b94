"""Class names that do not match between ingredients: the differences, and the remedy for each.

`labels.py` reads the names and finds their orders; tensors are compared elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .checkpoint import Checkpoint
from .differences import has
from .labels import (
    FIELDS,
    NO_CLASSES,
    SHOWN,
    are_made_up,
    class_names,
    fields_of_names,
    folded,
    in_another_order,
    is_identity,
    label_names,
    listing,
    permuted,
    usual_names,
    without_made_up,
)


FOLLOWS_NAMES = "Pass align_labels=True (--align-labels)"


class Classes(NamedTuple):
    """The result of comparing class names: the soup's labels without generated ones, problems, and notes."""

    labels: tuple[str, ...]
    problems: list[str]
    notes: list[str]


def compare_classes(
    checkpoints: Sequence[Checkpoint],
    alignments: Mapping[str, Sequence[int]],
    settings: Checkpoint | None,
    soup_labels: tuple[str, ...],
) -> Classes:
    """Compare the class names of ingredients that have the same model class.

    Args:
        checkpoints (`Sequence[Checkpoint]`), alignments (`Mapping`), settings (`Checkpoint`, *optional*):
            The arguments of [`check_checkpoints`].
        soup_labels (`tuple[str, ...]`):
            Names of the soup's classes, where they were found over more ingredients; else empty.
    """
    own_labels = {item.name: class_names(item.config) for item in checkpoints}
    architecture = checkpoints[0].architecture
    if NO_CLASSES.search(architecture):
        return _unused_classes(own_labels, architecture, settings or checkpoints[0])
    # The names are compared as they will appear in the soup.
    labels = {name: permuted(names, alignments.get(name)) for name, names in own_labels.items()}
    if settings is None and soup_labels:
        usual_labels = soup_labels
    else:
        usual_labels = usual_names(list(labels.values()), settings)
    holder = settings or _first_with(usual_labels, labels, checkpoints)
    problems, notes = _compare_labels(
        labels,
        usual_labels,
        aligned=tuple(alignments),
        settings=settings,
        holder=None if holder is None else holder.name,
        fields=FIELDS if holder is None else fields_of_names(holder.config),
    )
    notes += _alignment_notes(own_labels, alignments, usual_labels)
    return Classes(without_made_up(usual_labels), problems, notes)


def _first_with(
    usual_labels: tuple[str, ...], labels: Mapping[str, tuple[str, ...]], checkpoints: Sequence[Checkpoint]
) -> Checkpoint | None:
    """The first ingredient that has the usual labels."""
    for item in checkpoints:
        if labels[item.name] == usual_labels:
            return item
    return None


def _unused_classes(own_labels: Mapping[str, tuple[str, ...]], architecture: str, giver: Checkpoint) -> Classes:
    """The class names of models whose heads do not use them: those of one ingredient, whatever the others have."""
    notes = []
    if len(set(own_labels.values())) > 1:
        notes.append(
            f"the labels in config.json differ between the ingredients, but a {architecture} uses none; the soup has "
            "those of "
            f"{giver.name}"
        )
    return Classes(label_names(giver.config), [], notes)


def _compare_labels(
    labels: Mapping[str, tuple[str, ...]],
    usual_labels: tuple[str, ...],
    *,
    aligned: Sequence[str] = (),
    settings: Checkpoint | None = None,
    holder: str | None = None,
    fields: str = FIELDS,
) -> tuple[list[str], list[str]]:
    """Find the differences between class names, each with its own remedy.

    Args:
        labels (`Mapping[str, tuple[str, ...]]`):
            Ingredient -> its class names, in the order of its alignment where it has one.
        usual_labels (`tuple[str, ...]`):
            Class names to compare with.
        aligned (`Sequence[str]`, *optional*):
            Ingredients whose classes are matched by name, whatever the letter case.
        settings (`Checkpoint`, *optional*):
            The ingredient that gives the soup its settings, if the user named one: its names are then the soup's.
        holder (`str`, *optional*):
            An ingredient that has the usual labels.
        fields (`str`, *optional*):
            Field of `config.json` that holds the names, as [`fields_of_names`] returns it.

    Returns:
        `tuple[list[str], list[str]]`: problems and notes.
    """
    problems: list[str] = []
    notes: list[str] = []
    others = "the others have" if settings is None else f"{settings.name} has"
    for name, own_labels in labels.items():
        is_matched_by_name = name in aligned and folded(own_labels) == folded(usual_labels)
        if is_matched_by_name or _go_together(own_labels, usual_labels):
            continue
        if settings is not None and _may_be_the_same(own_labels, usual_labels):
            notes.append(f"{name} calls its classes {listing(own_labels)}; the soup has the names of {settings.name}")
        else:
            problems.append(_problem(name, own_labels, usual_labels, others, holder, fields))
    return problems, notes


def _go_together(labels: tuple[str, ...], usual_labels: tuple[str, ...]) -> bool:
    """Whether the class names of two ingredients match, so that there is nothing to report."""
    if labels == usual_labels:
        return True
    # Their number is that of the rows in the head, if there is one.
    if are_made_up(labels) and are_made_up(usual_labels):
        return True
    return len(labels) == len(usual_labels) == 1  # a single class has only one order, whatever its name


def _may_be_the_same(labels: tuple[str, ...], usual_labels: tuple[str, ...]) -> bool:
    """Whether two lists can name the same classes in the same order, as far as names tell."""
    if len(labels) != len(usual_labels):
        return False
    return folded(labels) == folded(usual_labels) or are_made_up(labels) or are_made_up(usual_labels)


def _problem(
    name: str, labels: tuple[str, ...], usual_labels: tuple[str, ...], others: str, holder: str | None, fields: str
) -> str:
    """The problem that classes with other names cannot be averaged, with the remedy.

    Args:
        name (`str`), labels (`tuple[str, ...]`):
            An ingredient and the names of its classes.
        usual_labels (`tuple[str, ...]`):
            Class names to compare with.
        others (`str`):
            Ingredients with the usual names, followed by the verb.
        holder (`str`, *optional*):
            An ingredient that has them.
        fields (`str`):
            Field of `config.json` that holds the names.
    """
    if len(labels) != len(usual_labels):
        return (
            f"{name} has the labels {listing(labels)}, {others} {listing(usual_labels)}: {len(labels)} classes and "
            f"{len(usual_labels)}. Fine-tune on the same labels"
        )
    # From lists that are nearly the same to lists with nothing in common: each test relies on the failure of those
    # before.
    if sorted(labels) == sorted(usual_labels):
        index = _first_apart(labels, usual_labels)
        return (
            f"{name} has the labels in another order: class {index} is {labels[index]!r}, where {others} "
            f"{usual_labels[index]!r}. {FOLLOWS_NAMES}, or fine-tune with one label2id for all"
        )
    if folded(labels) == folded(usual_labels):
        return (
            f"{name} has the labels {listing(labels)}, {others} {listing(usual_labels)}: only upper and lower case "
            f"differ. {FOLLOWS_NAMES} to take them for the same"
        )
    if in_another_order(labels, usual_labels):
        index = _first_apart(folded(labels), folded(usual_labels))
        return (
            f"{name} has the labels in another order and in other letter case: class {index} is {labels[index]!r}, "
            f"where {others} {usual_labels[index]!r}. {FOLLOWS_NAMES} to match them by name"
        )
    if are_made_up(labels):
        return _made_up_problem(name, labels, holder or "the others", usual_labels, fields)
    if are_made_up(usual_labels):  # the reverse case: this ingredient has names, and the others have none
        return _made_up_problem(holder or "the others", usual_labels, name, labels, fields)
    return (
        f"{name} has the labels {listing(labels)}, {others} {listing(usual_labels)}. Fine-tune on the same labels; if "
        f"these are other names of the same classes in the same order, copy {fields} into one config.json from the "
        "other"
    )


def _made_up_problem(nameless: str, made_up: Sequence[str], holder: str, names: Sequence[str], fields: str) -> str:
    """The problem that an ingredient without class names does not match one that has them."""
    return (
        f"{nameless} {has([nameless])} the made-up labels {listing(made_up)}, {holder} {listing(names)}: nothing "
        f"says that they are in the same order. If they are, copy {fields} of {holder} into the "
        f'config.json of {nameless}, or pass take_from="{holder}" (--take-from {holder})'
    )


def _first_apart(names: Sequence[str], usual_labels: Sequence[str]) -> int:
    """The first class whose name differs between two lists of the same length."""
    return next(index for index in range(len(names)) if names[index] != usual_labels[index])


def _alignment_notes(
    labels: Mapping[str, tuple[str, ...]], alignments: Mapping[str, Sequence[int]], usual_labels: Sequence[str]
) -> list[str]:
    """The effects of an alignment, as sentences for a report.

    Args:
        labels (`Mapping[str, tuple[str, ...]]`):
            Ingredient -> its class names as they are.
        alignments (`Mapping[str, Sequence[int]]`):
            Ingredient -> the order in which its classes are taken.
        usual_labels (`Sequence[str]`):
            The soup's labels.
    """
    notes = []
    for name, order in alignments.items():
        if name not in labels:
            continue
        if is_identity(order):
            notes.append(
                f"{name} calls its classes {listing(labels[name])}; they are taken for {listing(usual_labels)}"
            )
        else:
            places = ", ".join(map(str, order[:SHOWN]))
            more = " ..." if len(order) > SHOWN else ""
            notes.append(f"the classes of {name} are permuted: the soup's classes 0, 1, ... are its {places}{more}")
    return notes
