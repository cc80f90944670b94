"""Loss and score along the straight lines between models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..errors import RecipeError, did_you_mean
from ..evaluation.comparison import SHARES
from ..tables import align
from .points import SOUP, Line, Point, Scorer, rough_first, shown, uniform


if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure


SMALL = 0.01  # a rise of the loss that is none
MOST_POINTS, MOST_BEYOND = 1001, 10  # of a line, or a side of a plane; and in lengths of the line


@dataclass(frozen=True)
class Landscape:
    """Losses and scores between models.

    Args:
        names (`tuple[str, ...]`):
            The models.
        metric (`str`), higher_is_better (`bool`):
            What scores.
        split (`str`), examples (`int`):
            On what.
        singles (`dict[str, Point]`):
            Each model alone.
        soup ([`Point`], *optional*):
            Their uniform soup.
        lines (`tuple[Line, ...]`):
            One for each pair.
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
        """The barrier of each pair, as a symmetric matrix; NaN where it is not known."""
        import numpy as np

        found = np.full((len(self.names),) * 2, np.nan)
        np.fill_diagonal(found, 0.0)
        for line in self.lines:
            barrier = line.barrier(of, higher_is_better=self.higher_is_better)
            if barrier is not None:
                i, j = self.names.index(line.one), self.names.index(line.other)
                found[i, j] = found[j, i] = barrier
        return found

    def table(self) -> str:
        """Each model and the soup, then the barrier of each pair, highest first."""
        metric = f"{self.metric}, %" if self.metric in SHARES else self.metric
        lines = [["model", "loss", metric]]
        for name, point in [*self.singles.items(), *([(SOUP, self.soup)] if self.soup else [])]:
            lines.append([name, f"{point.loss:.4f}", shown(self.metric, point.score)])
        pairs = [["from", "to", "barrier of loss", f"barrier of {metric}"]]
        known = [(line, line.barrier(), self._score_barrier(line)) for line in self.lines]
        for line, loss, score in sorted(known, key=lambda row: -(row[1] or 0)):
            pairs.append([line.one, line.other, "-" if loss is None else f"{loss:.4f}", shown(self.metric, score)])
        unfinished = [] if self.complete else ["Not every point was scored; the same call goes on."]
        return "\n\n".join([align(lines), *([align(pairs)] if self.lines else []), *unfinished])

    def to_pandas(self) -> pd.DataFrame:
        """A data frame with a line for each point: `one, other, alpha, loss, score`."""
        import pandas as pd

        rows = [
            (line.one, line.other, alpha, point.loss, point.score)
            for line in self.lines
            for alpha, point in zip(line.alphas, line.points, strict=True)
            if point
        ]
        return pd.DataFrame(rows, columns=["one", "other", "alpha", "loss", "score"])

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        barriers = {f"{line.one} - {line.other}": line.barrier() for line in self.lines}
        return {**asdict(self), "barriers": barriers}

    def plot(self, kind: Literal["lines", "barriers"] = "lines") -> Figure:
        """A picture: `"lines"` shows the loss on the way between each pair, `"barriers"` a heat map of the barriers.

        Raises:
            [`MissingExtraError`]: if matplotlib is not installed.
        """
        from .pictures import plot_heat, plot_lines

        if kind not in ("lines", "barriers"):
            raise RecipeError(f'there is no picture "{kind}"{did_you_mean(kind, ("lines", "barriers"))}')
        title = self._title()
        if kind == "barriers":
            return plot_heat(self.names, self.barriers(), label="barrier of the loss", title=title, least=SMALL)
        metric = f"{self.metric} on {self.split}"
        return plot_lines(self.lines, self.soup, metric=metric, title=title, examples=self.examples)

    def _title(self) -> str:
        known = [(line, line.barrier()) for line in self.lines]
        known = [(line, barrier) for line, barrier in known if barrier is not None]
        if not known:
            return "Loss between models"
        line, highest = max(known, key=lambda pair: pair[1])
        if highest < SMALL:
            return (
                f"No barrier between any pair: the loss rises by at most {highest:.3f} over the line between the ends"
            )
        return f"The highest barrier of the loss is {highest:.2f}, between {line.one} and {line.other}"

    def _score_barrier(self, line: Line) -> float | None:
        return line.barrier("score", higher_is_better=self.higher_is_better)


def check_line(points: int, beyond: float) -> None:
    """Refuse more points than can be scored, before any list of them is made.

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
    """Score models along the straight line between each pair, roughly first: ends, middles, quarters ...

    Ctrl-C ends it with what is done, which the same call finds again.

    Args:
        scorer ([`Scorer`]):
            The models and the examples.
        pairs (`Sequence[tuple[str, str]]`, *optional*):
            Which pairs; all by default.
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
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]] if pairs is None else list(pairs)
    if len(names) < 2:
        raise RecipeError("lines are between models: give two or more.")
    check_line(points, beyond)
    for name in {name for pair in pairs for name in pair} - set(names):
        raise RecipeError(f"there is no model {name!r}{did_you_mean(name, names)}")
    step = 1 / (points - 1)
    outside = int(round(beyond / step, 9))
    alphas = tuple(round(step * at, 12) for at in range(-outside, points + outside))
    singles: dict[str, Point] = {}
    found: dict[tuple[str, str, float], Point] = {}
    inner = [alpha for alpha in rough_first(alphas) if alpha not in (0.0, 1.0)]
    todo = [*[(name,) for name in names], (), *[(a, b, alpha) for alpha in inner for a, b in pairs]]
    soup, complete = None, budget is None or budget >= len(todo)
    try:
        with scorer.progress("Lines between models", len(todo[:budget])) as bar:
            for what in todo[:budget]:
                if len(what) == 1:
                    singles[what[0]] = scorer.point({what[0]: 1.0})
                elif not what:
                    soup = scorer.point(uniform(names)) if len(names) > 1 else None
                else:
                    one, other, alpha = what
                    found[what] = scorer.point({one: 1 - alpha, other: alpha})
                bar.update()
    except KeyboardInterrupt:
        complete = False
    lines = []
    for one, other in pairs:
        known = {0.0: singles.get(one), 1.0: singles.get(other)}
        lines.append(Line(one, other, alphas, tuple(known.get(a) or found.get((one, other, a)) for a in alphas)))
    about = (scorer.metric, scorer.higher_is_better, scorer.evaluator.split, scorer.examples)
    return Landscape(names, *about, singles, soup, tuple(lines), complete)
