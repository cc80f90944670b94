"""The picture of a sweep: scores against settings, and the curves of all runs. It reads no run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .figure import COLORS, figure_class, shown, wrapped


if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 4  # panels of settings
FEW = 6  # different numbers that stand side by side; more are places on an axis
LONGEST = 14  # characters of a value, so that neighbours do not overlap


class Setting(NamedTuple):
    """Runs by one of their settings.

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


def plot_sweep(settings: Sequence[Setting], lines: Sequence[Line], *, metric: str, best: str, title: str) -> Figure:
    """Above the validation score against each setting that varies, below the curves of training and validation.

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

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        [`MissingExtraError`]: if matplotlib is not installed.
    """
    settings = settings[:MOST]
    width = max(7.6, 2.6 * len(settings))  # inches
    height = 6.4 if settings else 3.6
    figure = figure_class()(figsize=(width, height), dpi=150)
    figure.set_layout_engine("constrained")
    # The rows have different numbers of panels, which is why they are figures of their own.
    if settings:
        upper, lower = figure.subfigures(2, 1, squeeze=False)[:, 0]
        panels = upper.subplots(1, len(settings), sharey=True, squeeze=False)[0]
        for panel, setting in zip(panels, settings, strict=True):
            _scatter(panel, setting)
        panels[0].set_ylabel(f"{shown(metric)} on validation")
    else:
        (lower,) = figure.subfigures(1, 1, squeeze=False)[:, 0]
    losses, scores = lower.subplots(1, 2)
    _curves(losses, _of_measure(lines, "loss"), best)
    losses.set_ylabel("loss in training")
    _curves(scores, _of_measure(lines, f"eval_{metric}"), best)  # the name that transformers gives it
    scores.set_ylabel(f"{shown(metric)} on validation")
    scores.legend(frameon=False, fontsize=8)
    figure.suptitle(wrapped(title, 90), fontsize=10, x=0.01, ha="left")
    for panel in figure.get_axes():
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#e6e6e6", linewidth=0.6)
        panel.set_axisbelow(True)
    return figure


def _scatter(panel: Any, setting: Setting) -> None:
    """Points over numbers, on a logarithm where they span a decade; over few or over words side by side."""
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
        ordered = [f"{value:g}" for value in sorted(values)]  # as numbers: of texts, "10" comes before "9"
        places = _place_side_by_side(panel, labels, ordered)
    panel.plot(places, setting.scores, linestyle="", marker="o", color=COLORS["ingredient"])
    panel.plot(places[setting.best], setting.scores[setting.best], linestyle="", marker="D", color=COLORS["soup"])
    panel.set_xlabel(shown(setting.name))


def _place_side_by_side(panel: Any, labels: Sequence[str], ordered: Sequence[str]) -> list[int]:
    """The place of each label on an axis on which all different ones stand at equal distances, in a given order."""
    ticks = list(dict.fromkeys(ordered))
    panel.set_xticks(range(len(ticks)), ticks)
    panel.set_xlim(-0.5, len(ticks) - 0.5)
    return [ticks.index(label) for label in labels]


def _is_number(value: Any) -> bool:
    """Whether a value has a place on an axis; for Python a bool is an int."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _of_measure(lines: Sequence[Line], what: str) -> list[Line]:
    """The curves of one measure, of all runs."""
    return [line for line in lines if line.what == what]


def _curves(panel: Any, lines: Sequence[Line], best: str) -> None:
    """The best run over the others, which share one entry of the legend."""
    of_best, others = [], []
    for line in lines:
        if line.run == best:
            of_best.append(line)
        else:
            others.append(line)
    for index, line in enumerate(others):
        label = f"the {len(others)} others" if index == 0 else None
        panel.plot(line.epochs, line.values, color=COLORS["ingredient"], linewidth=0.9, marker=".", label=label)
    for line in of_best:  # last, so that no other curve covers it
        panel.plot(
            line.epochs,
            line.values,
            color=COLORS["soup"],
            linewidth=2,
            marker="D",
            markersize=4,
            label=shown(best),
        )
    panel.set_xlabel("epoch")
