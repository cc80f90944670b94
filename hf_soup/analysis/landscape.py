"""Loss and score along the line segments between models."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..display.results import Result
from ..display.tables import align
from ..errors import RecipeError, did_you_mean
from ..metrics.statistics import SHARES, formatted
from ..types import UNIFORM
from .points import Line, Point, Scorer, Weights, rough_first, score_places, uniform


if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure


SMALL = 0.01  # a rise of the loss that counts as none
# Limits for the points of a line or of a side of a plane, and for how far a line may extend beyond its ends, relative
# to its length.
MOST_POINTS, MOST_BEYOND = 1001, 10

Spot = tuple[str, str, float]  # the two models of a line, and the position on the way from the first to the second


@dataclass(frozen=True, repr=False)
class Landscape(Result):
    """Losses and scores along the lines between models.

    Args:
        names (`tuple[str, ...]`):
            The models.
        metric (`str`), higher_is_better (`bool`):
            Metric of the scores, and its direction.
        split (`str`), examples (`int`):
            On what.
        singles (`dict[str, Point]`):
            Each model alone.
        soup ([`Point`], *optional*):
            Uniform soup of the models.
        lines (`tuple[Line, ...]`):
            Line between the models of each pair.
        complete (`bool`, *optional*, defaults to `True`):
            Whether all that was asked for was scored.
    """

    names: tuple[str, ...]
    metric: str
    higher_is_better: bool
    split: str
    examples: int
    singles: dict[str, Point]
    soup: Point | None
    lines: tuple[Line, ...]
    complete: bool = True

    def barriers(self, of: Literal["loss", "score"] = "loss") -> np.ndarray:
        """The barrier of each pair, as a symmetric matrix; NaN where it is unknown."""
        import numpy as np

        models = len(self.names)
        matrix = np.full((models, models), np.nan)
        np.fill_diagonal(matrix, 0.0)  # a model has no barrier to itself
        for line in self.lines:
            barrier = line.barrier(of, higher_is_better=self.higher_is_better)
            if barrier is not None:
                i, j = self.names.index(line.one), self.names.index(line.other)
                matrix[i, j] = matrix[j, i] = barrier
        return matrix

    def table(self) -> str:
        """Each model and the soup, then the barrier of each pair, highest first."""
        metric = f"{self.metric}, %" if self.metric in SHARES else self.metric
        models = [["model", "loss", metric]]
        points = dict(self.singles)
        if self.soup is not None:
            points[UNIFORM] = self.soup
        for name, point in points.items():
            models.append([name, f"{point.loss:.4f}", formatted(self.metric, point.score)])
        paragraphs = [align(models)]
        if self.lines:
            head = ["from", "to", "barrier of loss", f"barrier of {metric}"]
            highest_first = sorted(self.lines, key=lambda line: -(line.barrier() or 0))
            paragraphs.append(align([head, *map(self._barrier_cells, highest_first)]))
        if not self.complete:
            paragraphs.append("Not every point was scored; run the same call again to continue.")
        return "\n\n".join(paragraphs)

    def _barrier_cells(self, line: Line) -> list[str]:
        """The barriers of one pair; `-` where they are not yet known."""
        loss = line.barrier()
        score = line.barrier("score", higher_is_better=self.higher_is_better)
        loss_cell = "-" if loss is None else f"{loss:.4f}"
        score_cell = "-" if score is None else formatted(self.metric, score)
        return [line.one, line.other, loss_cell, score_cell]

    def to_pandas(self) -> pd.DataFrame:
        """A data frame with a row for each point: `one, other, alpha, loss, score`."""
        import pandas as pd

        records = []
        for line in self.lines:
            for alpha, point in zip(line.alphas, line.points, strict=True):
                if point is not None:
                    records.append((line.one, line.other, alpha, point.loss, point.score))
        return pd.DataFrame(records, columns=["one", "other", "alpha", "loss", "score"])

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        barriers = {}
        for line in self.lines:
            # JSON keys cannot be pairs of names.
            barriers[f"{line.one} - {line.other}"] = line.barrier()
        return {**asdict(self), "barriers": barriers}

    def plot(self, picture: Literal["lines", "barriers"] = "lines") -> Figure:
        """Draw a figure: `"lines"` shows the loss along the line between each pair, `"barriers"` a heat map of the
        barriers.

        Raises:
            [`MissingExtraError`]: if matplotlib is not installed.
        """
        from .pictures import plot_heat, plot_lines

        if picture not in ("lines", "barriers"):
            raise RecipeError(f'there is no picture "{picture}"{did_you_mean(picture, ("lines", "barriers"))}')
        if picture == "barriers":
            label = "barrier of the loss"
            return plot_heat(self.names, self.barriers(), label=label, title=self.finding, least=SMALL)
        metric = f"{self.metric} on {self.split}"
        return plot_lines(self.lines, self.soup, metric=metric, title=self.finding, examples=self.examples)

    @property
    def finding(self) -> str:
        """The highest barrier, in a sentence without its full stop."""
        barriers = []
        for line in self.lines:
            barrier = line.barrier()
            if barrier is not None:
                barriers.append((barrier, line))
        if not barriers:
            return "Loss between models"
        highest, line = max(barriers, key=lambda pair: pair[0])
        if highest < SMALL:
            rise = f"the loss rises by at most {highest:.3f} over the line between the ends"
            return f"No barrier between any pair: {rise}"
        return f"The highest barrier of the loss is {highest:.2f}, between {line.one} and {line.other}"


def check_line(points: int, beyond: float) -> None:
    """Refuse more points than can be scored, before a list of them is made.

    Raises:
        [`RecipeError`]: if there are fewer than 2 or very many points.
    """
    if not 2 <= points <= MOST_POINTS:
        raise RecipeError(f"a line has 2 or more points, up to {MOST_POINTS:,}, not {points}.")
    if not 0 <= beyond <= MOST_BEYOND:
        raise RecipeError(f"a line goes on beyond its ends by 0 to {MOST_BEYOND} of its length, not {beyond}.")


def scan_lines(
    scorer: Scorer,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    points: int = 11,
    beyond: float = 0.0,
    budget: int | None = None,
) -> Landscape:
    """Score models along the line between each pair, coarse to fine: ends, middles, quarters ...

    Ctrl-C ends the scan with the points that are scored; the same call resumes it.

    Args:
        scorer ([`Scorer`]):
            The models and the examples.
        pairs (`Sequence[tuple[str, str]]`, *optional*):
            Pairs of models to connect; all of them by default.
        points (`int`, *optional*, defaults to 11):
            On each line, ends included.
        beyond (`float`, *optional*, defaults to 0.0):
            How far to go beyond both ends, relative to the way between them: as densely as between.
        budget (`int`, *optional*):
            Score so many points at most, the ends included.

    Returns:
        [`Landscape`]

    Raises:
        [`RecipeError`]: if there are fewer than 2 points, or no such model.
    """
    names = scorer.names
    if pairs is None:
        pairs = list(itertools.combinations(names, 2))
    if len(names) < 2:
        raise RecipeError("lines connect models: give two or more.")
    check_line(points, beyond)
    _check_names(pairs, names)
    alphas = _alphas(points, beyond)
    spots = _spots(pairs, alphas)

    # Models and their soup come first: each end belongs to several lines, but is scored once.
    places: list[Weights] = [{name: 1.0} for name in names]
    places.append(uniform(names))
    for start, end, alpha in spots:
        places.append({start: 1 - alpha, end: alpha})
    scored = score_places(scorer, places, "Lines between models", budget)
    # There are fewer points than positions if the budget or Ctrl-C has ended the scan.
    singles = dict(zip(names, scored, strict=False))
    soup = scored[len(names)] if len(scored) > len(names) else None
    between = dict(zip(spots, scored[len(names) + 1 :], strict=False))
    lines = [_line(start, end, alphas, singles, between) for start, end in pairs]
    return Landscape(
        names,
        metric=scorer.metric,
        higher_is_better=scorer.higher_is_better,
        split=scorer.evaluator.split,
        examples=scorer.examples,
        singles=singles,
        soup=soup,
        lines=tuple(lines),
        complete=len(scored) == len(places),
    )


def _spots(pairs: Sequence[tuple[str, str]], alphas: Sequence[float]) -> list[Spot]:
    """The points between and beyond the ends, coarse to fine: one position on all lines, then the next position."""
    spots = []
    for alpha in rough_first(alphas):
        if alpha in (0.0, 1.0):
            continue
        for start, end in pairs:
            spots.append((start, end, alpha))
    return spots


def _line(
    start: str, end: str, alphas: tuple[float, ...], singles: Mapping[str, Point], between: Mapping[Spot, Point]
) -> Line:
    """One line from the points that were scored; `None` represents the others."""
    points = []
    for alpha in alphas:
        if alpha == 0.0:
            points.append(singles.get(start))
        elif alpha == 1.0:
            points.append(singles.get(end))
        else:
            points.append(between.get((start, end, alpha)))
    return Line(start, end, alphas, tuple(points))


def _check_names(pairs: Sequence[tuple[str, str]], names: Sequence[str]) -> None:
    """Refuse pairs that contain unknown models."""
    for name in set(itertools.chain(*pairs)) - set(names):
        raise RecipeError(f"there is no model {name!r}{did_you_mean(name, names)}")


def _alphas(points: int, beyond: float) -> tuple[float, ...]:
    """Evenly spaced positions on a line, in order, with the same spacing beyond its ends."""
    step = 1 / (points - 1)
    outside = int(round(beyond / step, 9))  # 0.3 / 0.1 is a little less than 3
    # Rounded, so that the last position between is exactly 1, the second model itself.
    return tuple(round(step * index, 12) for index in range(-outside, points + outside))
