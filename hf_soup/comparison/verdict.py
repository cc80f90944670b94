"""What follows from a comparison, in sentences that claim no more than the intervals show."""

from __future__ import annotations

from collections.abc import Mapping

from ..display.figure import shown
from ..metrics.statistics import SHARES, signed
from ..types import gain
from .comparison import TEST, VALIDATION, Comparison, Difference, Rival


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
    """A sentence on the test set for each soup, and one on the shifted sets.

    Args:
        differences (`Mapping`):
            As of [`Comparison`].
        titles (`Mapping[str, str]`):
            Soup -> what a sentence calls it.
        sizes (`Mapping[str, int]`):
            Set -> examples.
        metric (`str`), higher_is_better (`bool`):
            What the differences are of, and its direction.
        single (`str`, *optional*):
            The single model that is best on validation, if that is known.
        ensemble (`str`, *optional*):
            The ensemble, if there is one.
        members (`int`):
            How many models the ensemble runs.
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
    """The difference from the single model on each shifted set and on their mean, where one is known."""
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
    """What the test set says of one soup, and no more than it says.

    Args:
        soup (`str`):
            What the sentence calls the soup.
        difference ([`Difference`]):
            Its score less that of the single model.
        metric (`str`), higher_is_better (`bool`):
            What the difference is of, and its direction.
        single (`str`):
            The single model that is best on validation.
        examples (`int`):
            Size of the test set.
        members (`int`):
            How many models an ensemble of the ingredients runs.
    """
    value, low, high = difference.value, difference.low, difference.high
    unit = f"points of {metric}" if metric in SHARES else f"in {metric}"
    numbers = f"{_numbers(difference, metric)} {unit}"
    against = f"{single}, the single model that is best on validation"
    if low is None or high is None:
        return f"The {soup} is {numbers} against {against}, without an interval."
    if value == low == high == 0:  # not one resample tells them apart
        return f"The {soup} scores as {against}: on {examples} test examples there is no difference at all."
    if low <= 0 <= high:
        return f"The {soup} is {numbers} against {against}: no difference that {examples} test examples can show."
    # The interval lies on one side of 0, so that its lower end says whether the soup is better.
    if gain(low, 0.0, higher_is_better) > 0:
        cost = f", at 1/{members} of the ensemble's cost" if members > 1 else ""
        return f"The {soup} is {numbers} over {against}{cost}."
    return f"The {soup} is worse: {numbers} against {against}."


def _numbers(difference: Difference, metric: str) -> str:
    """A difference with its interval, where it has one."""
    value = signed(metric, difference.value)
    if difference.low is None:
        return value
    return f"{value} [{signed(metric, difference.low)}, {signed(metric, difference.high)}]"


def headline(comparison: Comparison, *, most: int) -> str:
    """What the test set says of the first soup in one line, as the title of a picture.

    Args:
        comparison ([`Comparison`]):
            What was found.
        most (`int`):
            Number of characters that fit; a long name of a soup is cut in the middle.
    """
    metric, examples = comparison.metric, comparison.sizes.get(TEST, 0)
    where = f"on {examples} test examples" if examples else "on the test set"
    soup, by_set = next(iter(comparison.differences.items()), ("", {}))
    difference = by_set.get(TEST, {}).get("single")
    if difference is None:
        return f"{metric} {where}"
    finding = f"{_found(difference, metric, comparison.metrics[metric])} {where}"
    name = shown(soup, max(most - len(finding) - 2, 12))
    return f"{name[:1].upper()}{name[1:]}: {finding}"


def _found(difference: Difference, metric: str, higher_is_better: bool | None) -> str:
    """A difference in a few words."""
    unit = f"points of {metric}" if metric in SHARES else f"in {metric}"
    value, low, high = difference.value, difference.low, difference.high
    if low is None or high is None:
        return f"{signed(metric, value)} {unit}"
    if low <= 0 <= high:
        return f"no visible difference in {metric}"
    is_better = (low > 0) == (higher_is_better is not False)
    return f"{'better' if is_better else 'worse'} by {signed(metric, abs(value)).removeprefix('+')} {unit}"
