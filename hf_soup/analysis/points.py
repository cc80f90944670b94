"""Models at points between, around and beyond ingredients: their loss and score, each computed once and kept.

A point is a mixture for the linear method. Its predictions are kept between processes, as in a search.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from ..checkpoints.check import CheckReport
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.companions import in_order
from ..errors import EvaluationError
from ..evaluation.binding import batchnorm_record, bind_evaluator, bind_training
from ..evaluation.encoding import classes_missing
from ..evaluation.evaluator import Evaluator
from ..evaluation.model_maker import ModelMaker
from ..evaluation.recipe_runner import RecipeRunner
from ..merging.agreement import Agreement
from ..merging.setup import set_up
from ..metrics.predictions import WITHOUT_LOSS, Predictions, losses
from ..progress import progress_bar
from ..types import Mixture, Recipe, Score, gain


if TYPE_CHECKING:
    from tqdm import tqdm

    from ..data.classes import MissingClasses
    from ..evaluation.binding import Evaluation

T = TypeVar("T")
# One row of weights (ingredient -> weight), or one for each module prefix.
Weights = Mapping[str, float] | Mapping[str, Mapping[str, float]]

SURE = 1.96  # standard errors: half a 95 % interval


class Point(NamedTuple):
    """The measurements of the model at one point.

    Args:
        loss (`float`):
            Mean over the items.
        score (`float`):
            Score by the metric of the evaluator.
    """

    loss: float
    score: float


class Line(NamedTuple):
    """The line segment between two models.

    Args:
        one (`str`), other (`str`):
            The models at 0 and at 1.
        alphas (`tuple[float, ...]`):
            Places on the way, in order; below 0 and above 1 beyond the ends.
        points (`tuple[Point, ...]`):
            Loss and score there; `None` where it was not scored yet.
    """

    one: str
    other: str
    alphas: tuple[float, ...]
    points: tuple[Point | None, ...]

    def barrier(self, of: Literal["loss", "score"] = "loss", *, higher_is_better: bool = True) -> float | None:
        """The largest excess of the loss, or shortfall of the score, over the straight line between the ends.

        At least 0, in the unit of the measured quantity; `None` if an end was not scored, or nothing between.

        Source: Frankle et al. 2020, [Linear mode connectivity](https://arxiv.org/abs/1912.05671).
        """
        values: dict[float, float] = {}
        for alpha, point in zip(self.alphas, self.points, strict=True):
            if point is not None and 0 <= alpha <= 1:
                values[alpha] = point.loss if of == "loss" else point.score
        if not {0.0, 1.0} < set(values):  # a proper superset: both ends, and at least one point between them
            return None
        higher = higher_is_better and of == "score"  # for losses lower is better, whatever the metric
        barrier = 0.0
        for alpha, value in values.items():
            straight = (1 - alpha) * values[0.0] + alpha * values[1.0]
            barrier = max(barrier, gain(straight, value, higher))
        return barrier


class Mark(NamedTuple):
    """A model on a plane.

    Args:
        name (`str`):
            Name of the model.
        role (`str`):
            `"corner"`, `"soup"` or `"path"` (what a greedy pass went through).
        x (`float`), y (`float`):
            Position in the plane, in the unit of weights (L2 distance). A soup of other models is at the nearest point
            of the plane.
        off (`float`):
            How far from the plane it lies.
    """

    name: str
    role: Literal["corner", "soup", "path"]
    x: float
    y: float
    off: float


class Scorer:
    """Runs the models of recipes on one set of examples.

    Args:
        checkpoints (`Sequence[Checkpoint]`):
            The opened ingredients.
        evaluator ([`Evaluator`], `datasets.Dataset` or `str`):
            The examples.
        batchnorm_data ([`Evaluator`], `datasets.Dataset` or `str`, *optional*):
            Training data on which BatchNorm is estimated again at every point that is no ingredient.
        device (`str`, *optional*, defaults to `"cpu"`):
            Device on which models are averaged.
        agreement ([`Agreement`], *optional*):
            How ingredients that differ are taken for like ones.
        report ([`CheckReport`], *optional*):
            Report of the check of the ingredients, where they were checked already.

    Raises:
        [`EvaluationError`]: if the evaluator is a function of a model, since points need examples, or models have no
            loss.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        evaluator: Evaluation,
        *,
        batchnorm_data: Evaluation | None = None,
        device: str = "cpu",
        agreement: Agreement | None = None,
        report: CheckReport | None = None,
    ):
        agreement = agreement or Agreement()
        # The checkpoint that gives the soup its settings comes first, so examples are encoded as for the soup.
        like_soup = in_order(checkpoints, agreement.settings)
        bound = bind_evaluator(evaluator, like_soup)
        if not isinstance(bound, Evaluator):
            raise EvaluationError("an analysis needs predictions on examples: give a data set or an Evaluator.")
        kind = bound.task_module.KIND
        if kind in WITHOUT_LOSS:
            raise EvaluationError(
                f"analyses and advice need the loss of each example, which models of {kind} do not have; strategies "
                "and compare use their scores."
            )
        self.evaluator, self.names = bound, tuple(item.name for item in checkpoints)
        self._training = bind_training(batchnorm_data, like_soup)
        self._config = like_soup[0].config
        self._setup = set_up(checkpoints, agreement, batchnorm=batchnorm_record(self._training), report=report)
        self._runner = RecipeRunner(ModelMaker(self._setup, device=device, training=self._training), bound)
        self._points: dict[str, Point] = {}

    @property
    def examples(self) -> int:
        """Number of examples."""
        return len(self.evaluator.dataset)

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return self._first_score.metric

    @property
    def higher_is_better(self) -> bool:
        """Direction of the metric."""
        return self._first_score.higher_is_better

    @property
    def _first_score(self) -> Score:
        """The score of one ingredient, which provides the metric and its direction; predictions are kept."""
        return self.score(self.predictions({self.names[0]: 1.0}))

    def missing_classes(self) -> dict[str, MissingClasses]:
        """The classes without examples, by the name of the set: the evaluation examples and those for BatchNorm."""
        from transformers import PretrainedConfig

        config = PretrainedConfig.from_dict(dict(self._config))
        sets = {self.evaluator.split: self.evaluator}
        if self._training is not None:
            sets["the data for BatchNorm"] = self._training
        missing = {}
        for name, evaluator in sets.items():
            classes = classes_missing(evaluator.dataset, self.evaluator.task_module, evaluator.label_column, config)
            if classes is not None:
                missing[name] = classes
        return missing

    def mixture(self, weights: Weights) -> Mixture:
        """The mixture of a point.

        Args:
            weights (`Mapping[str, float]`):
                Ingredient -> weight, which sum to 1 or are relative to each other; or module prefix -> such a mapping.
        """
        by_module = _by_module(weights)
        used: set[str] = set()
        for shares in by_module.values():
            used |= {name for name, share in shares.items() if share}
        # In the order of the scorer, so that a point has one recipe, however its weights are ordered.
        names = [name for name in self.names if name in used]
        ingredients = tuple(self._setup.by_name[name].ingredient for name in names)
        plain = {}
        for module, shares in by_module.items():
            plain[module] = _plain([shares.get(name, 0.0) for name in names])
        if len(plain) == 1:
            return Mixture(ingredients, plain[""])
        return Mixture(ingredients, plain)

    def recipe(self, weights: Weights) -> Recipe:
        """The recipe of a point; weights as in [`Scorer.mixture`]."""
        return self._setup.recipe(self.mixture(weights))

    def predictions(self, weights: Weights) -> Predictions:
        """The predictions of the model at a point."""
        return self._runner.predictions(self.mixture(weights))

    def point(self, weights: Weights) -> Point:
        """Loss and score of the model at a point."""
        # Analyses share points, such as single models and their uniform soup, which are scored once.
        fingerprint = self.recipe(weights).fingerprint()
        if fingerprint not in self._points:
            predictions = self.predictions(weights)
            self._points[fingerprint] = Point(float(losses(predictions).mean()), self.score(predictions).value)
        return self._points[fingerprint]

    def score(self, predictions: Predictions) -> Score:
        """The score of predictions."""
        return self.evaluator.score(predictions)

    @contextlib.contextmanager
    def progress(self, what: str, total: int) -> Iterator[tqdm[Any]]:
        """A progress bar over points."""
        with progress_bar(desc=what, total=total, unit="point") as bar:
            yield bar


