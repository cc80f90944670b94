"""The parts of an analysis, each by itself; `analyze` makes several of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from .analyze import analyze


if TYPE_CHECKING:
    from ..analysis.by_module import ModuleEffects
    from ..analysis.contribution import Contribution
    from ..analysis.diversity import Diversity
    from ..analysis.landscape import Landscape
    from ..analysis.plane import Plane
    from ..analysis.similarity import Similarity
    from ..evaluation.binding import Evaluation

T = TypeVar("T")


def similarity(ingredients: Sequence[Any], base_model: Any = None) -> Similarity:
    """How alike the weights of models are, and what fine-tuning changed, in one pass over the files.

    Args:
        ingredients (`Sequence`):
            As for [`merge`].
        base_model (*optional*):
            What they were fine-tuned from; a [`Sweep`] knows its own.

    Returns:
        [`Similarity`]: `.cosines()`, `.distances()`, `.angles()`, `.signs()`, `.by_module()`, `.table()`, `.plot()`.

    Raises:
        [`IncompatibleError`]: if they do not have the same tensors.
    """
    analysis = analyze(ingredients, base_model=base_model, parts=["similarity"])
    return _whole(analysis.similarity)


def diversity(ingredients: Sequence[Any], evaluator: Evaluation) -> Diversity:
    """How differently models decide, and how much of the ensemble's gain their soup keeps.

    Args:
        ingredients (`Sequence`):
            As for [`merge`].
        evaluator ([`Evaluator`], `datasets.Dataset` or `str`):
            Examples to score on.

    Returns:
        [`Diversity`]: `.pairs`, `.matrix()`, `.kept`, `.table()`, `.plot()`.

    Raises:
        [`RecipeError`]: if there is one model alone.
    """
    analysis = analyze(ingredients, evaluator=evaluator, parts=["diversity"])
    return _whole(analysis.diversity)


def landscape(
    ingredients: Sequence[Any],
    evaluator: Evaluation,
    *,
    batchnorm_data: Any = None,
    points: int = 11,
    beyond: float = 0.0,
    budget: int | None = None,
) -> Landscape:
    """Loss and score along the straight line between each pair of models, and the barriers.

    Args:
        ingredients (`Sequence`):
            As for [`merge`].
        evaluator ([`Evaluator`], `datasets.Dataset` or `str`):
            Examples to score on.
        batchnorm_data ([`Evaluator`], `datasets.Dataset` or `str`, *optional*):
            Training data on which BatchNorm is estimated again at every point.
        points (`int`, *optional*, defaults to 11):
            Of each line, ends included, and in each direction of the plane.
        beyond (`float`, *optional*, defaults to 0.0):
            How far lines go on beyond their ends, relative to their length.
        budget (`int`, *optional*):
            Score so many models at most.

    Returns:
        [`Landscape`]: `.lines`, `.barriers()`, `.table()`, `.plot()`.

    Raises:
        [`RecipeError`]: if a line has fewer than 2 points.
    """
    analysis = analyze(
        ingredients,
        evaluator=evaluator,
        batchnorm_data=batchnorm_data,
        points=points,
        beyond=beyond,
        budget=budget,
        parts=["landscape"],
    )
    return _whole(analysis.landscape)


def plane(
    ingredients: Sequence[Any],
    evaluator: Evaluation,
    *,
    batchnorm_data: Any = None,
    corners: Sequence[str] | None = None,
    points: int = 11,
    path: Sequence[str] = (),
    budget: int | None = None,
) -> Plane:
    """Loss and score over the plane through three models.

    Args:
        ingredients (`Sequence`):
            As for [`merge`].
        evaluator ([`Evaluator`], `datasets.Dataset` or `str`):
            Examples to score on.
        batchnorm_data ([`Evaluator`], `datasets.Dataset` or `str`, *optional*):
            Training data on which BatchNorm is estimated again at every point.
        corners (`Sequence[str]`, *optional*):
            Names of the three models; by default those farthest from each other.
        points (`int`, *optional*, defaults to 11):
            Of each line, ends included, and in each direction of the plane.
        path (`Sequence[str]`, *optional*):
            Names in the order in which a greedy pass took them, to be drawn.
        budget (`int`, *optional*):
            Score so many models at most.

    Returns:
        [`Plane`]: `.losses()`, `.marks`, `.plot()`, `.plot_interactive()`.

    Raises:
        [`RecipeError`]: if there are no three models, or they lie on one line.
    """
    analysis = analyze(
        ingredients,
        evaluator=evaluator,
        batchnorm_data=batchnorm_data,
        corners=corners,
        points=points,
        path=path,
        budget=budget,
        parts=["plane"],
    )
    return _whole(analysis.plane)


def contribution(
    ingredients: Sequence[Any], evaluator: Evaluation, *, batchnorm_data: Any = None, samples: int | None = None
) -> Contribution:
    """What each ingredient contributes to the uniform soup: left out, added, and its Shapley value.

    Args:
        ingredients (`Sequence`):
            As for [`merge`].
        evaluator ([`Evaluator`], `datasets.Dataset` or `str`):
            Examples to score on.
        batchnorm_data ([`Evaluator`], `datasets.Dataset` or `str`, *optional*):
            Training data on which BatchNorm is estimated again at every point.
        samples (`int`, *optional*):
            Orders that are drawn for Shapley values; by default they are exact for up to 8 models.

    Returns:
        [`Contribution`]: `.shares`, `.table()`, `.plot()`.

    Raises:
        [`RecipeError`]: if there is one ingredient alone.
    """
    analysis = analyze(
        ingredients, evaluator=evaluator, batchnorm_data=batchnorm_data, samples=samples, parts=["contribution"]
    )
    return _whole(analysis.contribution)


def module_effects(ingredients: Sequence[Any], evaluator: Evaluation, *, batchnorm_data: Any = None) -> ModuleEffects:
    """Which modules profit from averaging: each alone, and all but each.

    Args:
        ingredients (`Sequence`):
            As for [`merge`].
        evaluator ([`Evaluator`], `datasets.Dataset` or `str`):
            Examples to score on.
        batchnorm_data ([`Evaluator`], `datasets.Dataset` or `str`, *optional*):
            Training data on which BatchNorm is estimated again at every point.

    Returns:
        [`ModuleEffects`]: `.effects`, `.table()`, `.plot()`.

    Raises:
        [`EvaluationError`]: if the evaluator is a function of a model.
    """
    analysis = analyze(ingredients, evaluator=evaluator, batchnorm_data=batchnorm_data, parts=["modules"])
    return _whole(analysis.modules)


def _whole(part: T | None) -> T:
    """The only part of an analysis; where there is none, Ctrl-C came before there was any of it."""
    if part is None:
        raise KeyboardInterrupt
    return part
