"""The differences between the settings of several ingredients, with the value of each.

This module does not know what the settings mean.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ..types import plain


LONGEST = 60  # characters of a value that are shown
SHOWN = 3  # differences listed in one sentence
BEFORE = 8  # characters of a long text that are shown before the first difference
T = TypeVar("T", bound=Hashable)


class Difference(NamedTuple):
    """One setting that differs between ingredients.

    Args:
        name (`str`):
            Name of the setting, such as `"text_config.num_attention_heads"`.
        values (`Mapping[str, Any]`):
            Ingredient -> its value; `None` where it has none.
    """

    name: str
    values: Mapping[str, Any]

    def __str__(self) -> str:
        holders: dict[str, list[str]] = {}  # value as text -> the ingredients that have it
        for ingredient, value in self.values.items():
            holders.setdefault(_key(value), []).append(ingredient)
        groups = list(holders.values())
        distinct = [self.values[names[0]] for names in groups]
        clauses = []
        for names, text in zip(groups, shown_apart(distinct), strict=True):
            clauses.append(f"{', '.join(names)} {has(names)} {text}")
        return f"{self.name}: {', '.join(clauses)}"


def find_differences(settings: Mapping[str, Mapping[str, Any]]) -> list[Difference]:
    """Find the settings that differ between ingredients; `None` is equal to a missing setting.

    Args:
        settings (`Mapping[str, Mapping[str, Any]]`):
            Ingredient -> its settings, as [`flatten`] gives them.

    Returns:
        `list[Difference]`: sorted by name.
    """
    names: set[str] = set().union(*settings.values())
    differences = []
    for name in sorted(names):
        values = {ingredient: own_settings.get(name) for ingredient, own_settings in settings.items()}
        if _are_different(values.values()):
            differences.append(Difference(name, values))
    return differences


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names; lists are kept, and floats with integer values become integers."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = plain(value)
    return flat


def several(differences: Sequence[Difference]) -> str:
    """The first of several differences in one sentence, and the number of further ones."""
    text = "; ".join(map(str, differences[:SHOWN]))
    if len(differences) <= SHOWN:
        return text
    return f"{text}; and {len(differences) - SHOWN} more"


def has(names: Sequence[str]) -> str:
    """The form of "have" that agrees with these subjects."""
    return "has" if len(names) == 1 else "have"


def shown_apart(values: Sequence[Any]) -> list[str]:
    """Different values as short texts that still differ; long lists are shown from their first difference."""
    texts = list(map(_shown, values))
    if len(set(texts)) == len(values):
        return texts
    # All begin alike, so truncation would hide the difference.
    if all(isinstance(value, list) for value in values):
        place = _first_apart(values)
        return [f"{_shown(value[place : place + 1])} at {place} of {len(value)}" for value in values]
    whole_texts = list(map(str, values))
    start = max(0, _first_apart(whole_texts) - BEFORE)
    return [repr(f"... {text[start : start + LONGEST]}") for text in whole_texts]


def _first_apart(values: Sequence[Sequence[Any]]) -> int:
    """The first index at which lists or texts differ; the end of the shortest if it is a prefix of the others."""
    shortest = min(map(len, values))
    for place in range(shortest):
        if _are_different(value[place] for value in values):
            return place
    return shortest


def _shown(value: Any) -> str:
    """A value as text, truncated if it is long."""
    if value is None:
        return "none"
    text = repr(value)
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST - 4]} ..."


def _are_different(values: Iterable[Any]) -> bool:
    """Whether these values do not all mean the same."""
    return len(set(map(_key, values))) > 1


def _key(value: Any) -> str:
    """A key that is equal for values with the same meaning: `10000` and `10000.0`, but not `1` and `True`."""
    return json.dumps(plain(value), sort_keys=True, default=str)


def most_frequent(values: Iterable[T]) -> T:
    """The most frequent value; the first of them if there is a tie."""
    all_values = list(values)
    first = all_values[0]
    if all_values.count(first) == len(all_values):  # as for nearly all of the tensors of a large model
        return first
    return Counter(all_values).most_common(1)[0][0]


def usual_holder(difference: Difference) -> str:
    """An ingredient whose value most ingredients have."""
    keys = {ingredient: _key(value) for ingredient, value in difference.values.items()}
    usual_key = most_frequent(keys.values())
    return next(ingredient for ingredient, key in keys.items() if key == usual_key)
