"""The picture of a search: the score of each trial, and what it is compared with."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .figure import COLORS, GRID, LONGEST, new_figure, shown


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class TrialStyle(NamedTuple):
    """How a trial is drawn: its words in the legend, and its marker."""

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
            Title of the figure, which states the finding at best.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        [`MissingExtraError`]: if matplotlib is not installed.
    """
    figure, axes = new_figure(7.2, 5.0, title)
    by_state: dict[str, list[Tried]] = {state: [] for state in STATES}
    for trial in tried:
        by_state[trial.state].append(trial)
    for state, trials in by_state.items():
        if trials:  # no legend entry for a state without trials
            _draw_trials(axes, trials, STATES[state])
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
    x, y = [], []
    places, lows, highs = [], [], []
    for trial in trials:
        x.append(trial.x)
        y.append(trial.value)
        if trial.low is not None and trial.high is not None:
            places.append(trial.x)
            lows.append(trial.low)
            highs.append(trial.high)
    axes.plot(
        x,
        y,
        linestyle="",
        marker=style.marker,
        color=style.color,
        markerfacecolor=style.color if style.filled else "white",
        label=style.label,
        zorder=3,  # above the lines to compare with and the intervals
    )
    axes.vlines(places, lows, highs, color=style.color, linewidth=0.8)
