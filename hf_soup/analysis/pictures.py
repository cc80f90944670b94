"""Figures of an analysis. Nothing is computed here; matplotlib and plotly are optional extras, imported on use."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..display.figure import (
    COLORS,
    CYCLE,
    LABEL,
    LONGEST,
    NOMINAL,
    SMALL,
    WIDTH,
    in_style,
    new_figure,
    new_panels,
    shown,
)
from ..errors import MissingExtraError
from ..types import UNIFORM
from ..untrusted import one_line


if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from .points import Line, Mark, Point

NAMED = 24  # models up to which the cells of a heat map contain numbers
MODULES = 16  # names of modules that fit below an axis


@in_style
def plot_heat(
    names: Sequence[str],
    matrix: np.ndarray,
    *,
    label: str,
    title: str,
    limits: tuple[float, float] | None = None,
    least: float = 0.0,
) -> Figure:
    """Draw a heat map with a number for each pair.

    Args:
        names (`Sequence[str]`):
            Names of the rows, which are those of the columns.
        matrix (`np.ndarray` of shape `(models, models)`):
            NaN where there is no number.
        label (`str`):
            Label of the colour bar.
        title (`str`):
            Title of the figure, which states the finding at best.
        limits (`tuple[float, float]`, *optional*):
            Values at the two ends of the colour scale, around 0; by default it runs from 0 to the largest value.
        least (`float`, *optional*, defaults to 0.0):
            Smallest value allowed at the end of the colour scale, so that tiny differences do not look large.

    Returns:
        `matplotlib.figure.Figure`
    """
    import numpy as np

    side = min(max(4.2, 0.55 * len(names) + 2.2), 14)  # inches: room for a number in each cell
    figure, axes = new_figure(side + 1.2, side, title)
    greatest = 1.0
    if np.isfinite(matrix).any():  # nanmax warns if all values are NaN
        greatest = float(np.nanmax(matrix))
    # Limits are symmetric about 0, for a diverging colour map; values from 0 upwards use a sequential one.
    colours = "PuOr_r" if limits else "cividis"
    # The colour range must not be empty, as it would be if all numbers were 0.
    low, high = limits or (0.0, max(greatest, least) or 1.0)
    image = axes.imshow(matrix, cmap=colours, vmin=low, vmax=high)
    labels = [shown(name, LABEL) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), labels)
    if len(names) <= NAMED:
        _write_cells(axes, image, matrix, digits=2 if greatest >= 0.1 else 3)
    figure.colorbar(image, ax=axes, label=shown(label, 2 * LONGEST), fraction=0.046, pad=0.04)
    return figure


def _write_cells(axes: Axes, image: AxesImage, matrix: np.ndarray, *, digits: int) -> None:
    """Write the number of each pair in its cell, in white where the cell is dark."""
    import numpy as np

    for (row, column), value in np.ndenumerate(matrix):
        if row == column or not np.isfinite(value):  # the diagonal has no meaning
            continue
        red, green, blue, _ = image.cmap(image.norm(value))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5  # luma of ITU-R BT.601
        color = "white" if dark else "black"
        axes.text(column, row, f"{value:.{digits}f}", ha="center", va="center", fontsize=SMALL, color=color)


@in_style
def plot_depth(
    modules: Sequence[str], lines: Mapping[str, Sequence[tuple[float, float, float] | None]], *, title: str
) -> Figure:
    """Draw cosines from the bottom up: the mean of all pairs as a line, minimum to maximum as a band.

    Args:
        modules (`Sequence[str]`):
            Names of the modules, from the bottom of the model up.
        lines (`Mapping[str, Sequence[tuple[float, float, float]]]`):
            Name of a line -> mean, least and greatest for each module; `None` where there is none.
        title (`str`):
            Title of the figure.
    """
    figure, axes = new_figure(WIDTH, 4.6, title)
    for (name, ranges), colour in zip(lines.items(), CYCLE, strict=False):
        places, means, lows, highs = [], [], [], []
        for place, values in enumerate(ranges):
            if values is None:
                continue
            mean, low, high = values
            places.append(place)
            means.append(mean)
            lows.append(low)
            highs.append(high)
        if not places:  # no legend entry for a line without points
            continue
        axes.fill_between(places, lows, highs, color=colour, alpha=0.2, lw=0)
        axes.plot(places, means, marker="o", ms=4, color=colour, label=f"{shown(name)} (mean, and range)")
    step = math.ceil(len(modules) / MODULES)  # if there are many modules, only some are labelled
    labels = [shown(name, LABEL) for name in modules[::step]]
    axes.set_xticks(range(0, len(modules), step), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_ylabel("cosine of two models")
    axes.set_xlabel("module, from the bottom up")
    axes.axhline(0, color="#666666", lw=0.8)
    axes.grid(axis="y")
    figure.legend(loc="outside lower center", ncols=1)
    return figure


@in_style
def plot_lines(lines: Sequence[Line], soup: Point | None, *, metric: str, title: str, examples: int) -> Figure:
    """Draw the loss and the score along the line between each pair.

    Args:
        lines (`Sequence[Line]`):
            At least one with points.
        soup (`Point`, *optional*):
            The uniform soup of all.
        metric (`str`):
            Metric of the scores and the examples that they were measured on.
        title (`str`):
            Title of the figure.
        examples (`int`):
            On how many.
    """
    named = len(lines) if len(lines) <= len(CYCLE) else 0
    figure, (above, below) = new_panels(WIDTH, 6.2 + 0.2 * named, title, heights=(1, 1))
    _draw_lines(above, lines, soup, "loss", f"loss on {examples} examples")
    _draw_lines(below, lines, soup, "score", shown(metric))
    below.set_xlabel("place on the way from one model (0) to the other (1)")
    handles, labels = above.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=1)  # which is that of both panels
    return figure


def _draw_lines(
    axes: Axes, lines: Sequence[Line], soup: Point | None, field: Literal["loss", "score"], label: str
) -> None:
    """Draw one field of the points of all lines in one panel; lines have colours and names if there are few."""
    few = len(lines) <= len(CYCLE)  # each has its own colour
    for index, line in enumerate(lines):
        places, values = [], []
        for alpha, point in zip(line.alphas, line.points, strict=True):
            if point is not None:
                places.append(alpha)
                values.append(getattr(point, field))
        if not places:  # a line may have no points because of the budget, and gets no legend entry
            continue
        style: dict[str, Any] = {"color": CYCLE[0], "alpha": 0.45, "label": None}
        if few:
            name = f"{shown(line.one, LABEL)} to {shown(line.other, LABEL)}"
            style = {"color": CYCLE[index], "alpha": 1.0, "label": name}
        axes.plot(places, values, marker="o", ms=3, lw=1.2, **style)
    if soup is not None:
        axes.axhline(getattr(soup, field), color=COLORS["soup"], ls="--", lw=1.4, label="uniform soup of all")
    axes.set_ylabel(label)
    axes.grid()


@in_style
def plot_plane(
    x: Sequence[float], y: Sequence[float], loss: np.ndarray, marks: Sequence[Mark], *, examples: int, title: str
) -> Figure:
    """Draw contours of the loss over the plane through three models, which are marked.

    Args:
        x (`Sequence[float]`), y (`Sequence[float]`):
            Coordinates of the grid.
        loss (`np.ndarray` of shape `(len(y), len(x))`):
            NaN where it is not known.
        marks (`Sequence[Mark]`):
            The models; the first two corners lie on the x axis.
        examples (`int`):
            On how many.
        title (`str`):
            Title of the figure.
    """
    import numpy as np

    figure, axes = new_figure(WIDTH, 5.6, title)
    scored = np.isfinite(loss)
    image: ScalarMappable
    if scored.all():
        image = axes.contourf(x, y, loss, levels=16, cmap="cividis")
        axes.contour(x, y, loss, levels=16, colors="white", linewidths=0.4, alpha=0.6)
    else:  # contours need the complete grid; squares are a coarse picture of what was scored
        across, along = np.meshgrid(x, y)
        image = axes.scatter(across[scored], along[scored], c=loss[scored], marker="s", s=160, cmap="cividis")
    figure.colorbar(image, ax=axes, label=f"loss on {examples} examples")
    _draw_marks(axes, marks)
    first, second, *_ = _with_role(marks, "corner")
    axes.set_xlabel(f"L2 distance of weights, from {shown(first.name, LABEL)} to {shown(second.name, LABEL)}")
    axes.set_ylabel("L2 distance of weights, across")
    axes.set_aspect("equal", adjustable="box")  # both axes are distances
    # The path is white, and would be invisible on a white background.
    figure.legend(loc="outside lower center", ncols=3, frameon=True, facecolor="#bbbbbb", edgecolor="none")
    return figure


def _draw_marks(axes: Axes, marks: Sequence[Mark]) -> None:
    """The greedy path, then the corners with their names, and the soup."""
    path, corners, soups = _with_role(marks, "path"), _with_role(marks, "corner"), _with_role(marks, "soup")
    if path:
        x, y = _coordinates(path)
        axes.plot(x, y, color="white", marker=".", lw=1.2, label="greedy path")
    x, y = _coordinates(corners)
    axes.scatter(x, y, marker="o", s=60, color="#D55E00", edgecolor="white", zorder=3, label="models")
    x, y = _coordinates(soups)
    axes.scatter(x, y, marker="*", s=180, color="#009E73", edgecolor="white", zorder=3, label=UNIFORM)
    for mark in corners:
        text = axes.annotate(
            shown(mark.name, LABEL),
            (mark.x, mark.y),
            xytext=(6, 6),
            textcoords="offset points",
            color="white",
            fontsize=SMALL,
            fontweight="bold",
        )
        text.set_path_effects(_outline())


def _with_role(marks: Sequence[Mark], role: Literal["corner", "soup", "path"]) -> list[Mark]:
    """The marks of one role, in their order."""
    return [mark for mark in marks if mark.role == role]


def _coordinates(marks: Sequence[Mark]) -> tuple[list[float], list[float]]:
    """The coordinates of marks in the plane."""
    return [mark.x for mark in marks], [mark.y for mark in marks]


def surface(x: Sequence[float], y: Sequence[float], loss: np.ndarray, marks: Sequence[Mark], *, title: str) -> Any:
    """Draw the same as an interactive surface with plotly; the arguments are those of [`plot_plane`]."""
    try:
        from plotly import graph_objects
    except ImportError:
        raise MissingExtraError("interactive pictures need plotly: pip install 'hf-soup[plot]'") from None
    shape = graph_objects.Surface(x=x, y=y, z=loss, colorscale="Cividis", colorbar={"title": "loss"})
    models = [mark for mark in marks if mark.role != "path"]
    heights, labels = [], []
    for mark in models:
        # The height is the loss at the grid point nearest to the model.
        heights.append(float(loss[_nearest(y, mark.y), _nearest(x, mark.x)]))
        labels.append(html.escape(one_line(mark.name)))  # plotly renders HTML in texts and titles
    along, across = _coordinates(models)
    dots = graph_objects.Scatter3d(
        x=along,
        y=across,
        z=heights,
        text=labels,
        mode="markers+text",
        marker={"size": 5, "color": "#D55E00"},
    )
    axes = {"xaxis": {"title": "along (L2)"}, "yaxis": {"title": "across (L2)"}, "zaxis": {"title": "loss"}}
    return graph_objects.Figure(
        [shape, dots], layout={"title": html.escape(title), "scene": axes, "showlegend": False}
    )


def _nearest(coordinates: Sequence[float], value: float) -> int:
    """Index of the coordinate that is nearest to a value."""
    return min(range(len(coordinates)), key=lambda index: abs(coordinates[index] - value))


@in_style
def plot_diversity(
    disagreement: Mapping[str, float],
    scores: Mapping[str, float],
    levels: Mapping[str, float],
    *,
    metric: str,
    title: str,
) -> Figure:
    """Draw each model's score against its disagreement, and the scores of soup and ensemble as lines.

    Args:
        disagreement (`Mapping[str, float]`):
            Model -> mean disagreement with the others.
        scores (`Mapping[str, float]`):
            Model -> score.
        levels (`Mapping[str, float]`):
            Values to compare with, by name.
        metric (`str`):
            Metric of the scores and the examples that they were measured on.
        title (`str`):
            Title of the figure.
    """
    figure, axes = new_figure(WIDTH, 5.0, title)
    y = [scores[name] for name in disagreement]
    axes.scatter(list(disagreement.values()), y, color=CYCLE[0], s=36, zorder=3)
    for name, x in disagreement.items():
        axes.annotate(shown(name, LABEL), (x, scores[name]), fontsize=SMALL, xytext=(4, 4), textcoords="offset points")
    styles = {"mean of the models": (NOMINAL, ":"), UNIFORM: (COLORS["soup"], "--")}
    for name, value in levels.items():
        colour, style = styles.get(name, ("#D55E00", "-"))
        axes.axhline(value, color=colour, ls=style, lw=1.4, label=shown(name))
    axes.set_xlabel("mean disagreement with the other models (share of examples)")
    axes.set_ylabel(shown(metric))
    axes.margins(x=0.2, y=0.1)
    axes.grid()
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@in_style
def plot_bars(
    names: Sequence[str],
    values: Mapping[str, Sequence[float]],
    *,
    unit: str,
    title: str,
    errors: Sequence[float] | None = None,
) -> Figure:
    """Draw bars, the first name at the bottom.

    Args:
        names (`Sequence[str]`):
            Name of each group of bars.
        values (`Mapping[str, Sequence[float]]`):
            Values of each series, one for each name.
        unit (`str`):
            Label of the x axis.
        title (`str`):
            Title of the figure.
        errors (`Sequence[float]`, *optional*):
            Standard errors of the only values.
    """
    groups = len(values)
    figure, axes = new_figure(WIDTH, max(3.2, 0.3 * len(names) * max(1, 0.7 * groups) + 1.6), title)
    height = 0.8 / groups
    bars = _error_bars(errors)
    for index, ((label, lengths), colour) in enumerate(zip(values.items(), CYCLE, strict=False)):
        # The bars of one name are within 0.4 of its position, the first of them on top.
        places = [place - 0.4 + height * (groups - index - 0.5) for place in range(len(names))]
        axes.barh(places, lengths, height=height, color=colour, label=shown(label), xerr=bars, error_kw={"lw": 1})
    axes.set_yticks(range(len(names)), [shown(name, LABEL) for name in names])
    axes.grid(axis="x")
    axes.axvline(0, color="#333333", lw=0.8)
    axes.set_xlabel(shown(unit, 2 * LONGEST))
    axes.margins(y=0.02)
    if groups > 1:
        figure.legend(loc="outside lower center", ncols=1)
    return figure


def _error_bars(errors: Sequence[float] | None) -> list[float] | None:
    """Standard errors in matplotlib's form: 0 for an unknown one, `None` if none is known."""
    if errors is None or not any(errors):
        return None
    bars = []
    for error in errors:
        bars.append(0 if math.isnan(error) else error)
    return bars


def _outline() -> list[Any]:
    """A dark outline for a name, which is white and may be on any colour."""
    from matplotlib import patheffects

    return [patheffects.withStroke(linewidth=2.5, foreground="#333333")]
