"""Conclusions from a comparison, in sentences that claim no more than the intervals show."""

from __future__ import annotations

from collections.abc import Mapping

from ..display.figure import shown
from ..metrics.statistics import SHARES, signed
from ..types import gain
from .comparison import TEST, VALIDATION, Calibrated, Comparison, Difference, Rival


# The increase from which a calibration error or loss is called worse: docs/comparison.md explains why a soup's often
# is.
ECE_FACTOR, ECE_POINTS = 2.0, 0.05
NLL_FACTOR, NLL_ABOVE = 1.5, 0.1


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
    calibrations: Mapping[str, Calibrated] | None = None,
    twins: Mapping[str, str] | None = None,
) -> str:
    """One sentence per soup for the test set, and one for the shifted test sets; identical soups share a sentence.

    Args:
        differences (`Mapping`):
            Differences, as in [`Comparison`].
        titles (`Mapping[str, str]`):
            Names of the soups in sentences, such as `"the greedy soup of 4"`.
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
        calibrations (`Mapping[str, Calibrated]`, *optional*):
            Model -> its calibration on the test set, for classifiers.
        twins (`Mapping[str, str]`, *optional*):
            Soup -> an earlier soup with the same outputs on every example.
    """
    calibrations, twins = calibrations or {}, twins or {}
    lines = []
    for soup, by_set in differences.items():
        title, on_test = titles[soup], by_set.get(TEST, {})
        if soup in twins:
            lines.append(f"{title} gives the same outputs as {titles[twins[soup]]}.")
            continue
        if single is None:
            lines.append(f"{title}: no validation set says which single model is best, so it is compared with none.")
        elif "single" in on_test:
            difference = on_test["single"]
            lines.append(verdict(title, difference, metric, higher_is_better, single, sizes[TEST], members))
            if not _is_worse(difference, higher_is_better):
                lines[-1] += doubts_of_confidence(calibrations.get(soup), calibrations.get(single))
        if "ensemble" in on_test:
            lines[-1] += f" Against the {ensemble}: {_numbers(on_test['ensemble'], metric)}."
        shifts = _on_shifted_sets(by_set, metric)
        if shifts:
            lines.append(f"{title}, on shifted sets against {single}: {', '.join(shifts)}.")
    return "\n".join(_as_sentence(line) for line in lines)


def _as_sentence(line: str) -> str:
    """A line that begins with a capital letter, unless it begins with a soup's own name."""
    return f"T{line[1:]}" if line.startswith("the ") else line


def _is_worse(difference: Difference, higher_is_better: bool) -> bool:
    """Whether the complete interval of a difference is on the worse side of 0."""
    if difference.low is None or difference.high is None:
        return False
    return gain(difference.low, 0.0, higher_is_better) < 0 and gain(difference.high, 0.0, higher_is_better) < 0


def doubts_of_confidence(soup: Calibrated | None, single: Calibrated | None) -> str:
    """A sentence about a calibration error or loss that is much worse than the single model's; empty if none is.

    Args:
        soup ([`Calibrated`], *optional*), single ([`Calibrated`], *optional*):
            Both on the test set; none of models that are no classifiers.
    """
    if soup is None or single is None:
        return ""
    numbers = []
    if soup.ece > ECE_FACTOR * single.ece and soup.ece > single.ece + ECE_POINTS:
        numbers.append(f"ECE {100 * soup.ece:.1f} % against {100 * single.ece:.1f} %")
    if soup.nll > NLL_FACTOR * single.nll and soup.nll > single.nll + NLL_ABOVE:
        numbers.append(f"NLL {soup.nll:.3f} against {single.nll:.3f}")
    if not numbers:
        return ""
    return f" Its calibration is worse: {', '.join(numbers)}; {_remedy(soup)}."


def _remedy(soup: Calibrated) -> str:
    """The remedy for a worse calibration."""
    if soup.temperature is None or soup.ece_scaled is None or soup.nll_scaled is None:
        return "give validation data, on which a temperature for its logits is fitted"
    scaled = f"ECE {100 * soup.ece_scaled:.1f} %, NLL {soup.nll_scaled:.3f}"
    if soup.nll_scaled < soup.nll:
        return f"divide its logits by {soup.temperature:.2f}, the temperature fitted on validation ({scaled} then)"
    return f"the temperature fitted on validation does not help ({scaled} with it)"


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
            Name of the soup in the sentence, such as `"the greedy soup of 4"`.
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
        return f"{soup} is {numbers} against {against}, without an interval."
    if value == low == high == 0:  # they are equal on every resample
        return f"{soup} scores as {against}: on {examples} test examples there is no difference at all."
    if low <= 0 <= high:
        return f"{soup} is {numbers} against {against}: no difference that {examples} test examples can show."
    # The interval is on one side of 0, so its lower end determines whether the soup is better.
    if gain(low, 0.0, higher_is_better) > 0:
        cost = f", at 1/{members} of the ensemble's cost" if members > 1 else ""
        return f"{soup} is {numbers} over {against}{cost}."
    return f"{soup} is worse: {numbers} against {against}."


def _numbers(difference: Difference, metric: str) -> str:
    """A difference with its interval, if it has one."""
    value = signed(metric, difference.value)
    if difference.low is None:
        return value
    return f"{value} [{signed(metric, difference.low)}, {signed(metric, difference.high)}]"


def headline(comparison: Comparison, *, most: int) -> str:
    """The result of the first soup on the test set in one line, as the title of a figure.

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
    """The result of a difference in a few words."""
    unit = f"points of {metric}" if metric in SHARES else f"in {metric}"
    value, low, high = difference.value, difference.low, difference.high
    if low is None or high is None:
        return f"{signed(metric, value)} {unit}"
    if low <= 0 <= high:
        return f"no visible difference in {metric}"
    is_better = (low > 0) == (higher_is_better is not False)
    return f"{'better' if is_better else 'worse'} by {signed(metric, abs(value)).removeprefix('+')} {unit}"
