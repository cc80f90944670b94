"""The figure of a search: the score of each trial, and the scores with which it is compared."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .figure import COLORS, LABEL, LONGEST, WIDTH, in_style, new_figure, shown


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = 40  # trials whose names are shown next to the axis; beyond that, numbers are shown


class TrialStyle(NamedTuple):
    """How a trial is drawn: its legend entry and its marker."""

    label: str
    marker: str
    color: str
    filled: bool


# State of a trial -> its style, in the order of the legend.
STATES = {
    "single": TrialStyle("an ingredient alone", "o", "#999999", filled=True),
    "kept": TrialStyle("kept", "s", "#009E73", filled=True),
    "rejected": TrialStyle("rejected", "o", "#D55E00", filled=False),
    "stopped": TrialStyle("stopped early: at most this", "v", "#D55E00", filled=False),
}


class Tried(NamedTuple):
    """One trial of a search.

    Args:
        x (`float`):
            Position of the trial.
        value (`float`):
            Score of the trial, or the highest score that it could still have reached.
        state (`str`):
            A key of `STATES`.
        low (`float`, *optional*), high (`float`, *optional*):
            The interval of its difference from the soup before, around its score.
        name (`str`, *optional*):
            What was tried, where trials follow each other; empty where they lie on a scale.
    """

    x: float
    value: float
    state: str
    low: float | None = None
    high: float | None = None
    name: str = ""


@in_style
def plot_search(tried: Sequence[Tried], *, metric: str, where: str, lines: Mapping[str, float], title: str) -> Figure:
    """Draw a search: the score of each trial, whether it was accepted, and reference scores as lines.

    Trials with names are rows, the first at the top; others are placed along a numeric axis.

    Args:
        tried (`Sequence[Tried]`):
            At least one.
        metric (`str`):
            Label of the scores.
        where (`str`):
            Label of the places.
        lines (`Mapping[str, float]`):
            Scores to compare with, by name.
        title (`str`):
            Title of the figure, which states the finding at best.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        [`MissingExtraError`]: if matplotlib is not installed.
    """
    named = all(trial.name for trial in tried) and len(tried) <= NAMED
    height = 1.9 + 0.24 * len(tried) if named else 5.0  # inches
    figure, axes = new_figure(WIDTH, height, title)
    by_state: dict[str, list[Tried]] = {state: [] for state in STATES}
    for trial in tried:
        by_state[trial.state].append(trial)
    for state, trials in by_state.items():
        if trials:  # no legend entry for a state without trials
            _draw_trials(axes, trials, STATES[state], below_each_other=named)
    styles = ("--", COLORS["chosen"]), ("-.", COLORS["uniform"]), (":", COLORS["ensemble"])
    draw_line = axes.axvline if named else axes.axhline
    for (name, value), (linestyle, color) in zip(lines.items(), itertools.cycle(styles)):
        draw_line(value, linestyle=linestyle, color=color, linewidth=1.6, label=f"{shown(name, 32)} {value:.4f}")
    bars = "(bars: 95 % interval of the difference)"
    if named:
        _name_rows(axes, tried)
        axes.set_xlabel(f"{shown(metric)} {bars}")
        axes.grid(axis="x")
    else:
        axes.set_xlabel(shown(where, 2 * LONGEST))
        axes.set_ylabel(f"{shown(metric)}\n{bars}")
        axes.grid(axis="y")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _name_rows(axes: Axes, tried: Sequence[Tried]) -> None:
    """Label the rows of trials with their names, the first at the top."""
    places = [trial.x for trial in tried]
    axes.set_yticks(places, [shown(trial.name, LABEL) for trial in tried])
    axes.set_ylim(max(places) + 0.6, min(places) - 0.6)
    axes.tick_params(axis="y", length=0)


def _draw_trials(axes: Axes, trials: Sequence[Tried], style: TrialStyle, *, below_each_other: bool) -> None:
    """Draw the trials of one state, with intervals if they have them."""
    positions, scores = [], []
    places, lows, highs = [], [], []
    for trial in trials:
        positions.append(trial.x)
        scores.append(trial.value)
        if trial.low is not None and trial.high is not None:
            places.append(trial.x)
            lows.append(trial.low)
            highs.append(trial.high)
    x, y = (scores, positions) if below_each_other else (positions, scores)
    axes.plot(
        x,
        y,
        linestyle="",
        marker=style.marker,
        color=style.color,
        markerfacecolor=style.color if style.filled else "white",
        label=style.label,
        zorder=3,  # above the reference lines and the intervals
    )
    draw_intervals = axes.hlines if below_each_other else axes.vlines
    draw_intervals(places, lows, highs, color=style.color, linewidth=1.2)
