"""Loss and score over the plane through three models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError, did_you_mean
from ..tables import align
from .points import SOUP, Mark, Point, Scorer, rough_first, uniform
from .similarity import Similarity


if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

FLAT = 1e-4  # of a triangle's sides: what weights in float32 round to is no plane
MARGIN = 0.25  # of the plane beyond the outermost model, of its extent


@dataclass(frozen=True)
class Plane:
    """The plane through three models.

    Args:
        corners (`tuple[str, str, str]`):
            The models.
        metric (`str`), split (`str`), examples (`int`):
            What scores, on what.
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
        """The loss on the grid, rows of equal y; NaN where it is not known."""
        import numpy as np

        return np.array([[math.nan if point is None else point.loss for point in row] for row in self.points])

    def table(self) -> str:
        """Where the models lie, and how far soups are from the plane."""
        lines = [["model", "along", "across", "distance from the plane"]]
        lines += [[m.name, f"{m.x:.3f}", f"{m.y:.3f}", f"{m.off:.3f}"] for m in self.marks]
        unfinished = [] if self.complete else ["Not every point was scored; the same call goes on."]
        return "\n\n".join([align(lines), *unfinished])

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return asdict(self)

    def plot(self) -> Figure:
        """Lines of equal loss with the models, the soup and the greedy path.

        Raises:
            [`MissingExtraError`]: if matplotlib is not installed.
        """
        from .pictures import plot_plane

        return plot_plane(self.x, self.y, self.losses(), self.marks, examples=self.examples, title=self._title())

    def plot_interactive(self) -> Any:
        """The same as a surface that can be turned.

        Returns:
            `plotly.graph_objects.Figure`

        Raises:
            [`MissingExtraError`]: if plotly is not installed.
        """
        from .pictures import surface

        return surface(self.x, self.y, self.losses(), self.marks, title=self._title())

    def _title(self) -> str:
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
    """Score models on a grid over the plane through three of them, roughly first.

    Args:
        scorer ([`Scorer`]):
            The models and the examples.
        similarity ([`Similarity`]):
            Of the same models, with their inner products.
        corners (`Sequence[str]`, *optional*):
            Three models; by default those that lie farthest from each other.
        points (`int`, *optional*, defaults to 9):
            In each direction.
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
    for name in set(path) - set(names):
        raise RecipeError(f"there is no model {name!r} for the path{did_you_mean(name, names)}")
    if len(corners) != 3 or len(set(corners)) != 3 or not set(corners) <= set(names) or points < 2:
        raise RecipeError(f"a plane goes through three models of {', '.join(names)}, not {', '.join(corners)}.")
    place = plane_coordinates(similarity, corners)
    marks = [Mark(name, "corner", *place(uniform([name]))) for name in corners]
    marks.append(Mark(SOUP, "soup", *place(uniform(names))))
    marks += [Mark(f"greedy, {n} models", "path", *place(uniform(path[:n]))) for n in range(1, len(path) + 1)]
    xs, ys = (_axis([mark[at] for mark in marks], points) for at in (2, 3))
    a, b, c = corners
    (_, bx, _), (_, cx, cy) = ((0, *place(uniform([name]))[:2]) for name in (b, c))
    cells = [(row, column) for row in rough_first(range(points)) for column in rough_first(range(points))]
    coarse = {at: rank for rank, at in enumerate(rough_first(range(points)))}
    cells.sort(key=lambda cell: max(coarse[cell[0]], coarse[cell[1]]))
    grid: list[list[Point | None]] = [[None] * points for _ in range(points)]
    complete = budget is None or budget >= len(cells)
    try:
        with scorer.progress("Plane through three models", len(cells[:budget])) as bar:
            for row, column in cells[:budget]:
                third = ys[row] / cy
                second = (xs[column] - third * cx) / bx
                grid[row][column] = scorer.point({a: 1 - second - third, b: second, c: third})
                bar.update()
    except KeyboardInterrupt:
        complete = False
    about = (scorer.metric, scorer.evaluator.split, scorer.examples)
    return Plane(corners, *about, tuple(xs), tuple(ys), tuple(map(tuple, grid)), tuple(marks), complete)


def plane_coordinates(similarity: Similarity, corners: Sequence[str]) -> Any:
    """Where averages of models lie on the plane through three of them: a function of their weights.

    Args:
        similarity ([`Similarity`]):
            Holds the inner products.
        corners (`Sequence[str]`):
            The first is the origin, the second lies on the x axis, the third above it.

    Returns:
        `Callable[[Mapping[str, float]], tuple[float, float, float]]`: x, y, and the distance from the plane.

    Raises:
        [`RecipeError`]: if the three lie on one line.
    """
    import numpy as np

    inner = similarity.inner(of="weights")
    inner = inner - inner[0] - inner[:, :1] + inner[0, 0]  # about the first model, for accuracy
    at = {name: index for index, name in enumerate(similarity.names)}
    size = len(at)

    def vector(weights: Mapping[str, float]) -> np.ndarray:
        row = np.zeros(size)
        for name, weight in weights.items():
            row[at[name]] = weight / sum(weights.values())
        return row

    origin, second, third = (vector({name: 1.0}) for name in corners)
    along, across = second - origin, third - origin
    length = math.sqrt(max(along @ inner @ along, 0))
    across = across - along * (across @ inner @ along) / length**2 if length else across
    height = math.sqrt(max(across @ inner @ across, 0))
    if min(length, height) <= FLAT * max(length, height, 1e-30):
        raise RecipeError(f"{', '.join(corners)} lie on one line: take three models that do not.")

    def place(weights: Mapping[str, float]) -> tuple[float, float, float]:
        way = vector(weights) - origin
        x, y = way @ inner @ along / length, way @ inner @ across / height
        return float(x), float(y), math.sqrt(max(float(way @ inner @ way) - x * x - y * y, 0))

    return place


def _farthest(similarity: Similarity) -> tuple[str, ...]:
    """The three models with the largest triangle."""
    import itertools

    names, distances = similarity.names, similarity.distances()

    def area(three: tuple[int, ...]) -> float:
        a, b, c = (distances[i, j] for i, j in itertools.combinations(three, 2))
        half = (a + b + c) / 2
        return max(half * (half - a) * (half - b) * (half - c), 0.0)

    found = max(itertools.combinations(range(len(names)), 3), key=area, default=())
    return tuple(names[at] for at in found)


def _axis(values: Sequence[float], points: int) -> list[float]:
    import numpy as np

    low, high = min(values), max(values)
    margin = MARGIN * (high - low)
    return np.linspace(low - margin, high + margin, points).tolist()
