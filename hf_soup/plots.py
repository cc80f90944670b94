"""Numbers -> figures: every `.plot()` ends here. It computes nothing. matplotlib is an extra, imported at use."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import MissingExtraError
from .untrusted import one_line


if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLORS = {"ingredient": "#999999", "chosen": "#E69F00", "uniform": "#56B4E9", "soup": "#009E73", "ensemble": "#CC79A7"}
MARKERS = {"ingredient": "o", "chosen": "D", "uniform": "v", "soup": "sP*h", "ensemble": "^<>X"}  # of one kind in turn
STATES = {  # of a trial: label, marker, colour
    "alone": ("an ingredient alone", "o", "#999999"),
    "kept": ("kept", "s", "#009E73"),
    "rejected": ("rejected", "o", "#D55E00"),
    "stopped": ("stopped early: at most this", "v", "#D55E00"),
}
NOMINAL = "#0072B2"  # lines that models are compared with
LONGEST = 60  # characters of a name in a picture


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


class Curve(NamedTuple):
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
    for state, (label, marker, color) in STATES.items():
        mine = [one for one in tried if one.state == state]
        if not mine:
            continue
        axes.plot(
            *zip(*[(one.x, one.value) for one in mine], strict=True),
            linestyle="",
            marker=marker,
            color=color,
            markerfacecolor="white" if state in ("rejected", "stopped") else color,
            label=label,
            zorder=3,
        )
        sure = [one for one in mine if one.low is not None and one.high is not None]
        low, high = [one.low for one in sure], [one.high for one in sure]
        axes.vlines([one.x for one in sure], low, high, color=color, linewidth=0.8)
    styles = ("--", COLORS["chosen"]), ("-.", COLORS["uniform"]), (":", COLORS["ensemble"])
    for (name, value), (style, color) in zip(lines.items(), itertools.cycle(styles)):
        axes.axhline(value, linestyle=style, color=color, linewidth=1.2, label=f"{shown(name)} {value:.4f}")
    axes.set_xlabel(shown(where, 2 * LONGEST))
    axes.set_ylabel(f"{shown(metric)}\n(bars: 95 % interval of the difference)")
    axes.grid(axis="y", color="#eeeeee")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


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
    markers = _markers(named)
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
            yerr=[
                [max(point.value - point.low, 0) for point in mine],
                [max(point.high - point.value, 0) for point in mine],
            ],
            linestyle="",
            marker=markers[name],
            color=COLORS[kind],
            capsize=2,
            label=shown(name),
        )
    axes.set_xticks(range(len(groups)), list(map(shown, groups)))
    axes.set_xlim(-0.6, len(groups) - 0.4)
    for edge in range(1, len(groups)):
        axes.axvline(edge - 0.5, color="#dddddd", linewidth=0.8)
    axes.set_ylabel(f"{shown(metric)} (bars: 95 % interval)")
    axes.grid(axis="y", color="#eeeeee")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


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
    import numpy as np

    figure, axes = new_figure(6.4, 5.6, title)
    single = [dot for dot in dots if dot.kind in ("ingredient", "chosen")]
    x, y = np.array([[dot.x for dot in single], [dot.y for dot in single]])
    if len(single) > 2 and np.ptp(x) > 0:
        slope, intercept = np.polyfit(x, y, 1)
        ends = np.array([min(dot.x for dot in dots), max(dot.x for dot in dots)])
        label = "line through the single models"
        axes.plot(ends, slope * ends + intercept, color=NOMINAL, linewidth=1, linestyle="--", label=label)
    plain = [dot for dot in dots if dot.kind == "ingredient"]
    axes.plot(
        [dot.x for dot in plain],
        [dot.y for dot in plain],
        linestyle="",
        marker=MARKERS["ingredient"],
        color=COLORS["ingredient"],
        label="each ingredient",
    )
    named = [dot for dot in dots if dot.kind != "ingredient"]
    markers = _markers([(dot.name, dot.kind) for dot in named])
    for dot in named:
        style = {"marker": markers[dot.name], "markersize": 9, "color": COLORS[dot.kind]}
        axes.plot(dot.x, dot.y, linestyle="", label=shown(dot.name), **style)
    axes.set_xlabel(f"{shown(metric)} on the test set")
    axes.set_ylabel(f"{shown(metric)} on {shown(shifts)}")
    axes.grid(color="#eeeeee")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


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
    figure, axes = new_figure(6.4, 6.4, title, rows=(3, 1))
    above, below = axes
    markers = _markers([(curve.name, curve.kind) for curve in curves])
    above.plot([0, 1], [0, 1], color=NOMINAL, linewidth=1, linestyle="--", label="as sure as right")
    low = min((min(curve.confidence) for curve in curves), default=0)
    for curve in curves:
        style = {"color": COLORS[curve.kind], "marker": markers[curve.name], "markersize": 5}
        above.plot(curve.confidence, curve.accuracy, label=shown(curve.name), **style)
        total = sum(curve.count)
        below.plot(curve.confidence, [count / total for count in curve.count], linewidth=1, **style)
    for panel in axes:
        panel.set_xlim(low - 0.03, 1.03)
        panel.grid(color="#eeeeee")
    above.set_ylabel("accuracy")
    below.set_ylabel("share of examples")
    above.set_ylim(min((min(curve.accuracy) for curve in curves), default=0) - 0.05, 1.03)
    below.set_xlabel("confidence (means of 15 bins of equal width)")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


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


def new_figure(
    width: float, height: float, title: str, rows: tuple[int, ...] = (1,), columns: int = 1
) -> tuple[Figure, Any]:
    """An empty figure with one panel, or several below or beside each other.

    Args:
        width (`float`), height (`float`):
            In inches.
        title (`str`):
            What it shows.
        rows (`tuple[int, ...]`, *optional*):
            The relative height of each panel.
        columns (`int`, *optional*, defaults to 1):
            Panels beside each other.

    Raises:
        [`MissingExtraError`]: if matplotlib is not installed.
    """
    figure = figure_class()(figsize=(width, height), dpi=150, layout="constrained")
    panels = figure.subplots(len(rows), columns, height_ratios=rows, sharex=True, squeeze=False).reshape(-1)
    text = wrapped(title, int(width * 11))
    if columns == 1:
        panels[0].set_title(text, fontsize=10, loc="left")
    else:
        figure.suptitle(text, fontsize=10, x=0.01, ha="left")
    for panel in panels:
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels if len(panels) > 1 else panels[0]


def _markers(named: Sequence[tuple[str, str]]) -> dict[str, str]:
    """A marker for each model, of those of its kind in turn."""
    found: dict[str, str] = {}
    for kind in dict.fromkeys(kind for _, kind in named):
        found |= dict(zip([name for name, other in named if other == kind], itertools.cycle(MARKERS[kind])))
    return found
