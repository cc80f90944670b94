"""What lies beside the weights of a soup: configuration, tokenizer, scores, pictures, and the card that shows them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoints.checkpoint import PRIVATE, Checkpoint
from ..checkpoints.companions import TakenFiles
from ..checkpoints.files_beside import CARD, CONFIG
from ..errors import MissingExtraError, warn
from ..evaluation.comparison import PICTURES, Comparison
from ..selection import Selection
from ..types import Recipe
from ..untrusted import one_line
from .card import render_card
from .facts import gather_facts
from .origins import Veil


SELECTION = "selection"  # what the picture of the search is called


def write_beside(
    folder: Path,
    recipe: Recipe,
    config: Mapping[str, Any],
    companions: TakenFiles,
    comparison: Comparison | None,
    checkpoints: Sequence[Checkpoint],
    *,
    bases: Sequence[Sequence[str]] = (),
    veil: Veil | None = None,
    analysis: Any = None,
    plots: bool = True,
    repo_id: str | None = None,
    tags: Sequence[str] = (),
    license: str | None = None,
) -> None:
    """Write all files of a soup but its weights and its recipe.

    Args:
        folder (`Path`):
            Where.
        recipe ([`Recipe`]):
            As it was poured.
        config (`Mapping`):
            Of the soup's model.
        companions ([`TakenFiles`]):
            Tokenizer, processor, generation config and whatever else goes along.
        comparison ([`Comparison`], *optional*):
            Its scores.
        checkpoints (`Sequence[Checkpoint]`):
            The ingredients, whose cards are read.
        bases (`Sequence[Sequence[str]]`, *optional*):
            For each ingredient the repositories that it was fine-tuned from.
        veil ([`Veil`], *optional*):
            Hides private ingredients; the recipe is behind it already.
        analysis ([`Analysis`], *optional*):
            Why it works; left out where private models would be named.
        plots (`bool`, *optional*, defaults to `True`):
            Whether pictures are drawn, where matplotlib is installed.
        repo_id (`str`, *optional*), tags (`Sequence[str]`, *optional*), license (`str`, *optional*):
            For the card.
    """
    for name in companions:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if veil:
            path.write_bytes(veil.file(companions[name]))
        else:
            companions.copy(name, path)
    if config:
        content = (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
        (folder / CONFIG).write_bytes(veil.file(content) if veil else content)
    if comparison is not None:
        comparison = veil.comparison(comparison) if veil else comparison
        comparison.save(folder, plots=plots)
    pictures = {kind: name for kind, name in PICTURES.items() if (folder / name).exists()}
    selection = Selection.of(recipe)
    if plots and selection and selection.trials:
        with contextlib.suppress(MissingExtraError):
            selection.plot().savefig(folder / f"{SELECTION}.png")
            pictures[SELECTION] = f"{SELECTION}.png"
    findings = []
    if analysis is not None and veil is None:
        findings = analysis.findings
        analysis.save(folder, html=False)
    cards = {named.name: item.card for named, item in zip(recipe.ingredients, checkpoints, strict=True)}
    facts = gather_facts(cards, hidden=veil is not None and bool(veil.aliases))
    if license is not None:
        facts = facts._replace(license={"license": license}, licenses={})
    if facts.licenses:
        found = "; ".join(f"{license} ({', '.join(names)})" for license, names in facts.licenses.items())
        warn(f"the card sets no licence, since those of the ingredients are {one_line(found)}.")
    if veil:
        bases = [[PRIVATE if base in veil.bases else base for base in found] for found in bases]
    shown = {"pictures": pictures, "facts": facts, "findings": findings, "bases": bases}
    card = render_card(recipe, config, comparison, repo_id=repo_id, tags=tags, **shown)
    (folder / CARD).write_text(card, encoding="utf-8")
