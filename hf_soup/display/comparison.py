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
            Name in the legend.
        role (`str`):
            A key of `COLORS`.
        x (`float`), y (`float`):
            Scores at the position of the dot.
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
            Name in the legend.
        role (`str`):
            A key of `COLORS`.
        confidence (`Sequence[float]`), accuracy (`Sequence[float]`):
            Confidence and accuracy in each bin that is not empty.
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
            Title of the figure, which states the finding at best.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        [`MissingExtraError`]: if matplotlib is not installed.
    """
    columns: dict[str, int] = {}  # name of a set -> its place on the x axis, in the order of the points
    ingredients = []
    models: dict[tuple[str, str], list[Point]] = {}  # name and role -> scores
    for point in points:
        columns.setdefault(point.group, len(columns))
        if point.role == "ingredient":
            ingredients.append(point)
        else:
            models.setdefault((point.name, point.role), []).append(point)
    figure, axes = new_figure(max(2.2 + 2.0 * len(columns), 6.4), 5.0, title)
    # In each column ingredients stand left of the middle, and the models to compare with side by side right of them.
    places = [columns[point.group] - 0.3 for point in ingredients]
    _draw_ingredients(axes, places, [point.value for point in ingredients], alpha=0.7)
    markers = markers_of(list(models))
    for index, ((name, _), of_model) in enumerate(models.items()):
        shift = 0.45 * index / max(len(models) - 1, 1)
        places = [columns[point.group] - 0.12 + shift for point in of_model]
        _draw_intervals(axes, places, of_model, markers[name])
    axes.set_xticks(range(len(columns)), list(map(shown, columns)))
    axes.set_xlim(-0.6, len(columns) - 0.4)
    for edge in range(1, len(columns)):
        axes.axvline(edge - 0.5, color="#dddddd", linewidth=0.8)
    axes.set_ylabel(f"{shown(metric)} (bars: 95 % interval)")
    axes.grid(axis="y", color=GRID)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _draw_ingredients(axes: Axes, x: Sequence[float], y: Sequence[float], *, alpha: float | None = None) -> None:
    """All ingredients alike, with one entry in the legend: which of them is which is not what the figure shows."""
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
    values, below, above = [], [], []
    for point in points:
        values.append(point.value)
        # A bootstrap interval may leave out the score itself; matplotlib refuses bars of negative length.
        below.append(max(point.value - point.low, 0))
        above.append(max(point.high - point.value, 0))
    axes.errorbar(
        places,
        values,
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
            Metric on both axes.
        shifts (`str`):
            Name of what the y axis shows.
        title (`str`):
            Title of the figure, which states the finding at best.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        [`MissingExtraError`]: if matplotlib is not installed.

    Source: Miller et al. 2021, [Accuracy on the line](https://arxiv.org/abs/2107.04649); Wortsman et al. 2022, [Model
    soups](https://arxiv.org/abs/2203.05482), Figure 1.
    """
    figure, axes = new_figure(6.4, 5.6, title)
    _draw_trend(axes, dots)
    ingredients, models = [], []
    for dot in dots:
        if dot.role == "ingredient":
            ingredients.append(dot)
        else:
            models.append(dot)
    _draw_ingredients(axes, *_coordinates(ingredients))
    markers = markers_of([(dot.name, dot.role) for dot in models])
    for dot in models:
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


def _coordinates(dots: Sequence[Dot]) -> tuple[list[float], list[float]]:
    """The scores on the x axis, and those on the y axis."""
    return [dot.x for dot in dots], [dot.y for dot in dots]


def _draw_trend(axes: Axes, dots: Sequence[Dot]) -> None:
    """The line through the single models, as wide as all models; none through fewer than three."""
    import numpy as np

    # Soups and ensembles are left out: what they gain over the line is what the figure shows.
    x, y = _coordinates([dot for dot in dots if dot.role in ("ingredient", "chosen")])
    has_slope = len(x) > 2 and np.ptp(x) > 0  # a line through equal scores on the test set has none
    if not has_slope:
        return
    slope, intercept = np.polyfit(x, y, 1)
    all_x, _ = _coordinates(dots)
    ends = np.array([min(all_x), max(all_x)])
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
            Curve of each model.
        title (`str`):
            Title of the figure.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        [`MissingExtraError`]: if matplotlib is not installed.
    """
    figure, (above, below) = new_panels(6.4, 6.4, title, heights=(3, 1))
    markers = markers_of([(curve.name, curve.role) for curve in curves])
    above.plot([0, 1], [0, 1], color=NOMINAL, linewidth=1, linestyle="--", label="as sure as right")
    lowest_confidences, lowest_accuracies = [], []
    for curve in curves:
        color, marker = COLORS[curve.role], markers[curve.name]
        total = sum(curve.count)
        shares = [count / total for count in curve.count]
        above.plot(curve.confidence, curve.accuracy, label=shown(curve.name), color=color, marker=marker, markersize=5)
        below.plot(curve.confidence, shares, linewidth=1, color=color, marker=marker, markersize=5)
        lowest_confidences.append(min(curve.confidence))
        lowest_accuracies.append(min(curve.accuracy))
    # Classifiers of two classes are never less sure than half: the panels show no empty left half.
    lowest_confidence = min(lowest_confidences, default=0)
    lowest_accuracy = min(lowest_accuracies, default=0)
    for panel in (above, below):
        panel.set_xlim(lowest_confidence - 0.03, 1.03)
        panel.grid(color=GRID)
    above.set_ylabel("accuracy")
    below.set_ylabel("share of examples")
    above.set_ylim(lowest_accuracy - 0.05, 1.03)
    below.set_xlabel("confidence (means of 15 bins of equal width)")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure
