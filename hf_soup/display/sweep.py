"""The figure of a sweep: scores against settings, and the curves of all runs. No runs are read here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .figure import COLORS, CYCLE, LABEL, WIDTH, in_style, new_canvas, shown


if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 4  # panels of settings
NAMED = 12  # runs whose curves have their own style and name; beyond that, curves are shaded by score
DASHES = ("-", "--", ":")  # of curves that share a colour
FEW = 6  # distinct numbers placed side by side; more are placed on a numeric axis
LONGEST = 14  # characters of a value, so that adjacent ones do not overlap


class Setting(NamedTuple):
    """Runs grouped by one of their settings.

    Args:
        name (`str`):
            Label of the x axis.
        values (`Sequence[Any]`):
            Value of the setting in each run: numbers, or anything that prints.
        scores (`Sequence[float]`):
            Score of each run.
        best (`int`):
            The place of the run that stands out.
    """

    name: str
    values: Sequence[Any]
    scores: Sequence[float]
    best: int


class Look(NamedTuple):
    """The style of the curve of one run.

    Args:
        color (`Any`):
            What matplotlib takes for a colour.
        dashes (`str`):
            Style of its line.
        label (`str`):
            Its entry in the legend; empty for none.
    """

    color: Any
    dashes: str
    label: str


class Line(NamedTuple):
    """One curve of one run.

    Args:
        run (`str`):
            Name of the run.
        what (`str`):
            `"loss"` in training, or the name of what was evaluated.
        epochs (`Sequence[float]`), values (`Sequence[float]`):
            Points of the line.
    """

    run: str
    what: str
    epochs: Sequence[float]
    values: Sequence[float]


@in_style
def plot_sweep(
    settings: Sequence[Setting],
    lines: Sequence[Line],
    *,
    metric: str,
    best: str,
    title: str,
    higher_is_better: bool = True,
) -> Figure:
    """Draw the validation score against each varied setting, above the curves of training and validation.

    Args:
        settings (`Sequence[Setting]`):
            Settings to show, of which at most the first four are drawn. Without any the upper row is left out.
        lines (`Sequence[Line]`):
            Curves of all runs.
        metric (`str`):
            Label of the scores.
        best (`str`):
            Name of the run that stands out.
        title (`str`):
            Title of the figure, which states the finding at best.
        higher_is_better (`bool`, *optional*, defaults to `True`):
            Direction of the scores.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        [`MissingExtraError`]: if matplotlib is not installed.
    """
    settings = settings[:MOST]
    looks = _looks(lines, _last_scores(lines, f"eval_{metric}", higher_is_better), best)
    entries = sum(bool(look.label) for look in looks.values())
    height = (5.4 if settings else 2.9) + 0.2 * math.ceil(entries / 3)  # inches, with the lines of the legend
    figure = new_canvas(WIDTH, height, title)
    # The rows have different numbers of panels, so each is a subfigure.
    if settings:
        upper, lower = figure.subfigures(2, 1, squeeze=False)[:, 0]
        panels = upper.subplots(1, len(settings), sharey=True, squeeze=False)[0]
        for panel, setting in zip(panels, settings, strict=True):
            _scatter(panel, setting)
        panels[0].set_ylabel(f"{shown(metric)} on validation")
    else:
        (lower,) = figure.subfigures(1, 1, squeeze=False)[:, 0]
    losses, scores = lower.subplots(1, 2)
    _curves(losses, _of_measure(lines, "loss"), looks, best)
    losses.set_ylabel("loss in training")
    _curves(scores, _of_measure(lines, f"eval_{metric}"), looks, best)  # transformers' name for it
    scores.set_ylabel(f"{shown(metric)} on validation")
    _add_legend(lower, losses, scores)
    for panel in figure.get_axes():
        panel.grid()
    return figure


def _add_legend(figure: Any, losses: Any, scores: Any) -> None:
    """Draw one legend for both panels, taken from the one that has curves, since not every run was evaluated."""
    handles, labels = scores.get_legend_handles_labels()
    if not handles:
        handles, labels = losses.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=3, handlelength=2.6)


def _scatter(panel: Any, setting: Setting) -> None:
    """Draw points on a numeric axis, logarithmic if they span a decade; words and few numbers stand side by side."""
    values = setting.values
    if not all(map(_is_number, values)):
        labels = [shown(str(value)[:LONGEST]) for value in values]
        places = _place_side_by_side(panel, labels, sorted(labels))
    elif min(values) > 0 and max(values) >= 10 * min(values):
        places = list(values)
        panel.set_xscale("log")
    elif len({f"{value:g}" for value in values}) > FEW:
        places = list(values)
        panel.set_xscale("linear")
    else:
        labels = [f"{value:g}" for value in values]
        ordered = [f"{value:g}" for value in sorted(values)]  # sorted as numbers: as texts, "10" would come before "9"
        places = _place_side_by_side(panel, labels, ordered)
    panel.plot(places, setting.scores, linestyle="", marker="o", color=COLORS["ingredient"])
    panel.plot(places[setting.best], setting.scores[setting.best], linestyle="", marker="D", color=COLORS["soup"])
    panel.set_xlabel(shown(setting.name))


def _place_side_by_side(panel: Any, labels: Sequence[str], ordered: Sequence[str]) -> list[int]:
    """The position of each label on an axis with equal distances between the distinct labels, in the given order."""
    ticks = list(dict.fromkeys(ordered))
    panel.set_xticks(range(len(ticks)), ticks)
    panel.set_xlim(-0.5, len(ticks) - 0.5)
    return [ticks.index(label) for label in labels]


def _is_number(value: Any) -> bool:
    """Whether a value can be placed on a numeric axis; Python counts a bool as an int."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _of_measure(lines: Sequence[Line], what: str) -> list[Line]:
    """The curves of one metric for all runs."""
    return [line for line in lines if line.what == what]


def _last_scores(lines: Sequence[Line], what: str, higher_is_better: bool) -> dict[str, float]:
    """The last score of each run that was evaluated, negated if lower is better."""
    sign = 1 if higher_is_better else -1
    return {line.run: sign * line.values[-1] for line in _of_measure(lines, what) if len(line.values)}


def _looks(lines: Sequence[Line], last_scores: Mapping[str, float], best: str) -> dict[str, Look]:
    """The style of each run, the best scores first, so that the legend has the order of the sweep's table.

    Args:
        lines (`Sequence[Line]`):
            Curves of all runs.
        last_scores (`Mapping[str, float]`):
            By what runs are ordered; a run without a score comes last.
        best (`str`):
            Name of the run that stands out.
    """
    others = sorted({line.run for line in lines} - {best}, key=lambda run: (-last_scores.get(run, -math.inf), run))
    looks = {best: Look(COLORS["soup"], "-", shown(best, LABEL))}
    for place, run in enumerate(others):
        if len(others) < NAMED:
            color = CYCLE[place % len(CYCLE)]
            looks[run] = Look(color, DASHES[place // len(CYCLE)], shown(run, LABEL))
        else:
            label = f"{len(others)} other runs, darker where the last score is better" if place == 0 else ""
            looks[run] = Look(str(0.3 + 0.55 * place / len(others)), "-", label)
    return looks


def _curves(panel: Any, lines: Sequence[Line], looks: Mapping[str, Look], best: str) -> None:
    """Draw the curves of all runs, the best one on top."""
    by_run = {line.run: line for line in lines}
    for run, look in looks.items():
        if run not in by_run:
            continue
        line = by_run[run]
        is_best = run == best
        panel.plot(
            line.epochs,
            line.values,
            color=look.color,
            linestyle=look.dashes,
            linewidth=2.4 if is_best else 1.2,
            marker="D" if is_best else ".",
            markersize=4,
            zorder=3 if is_best else 2,  # no other curve covers it
            label=look.label or None,
        )
    panel.set_xlabel("epoch")
