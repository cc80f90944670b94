"""The files beside the weights of a soup: configuration, tokenizer, scores, pictures, and the card."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.companion_files import CARD, CONFIG
from ..checkpoints.companions import TakenFiles, in_order, taken_files
from ..comparison.comparison import PICTURES, Comparison
from ..errors import MissingExtraError, warn
from ..formats.chat_template import write_template
from ..merging.in_memory import output_config
from ..merging.plan import Plan
from ..merging.sentence_models import sentence_class
from ..types import Recipe
from ..untrusted import one_line
from .card import render_card
from .facts import Facts, License, gather_facts
from .redaction import Redaction


if TYPE_CHECKING:
    from ..analysis.result import Analysis

SELECTION = "selection"  # name of the picture of the search
NOTHING_HIDDEN = Redaction()


@dataclass(frozen=True)
class CardOptions:
    """Options for the card of a published soup.

    Args:
        repo_id (`str`, *optional*):
            Repository that the soup will be pushed to.
        tags (`Sequence[str]`, *optional*):
            Additional tags for the metadata.
        license (`str`, *optional*):
            Licence on the card; by default that of the ingredients.
    """

    repo_id: str | None = None
    tags: Sequence[str] = ()
    license: str | None = None


def write_companions(
    folder: Path,
    recipe: Recipe,
    plan: Plan,
    checkpoints: Sequence[Checkpoint],
    *,
    bases: Sequence[Sequence[str]],
    comparison: Comparison | None = None,
    analysis: Analysis | None = None,
    redaction: Redaction = NOTHING_HIDDEN,
    plots: bool = True,
    options: CardOptions = CardOptions(),
) -> None:
    """Write all files of a soup except its weights and its recipe.

    Args:
        folder (`Path`):
            Folder of the weights.
        recipe ([`Recipe`]):
            Recipe, redacted and with the digests of the written weights.
        plan ([`Plan`]):
            Plan of the recipe, which determines the configuration and files that the soup takes.
        checkpoints (`Sequence[Checkpoint]`):
            Ingredients in the order of the recipe, whose cards are read.
        bases (`Sequence[Sequence[str]]`):
            Base models of each ingredient.
        comparison ([`Comparison`], *optional*):
            Scores of the soup.
        analysis ([`Analysis`], *optional*):
            Analysis of the soup; left out if it would name private models.
        redaction ([`Redaction`], *optional*):
            Redaction that hides private models.
        plots (`bool`, *optional*, defaults to `True`):
            Whether pictures are drawn, which need matplotlib.
        options ([`CardOptions`], *optional*):
            Options for the card.
    """
    config = output_config(plan)
    _write_taken_files(folder, taken_files(in_order(checkpoints, plan.settings)), redaction)
    if recipe.chat_template is not None:
        write_template(folder, recipe.chat_template)
    # a SentenceTransformer may have none; beside an adapter, transformers would look for whole weights
    if config and recipe.adapter is None:
        content = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (folder / CONFIG).write_bytes(redaction.file(content.encode()))
    if comparison is not None:
        comparison = redaction.comparison(comparison)
        comparison.save(folder, plots=plots)
    # Pictures that were drawn: matplotlib may be missing, and a comparison may lack the data for a picture.
    pictures: dict[str, str] = {picture: name for picture, name in PICTURES.items() if (folder / name).exists()}
    if plots:
        pictures |= _draw_search(folder, recipe)
    findings: Sequence[str] = ()
    if analysis is not None and redaction.is_empty:
        findings = analysis.findings
        analysis.save(folder, html=False)
    cards: dict[str, Mapping[str, Any]] = {}  # by the names of the redacted recipe, which differ from checkpoints
    for item, checkpoint in zip(recipe.ingredients, checkpoints, strict=True):
        cards[item.name] = checkpoint.card
    card = render_card(
        recipe,
        config,
        comparison,
        pictures=pictures,
        facts=_facts(cards, redaction, options.license),
        findings=findings,
        bases=[list(map(redaction.base, repositories)) for repositories in bases],
        repo_id=options.repo_id,
        tags=options.tags,
        sentence_class=sentence_class(plan, checkpoints),
    )
    (folder / CARD).write_text(card, encoding="utf-8")


def _write_taken_files(folder: Path, files: TakenFiles, redaction: Redaction) -> None:
    """Write the files that the soup takes from ingredients, such as a tokenizer."""
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if redaction.is_empty:
            files.copy(name, path)  # piece by piece, because a file may be too large for memory
        else:
            path.write_bytes(redaction.file(files[name]))


def _draw_search(folder: Path, recipe: Recipe) -> dict[str, str]:
    """Draw the trials of a strategy; no picture if there are none, or matplotlib is not installed."""
    selection = recipe.selection
    if selection is None or not selection.trials:
        return {}
    name = f"{SELECTION}.png"
    with contextlib.suppress(MissingExtraError):
        selection.plot().savefig(folder / name)
        return {SELECTION: name}
    return {}


def _facts(cards: Mapping[str, Mapping[str, Any]], redaction: Redaction, license: str | None) -> Facts:
    """The facts that the ingredients' cards agree on, with the user's licence; a warning if there is no licence."""
    facts = gather_facts(cards, hidden=bool(redaction.aliases))
    if license is not None:
        facts = facts._replace(license=License(license), licenses={})
    if facts.licenses:
        entries = [f"{text} ({', '.join(names)})" for text, names in facts.licenses.items()]
        licenses = one_line("; ".join(entries))
        warn(f"the card sets no licence, since those of the ingredients are {licenses}.")
    return facts
