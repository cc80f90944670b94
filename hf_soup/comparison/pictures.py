"""The pictures of a comparison: the numbers that `hf_soup.display` draws, and their titles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..display.comparison import Curve, Dot, Point, plot_reliability, plot_scores, plot_shifts
from ..metrics.statistics import signed
from .comparison import SHIFTS, SINGLE, SUMMARIES, TEST, VALIDATION, Comparison, ModelScores, shifted_sets


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_scores(comparison: Comparison) -> Figure:
    """Draw scores on every test set, with intervals."""
    points = []
    for model in comparison.models:
        if model.role in SUMMARIES:
            continue
        for set_name in comparison.sizes:
            if set_name != VALIDATION:
                points += _points(model, set_name, comparison.metric)
    return plot_scores(points, metric=comparison.metric, title=comparison.summary.split("\n")[0])


def _points(model: ModelScores, set_name: str, metric: str) -> list[Point]:
    """One model on one data set; the chosen ingredient is drawn twice, among the ingredients and by itself."""
    score = model.score(set_name, metric)
    if score is None:
        return []
    value = score.value
    points = []
    if model.role in SINGLE:
        # Ingredients are drawn without intervals, which would overlap.
        points.append(Point(set_name, model.name, "ingredient", value, low=value, high=value))
    if model.role != "ingredient":
        low = value if score.low is None else score.low
        high = value if score.high is None else score.high
        points.append(Point(set_name, model.title, model.role, value, low, high))
    return points


def draw_shifts(comparison: Comparison) -> Figure:
    """Draw scores on the test set against those on the shifted sets, of which there is at least one."""
    shifted = shifted_sets(comparison.sizes)
    set_name, shifts = shifted[0], shifted[0]
    if SHIFTS in comparison.sizes:
        set_name, shifts = SHIFTS, f"{len(shifted)} shifted sets (mean)"
    dots = []
    for model in comparison.models:
        on_test, on_shift = model.score(TEST, comparison.metric), model.score(set_name, comparison.metric)
        if model.role not in SUMMARIES and on_test is not None and on_shift is not None:
            dots.append(Dot(model.title, model.role, on_test.value, on_shift.value))
    return plot_shifts(dots, metric=comparison.metric, shifts=shifts, title=_shift_title(comparison, set_name))


def _shift_title(comparison: Comparison, set_name: str) -> str:
    """The gains of the soups over the best single model under shift, if they are known."""
    gains = []
    for soup, by_set in comparison.differences.items():
        by_rival = by_set.get(set_name, {})
        if "single" in by_rival:
            gains.append(f"{soup} {signed(comparison.metric, by_rival['single'].value)}")
    if not gains:
        return f"Test against {set_name}"
    return f"On {set_name}, against the best on validation: {'; '.join(gains)}"


def draw_reliability(comparison: Comparison) -> Figure:
    """Draw accuracy by confidence on the test set."""
    curves = []
    for model in comparison.models:
        if model.name not in comparison.curves:
            continue
        bins = comparison.curves[model.name]
        title = f"{model.title} (ECE {100 * model.calibration[TEST].ece:.1f} %)"
        counts = [int(count) for count in bins["count"]]  # floats, if they were read from JSON
        curves.append(Curve(title, model.role, bins["confidence"], bins["accuracy"], counts))
    return plot_reliability(curves, title=f"Accuracy by confidence on {comparison.sizes[TEST]} test examples")
