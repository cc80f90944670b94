"""The pictures of a comparison: scores with intervals, shifted sets, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .figure import COLORS, GRID, MARKERS, NOMINAL, markers_of, new_figure, new_panels, shown


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Point(NamedTuple):
    """One model on one set.

    Args:
        group (`str`):
            Name of the set: one panel of the figure's x axis.
        name (`str`):
            Name of the model, for the legend.
        role (`str`):
            A key of `COLORS`.
        value (`float`), low (`float`), high (`float`):
            Score and its interval; the same number three times where there is none.
    """

    group: str
    name: str
    role: str
    value: float
    low: float
    high: float


class Dot(NamedTuple):
    """One model on two axes.

    Args:
        name (`str`):
            For the legend.
        role (`str`):
            A key of `COLORS`.
        x (`float`), y (`float`):
            Its scores.
    """

    name: str
    role: str
    x: float
    y: float


@dataclass(frozen=True)
class Curve:
    """A reliability diagram.

    Args:
        name (`str`):
            For the legend.
        role (`str`):
            A key of `COLORS`.
        confidence (`Sequence[float]`), accuracy (`Sequence[float]`):
            Of each bin that is not empty.
        count (`Sequence[int]`):
            Examples in it.
    """

    name: str
    role: str
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
    named = list(dict.fromkeys((point.name, point.role) for point in points if point.role != "ingredient"))
    figure, axes = new_figure(max(2.2 + 2.0 * len(groups), 6.4), 5.0, title)
    # In each column ingredients stand left of the middle, and the models to compare with side by side right of them.
    single = [point for point in points if point.role == "ingredient"]
    places = [groups.index(point.group) - 0.3 for point in single]
    _draw_ingredients(axes, places, [point.value for point in single], alpha=0.7)
    markers = markers_of(named)
    for index, (name, role) in enumerate(named):
        of_model = [point for point in points if (point.name, point.role) == (name, role)]
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
        color=COLORS[points[0].role],
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
    single = [dot for dot in dots if dot.role == "ingredient"]
    _draw_ingredients(axes, [dot.x for dot in single], [dot.y for dot in single])
    named = [dot for dot in dots if dot.role != "ingredient"]
    markers = markers_of([(dot.name, dot.role) for dot in named])
    for dot in named:
        axes.plot(
            dot.x,
            dot.y,
            linestyle="",
            label=shown(dot.name),
            marker=markers[dot.name],
            markersize=9,
            color=COLORS[dot.role],
        )
    axes.set_xlabel(f"{shown(metric)} on the test set")
    axes.set_ylabel(f"{shown(metric)} on {shown(shifts)}")
    axes.grid(color=GRID)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _draw_trend(axes: Axes, dots: Sequence[Dot]) -> None:
    """The line through the single models, as wide as all models; none through fewer than three."""
    import numpy as np

    single = [dot for dot in dots if dot.role in ("ingredient", "chosen")]
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
    markers = markers_of([(curve.name, curve.role) for curve in curves])
    above.plot([0, 1], [0, 1], color=NOMINAL, linewidth=1, linestyle="--", label="as sure as right")
    for curve in curves:
        color, marker = COLORS[curve.role], markers[curve.name]
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
