"""Numbers -> figures: every `.plot()` ends here. It computes nothing. matplotlib is an extra, imported at use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from .errors import MissingExtraError


if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLORS = {"ingredient": "#999999", "chosen": "#E69F00", "uniform": "#56B4E9", "soup": "#009E73", "ensemble": "#CC79A7"}
MARKERS = {"ingredient": "o", "chosen": "D", "uniform": "v", "soup": "s", "ensemble": "^"}


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
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("pictures need matplotlib: pip install 'hf-soup[plot]'") from None
    groups = list(dict.fromkeys(point.group for point in points))
    named = list(dict.fromkeys((point.name, point.kind) for point in points if point.kind != "ingredient"))
    figure = Figure(figsize=(2.2 + 2.0 * len(groups), 4.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    single = [point for point in points if point.kind == "ingredient"]
    axes.plot(
        [groups.index(point.group) - 0.3 for point in single],
        [point.value for point in single],
        linestyle="",
        marker=MARKERS["ingredient"],
        color=COLORS["ingredient"],
        alpha=0.7,
        label="each ingredient",
    )
    for place, (name, kind) in enumerate(named):
        mine = [point for point in points if point.name == name and point.kind == kind]
        x = [groups.index(point.group) - 0.12 + 0.45 * place / max(len(named) - 1, 1) for point in mine]
        axes.errorbar(
            x,
            [point.value for point in mine],
            yerr=[[point.value - point.low for point in mine], [point.high - point.value for point in mine]],
            linestyle="",
            marker=MARKERS[kind],
            color=COLORS[kind],
            capsize=2,
            label=name,
        )
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    for edge in range(1, len(groups)):
        axes.axvline(edge - 0.5, color="#dddddd", linewidth=0.8)
    axes.set_ylabel(f"{metric} (bars: 95 % interval)")
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=10, loc="left", wrap=True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure
