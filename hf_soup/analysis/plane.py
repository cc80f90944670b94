"""Loss and score over the plane through three models."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..display.results import Result
from ..display.tables import align
from ..errors import RecipeError, did_you_mean
from ..types import UNIFORM
from .points import Mark, Point, Scorer, rough_first, score_places, uniform
from .similarity import Similarity


if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

FLAT = 1e-4  # share of a triangle's sides below which it is degenerate, given the rounding of float32 weights
MARGIN = 0.25  # how far the grid extends beyond the outermost models, relative to the distance between them


@dataclass(frozen=True, repr=False)
class Plane(Result):
    """The plane through three models.

    Args:
        corners (`tuple[str, str, str]`):
            The models.
        metric (`str`), split (`str`), examples (`int`):
            Metric, split and number of examples of the scores.
        x (`tuple[float, ...]`), y (`tuple[float, ...]`):
            Coordinates of the grid, L2 distance from the first model: along the way to the second, and across it.
        points (`tuple[tuple[Point, ...], ...]`):
            Rows of equal y; `None` where it was not scored yet.
        marks (`tuple[Mark, ...]`):
            The models.
        complete (`bool`, *optional*, defaults to `True`):
            Whether every point was scored.

    Source: Garipov et al. 2018, [Loss surfaces, mode connectivity](https://arxiv.org/abs/1802.10026), appendix.
    """

    corners: tuple[str, str, str]
    metric: str
    split: str
    examples: int
    x: tuple[float, ...]
    y: tuple[float, ...]
    points: tuple[tuple[Point | None, ...], ...]
    marks: tuple[Mark, ...]
    complete: bool = True

    def losses(self) -> np.ndarray:
        """The loss on the grid, rows of equal y; NaN where it is unknown."""
        import numpy as np

        losses = np.full((len(self.y), len(self.x)), np.nan)
        for row, points in enumerate(self.points):
            for column, point in enumerate(points):
                if point is not None:
                    losses[row, column] = point.loss
        return losses

    def table(self) -> str:
        """The locations of the models, and the distances of soups from the plane."""
        lines = [["model", "along", "across", "distance from the plane"]]
        for mark in self.marks:
            lines.append([mark.name, f"{mark.x:.3f}", f"{mark.y:.3f}", f"{mark.off:.3f}"])
        if self.complete:
            return align(lines)
        return f"{align(lines)}\n\nNot every point was scored; run the same call again to continue."

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return asdict(self)

    def plot(self) -> Figure:
        """Draw contours of the loss with the models, the soup and the greedy path.

        Raises:
            [`MissingExtraError`]: if matplotlib is not installed.
        """
        from .pictures import plot_plane

        return plot_plane(self.x, self.y, self.losses(), self.marks, examples=self.examples, title=self.finding)

    def plot_interactive(self) -> Any:
        """Draw the loss as an interactive surface.

        Returns:
            `plotly.graph_objects.Figure`

        Raises:
            [`MissingExtraError`]: if plotly is not installed.
        """
        from .pictures import surface

        return surface(self.x, self.y, self.losses(), self.marks, title=self.finding)

    @property
    def finding(self) -> str:
        """The location of the lowest loss, in a sentence without its full stop."""
        import numpy as np

        loss = self.losses()
        if not np.isfinite(loss).any():
            return "The plane through three models"
        row, column = np.unravel_index(np.nanargmin(loss), loss.shape)
        near = min(self.marks, key=lambda mark: math.hypot(mark.x - self.x[column], mark.y - self.y[row]))
        return f"The lowest loss of the plane ({loss[row, column]:.3f}) is nearest to {near.name}"


def scan_plane(
    scorer: Scorer,
    similarity: Similarity,
    *,
    corners: Sequence[str] | None = None,
    points: int = 9,
    path: Sequence[str] = (),
    budget: int | None = None,
) -> Plane:
    """Score models on a grid over the plane through three of them, coarse to fine.

    Args:
        scorer ([`Scorer`]):
            The models and the examples.
        similarity ([`Similarity`]):
            Similarity of the same models, with their inner products.
        corners (`Sequence[str]`, *optional*):
            Three models; by default those that lie farthest from each other.
        points (`int`, *optional*, defaults to 9):
            Number of points in each direction.
        path (`Sequence[str]`, *optional*):
            Models in the order in which a greedy pass took them: where their running mean lies.
        budget (`int`, *optional*):
            Score so many points at most.

    Returns:
        [`Plane`]

    Raises:
        [`RecipeError`]: if there are no three models, or they lie on one line.
    """
    names = similarity.names
    corners = tuple(corners) if corners is not None else _farthest(similarity)
    _check_models(corners, path, names, points)
    origin, second, third = corners
    locate = plane_coordinates(similarity, corners)
    marks = _marks(locate, corners, names, path)
    x, y = _axis([mark.x for mark in marks], points), _axis([mark.y for mark in marks], points)

    at_second, at_third = locate({second: 1.0}), locate({third: 1.0})
    cells, places = _rough_cells(points), []
    for row, column in cells:
        # The second corner is on the x axis, so the third alone determines the height.
        third_weight = y[row] / at_third.y
        second_weight = (x[column] - third_weight * at_third.x) / at_second.x
        weights = {origin: 1 - second_weight - third_weight, second: second_weight, third: third_weight}
        places.append(weights)
    scored = score_places(scorer, places, "Plane through three models", budget)
    # There are fewer points than cells if the budget or Ctrl-C has ended the scan.
    point_of = dict(zip(cells, scored, strict=False))
    grid = []
    for row in range(points):
        grid.append(tuple(point_of.get((row, column)) for column in range(points)))
    return Plane(
        corners=(origin, second, third),
        metric=scorer.metric,
        split=scorer.evaluator.split,
        examples=scorer.examples,
        x=tuple(x),
        y=tuple(y),
        points=tuple(grid),
        marks=tuple(marks),
        complete=len(scored) == len(places),
    )


def _check_models(corners: Sequence[str], path: Sequence[str], names: Sequence[str], points: int) -> None:
    """Refuse unknown models, and corners that are not three different models."""
    for name in set(path) - set(names):
        raise RecipeError(f"there is no model {name!r} for the path{did_you_mean(name, names)}")
    three_models = len(corners) == 3 and len(set(corners)) == 3 and set(corners) <= set(names)
    if not three_models or points < 2:
        raise RecipeError(f"a plane goes through three models of {', '.join(names)}, not {', '.join(corners)}.")


class Location(NamedTuple):
    """The location of a model: `x` and `y` on the plane and the distance `off` from it, in L2 norms of weights."""

    x: float
    y: float
    off: float


Locate = Callable[[Mapping[str, float]], Location]


def _marks(locate: Locate, corners: Sequence[str], names: Sequence[str], path: Sequence[str]) -> list[Mark]:
    """The three corners, the uniform soup of all models, and the running means of a greedy path."""
    marks = [Mark(name, "corner", *locate({name: 1.0})) for name in corners]
    marks.append(Mark(UNIFORM, "soup", *locate(uniform(names))))
    for size in range(1, len(path) + 1):
        marks.append(Mark(f"greedy, {size} models", "path", *locate(uniform(path[:size]))))
    return marks


def _rough_cells(points: int) -> list[tuple[int, int]]:
    """The cells of the grid, rows and columns, coarse to fine: corners, then the middle, then quarters ..."""
    order = rough_first(range(points))
    rank = {index: place for place, index in enumerate(order)}
    cells = itertools.product(order, order)
    return sorted(cells, key=lambda cell: max(rank[cell[0]], rank[cell[1]]))


def plane_coordinates(similarity: Similarity, corners: Sequence[str]) -> Locate:
    """Return a function of weights that locates averages of models on the plane through three of them.

    Args:
        similarity ([`Similarity`]):
            Holds the inner products.
        corners (`Sequence[str]`):
            The first is the origin, the second lies on the x axis, the third above it.

    Returns:
        `Callable[[Mapping[str, float]], Location]`: x, y, and the distance from the plane.

    Raises:
        [`RecipeError`]: if the three lie on one line.
    """
    import numpy as np

    inner = similarity.inner(of="weights")
    inner = inner - inner[0] - inner[:, :1] + inner[0, 0]  # relative to the first model, for accuracy
    column = {name: index for index, name in enumerate(similarity.names)}

    def vector(weights: Mapping[str, float]) -> np.ndarray:
        """Express an average of models in coordinates of the models; `u @ inner @ v` is the inner product of two."""
        coordinates = np.zeros(len(column))
        total = sum(weights.values())
        for name, weight in weights.items():
            coordinates[column[name]] = weight / total
        return coordinates

    # Gram-Schmidt: the x axis points to the second model, the y axis to the third, minus its component along x.
    # Squared lengths of nearly equal weights may be rounded to less than 0.
    origin, second, third = (vector({name: 1.0}) for name in corners)
    along, across = second - origin, third - origin
    length = math.sqrt(max(along @ inner @ along, 0))
    if length:
        across = across - along * (across @ inner @ along) / length**2
    height = math.sqrt(max(across @ inner @ across, 0))
    if min(length, height) <= FLAT * max(length, height, 1e-30):
        raise RecipeError(f"{', '.join(corners)} lie on one line: choose three models that do not.")

    def locate(weights: Mapping[str, float]) -> Location:
        """Project an average of models onto the plane."""
        way = vector(weights) - origin
        x, y = float(way @ inner @ along / length), float(way @ inner @ across / height)
        # By Pythagoras; for a model on the plane, the difference is 0 except for rounding and may be negative.
        off = math.sqrt(max(float(way @ inner @ way) - x * x - y * y, 0))
        return Location(x, y, off)

    return locate


def _farthest(similarity: Similarity) -> tuple[str, ...]:
    """The three models with the largest triangle; empty if there are fewer."""
    names, distances = similarity.names, similarity.distances()

    def area(three: tuple[int, ...]) -> float:
        """The squared area of a triangle, by Heron's formula."""
        a, b, c = (distances[pair] for pair in itertools.combinations(three, 2))
        half = (a + b + c) / 2
        return max(half * (half - a) * (half - b) * (half - c), 0.0)

    largest: tuple[int, ...] = max(itertools.combinations(range(len(names)), 3), key=area, default=())
    return tuple(names[index] for index in largest)


def _axis(values: Sequence[float], points: int) -> list[float]:
    """The grid coordinates in one direction, from below the lowest model to above the highest."""
    import numpy as np

    low, high = min(values), max(values)
    margin = MARGIN * (high - low)
    return np.linspace(low - margin, high + margin, points).tolist()
