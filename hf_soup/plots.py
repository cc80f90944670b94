"""Numbers -> figures: every `.plot()` ends here. It computes nothing. matplotlib is an extra, imported at use."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .errors import MissingExtraError
from .untrusted import one_line


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLORS = {"ingredient": "#999999", "chosen": "#E69F00", "uniform": "#56B4E9", "soup": "#009E73", "ensemble": "#CC79A7"}
MARKERS = {"ingredient": "o", "chosen": "D", "uniform": "v", "soup": "sP*h", "ensemble": "^<>X"}  # of one kind in turn
NOMINAL = "#0072B2"  # lines that models are compared with
GRID = "#eeeeee"
LONGEST = 60  # characters of a name in a picture


# The figure: what all pictures have in common.


def shown(name: str, most: int = LONGEST) -> str:
    """A name as a picture shows it: short, and as it stands, since dollar signs would make it a formula."""
    return one_line(name, most).replace("$", r"\$")


def wrapped(title: str, width: int) -> str:
    """A title in lines of so many characters, as it stands."""
    return "\n".join(textwrap.wrap(one_line(title), width)).replace("$", r"\$")


def figure_class() -> type[Figure]:
    """matplotlib's figure, which needs no screen.

    Raises:
        [`MissingExtraError`]: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("pictures need matplotlib: pip install 'hf-soup[plot]'") from None
    return Figure


