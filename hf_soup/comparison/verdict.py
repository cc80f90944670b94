"""Conclusions from a comparison, in sentences that claim no more than the intervals show."""

from __future__ import annotations

from collections.abc import Mapping

from ..metrics.statistics import SHARES, signed
from ..types import gain
from .comparison import TEST, VALIDATION, Difference, Rival


def summarise(
    differences: Mapping[str, Mapping[str, Mapping[Rival, Difference]]],
    *,
    titles: Mapping[str, str],
    sizes: Mapping[str, int],
    metric: str,
    higher_is_better: bool,
    single: str | None,
    ensemble: str | None,
    members: int,
) -> str:
    """A sentence for each soup on the test set, and one on the shifted test sets.

    Args:
        differences (`Mapping`):
            Differences, as in [`Comparison`].
        titles (`Mapping[str, str]`):
            Names of the soups in sentences.
        sizes (`Mapping[str, int]`):
            Number of examples of each data set.
        metric (`str`), higher_is_better (`bool`):
            Metric of the differences, and its direction.
        single (`str`, *optional*):
            Best single model on validation data, if it is known.
        ensemble (`str`, *optional*):
            Name of the ensemble, if there is one.
        members (`int`):
            Number of models in the ensemble.
    """
    lines = []
    for soup, by_set in differences.items():
        title, on_test = titles[soup], by_set.get(TEST, {})
        if single is None:
            lines.append(f"{title}: no validation set says which single model is best, so it is compared with none.")
        elif "single" in on_test:
            difference = on_test["single"]
            lines.append(verdict(title, difference, metric, higher_is_better, single, sizes[TEST], members))
        if "ensemble" in on_test:
            lines[-1] += f" Against the {ensemble}: {_numbers(on_test['ensemble'], metric)}."
        shifts = _on_shifted_sets(by_set, metric)
        if shifts:
            lines.append(f"{title}, on shifted sets against {single}: {', '.join(shifts)}.")
    return "\n".join(lines)


def _on_shifted_sets(by_set: Mapping[str, Mapping[Rival, Difference]], metric: str) -> list[str]:
    """The difference from the single model on each shifted set and on their mean, if it is known."""
    shifts = []
    for set_name, by_rival in by_set.items():
        if set_name not in (VALIDATION, TEST) and "single" in by_rival:
            shifts.append(f"{set_name} {_numbers(by_rival['single'], metric)}")
    return shifts


def verdict(
    soup: str,
    difference: Difference,
    metric: str,
    higher_is_better: bool,
    single: str,
    examples: int,
    members: int,
) -> str:
    """The conclusion about one soup from the test set.

    Args:
        soup (`str`):
            Name of the soup in the sentence.
        difference ([`Difference`]):
            Difference between the scores of the soup and of the single model.
        metric (`str`), higher_is_better (`bool`):
            Metric of the difference, and its direction.
        single (`str`):
            Best single model on validation data.
        examples (`int`):
            Number of examples of the test set.
        members (`int`):
            Number of models in an ensemble of the ingredients.
    """
    value, low, high = difference.value, difference.low, difference.high
    unit = f"points of {metric}" if metric in SHARES else f"in {metric}"
    numbers = f"{_numbers(difference, metric)} {unit}"
    against = f"{single}, the single model that is best on validation"
    if low is None or high is None:
        return f"The {soup} is {numbers} against {against}, without an interval."
    if value == low == high == 0:  # they are equal on every resample
        return f"The {soup} scores as {against}: on {examples} test examples there is no difference at all."
    if low <= 0 <= high:
        return f"The {soup} is {numbers} against {against}: no difference that {examples} test examples can show."
    # The interval is on one side of 0, so its lower end determines whether the soup is better.
    if gain(low, 0.0, higher_is_better) > 0:
        cost = f", at 1/{members} of the ensemble's cost" if members > 1 else ""
        return f"The {soup} is {numbers} over {against}{cost}."
    return f"The {soup} is worse: {numbers} against {against}."


def _numbers(difference: Difference, metric: str) -> str:
    """A difference with its interval, if it has one."""
    value = signed(metric, difference.value)
    if difference.low is None:
        return value
    return f"{value} [{signed(metric, difference.low)}, {signed(metric, difference.high)}]"
