"""`analyze` and `advise`: open what was given and hand it to `hf_soup.analysis`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .analysis.advice import Advice, give_advice
from .analysis.by_module import ModuleEffects, measure_modules
from .analysis.contribution import Contribution, contribution_cost, measure_contribution
from .analysis.diversity import Diversity, measure_diversity
from .analysis.landscape import Landscape, check_line, scan_lines
from .analysis.plane import Plane, scan_plane
from .analysis.points import Scorer
from .analysis.report import Section, figures_of, write_report
from .analysis.similarity import Similarity, measure_similarity
from .checkpoints.base_model import as_ingredient, open_base
from .checkpoints.checkpoint import MEMORY, Checkpoint
from .checkpoints.source import open_all
from .errors import RecipeError, did_you_mean, warn
from .merging.agreement import Agreement, agree


if TYPE_CHECKING:
    from .evaluation.binding import Evaluation

WEIGHTS_ALONE = ("similarity",)
PARTS = (*WEIGHTS_ALONE, "diversity", "landscape", "plane", "contribution", "modules", "advice")
USUAL = ("similarity", "diversity", "landscape", "advice")  # with examples, unless parts are named


@dataclass(frozen=True)
class Analysis:
    """What was found out about some models; parts that were not asked for are `None`.

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
        """The tables of all parts, in Markdown that also reads well in a terminal."""
        return "\n\n".join(f"## {section.heading}\n\n{section.table}" for section in self._sections(pictures=False))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {section.name: section.data for section in self._sections(pictures=False)}

    @property
    def findings(self) -> list[str]:
        """What each part found, in a sentence."""
        return [section.heading for section in self._sections(pictures=False)]

    def save(self, folder: str | os.PathLike, *, html: bool = True) -> Path:
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
        lead = self.advice.verdict if self.advice else sections[0].heading + "."
        return write_report(folder, f"Analysis of {len(self.names)} models", lead, sections, html=html)

    def _sections(self, *, pictures: bool) -> list[Section]:
        found = []
        for name in reversed(PARTS):
            part = getattr(self, name)
            if part is None:
                continue
            kinds = {"similarity": ("runs", "depth"), "diversity": ("scores", "pairs")}
            kinds |= {"landscape": ("lines", "barriers"), "advice": None}
            drawn = kinds.get(name, ())
            figures = figures_of(part, *drawn, name=name) if pictures and drawn is not None else ()
            found.append(Section(name, _heading(name, part), part.table(), figures, part.to_dict()))
        return found