def new_figure(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """An empty figure with one panel.

    Args:
        width (`float`), height (`float`):
            In inches.
        title (`str`):
            What it shows.

    Raises:
        [`MissingExtraError`]: if matplotlib is not installed.
    """
    figure, panels = new_panels(width, height, title)
    return figure, panels[0]


def new_panels(
    width: float, height: float, title: str, *, heights: Sequence[int] = (1,), columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """An empty figure with several panels, below or beside each other.

    Args:
        width (`float`), height (`float`):
            Of the figure, in inches.
        title (`str`):
            What it shows.
        heights (`Sequence[int]`, *optional*):
            The relative height of each row of panels.
        columns (`int`, *optional*, defaults to 1):
            Panels beside each other.

    Returns:
        The figure, and its panels row by row.

    Raises:
        [`MissingExtraError`]: if matplotlib is not installed.
    """
    figure = figure_class()(figsize=(width, height), dpi=150, layout="constrained")
    grid = figure.subplots(len(heights), columns, height_ratios=heights, sharex=True, squeeze=False)
    panels: list[Axes] = list(grid.reshape(-1))
    text = wrapped(title, int(width * 11))
    if columns == 1:
        panels[0].set_title(text, fontsize=10, loc="left")
    else:
        figure.suptitle(text, fontsize=10, x=0.01, ha="left")
    for panel in panels:
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels


def markers_of(named: Sequence[tuple[str, str]]) -> dict[str, str]:
    """A marker for each model, of those of its kind in turn.

    Args:
        named (`Sequence[tuple[str, str]]`):
            Name and kind of each.
    """
    markers: dict[str, str] = {}
    for kind in dict.fromkeys(kind for _, kind in named):
        names = [name for name, other in named if other == kind]
        markers.update(zip(names, itertools.cycle(MARKERS[kind])))
    return markers


# A search.


class TrialStyle(NamedTuple):
    """How a trial is drawn: its words in the legend, and its marker."""

    label: str
    marker: str
    color: str
    filled: bool


STATES = {
    "alone": TrialStyle("an ingredient alone", "o", "#999999", filled=True),
    "kept": TrialStyle("kept", "s", "#009E73", filled=True),
    "rejected": TrialStyle("rejected", "o", "#D55E00", filled=False),
    "stopped": TrialStyle("stopped early: at most this", "v", "#D55E00", filled=False),
}


class Tried(NamedTuple):
    """One trial of a search.

    Args:
        x (`float`):
            Its place.
        value (`float`):
            Its score, or what it could be at most.
        state (`str`):
            A key of `STATES`.
        low (`float`, *optional*), high (`float`, *optional*):
            The interval of its difference from the soup before, around its score.
    """

    x: float
    value: float
    state: str
    low: float | None = None
    high: float | None = None


def plot_search(tried: Sequence[Tried], *, metric: str, where: str, lines: Mapping[str, float], title: str) -> Figure:
    """A search: the score of each trial, whether it was kept, and what it is to be compared with as lines.

    Args:
        tried (`Sequence[Tried]`):
            At least one.
        metric (`str`):
            Label of the y axis.
        where (`str`):
            Label of the x axis.
        lines (`Mapping[str, float]`):
            Scores to compare with, by name.
        title (`str`):
            What the figure shows, best as a finding.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        [`MissingExtraError`]: if matplotlib is not installed.
    """
    figure, axes = new_figure(7.2, 5.0, title)
    for state, style in STATES.items():
        trials = [trial for trial in tried if trial.state == state]
        if trials:
            _draw_trials(axes, trials, style)
    styles = ("--", COLORS["chosen"]), ("-.", COLORS["uniform"]), (":", COLORS["ensemble"])
    for (name, value), (linestyle, color) in zip(lines.items(), itertools.cycle(styles)):
        axes.axhline(value, linestyle=linestyle, color=color, linewidth=1.2, label=f"{shown(name)} {value:.4f}")
    axes.set_xlabel(shown(where, 2 * LONGEST))
    axes.set_ylabel(f"{shown(metric)}\n(bars: 95 % interval of the difference)")
    axes.grid(axis="y", color=GRID)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _draw_trials(axes: Axes, trials: Sequence[Tried], style: TrialStyle) -> None:
    """Trials of one state, with the intervals of those that have one."""
    axes.plot(
        [trial.x for trial in trials],
        [trial.value for trial in trials],
        linestyle="",
        marker=style.marker,
        color=style.color,
        markerfacecolor=style.color if style.filled else "white",
        label=style.label,
        zorder=3,
    )
    places, lows, highs = [], [], []
    for trial in trials:
        if trial.low is not None and trial.high is not None:
            places.append(trial.x)
            lows.append(trial.low)
            highs.append(trial.high)
    axes.vlines(places, lows, highs, color=style.color, linewidth=0.8)


# A comparison.


class Point(NamedTuple):
    """One model on one set.

    Args:
        group (`str`):
            Name of the set: one panel of the figure's x axis.
        name (`str`):
            Name of the model, for the legend.
        kind (`str`):
            A key of `COLORS`.
        value (`float`), low (`float`), high (`float`):
            Score and its interval; the same number three times where there is none.
    """

    group: str
    name: str
    kind: str
    value: float
    low: float
    high: float


class Dot(NamedTuple):
    """One model on two axes.

    Args:
        name (`str`):
            For the legend.
        kind (`str`):
            A key of `COLORS`.
        x (`float`), y (`float`):
            Its scores.
    """

    name: str
    kind: str
    x: float
    y: float


@dataclass(frozen=True)
class Curve:
    """A reliability diagram.

    Args:
        name (`str`):
            For the legend.
        kind (`str`):
            A key of `COLORS`.
        confidence (`Sequence[float]`), accuracy (`Sequence[float]`):
            Of each bin that is not empty.
        count (`Sequence[int]`):
            Examples in it.
    """

    name: str
    kind: str
    confidence: Sequence[float]
    accuracy: Sequence[float]
    count: Sequence[int]


def plot_scores(points: Sequence[Point], *, metric: str, title: str) -> Figure:
    """Scores side by side, one column for each set: ingredients as dots, the models to compare with their intervals.

    Args:
        points (`Sequence[Point]`):
            At least one.
        metric (`str`):
            Label of the y axis.
        title (`str`):
            What the figure shows, best as a finding.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        [`MissingExtraError`]: if matplotlib is not installed.
    """
    groups = list(dict.fromkeys(point.group for point in points))
    named = list(dict.fromkeys((point.name, point.kind) for point in points if point.kind != "ingredient"))
    figure, axes = new_figure(max(2.2 + 2.0 * len(groups), 6.4), 5.0, title)
    # In each column ingredients stand left of the middle, and the models to compare with side by side right of them.
    single = [point for point in points if point.kind == "ingredient"]
    places = [groups.index(point.group) - 0.3 for point in single]
    _draw_ingredients(axes, places, [point.value for point in single], alpha=0.7)
    markers = markers_of(named)
    for index, (name, kind) in enumerate(named):
        of_model = [point for point in points if (point.name, point.kind) == (name, kind)]
        shift = 0.45 * index / max(len(named) - 1, 1)
        places = [groups.index(point.group) - 0.12 + shift for point in of_model]
        _draw_intervals(axes, places, of_model, markers[name])
    axes.set_xticks(range(len(groups)), list(map(shown, groups)))
    axes.set_xlim(-0.6, len(groups) - 0.4)
    for edge in range(1, len(groups)):
        axes.axvline(edge - 0.5, color="#dddddd", linewidth=0.8)
    axes.set_ylabel(f"{shown(metric)} (bars: 95 % interval)")
    axes.grid(axis="y", color=GRID)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _draw_ingredients(axes: Axes, x: Sequence[float], y: Sequence[float], *, alpha: float | None = None) -> None:
    axes.plot(
        x,
        y,
        linestyle="",
        marker=MARKERS["ingredient"],
        color=COLORS["ingredient"],
        alpha=alpha,
        label="each ingredient",
    )


def _draw_intervals(axes: Axes, places: Sequence[float], points: Sequence[Point], marker: str) -> None:
    """The scores of one model with their intervals."""
    # A bootstrap interval may leave out the score itself; matplotlib refuses bars of negative length.
    below = [max(point.value - point.low, 0) for point in points]
    above = [max(point.high - point.value, 0) for point in points]
    axes.errorbar(
        places,
        [point.value for point in points],
        yerr=[below, above],
        linestyle="",
        marker=marker,
        color=COLORS[points[0].kind],
        capsize=2,
        label=shown(points[0].name),
    )


def plot_shifts(dots: Sequence[Dot], *, metric: str, shifts: str, title: str) -> Figure:
    """Scores on the test set against those under shift, with the line through the single models.

    Args:
        dots (`Sequence[Dot]`):
            At least one.
        metric (`str`):
            What both axes show.
        shifts (`str`):
            What the y axis shows.
        title (`str`):
            What the figure shows, best as a finding.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        [`MissingExtraError`]: if matplotlib is not installed.

    Source: Miller et al. 2021, [Accuracy on the line](https://arxiv.org/abs/2107.04649); Wortsman et al. 2022, [Model
    soups](https://arxiv.org/abs/2203.05482), Figure 1.
    """
    figure, axes = new_figure(6.4, 5.6, title)
    _draw_trend(axes, dots)
    single = [dot for dot in dots if dot.kind == "ingredient"]
    _draw_ingredients(axes, [dot.x for dot in single], [dot.y for dot in single])
    named = [dot for dot in dots if dot.kind != "ingredient"]
    markers = markers_of([(dot.name, dot.kind) for dot in named])
    for dot in named:
        axes.plot(
            dot.x,
            dot.y,
            linestyle="",
            label=shown(dot.name),
            marker=markers[dot.name],
            markersize=9,
            color=COLORS[dot.kind],
        )
    axes.set_xlabel(f"{shown(metric)} on the test set")
    axes.set_ylabel(f"{shown(metric)} on {shown(shifts)}")
    axes.grid(color=GRID)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _draw_trend(axes: Axes, dots: Sequence[Dot]) -> None:
    """The line through the single models, as wide as all models; none through fewer than three."""
    import numpy as np

    single = [dot for dot in dots if dot.kind in ("ingredient", "chosen")]
    x, y = np.array([[dot.x for dot in single], [dot.y for dot in single]])
    has_slope = len(single) > 2 and np.ptp(x) > 0  # a line through equal scores on the test set has none
    if not has_slope:
        return
    slope, intercept = np.polyfit(x, y, 1)
    ends = np.array([min(dot.x for dot in dots), max(dot.x for dot in dots)])
    axes.plot(
        ends,
        slope * ends + intercept,
        color=NOMINAL,
        linewidth=1,
        linestyle="--",
        label="line through the single models",
    )


def plot_reliability(curves: Sequence[Curve], *, title: str) -> Figure:
    """Accuracy by confidence; on the diagonal a model is as often right as it says. Below: where its examples lie.

    Args:
        curves (`Sequence[Curve]`):
            One for each model.
        title (`str`):
            What the figure shows.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        [`MissingExtraError`]: if matplotlib is not installed.
    """
    figure, (above, below) = new_panels(6.4, 6.4, title, heights=(3, 1))
    markers = markers_of([(curve.name, curve.kind) for curve in curves])
    above.plot([0, 1], [0, 1], color=NOMINAL, linewidth=1, linestyle="--", label="as sure as right")
    for curve in curves:
        color, marker = COLORS[curve.kind], markers[curve.name]
        total = sum(curve.count)
        shares = [count / total for count in curve.count]
        above.plot(curve.confidence, curve.accuracy, label=shown(curve.name), color=color, marker=marker, markersize=5)
        below.plot(curve.confidence, shares, linewidth=1, color=color, marker=marker, markersize=5)
    lowest_confidence = min((min(curve.confidence) for curve in curves), default=0)
    lowest_accuracy = min((min(curve.accuracy) for curve in curves), default=0)
    for panel in (above, below):
        panel.set_xlim(lowest_confidence - 0.03, 1.03)
        panel.grid(color=GRID)
    above.set_ylabel("accuracy")
    below.set_ylabel("share of examples")
    above.set_ylim(lowest_accuracy - 0.05, 1.03)
    below.set_xlabel("confidence (means of 15 bins of equal width)")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure
