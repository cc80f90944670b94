"""Models at points between, around and beyond ingredients: their loss and score, each run once and kept.

A point is a recipe of the linear method. What it said is kept between processes, as scores of a search are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.companions import in_order
from ..errors import EvaluationError
from ..evaluation.binding import bind_evaluator, bind_training
from ..evaluation.comparison import SHARES
from ..evaluation.comparison import signed as difference_shown
from ..evaluation.encoding import classes_missing
from ..evaluation.evaluator import Evaluator
from ..evaluation.model_maker import ModelMaker
from ..evaluation.recipe_runner import RecipeRunner
from ..merging.agreement import Agreement
from ..merging.setup import set_up
from ..outputs import Predictions, losses
from ..progress import progress_bar
from ..types import Mixture, Recipe, Score


if TYPE_CHECKING:
    from tqdm import tqdm

    from ..data.classes import MissingClasses
    from ..evaluation.binding import Evaluation

SOUP = "uniform soup"
SURE = 1.96  # standard errors: half a 95 % interval


class Point(NamedTuple):
    """What is known of the model at one point.

    Args:
        loss (`float`):
            Mean over the items.
        score (`float`):
            By the evaluator's metric.
    """

    loss: float
    score: float


class Line(NamedTuple):
    """The straight way from one model to another.

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

        0 or more, in the unit of what is measured; `None` if an end was not scored, or nothing between.

        Source: Frankle et al. 2020, [Linear mode connectivity](https://arxiv.org/abs/1912.05671).
        """
        known = {a: getattr(p, of) for a, p in zip(self.alphas, self.points, strict=True) if p and 0 <= a <= 1}
        if not {0.0, 1.0} < set(known):
            return None
        sign = -1 if of == "score" and higher_is_better else 1
        return max(0.0, *(sign * (v - ((1 - a) * known[0.0] + a * known[1.0])) for a, v in known.items()))


class Mark(NamedTuple):
    """A model on a plane.

    Args:
        name (`str`):
            What it is.
        kind (`str`):
            `"corner"`, `"soup"` or `"path"` (what a greedy pass went through).
        x (`float`), y (`float`):
            Where, in the unit of weights (L2 distance); of a soup of others the nearest point of the plane.
        off (`float`):
            How far from the plane it lies.
    """

    name: str
    kind: str
    x: float
    y: float
    off: float


class Scorer:
    """Runs the models of recipes over one set of examples.

    Args:
        checkpoints (`Sequence[Checkpoint]`):
            The opened ingredients.
        evaluator ([`Evaluator`], `datasets.Dataset` or `str`):
            The examples.
        batchnorm_data ([`Evaluator`], `datasets.Dataset` or `str`, *optional*):
            Training data on which BatchNorm is estimated again at every point that is no ingredient.
        device (`str`, *optional*, defaults to `"cpu"`):
            Where to average.
        agreement ([`Agreement`], *optional*):
            How ingredients that differ are taken for like ones.

    Raises:
        [`EvaluationError`]: if the evaluator is a function of a model: points need examples.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        evaluator: Evaluation,
        *,
        batchnorm_data: Evaluation | None = None,
        device: str = "cpu",
        agreement: Agreement | None = None,
    ):
        agreement = agreement or Agreement()
        like_soup = in_order(checkpoints, agreement.settings)
        bound = bind_evaluator(evaluator, like_soup)
        if not isinstance(bound, Evaluator):
            raise EvaluationError("an analysis looks at what models say of examples: give a data set or an Evaluator.")
        self._training = bind_training(batchnorm_data, like_soup)
        batchnorm = self._training.described_batches() if self._training is not None else None
        setup = set_up(checkpoints, agreement, batchnorm=batchnorm)
        self.evaluator, self.names = bound, tuple(item.name for item in checkpoints)
        self._config = like_soup[0].config
        self._setup = setup
        self._runner = RecipeRunner(ModelMaker(setup, device=device, training=self._training), bound)
        self._points: dict[str, Point] = {}

    @property
    def examples(self) -> int:
        """How many examples there are."""
        return len(self.evaluator.dataset)

    @property
    def metric(self) -> str:
        """What scores."""
        return self.score_of(self.said({self.names[0]: 1.0})).metric

    @property
    def higher_is_better(self) -> bool:
        """Direction of the metric."""
        return self.score_of(self.said({self.names[0]: 1.0})).higher_is_better

    def missing_classes(self) -> dict[str, MissingClasses]:
        """What the examples lack, and those for BatchNorm: name of the set -> classes that it has no example of."""
        from transformers import PretrainedConfig

        config = PretrainedConfig.from_dict(dict(self._config))
        task = self.evaluator.task_module
        sets = {self.evaluator.split: self.evaluator}
        sets |= {"the data for BatchNorm": self._training} if self._training is not None else {}
        found = {what: classes_missing(part.dataset, task, part.label_column, config) for what, part in sets.items()}
        return {what: missing for what, missing in found.items() if missing is not None}

    def mixture(self, weights: Mapping[str, float] | Mapping[str, Mapping[str, float]]) -> Mixture:
        """The mixture of a point.

        Args:
            weights (`Mapping[str, float]`):
                Ingredient -> weight, which sum to 1 or are relative to each other; or module prefix -> such a mapping.
        """
        rows = weights if isinstance(next(iter(weights.values())), Mapping) else {"": weights}
        who = [name for name in self.names if any(row.get(name) for row in rows.values())]
        table = {prefix: _plain([row.get(name, 0.0) for name in who]) for prefix, row in rows.items()}
        ingredients = tuple(self._setup.by_name[name].ingredient for name in who)
        return Mixture(ingredients, table if len(table) > 1 else table[""])

    def recipe(self, weights: Mapping[str, float] | Mapping[str, Mapping[str, float]]) -> Recipe:
        """The recipe of a point; weights as of [`Scorer.mixture`]."""
        return self._setup.recipe(self.mixture(weights))

    def said(self, weights: Mapping) -> Predictions:
        """What the model at a point says."""
        return self._runner.predictions(self.mixture(weights))

    def point(self, weights: Mapping) -> Point:
        """Loss and score of the model at a point."""
        fingerprint = self.recipe(weights).fingerprint()
        if fingerprint not in self._points:
            said = self.said(weights)
            self._points[fingerprint] = Point(float(losses(said).mean()), self.score_of(said).value)
        return self._points[fingerprint]

    def score_of(self, said: Predictions) -> Score:
        """The score of predictions."""
        return self.evaluator.score(said)

    @contextlib.contextmanager
    def progress(self, what: str, total: int) -> Iterator[tqdm]:
        """A bar over points."""
        with progress_bar(desc=what, total=total, unit="point") as bar:
            yield bar


def _plain(row: Sequence[float]) -> tuple[float, ...]:
    """A row of weights; equal ones are 1, so that a mean of two is the same point wherever it is asked for."""
    return (
        tuple(float(bool(weight)) for weight in row) if len({weight for weight in row if weight}) == 1 else tuple(row)
    )


def uniform(names: Sequence[str]) -> dict[str, float]:
    """The point in the middle of some ingredients."""
    return dict.fromkeys(names, 1.0)


def shown(metric: str, value: float | None) -> str:
    """A score as tables show it: shares in percent."""
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if metric in SHARES else f"{value:.4f}"


def rough_first(items: Sequence) -> list:
    """The items in an order that covers the whole range early: both ends, the middle, quarters, eighths ..."""
    items = list(items)
    if len(items) < 3:
        return items
    order, gaps = [0, len(items) - 1], [(0, len(items) - 1)]
    while gaps:
        low, high = gaps.pop(0)
        middle = (low + high) // 2
        if low < middle < high:
            order.append(middle)
            gaps += [(low, middle), (middle, high)]
    return [items[at] for at in order]


def signed(metric: str, value: float | None) -> str:
    """A difference with its sign, in points where the metric is a share."""
    return "-" if value is None else difference_shown(metric, value)