def analyze(
    ingredients: Sequence[Any],
    *,
    evaluator: Evaluation | None = None,
    base_model: Any = None,
    parts: Sequence[str] | None = None,
    batchnorm_data: Any = None,
    points: int = 11,
    beyond: float = 0.0,
    corners: Sequence[str] | None = None,
    path: Sequence[str] = (),
    samples: int | None = None,
    budget: int | None = None,
    align_labels: bool = False,
    take_from: str | None = None,
    device: str = "cpu",
    allow_pickle: bool = False,
) -> Analysis:
    """See why a soup of some models works, or does not.

    Points that were scored are kept: the same call, or one that asks for more, goes on from there. Ctrl-C ends a part
    with what is done.

    Args:
        ingredients (`Sequence`):
            As for [`merge`]; a [`Sweep`] is such a sequence.
        evaluator ([`Evaluator`], `datasets.Dataset` or `str`, *optional*):
            Examples to score on; without them only the weights are compared.
        base_model (*optional*):
            What they were fine-tuned from: changes from it say far more than weights. A [`Sweep`] knows its own.
        parts (`Sequence[str]`, *optional*):
            Of `"similarity"`, `"diversity"`, `"landscape"`, `"plane"`, `"contribution"`, `"modules"`, `"advice"`; by
            default similarity, and with an evaluator diversity, landscape and advice.
        batchnorm_data ([`Evaluator`], `datasets.Dataset` or `str`, *optional*):
            Training data on which BatchNorm is estimated again at every point.
        points (`int`, *optional*, defaults to 11):
            Of each line, ends included, and in each direction of the plane.
        beyond (`float`, *optional*, defaults to 0.0):
            How far lines go on beyond their ends, relative to their length.
        corners (`Sequence[str]`, *optional*):
            Names of the three models that the plane goes through; by default those farthest from each other.
        path (`Sequence[str]`, *optional*):
            Names in the order in which a greedy pass took them, to be drawn on the plane; a soup's
            `soup.recipe.names`.
        samples (`int`, *optional*):
            Orders that are drawn for Shapley values; by default they are exact for up to 8 models.
        budget (`int`, *optional*):
            Score so many models at most in landscape, plane and advice, each.
        align_labels (`bool`, *optional*, defaults to `False`):
            As for [`merge`].
        take_from (`str`, *optional*):
            As for [`merge`]: whose settings all models have where they are scored.
        device (`str`, *optional*, defaults to `"cpu"`):
            Where to average.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            As for [`merge`].

    Returns:
        [`Analysis`]: `.similarity`, `.diversity`, `.landscape`, `.plane`, `.contribution`, `.modules`, `.advice`;
        `.table()`, `.save(folder)`.

    Raises:
        [`IncompatibleError`]: if they do not have the same tensors.
        [`RecipeError`]: if there is no such part, or it needs examples.
    """
    parts = chosen_parts(parts, evaluator is not None)
    if budget is not None and budget < 1:
        raise RecipeError(f"a budget is 1 model or more, not {budget}.")
    check_line(points, beyond)
    checkpoints, base = _opened(ingredients, base_model, allow_pickle)
    agreement = agree(checkpoints, take_from=take_from, align_labels=align_labels)
    scorer = _scorer(checkpoints, evaluator, batchnorm_data, device, agreement)
    found: dict[str, Any] = {}
    if {"similarity", "plane", "advice"} & set(parts):
        found["similarity"] = measure_similarity(checkpoints, base, agreement=agreement)
    similarity, where = found.get("similarity"), {"budget": budget, "points": points}
    make = {
        "diversity": lambda: measure_diversity(scorer),
        "landscape": lambda: scan_lines(scorer, beyond=beyond, **where),
        "plane": lambda: scan_plane(scorer, similarity, corners=corners, path=path, **where),
        "contribution": lambda: measure_contribution(scorer, samples=samples),
        "modules": lambda: measure_modules(scorer, checkpoints[0]),
        "advice": lambda: give_advice(
            checkpoints,
            scorer,
            similarity=similarity,
            budget=budget,
            sources=_sources(checkpoints),
            agreement=agreement,
        ),
    }
    try:
        for part in (part for part in make if part in parts):
            found[part] = make[part]()
            if budget is None and not getattr(found[part], "complete", True):  # Ctrl-C
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        if not found:
            raise
        warn(f"interrupted: {', '.join(found)} is there; the same call goes on.")
    return Analysis(tuple(item.name for item in checkpoints), **found)


def analysis_cost(
    n: int,
    parts: Sequence[str],
    *,
    points: int = 11,
    beyond: float = 0.0,
    samples: int | None = None,
    modules: int = 0,
    budget: int | None = None,
) -> dict[str, int]:
    """How many models each part of an analysis scores at most, before any of it is kept.

    Args:
        n (`int`):
            Models.
        parts (`Sequence[str]`), points (`int`), beyond (`float`), samples (`int`, *optional*), budget (`int`,
            *optional*):
            As of [`analyze`].
        modules (`int`, *optional*):
            Named modules of the models.
    """
    check_line(points, beyond)
    pairs, most = n * (n - 1) // 2, budget or sys.maxsize
    each = points - 2 + 2 * int(round(beyond * (points - 1), 9))
    costs = {
        "similarity": 0,
        "diversity": n + 1,
        "landscape": min(n + 1 + pairs * each, most),
        "plane": min(points * points, most),
        "contribution": contribution_cost(n, samples),
        "modules": n + 1 + 2 * modules,
        "advice": min(n + 1 + pairs, most),
    }
    return {part: costs[part] for part in parts}