def _by_module(weights: Weights) -> dict[str, Mapping[str, float]]:
    """The weights by module prefix; those of the complete model have the prefix `""`."""
    by_module: dict[str, Mapping[str, float]] = {}
    whole: dict[str, float] = {}
    for name, value in weights.items():
        if isinstance(value, Mapping):
            by_module[name] = value
        else:
            whole[name] = value
    return by_module or {"": whole}


def _plain(weights: Sequence[float]) -> tuple[float, ...]:
    """A module's weights; equal ones become 1, so that a mean of two is always the same point."""
    if len(set(weights) - {0.0}) == 1:
        return tuple(float(weight != 0) for weight in weights)
    return tuple(weights)


def score_places(scorer: Scorer, places: Sequence[Weights], title: str, budget: int | None = None) -> list[Point]:
    """Score models at several points in order, as far as the budget allows; Ctrl-C ends it early.

    Args:
        scorer ([`Scorer`]):
            The ingredients and the examples.
        places (`Sequence[Mapping]`):
            Weights of each model, as [`Scorer.recipe`] takes them.
        title (`str`):
            Title of the progress bar.
        budget (`int`, *optional*):
            Score so many models at most.

    Returns:
        `list[Point]`: those of the first places, of all where it was not cut short.
    """
    points: list[Point] = []
    chosen = places[:budget]  # all of them if there is no budget
    try:
        with scorer.progress(title, len(chosen)) as bar:
            for weights in chosen:
                points.append(scorer.point(weights))
                bar.update()
    except KeyboardInterrupt:  # scores are kept, and the same call resumes
        pass
    return points


def uniform(names: Sequence[str]) -> dict[str, float]:
    """The point at the centre of some ingredients."""
    return dict.fromkeys(names, 1.0)


def rough_first(items: Sequence[T]) -> list[T]:
    """The items in an order that covers the whole range early: both ends, the middle, quarters, eighths ..."""
    if len(items) < 3:
        return list(items)
    last = len(items) - 1
    # Gaps are halved in the order in which they arose, so all gaps of one width come before any narrower ones.
    order, gaps = [0, last], [(0, last)]
    while gaps:
        low, high = gaps.pop(0)
        middle = (low + high) // 2
        if low < middle < high:
            order.append(middle)
            gaps += [(low, middle), (middle, high)]
    return [items[index] for index in order]
