"""`check` and `modules`: what is known about ingredients before they are averaged."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ..analysis.relation import relate, unrelated_heads
from ..checkpoints.base_model import resolve_base
from ..checkpoints.check import CheckReport
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.labels import base_order_problem, is_identity
from ..checkpoints.modules import Module, head_names, list_modules
from ..checkpoints.settings import base_notes
from ..checkpoints.source import open_all, open_checkpoint
from ..checkpoints.vocabularies import with_common_vocabulary
from ..errors import listed
from ..merging.agreement import Agreement, agree
from ..merging.plan import alignment_problems
from ..options import answers_keywords
from .ingredients import read_ingredients


@answers_keywords
def check(
    ingredients: Iterable[Any] | str | os.PathLike[str],
    base_model: Any = None,
    *,
    deep: bool = False,
    align_labels: bool = False,
    take_from: str | None = None,
    vocabulary: str | None = None,
) -> CheckReport:
    """Check whether checkpoints can be averaged, from their headers, configurations and heads.

    Heads of folders and models are read, because they are small; heads on the Hub only in a deep check.

    Args:
        ingredients (`Iterable`, `str` or `os.PathLike`):
            Fine-tuned checkpoints, in any form that [`merge`] takes.
        base_model (*optional*):
            The model that the ingredients were fine-tuned from. It is checked against them, and a deep check measures
            how far they are from it.
        deep (`bool`, *optional*, defaults to `False`):
            Whether all weights are read, to check that the ingredients look like fine-tunes of one model.
        align_labels (`bool`, *optional*, defaults to `False`):
            Whether heads whose labels are in another order may be permuted, as for [`merge`]; the report says which.
        take_from (`str`, *optional*):
            Name of the ingredient whose settings the soup would take, as for [`merge`].
        vocabulary (`str`, *optional*):
            What to do if tokenizers differ in added tokens, as for [`merge`].

    Returns:
        [`CheckReport`]: every problem and every note; `print` shows it as a table.

    Raises:
        [`IngredientError`]: if an ingredient cannot be opened, or the base model has less than half of the tensors of
            the ingredients' body.
        [`RecipeError`]: if `take_from` names no ingredient.
    """
    ingredients = read_ingredients(ingredients)
    checkpoints = open_all(ingredients)
    base = resolve_base(base_model, ingredients, checkpoints[0], needed=False)
    if vocabulary is not None:
        checkpoints, base = with_common_vocabulary(checkpoints, base, vocabulary, settings=take_from)
    agreement = agree(checkpoints, take_from=take_from, align_labels=align_labels)
    report = agreement.check(checkpoints)
    if report.ok:
        report = replace(report, problems=alignment_problems(checkpoints[0], agreement.alignments))
    notes = list(report.notes)
    if base is not None:
        notes += _notes_of_base(base, checkpoints[0], report.labels)
    relation = None
    if deep and report.ok:
        relation = relate(checkpoints, base)
        notes += relation.notes
        moved = [name for name, order in agreement.alignments.items() if not is_identity(order)]
        if moved:
            notes.append(f"the heads of {', '.join(moved)} are compared as they are, not permuted")
    elif deep:
        notes.append("the weights were not read, because headers and configurations already show problems")
    elif report.ok:
        notes += _notes_of_heads(checkpoints, agreement)
    return replace(report, relation=relation, notes=tuple(notes))


def _notes_of_heads(checkpoints: Sequence[Checkpoint], agreement: Agreement) -> list[str]:
    """Notes on whether the heads look like fine-tunes of one; heads on the Hub are not downloaded for this."""
    on_hub = [item.name for item in checkpoints if item.on_hub]
    if on_hub and head_names(checkpoints[0].specs):
        return [f"the heads of {listed(on_hub)} were not compared: they are on the Hub, and a deep check fetches them"]
    return list(unrelated_heads(checkpoints, agreement.alignments))


def _notes_of_base(base: Checkpoint, like: Checkpoint, labels: Sequence[str]) -> list[str]:
    """Notes on a base model: settings that differ from the ingredients', another order of classes, missing tensors."""
    notes = base_notes(base, like)
    problem = base_order_problem(base, labels)
    if problem:
        notes.append(problem)
    lacking = [name for name in like.specs if name not in base.specs]
    if lacking:
        notes.append(f"{base.name} lacks {len(lacking)} of the ingredients' tensors: {listed(lacking)}")
    return notes


@answers_keywords
def modules(ingredient: Any) -> tuple[Module, ...]:
    """List the named modules of a checkpoint, each of which can have its own weights in a soup.

    Args:
        ingredient (`str`, `os.PathLike`, `PreTrainedModel` or [`Ingredient`]):
            A checkpoint, in any form that [`merge`] takes.

    Returns:
        `tuple[Module, ...]`: the name, number of tensors and number of parameters of each module.

    Raises:
        [`IngredientError`]: if the checkpoint cannot be opened.
    """
    return list_modules(open_checkpoint(ingredient).specs.values())
