"""`analyze` and `advise`: they open their inputs and pass them to `hf_soup.analysis`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..analysis.advice import Advice, Given
from ..analysis.advising import give_advice
from ..analysis.by_module import ModuleEffects, measure_modules
from ..analysis.contribution import Contribution, contribution_cost, measure_contribution
from ..analysis.diversity import measure_diversity
from ..analysis.landscape import Landscape, check_line, scan_lines
from ..analysis.plane import Plane, scan_plane
from ..analysis.points import Scorer
from ..analysis.result import Analysis, Part, parts_of
from ..analysis.similarity import measure_similarity
from ..checkpoints.base_model import as_ingredient, resolve_base
from ..checkpoints.check import CheckReport
from ..checkpoints.checkpoint import MEMORY, Checkpoint
from ..checkpoints.source import open_all
from ..errors import RecipeError, did_you_mean, warn
from ..evaluation.evaluator import Evaluator
from ..merging.agreement import Agreement, agree
from ..options import PARTS, AnalyzeOptions, answers_keywords
from .ingredients import read_ingredients


if TYPE_CHECKING:
    from ..evaluation.binding import Evaluation

WEIGHTS_ALONE = ("similarity",)
USUAL = ("similarity", "diversity", "landscape", "advice")  # if there are examples, unless parts are named


@answers_keywords
def analyze(
    ingredients: Iterable[Any] | str | os.PathLike[str],
    *,
    evaluator: Evaluation | None = None,
    base_model: Any = None,
    parts: Sequence[str] | str | None = None,
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
) -> Analysis:
    """Analyze why a soup of some models works or does not.

    Scores are kept: the same call, or one that asks for more points, resumes from them. Ctrl-C ends the analysis and
    returns what is finished.

    Args:
        ingredients (`Iterable`, `str` or `os.PathLike`):
            Fine-tuned checkpoints, in any form that [`merge`] takes.
        evaluator ([`Evaluator`], `datasets.Dataset` or `str`, *optional*):
            Examples on which models are scored; without them only the weights are compared.
        base_model (*optional*):
            The model that the ingredients were fine-tuned from. The similarity of the changes from it says far more
            than the similarity of the weights. The base model of a [`Sweep`] is known.
        parts (`Sequence[str]` or `str`, *optional*):
            Parts of the analysis: one or several of `"similarity"`, `"diversity"`, `"landscape"`, `"plane"`,
            `"contribution"`, `"modules"` and `"advice"`. By default similarity; with an evaluator also diversity,
            landscape and advice.
        batchnorm_data ([`Evaluator`], `datasets.Dataset` or `str`, *optional*):
            Training data on which BatchNorm statistics are estimated again for every average that is scored.
        points (`int`, *optional*, defaults to 11):
            Number of points on each line, ends included, and in each direction of the plane.
        beyond (`float`, *optional*, defaults to 0.0):
            How far each line extends beyond its ends, as a fraction of its length.
        corners (`Sequence[str]`, *optional*):
            Names of the three models that span the plane; by default the three that are farthest apart.
        path (`Sequence[str]`, *optional*):
            Names of models in the order in which a greedy strategy added them (`soup.recipe.names`); the plane shows
            them as a path.
        samples (`int`, *optional*):
            Number of random orders used to estimate Shapley values; by default the values are exact for up to 8
            models.
        budget (`int`, *optional*):
            Maximum number of models to score in each of landscape, plane and advice.
        align_labels (`bool`, *optional*, defaults to `False`):
            Whether heads whose labels are in another order are permuted, as for [`merge`].
        take_from (`str`, *optional*):
            Name of the ingredient whose settings all models have when they are scored, as for [`merge`].
        device (`str`, *optional*, defaults to `"cpu"`):
            Device on which tensors are averaged.

    Returns:
        [`Analysis`]: `.similarity`, `.diversity`, `.landscape`, `.plane`, `.contribution`, `.modules`, `.advice`;
        `.table()`, `.save(folder)`.

    Raises:
        [`IncompatibleError`]: if the ingredients do not have the same tensors.
        [`RecipeError`]: if a part does not exist, or needs examples and there is no evaluator.
    """
    chosen = chosen_parts([parts] if isinstance(parts, str) else parts, evaluator is not None)
    if budget is not None and budget < 1:
        raise RecipeError(f"a budget is 1 model or more, not {budget}.")
    check_line(points, beyond)
    checkpoints, base = _opened(ingredients, base_model)
    agreement = agree(checkpoints, take_from=take_from, align_labels=align_labels)
    report = agreement.check(checkpoints)
    report.raise_for_problems()
    analysis = Analysis(tuple(checkpoint.name for checkpoint in checkpoints))
    if evaluator is None:  # only the weights are examined
        return replace(analysis, similarity=measure_similarity(checkpoints, base, agreement=agreement))

    scorer = Scorer(
        checkpoints, evaluator, batchnorm_data=batchnorm_data, device=device, agreement=agreement, report=report
    )
    if {"similarity", "plane", "advice"} & set(chosen):
        analysis = replace(analysis, similarity=measure_similarity(checkpoints, base, agreement=agreement))
    options = AnalyzeOptions(
        parts=chosen,
        points=points,
        beyond=beyond,
        corners=None if corners is None else tuple(corners),
        path=tuple(path),
        samples=samples,
        budget=budget,
    )
    given = _given(evaluator, batchnorm_data, base_model)
    return _with_scored_parts(analysis, Request(checkpoints, scorer, agreement, report, options, given))


class Request(NamedTuple):
    """The models that the parts of an analysis are measured on, and the options of these parts.

    Args:
        checkpoints (`tuple[Checkpoint, ...]`):
            The opened models.
        scorer ([`Scorer`]):
            Scores these models and their averages on examples.
        agreement ([`Agreement`]):
            How differences of settings and labels between the models are resolved.
        report ([`CheckReport`]):
            Findings of the compatibility check.
        options ([`AnalyzeOptions`]):
            Options of the parts.
        given ([`Given`]):
            Names of the data and the base model in commands.
    """

    checkpoints: tuple[Checkpoint, ...]
    scorer: Scorer
    agreement: Agreement
    report: CheckReport
    options: AnalyzeOptions
    given: Given


def _with_scored_parts(analysis: Analysis, request: Request) -> Analysis:
    """Add the parts for which models are scored; after Ctrl-C, return the analysis with what is finished.

    Raises:
        `KeyboardInterrupt`: if nothing is finished yet.
    """
    chosen = request.options.parts or ()
    for name in PARTS:
        if name not in chosen or name in WEIGHTS_ALONE:
            continue
        try:
            analysis = _with_part(analysis, name, request)
        except KeyboardInterrupt:
            if not parts_of(analysis):
                raise
            return _interrupted(analysis)
        # Without a budget, an incomplete part was ended by Ctrl-C, which ends the others as well.
        if request.options.budget is None and not _is_complete(parts_of(analysis)[name]):
            return _interrupted(analysis)
    return analysis


def _interrupted(analysis: Analysis) -> Analysis:
    warn(f"interrupted after {', '.join(parts_of(analysis))}; repeat the call to resume.")
    return analysis


def _with_part(analysis: Analysis, name: str, request: Request) -> Analysis:
    """Add one part for which models are scored."""
    scorer, options = request.scorer, request.options
    if name == "diversity":
        return replace(analysis, diversity=measure_diversity(scorer))
    if name == "landscape":
        landscape = scan_lines(scorer, points=options.points, beyond=options.beyond, budget=options.budget)
        return replace(analysis, landscape=landscape)
    if name == "plane" and analysis.similarity is not None:
        plane = scan_plane(
            scorer,
            analysis.similarity,
            corners=options.corners,
            points=options.points,
            path=options.path,
            budget=options.budget,
        )
        return replace(analysis, plane=plane)
    if name == "contribution":
        return replace(analysis, contribution=measure_contribution(scorer, samples=options.samples))
    if name == "modules":
        return replace(analysis, modules=measure_modules(scorer, request.checkpoints[0]))
    if name == "advice":
        advice = give_advice(
            request.checkpoints,
            scorer,
            similarity=analysis.similarity,
            budget=options.budget,
            sources=_sources(request.checkpoints),
            given=request.given,
            agreement=request.agreement,
            report=request.report,
        )
        return replace(analysis, advice=advice)
    raise ValueError(f"no models are scored for a part {name!r}, or it lacks the similarity that it is measured with")


def _is_complete(part: Part) -> bool:
    """Whether every requested point of a part was scored."""
    if isinstance(part, Landscape | Plane | Contribution | ModuleEffects):
        return part.complete
    return True


def analysis_cost(n: int, options: AnalyzeOptions, *, modules: int = 0) -> dict[str, int]:
    """Maximum number of models that each part of an analysis scores if no scores are kept yet.

    Args:
        n (`int`):
            Number of models.
        options ([`AnalyzeOptions`]):
            Options of the analysis, with its parts.
        modules (`int`, *optional*, defaults to 0):
            Number of named modules of a model.
    """
    points, beyond = options.points, options.beyond
    check_line(points, beyond)
    pairs, most = n * (n - 1) // 2, options.budget or sys.maxsize
    inner_points = points - 2 + 2 * int(round(beyond * (points - 1), 9))
    costs = {
        "similarity": 0,
        "diversity": n + 1,
        "landscape": min(n + 1 + pairs * inner_points, most),
        "plane": min(points * points, most),
        "contribution": contribution_cost(n, options.samples),
        "modules": n + 1 + 2 * modules,
        "advice": min(n + 1 + pairs, most),
    }
    return {part: costs[part] for part in options.parts or ()}


@answers_keywords
def advise(
    ingredients: Iterable[Any] | str | os.PathLike[str],
    evaluator: Evaluation | None = None,
    budget: int | None = None,
    *,
    base_model: Any = None,
    batchnorm_data: Any = None,
    align_labels: bool = False,
    take_from: str | None = None,
    device: str = "cpu",
) -> Advice:
    """Recommend whether and how to make a soup of some models, from measurements on them.

    Args:
        ingredients (`Iterable`, `str` or `os.PathLike`):
            Fine-tuned checkpoints, in any form that [`merge`] takes.
        evaluator ([`Evaluator`], `datasets.Dataset` or `str`, *optional*):
            Validation examples on which models are scored; without them only the weights are compared.
        budget (`int`, *optional*):
            Maximum number of models to score: first each ingredient and the uniform soup, then midpoints of pairs.
        base_model (*optional*):
            The model that the ingredients were fine-tuned from. That of a [`Sweep`] is known.
        batchnorm_data ([`Evaluator`], `datasets.Dataset` or `str`, *optional*):
            Training data on which BatchNorm statistics are estimated again for every average that is scored.
        align_labels (`bool`, *optional*, defaults to `False`):
            Whether heads whose labels are in another order are permuted, as for [`merge`].
        take_from (`str`, *optional*):
            Name of the ingredient whose settings all models have when they are scored, as for [`merge`].
        device (`str`, *optional*, defaults to `"cpu"`):
            Device on which tensors are averaged.

    Returns:
        [`Advice`]: `.verdict`, `.command`, and `.pieces` with their evidence; `.table()`.

    Raises:
        [`IngredientError`]: if an ingredient cannot be opened.
    """
    checkpoints, base = _opened(ingredients, base_model)
    agreement = agree(checkpoints, take_from=take_from, align_labels=align_labels)
    sources, given = _sources(checkpoints), _given(evaluator, batchnorm_data, base_model)
    report = agreement.check(checkpoints)
    if len(checkpoints) < 2 or not report.ok:
        return give_advice(
            checkpoints, budget=budget, sources=sources, given=given, agreement=agreement, report=report
        )
    scorer = None
    if evaluator is not None:
        scorer = Scorer(
            checkpoints, evaluator, batchnorm_data=batchnorm_data, device=device, agreement=agreement, report=report
        )
    return give_advice(
        checkpoints,
        scorer,
        similarity=measure_similarity(checkpoints, base, agreement=agreement),
        budget=budget,
        sources=sources,
        given=given,
        agreement=agreement,
        report=report,
    )


def chosen_parts(parts: Sequence[str] | None, scored: bool) -> tuple[str, ...]:
    """The requested parts, or the usual ones.

    Raises:
        [`RecipeError`]: if a part does not exist or needs examples, or there is no part at all.
    """
    usual = USUAL if scored else WEIGHTS_ALONE
    chosen = usual if parts is None else tuple(parts)
    if not chosen:
        raise RecipeError(f"an analysis needs at least one part: {', '.join(PARTS)}.")
    for part in chosen:
        if part not in PARTS:
            raise RecipeError(f"there is no part {part!r} of an analysis{did_you_mean(part, PARTS)}")
        if part not in WEIGHTS_ALONE and not scored:
            raise RecipeError(f"the part {part!r} needs predictions: give evaluator=, or on the command line --data.")
    return chosen


def _opened(
    ingredients: Iterable[Any] | str | os.PathLike[str], base_model: Any
) -> tuple[tuple[Checkpoint, ...], Checkpoint | None]:
    ingredients = read_ingredients(ingredients)
    checkpoints = open_all(ingredients)
    base = resolve_base(base_model, ingredients, checkpoints[0], needed=True)
    if base is None:
        return checkpoints, None
    return checkpoints, as_ingredient(base, checkpoints[0], [checkpoint.name for checkpoint in checkpoints])


def _given(evaluator: Any, batchnorm_data: Any, base_model: Any) -> Given:
    """How commands refer to the given data and base model; models and data in memory have no name."""
    given = Given()
    data = _data_source(evaluator, "validation")
    if data is not None:
        given = given._replace(data=" ".join([f"--data {data}", *_reading_options(evaluator)]))
    training = _data_source(batchnorm_data, "train")
    if training is not None:
        given = given._replace(batchnorm_data=f"--batchnorm-data {training}")
    if isinstance(base_model, (str, os.PathLike)):
        given = given._replace(base_model=shlex.quote(os.fspath(base_model)))
    return given


def _data_source(data: Any, usual_split: str) -> str | None:
    """The name of a set of examples in the shell, `PATH/CONFIGURATION#SPLIT`; `None` if it exists only in memory."""
    if isinstance(data, (str, os.PathLike)):
        return shlex.quote(os.fspath(data))
    if not isinstance(data, Evaluator) or data.path is None:
        return None
    configuration = f"/{data.name}" if data.name else ""
    split = f"#{data.split}" if data.split != usual_split else ""
    return shlex.quote(f"{data.path}{configuration}{split}")


def _reading_options(evaluator: Any) -> list[str]:
    """The options of a command for reading and scoring examples, as far as they were given."""
    if not isinstance(evaluator, Evaluator):
        return []
    options = []
    if evaluator.task != "auto":
        options.append(f"--task {shlex.quote(evaluator.task)}")
    if isinstance(evaluator.metric, str):
        options.append(f"--metric {shlex.quote(evaluator.metric)}")
    if evaluator.label_column is not None:
        options.append(f"--label-column {shlex.quote(evaluator.label_column)}")
    for column in evaluator.text_columns or ():
        options.append(f"--text-column {shlex.quote(column)}")
    return options


def _sources(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """The ingredients as arguments of a command: relative folders or Hub ids; empty if one of them is in memory."""
    sources = []
    for checkpoint in checkpoints:
        source, revision = checkpoint.ingredient.source, checkpoint.ingredient.revision
        if source == MEMORY:
            return []
        if os.path.isabs(source) and Path(source).is_relative_to(Path.cwd()):
            sources.append(os.path.relpath(source))
        else:
            sources.append(f"{source}@{revision}" if revision else source)
    return sources
