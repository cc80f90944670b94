"""What follows from a comparison, in sentences that claim no more than the intervals show."""

from __future__ import annotations

from collections.abc import Mapping

from .comparison import SHARES, TEST, VALIDATION, Difference, signed


def summarise(
    differences: Mapping[str, Mapping[str, Mapping[str, Difference]]],
    called: Mapping[str, str],
    sizes: Mapping[str, int],
    directions: Mapping[str, bool],
    chosen: str | None,
    rival: str | None,
    members: int,
) -> str:
    """A sentence on the test set for each soup, and one on the shifted sets.

    Args:
        differences (`Mapping`):
            As of [`Comparison`].
        called (`Mapping[str, str]`):
            Soup -> what a sentence calls it.
        sizes (`Mapping[str, int]`):
            Set -> examples.
        directions (`Mapping[str, bool]`):
            Metric -> whether higher is better; the first one counts.
        chosen (`str`, *optional*):
            The single model that is best on validation.
        rival (`str`, *optional*):
            The ensemble.
        members (`int`):
            How many models the ensemble runs.
    """
    metric, higher = next(iter(directions.items()))
    lines = []
    for soup, sets in differences.items():
        on_test = sets.get(TEST, {})
        if "single" in on_test:
            lines.append(verdict(called[soup], on_test["single"], metric, higher, chosen, sizes[TEST], members))
        elif chosen is None:
            lines.append(
                f"{called[soup]}: no validation set says which single model is best, so it is compared with none."
            )
        if "ensemble" in on_test:
            lines[-1] += f" Against the {rival}: {_numbers(on_test['ensemble'], metric)}."
        shifts = [
            f"{part} {_numbers(found['single'], metric)}"
            for part, found in sets.items()
            if part not in (VALIDATION, TEST) and "single" in found
        ]
        lines += [f"{called[soup]}, on shifted sets against {chosen}: {', '.join(shifts)}."] if shifts else []
    return "\n".join(lines)


def verdict(soup: str, found: Difference, metric: str, higher: bool, chosen: str, n: int, members: int) -> str:
    """What the test set says of one soup, and no more than it says."""
    numbers = f"{_numbers(found, metric)} {'points of ' if metric in SHARES else 'in '}{metric}"
    against = f"{chosen}, the single model that is best on validation"
    if found.low is None:
        return f"The {soup} is {numbers} against {against}, without an interval."
    if found.value == found.low == found.high == 0:
        return f"The {soup} scores as {against}: on {n} test examples there is no difference at all."
    if found.low <= 0 <= found.high:
        return f"The {soup} is {numbers} against {against}: no difference that {n} test examples can show."
    if (found.low > 0) == higher:
        cost = f", at 1/{members} of the ensemble's cost" if members > 1 else ""
        return f"The {soup} is {numbers} over {against}{cost}."
    return f"The {soup} is worse: {numbers} against {against}."


def _numbers(found: Difference, metric: str) -> str:
    ends = "" if found.low is None else f" [{signed(metric, found.low)}, {signed(metric, found.high)}]"
    return signed(metric, found.value) + ends
