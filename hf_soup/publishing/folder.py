"""What lies beside the weights of a soup: configuration, tokenizer, scores, pictures, and the card that shows them."""

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
from ..merging.in_memory import output_config
from ..merging.plan import Plan
from ..types import Recipe
from ..untrusted import one_line
from .card import render_card
from .facts import Facts, License, gather_facts
from .redaction import Redaction


if TYPE_CHECKING:
    from ..analysis.result import Analysis

SELECTION = "selection"  # what the picture of the search is called
NOTHING_HIDDEN = Redaction()


@dataclass(frozen=True)
class CardOptions:
    """What a user says of the card of a soup that is published.

    Args:
        repo_id (`str`, *optional*):
            Where the soup will be on the Hub.
        tags (`Sequence[str]`, *optional*):
            More tags for its metadata.
        license (`str`, *optional*):
            Instead of what the ingredients' cards say.
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
    """Write all files of a soup but its weights and its recipe.

    Args:
        folder (`Path`):
            That of the weights.
        recipe ([`Recipe`]):
            With the digests of the weights that were written, and redacted already.
        plan ([`Plan`]):
            What was done: it says whose configuration and files the soup takes.
        checkpoints (`Sequence[Checkpoint]`):
            The ingredients in recipe order, whose cards are read.
        bases (`Sequence[Sequence[str]]`):
            For each ingredient the repositories that it was fine-tuned from.
        comparison ([`Comparison`], *optional*):
            The soup's scores.
        analysis ([`Analysis`], *optional*):
            Why it works; left out where private models would be named.
        redaction ([`Redaction`], *optional*):
            Hides private models.
        plots (`bool`, *optional*, defaults to `True`):
            Whether pictures are drawn, where matplotlib is installed.
        options ([`CardOptions`], *optional*):
            For the card.
    """
    config = output_config(plan)
    _write_taken_files(folder, taken_files(in_order(checkpoints, plan.settings)), redaction)
    if config:  # a SentenceTransformer may have none
        content = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (folder / CONFIG).write_bytes(redaction.file(content.encode()))
    if comparison is not None:
        comparison = redaction.comparison(comparison)
        comparison.save(folder, plots=plots)
    # Those that were drawn: matplotlib may be absent, and a comparison need not have the sets that a picture is of.
    pictures: dict[str, str] = {picture: name for picture, name in PICTURES.items() if (folder / name).exists()}
    if plots:
        pictures |= _draw_search(folder, recipe)
    findings: Sequence[str] = ()
    if analysis is not None and redaction.is_empty:
        findings = analysis.findings
        analysis.save(folder, html=False)
    cards: dict[str, Mapping[str, Any]] = {}  # by the names of the redacted recipe, which checkpoints do not have
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
    )
    (folder / CARD).write_text(card, encoding="utf-8")


def _write_taken_files(folder: Path, files: TakenFiles, redaction: Redaction) -> None:
    """Write the files that the soup takes over from ingredients, such as a tokenizer."""
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if redaction.is_empty:
            files.copy(name, path)  # piece by piece: a file may be larger than memory should hold
        else:
            path.write_bytes(redaction.file(files[name]))


def _draw_search(folder: Path, recipe: Recipe) -> dict[str, str]:
    """Draw what a strategy tried; no picture where it tried nothing, or matplotlib is not installed."""
    selection = recipe.selection
    if selection is None or not selection.trials:
        return {}
    name = f"{SELECTION}.png"
    with contextlib.suppress(MissingExtraError):
        selection.plot().savefig(folder / name)
        return {SELECTION: name}
    return {}


def _facts(cards: Mapping[str, Mapping[str, Any]], redaction: Redaction, license: str | None) -> Facts:
    """What the ingredients' cards agree on, with the licence that the user gives; a warning where there is none."""
    facts = gather_facts(cards, hidden=bool(redaction.aliases))
    if license is not None:
        facts = facts._replace(license=License(license), licenses={})
    if facts.licenses:
        entries = [f"{text} ({', '.join(names)})" for text, names in facts.licenses.items()]
        licenses = one_line("; ".join(entries))
        warn(f"the card sets no licence, since those of the ingredients are {licenses}.")
    return facts