def advise(
    ingredients: Sequence[Any],
    evaluator: Evaluation | None = None,
    budget: int | None = None,
    *,
    base_model: Any = None,
    batchnorm_data: Any = None,
    align_labels: bool = False,
    take_from: str | None = None,
    device: str = "cpu",
    allow_pickle: bool = False,
) -> Advice:
    """Whether and how to make a soup of some models, told from what is measured on them.

    Args:
        ingredients (`Sequence`):
            As for [`merge`].
        evaluator ([`Evaluator`], `datasets.Dataset` or `str`, *optional*):
            Validation examples; without them only the weights are looked at.
        budget (`int`, *optional*):
            Score so many models at most: first each alone and their uniform soup, then half-way between pairs.
        base_model (*optional*):
            What they were fine-tuned from; a [`Sweep`] knows its own.
        batchnorm_data ([`Evaluator`], `datasets.Dataset` or `str`, *optional*):
            Training data on which BatchNorm is estimated again.
        align_labels (`bool`, *optional*, defaults to `False`):
            As for [`merge`].
        take_from (`str`, *optional*):
            As for [`merge`]: whose settings all models have where they are scored.
        device (`str`, *optional*, defaults to `"cpu"`):
            Where to average.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            As for [`merge`].

    Returns:
        [`Advice`]: `.verdict`, `.command`, and `.pieces` with their evidence; `.table()`.

    Raises:
        [`IngredientError`]: if one cannot be opened.
    """
    checkpoints, base = _opened(ingredients, base_model, allow_pickle)
    agreement = agree(checkpoints, take_from=take_from, align_labels=align_labels)
    options = {"budget": budget, "sources": _sources(checkpoints), "agreement": agreement}
    if len(checkpoints) < 2 or not agreement.check(checkpoints).ok:
        return give_advice(checkpoints, **options)
    scorer = _scorer(checkpoints, evaluator, batchnorm_data, device, agreement)
    similarity = measure_similarity(checkpoints, base, agreement=agreement)
    return give_advice(checkpoints, scorer, similarity=similarity, **options)


def chosen_parts(parts: Sequence[str] | None, scored: bool) -> tuple[str, ...]:
    """The parts that were asked for, or the usual ones.

    Raises:
        [`RecipeError`]: if there is no such part, none at all, or it needs examples.
    """
    chosen = tuple(parts) if parts is not None else USUAL if scored else WEIGHTS_ALONE
    if not chosen:
        raise RecipeError(f"an analysis has a part at least: {', '.join(PARTS)}.")
    for part in chosen:
        if part not in PARTS:
            raise RecipeError(f"there is no part {part!r} of an analysis{did_you_mean(part, PARTS)}")
        if part not in WEIGHTS_ALONE and not scored:
            raise RecipeError(
                f"the part {part!r} looks at what models say: give evaluator=, or on the command line --data."
            )
    return chosen


def _opened(
    ingredients: Sequence[Any], base_model: Any, allow_pickle: bool
) -> tuple[tuple[Checkpoint, ...], Checkpoint | None]:
    checkpoints = open_all(ingredients, allow_pickle=allow_pickle)
    base_model = base_model if base_model is not None else getattr(ingredients, "base_model", None)
    base = open_base(base_model, checkpoints[0], allow_pickle=allow_pickle) if base_model is not None else None
    return checkpoints, base and as_ingredient(base, checkpoints[0], [item.name for item in checkpoints])


def _scorer(
    checkpoints: Sequence[Checkpoint],
    evaluator: Evaluation | None,
    batchnorm_data: Any,
    device: str,
    agreement: Agreement,
) -> Scorer | None:
    if evaluator is None:
        return None
    return Scorer(checkpoints, evaluator, batchnorm_data=batchnorm_data, device=device, agreement=agreement)


def _sources(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """What a command calls them: folders as they are seen from here, Hub ids; nothing if one is in memory."""
    found = []
    for item in checkpoints:
        source, revision = item.ingredient.source, item.ingredient.revision
        if source == MEMORY:
            return []
        inside = os.path.isabs(source) and Path(source).is_relative_to(Path.cwd())
        found.append(os.path.relpath(source) if inside else f"{source}@{revision}" if revision else source)
    return found


def _heading(name: str, part: Any) -> str:
    """What a part found, in a sentence without its full stop."""
    if name == "advice":
        return part.verdict.split(". ")[0].removesuffix(".")
    if name == "similarity":
        return _similar(part)
    title = getattr(part, "_title", None)
    if title is not None:
        return title()
    if name == "contribution":
        ranked = part.ranked()
        return f"{ranked[0].name} contributes most to the soup, {ranked[-1].name} least"
    gains = [effect for effect in part.effects if effect.only > 0]
    return f"Averaging alone helps in {len(gains)} of {len(part.effects)} modules"


def _similar(part: Similarity) -> str:
    import numpy as np

    n = len(part.names)
    if n < 2:
        return "One model is compared with none"
    pairs = np.triu_indices(n, 1)
    weights, deltas = part.cosines(of="weights")[pairs].mean(), part.cosines()[pairs].mean()
    what = "what fine-tuning changed" if part.base else "their differences from the mean"
    return f"The weights of two models have a cosine of {weights:.3f} on average, {what} {deltas:.2f}"
