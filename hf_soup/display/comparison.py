"""The figures of a comparison: scores with intervals, shifted sets, calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .figure import (
    COLORS,
    LABEL,
    MARKERS,
    NOMINAL,
    WIDTH,
    in_style,
    letters,
    markers_of,
    new_figure,
    new_panels,
    shown,
    wrapped,
)


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_FOR_A_LINE = 5  # single models: a line through fewer shows no trend
FAR = 4  # multiple of the other models' range beyond which ingredients would compress it and become arrows
BESIDE = 2  # panels side by side, so that their text is readable on a phone
TOGETHER = "each ingredient"  # the row or legend entry that all ingredients share


class Point(NamedTuple):
    """One model on one set.

    Args:
        group (`str`):
            Name of the set, which has a panel of its own.
        name (`str`):
            Name of the model: its row in every panel. All ingredients share one row.
        role (`str`):
            A key of `COLORS`.
        value (`float`), low (`float`), high (`float`):
            What is drawn and its interval; the same number three times where there is none.
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


@in_style
def plot_scores(
    points: Sequence[Point],
    *,
    metric: str,
    title: str,
    headings: Mapping[str, str] | None = None,
    from_zero: bool = False,
) -> Figure:
    """Draw a panel with its own axis for each set; models are rows, in the same order in every panel.

    Args:
        points (`Sequence[Point]`):
            At least one.
        metric (`str`):
            What the axes show, in a line or two.
        title (`str`):
            Title of the figure, which states the finding at best.
        headings (`Mapping[str, str]`, *optional*):
            Group -> title of its panel; its name by default.
        from_zero (`bool`, *optional*, defaults to `False`):
            Whether the values are differences, so that a line marks 0.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        [`MissingExtraError`]: if matplotlib is not installed.
    """
    groups: dict[str, list[Point]] = {}
    rows: dict[str, int] = {}  # label -> its row from the top, in the order of the points
    for point in points:
        groups.setdefault(point.group, []).append(point)
        rows.setdefault(_row_of(point), len(rows))
    columns = min(BESIDE, len(groups))
    lines = math.ceil(len(groups) / columns)
    height = 1.2 + lines * (0.6 + 0.24 * len(rows))  # inches
    figure, panels = new_panels(
        WIDTH, height, title, heights=(1,) * lines, columns=columns, share_x=False, share_y=True
    )
    for panel, (group, of_group) in zip(panels, groups.items(), strict=False):
        _draw_rows(panel, of_group, rows)
        panel.set_title(shown((headings or {}).get(group, group), letters(WIDTH) // columns))
        if from_zero:
            panel.axvline(0, color=COLORS["chosen"], linewidth=1, zorder=1)
            panel.xaxis.set_major_formatter(_signed_tick)
    for empty in panels[len(groups) :]:
        empty.set_visible(False)
    panels[0].set_yticks(range(len(rows)), [shown(row, LABEL) for row in rows])
    panels[0].set_ylim(len(rows) - 0.4, -0.6)  # the first row is the uppermost
    label = [wrapped(line, letters(WIDTH)) for line in metric.split("\n")]
    figure.supxlabel("\n".join(label), fontsize="medium")
    return figure


def _signed_tick(value: float, place: float) -> str:
    """The label of a difference on an axis, with 0 unsigned; matplotlib also passes the tick position."""
    return f"{value:+g}" if round(value, 9) else "0"


def _row_of(point: Point) -> str:
    """The label of a model's row."""
    return TOGETHER if point.role == "ingredient" else point.name


def _draw_rows(axes: Axes, points: Sequence[Point], rows: Mapping[str, int]) -> None:
    """Draw one panel: ingredients as faint dots, the other models with their intervals."""
    from matplotlib.ticker import MaxNLocator

    for point in points:
        if point.role == "ingredient":
            axes.plot(point.value, rows[_row_of(point)], marker="o", markersize=5, color="#999999", alpha=0.45)
        else:
            _draw_interval(axes, point, rows[_row_of(point)])
    _leave_out_far_ingredients(axes, points, rows)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)


def _leave_out_far_ingredients(axes: Axes, points: Sequence[Point], rows: Mapping[str, int]) -> None:
    """End the axis near the other models; an arrow at its end represents the ingredients beyond."""
    ends = []
    for point in points:
        if point.role != "ingredient":
            ends += [point.low, point.high, point.value]
    if not ends or min(ends) == max(ends):
        return
    room = FAR * (max(ends) - min(ends))
    low, high = min(ends) - room, max(ends) + room
    left, right = axes.get_xlim()
    if left < low:
        axes.plot(low, rows[TOGETHER], marker="<", markersize=6, color="#666666", clip_on=False)
        axes.set_xlim(left=low)
    if right > high:
        axes.plot(high, rows[TOGETHER], marker=">", markersize=6, color="#666666", clip_on=False)
        axes.set_xlim(right=high)


def _draw_interval(axes: Axes, point: Point, row: int) -> None:
    """Draw a model with its interval, if it has one."""
    # A bootstrap interval may exclude the score itself; matplotlib refuses bars of negative length.
    below, above = max(point.value - point.low, 0), max(point.high - point.value, 0)
    axes.errorbar(
        point.value,
        row,
        xerr=[[below], [above]],
        marker=MARKERS[point.role][0],
        markersize=6,
        color=COLORS[point.role],
        capsize=2,
        linewidth=1.6,
    )


def _draw_ingredients(axes: Axes, x: Sequence[float], y: Sequence[float]) -> None:
    """Draw all ingredients alike, with one legend entry, since the figure does not distinguish them."""
    axes.plot(
        x,
        y,
        linestyle="",
        marker=MARKERS["ingredient"],
        color=COLORS["ingredient"],
        label=TOGETHER,
    )


@in_style
def plot_shifts(dots: Sequence[Dot], *, metric: str, shifts: str, title: str) -> Figure:
    """Draw scores on the test set against those under shift, with a line through the single models if there are many.

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
    figure, axes = new_figure(WIDTH, 5.6, title)
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
    axes.grid()
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _coordinates(dots: Sequence[Dot]) -> tuple[list[float], list[float]]:
    """The scores on the x axis, and those on the y axis."""
    return [dot.x for dot in dots], [dot.y for dot in dots]


def _draw_trend(axes: Axes, dots: Sequence[Dot]) -> None:
    """Draw the line through the single models across the range of all models, unless there are only a few."""
    import numpy as np

    # Soups and ensembles are excluded: the figure shows what they gain over the line.
    x, y = _coordinates([dot for dot in dots if dot.role in ("ingredient", "chosen")])
    has_slope = len(x) >= LEAST_FOR_A_LINE and np.ptp(x) > 0  # with equal scores on the test set there is no line
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


@in_style
def plot_reliability(curves: Sequence[Curve], *, title: str) -> Figure:
    """Draw accuracy by confidence, on the diagonal for a calibrated model, above the distribution of the confidences.

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
    figure, (above, below) = new_panels(WIDTH, 6.4, title, heights=(3, 1))
    markers = markers_of([(curve.name, curve.role) for curve in curves])
    above.plot([0, 1], [0, 1], color=NOMINAL, linewidth=1, linestyle="--", label="as confident as accurate")
    lowest_confidences, lowest_accuracies = [], []
    for curve in curves:
        color, marker = COLORS[curve.role], markers[curve.name]
        total = sum(curve.count)
        shares = [count / total for count in curve.count]
        above.plot(curve.confidence, curve.accuracy, label=shown(curve.name), color=color, marker=marker, markersize=5)
        below.plot(curve.confidence, shares, linewidth=1, color=color, marker=marker, markersize=5)
        lowest_confidences.append(min(curve.confidence))
        lowest_accuracies.append(min(curve.accuracy))
    # Binary classifiers are at least 50% confident, so the panels omit the empty left half.
    lowest_confidence = min(lowest_confidences, default=0)
    lowest_accuracy = min(lowest_accuracies, default=0)
    for panel in (above, below):
        panel.set_xlim(lowest_confidence - 0.03, 1.03)
        panel.grid()
    above.set_ylabel("accuracy")
    below.set_ylabel("share of examples")
    above.set_ylim(lowest_accuracy - 0.05, 1.03)
    below.set_xlabel("confidence (means of 15 bins of equal width)")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
