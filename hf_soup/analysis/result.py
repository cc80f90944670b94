"""All parts of an analysis as one result: its tables, its findings, and a report of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..display.results import Result
from .advice import Advice
from .by_module import ModuleEffects
from .contribution import Contribution
from .diversity import Diversity
from .landscape import Landscape
from .plane import Plane
from .report import Section, figures_of, write_report
from .similarity import Similarity


if TYPE_CHECKING:
    from matplotlib.figure import Figure

REASONS = "What speaks for and against a soup of these models"  # heading of the pieces of advice
MERGE = "hf-soup merge"  # the beginning of commands that make a soup

Part = Similarity | Diversity | Landscape | Plane | Contribution | ModuleEffects | Advice


@dataclass(frozen=True, repr=False)
class Analysis(Result):
    """The results of an analysis; parts that were not requested are `None`.

    Args:
        names (`tuple[str, ...]`):
            The models.
        similarity ([`Similarity`], *optional*), diversity ([`Diversity`], *optional*), landscape ([`Landscape`],
            *optional*), plane ([`Plane`], *optional*), contribution ([`Contribution`], *optional*), modules
            ([`ModuleEffects`], *optional*), advice ([`Advice`], *optional*):
            The parts.
    """

    names: tuple[str, ...]
    similarity: Similarity | None = None
    diversity: Diversity | None = None
    landscape: Landscape | None = None
    plane: Plane | None = None
    contribution: Contribution | None = None
    modules: ModuleEffects | None = None
    advice: Advice | None = None

    def table(self) -> str:
        """The verdict and its command, then the tables of all parts, in Markdown that a terminal can show too."""
        paragraphs = []
        if self.advice is not None:
            paragraphs.append(self.advice.verdict)
            if self.advice.command:
                paragraphs.append(f"    {self.advice.command}")
        for section in self._sections(pictures=False):
            paragraphs += [f"## {section.heading}", section.table]
        return "\n\n".join(paragraphs)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {section.name: section.data for section in self._sections(pictures=False)}

    @property
    def findings(self) -> list[str]:
        """The finding of each part, in a sentence."""
        return [_finding(part) for part in reversed(parts_of(self).values())]

    def save(self, folder: str | os.PathLike[str], *, html: bool = True) -> Path:
        """Write a report: `index.html` (one file, readable without network), `analysis.md`, `analysis.json`, pictures.

        Args:
            folder (`str` or `os.PathLike`):
                Made where it is missing.
            html (`bool`, *optional*, defaults to `True`):
                Whether `index.html` is written.

        Returns:
            `Path`: of `index.html`, or of `analysis.md` without it.

        Raises:
            [`OutputError`]: if it cannot be written.
        """
        sections = self._sections(pictures=True)
        lead, command = sections[0].heading + ".", ""
        if self.advice is not None:
            lead, command = self.advice.verdict, self.advice.command
        title = f"Analysis of {len(self.names)} models"
        return write_report(folder, title, lead, sections, command=command, html=html)

    def _sections(self, *, pictures: bool) -> list[Section]:
        """The sections of a report, with the advice first and the weights last."""
        sections = []
        for name, part in reversed(parts_of(self).items()):
            figures = figures_of(_pictures(name, part)) if pictures else ()
            heading, table = _finding(part), part.table()
            if isinstance(part, Advice):  # its verdict and command are above all parts
                heading, table = REASONS, _reasons(part)
            sections.append(Section(name, heading, table, figures, part.to_dict()))
        return sections


def parts_of(analysis: Analysis) -> dict[str, Part]:
    """The existing parts by name, in the order of `hf_soup.options.PARTS`.

    Args:
        analysis ([`Analysis`]):
            Some of whose parts may be `None`.
    """
    parts: dict[str, Part | None] = {
        "similarity": analysis.similarity,
        "diversity": analysis.diversity,
        "landscape": analysis.landscape,
        "plane": analysis.plane,
        "contribution": analysis.contribution,
        "modules": analysis.modules,
        "advice": analysis.advice,
    }
    return {name: part for name, part in parts.items() if part is not None}


def _reasons(advice: Advice) -> str:
    """The reasons for advice, without its verdict and commands.

    If the advice is not to average, commands that merge would contradict it.
    """
    if not advice.ok:
        pieces = [piece for piece in advice.pieces if piece.stops or not piece.command.startswith(MERGE)]
        advice = replace(advice, pieces=tuple(pieces))
    paragraphs = advice.table().split("\n\n")
    reasons = [text for text in paragraphs if text != advice.verdict and not text.startswith("    ")]
    return "\n\n".join(reasons)


def _finding(part: Part) -> str:
    """The finding of a part, in a sentence without its full stop."""
    if isinstance(part, Advice):
        return part.verdict.split(". ")[0].removesuffix(".")  # the verdict may continue with a remedy
    if isinstance(part, Similarity):
        return _mean_cosines(part)
    return part.finding


def _pictures(name: str, part: Part) -> dict[str, Callable[[], Figure]]:
    """The figures of a part in a report: name -> function that draws it."""
    if isinstance(part, Similarity):
        return {f"{name}-runs": lambda: part.plot("runs"), f"{name}-depth": lambda: part.plot("depth")}
    if isinstance(part, Diversity):
        return {f"{name}-scores": lambda: part.plot("scores"), f"{name}-pairs": lambda: part.plot("pairs")}
    if isinstance(part, Landscape):
        return {f"{name}-lines": lambda: part.plot("lines"), f"{name}-barriers": lambda: part.plot("barriers")}
    if isinstance(part, Advice):  # text only
        return {}
    return {name: part.plot}


def _mean_cosines(similarity: Similarity) -> str:
    """The finding of a similarity: the mean cosines of all pairs, of weights and, with a base model, of changes."""
    import numpy as np

    models = len(similarity.names)
    if models < 2:
        return "One model is compared with none"
    pairs = np.triu_indices(models, 1)  # each pair once, without the diagonal
    weights = similarity.cosines(of="weights")[pairs].mean()
    finding = f"The weights of two models have a cosine of {weights:.3f} on average"
    if similarity.base is None:
        return finding
    return f"{finding}, what fine-tuning changed {similarity.cosines()[pairs].mean():.2f}"
