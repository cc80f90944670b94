"""The pictures of a comparison: the numbers that `hf_soup.display` draws, and their titles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..display.comparison import Curve, Dot, Point, plot_reliability, plot_scores, plot_shifts
from ..display.figure import WIDTH, letters
from ..metrics.statistics import SHARES, formatted, signed
from .comparison import SHIFTS, SINGLE, SUMMARIES, TEST, VALIDATION, Comparison, Difference, ModelScores, shifted_sets
from .verdict import headline


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_scores(comparison: Comparison) -> Figure:
    """Draw each reported set: differences from the single model that is best on validation, or else scores."""
    single = next((model for model in comparison.models if model.role == "chosen"), None)
    models = [model for model in comparison.models if model.role not in SUMMARIES]
    points: list[Point] = []
    headings: dict[str, str] = {}
    for set_name, examples in comparison.sizes.items():
        level = None if single is None else single.score(set_name, comparison.metric)
        # a function may score a set by another metric, for which the single model has no score
        if set_name == VALIDATION or (single is not None and level is None):
            continue
        headings[set_name] = f"{set_name} (n={examples})" if examples else set_name
        if level is not None:
            headings[set_name] += f": {_with_unit(comparison.metric, level.value)}"
        for model in models:
            points += _points(comparison, model, set_name, 0.0 if level is None else level.value)
    return plot_scores(
        points,
        metric=_axis_label(comparison, single),
        title=headline(comparison, most=letters(WIDTH)),
        headings=headings,
        from_zero=single is not None,
    )


def _axis_label(comparison: Comparison, single: ModelScores | None) -> str:
    """The label of the axes, and the meaning of the numbers above the panels."""
    metric = comparison.metric
    lower = " (lower is better)" if comparison.metrics[metric] is False else ""
    if single is None:
        unit = ", %" if metric in SHARES else ""
        return f"{metric}{unit}{lower}; bars: 95 % interval"
    unit = f"points of {metric}" if metric in SHARES else metric
    difference = f"Difference from {single.name} in {unit}{lower}"
    return f"{difference}\nBars: 95 % interval. Above each panel: the score of that run."


def _with_unit(metric: str, value: float) -> str:
    """A score with its unit, if it has one."""
    unit = " %" if metric in SHARES else ""
    return f"{formatted(metric, value)}{unit}"


def _scale(metric: str) -> int:
    """The factor for scores: shares are drawn in percent."""
    return 100 if metric in SHARES else 1


def _points(comparison: Comparison, model: ModelScores, set_name: str, level: float) -> list[Point]:
    """The points of a model on one set; the chosen ingredient is also drawn as an ingredient."""
    score = model.score(set_name, comparison.metric)
    if score is None:
        return []
    scale = _scale(comparison.metric)
    value = scale * (score.value - level)
    points = []
    if model.role in SINGLE:
        # Ingredients are drawn without intervals, which would overlap.
        points.append(Point(set_name, model.name, "ingredient", value, low=value, high=value))
    if model.role != "ingredient":
        name = "best on validation" if model.role == "chosen" else model.name
        low, high = _ends(comparison, model, set_name)
        low_end = value if low is None else scale * low
        high_end = value if high is None else scale * high
        points.append(Point(set_name, name, model.role, value, low_end, high_end))
    return points


def _ends(comparison: Comparison, model: ModelScores, set_name: str) -> tuple[float | None, float | None]:
    """The interval of a model's difference from the single model, or of its score if there is no single model."""
    has_single = any(other.role == "chosen" for other in comparison.models)
    if not has_single:
        score = model.score(set_name, comparison.metric)
        return (None, None) if score is None else (score.low, score.high)
    difference: Difference | None = comparison.differences.get(model.name, {}).get(set_name, {}).get("single")
    # The differences of ensembles are not tested, and the single model does not differ from itself.
    return (None, None) if difference is None else (difference.low, difference.high)


def draw_shifts(comparison: Comparison) -> Figure:
    """Draw scores on the test set against those on the shifted sets, of which there is at least one."""
    shifted = shifted_sets(comparison.sizes)
    set_name, shifts = shifted[0], shifted[0]
    if SHIFTS in comparison.sizes:
        set_name, shifts = SHIFTS, f"{len(shifted)} shifted sets (mean)"
    dots = []
    scale = _scale(comparison.metric)
    for model in comparison.models:
        on_test, on_shift = model.score(TEST, comparison.metric), model.score(set_name, comparison.metric)
        if model.role not in SUMMARIES and on_test is not None and on_shift is not None:
            dots.append(Dot(model.title, model.role, scale * on_test.value, scale * on_shift.value))
    metric = f"{comparison.metric}, %," if comparison.metric in SHARES else comparison.metric
    return plot_shifts(dots, metric=metric, shifts=shifts, title=_shift_title(comparison, set_name))


def _shift_title(comparison: Comparison, set_name: str) -> str:
    """The gains of the soups over the best single model under shift, if they are known."""
    gains = []
    for soup, by_set in comparison.differences.items():
        by_rival = by_set.get(set_name, {})
        if "single" in by_rival:
            gains.append(f"{soup} {signed(comparison.metric, by_rival['single'].value)}")
    if not gains:
        return f"{comparison.metric} on test and on {set_name}"
    unit = f" points of {comparison.metric}" if comparison.metric in SHARES else f" in {comparison.metric}"
    return f"On {set_name}, against the best on validation: {', '.join(gains)}{unit}"


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
