"""Settings of several ingredients -> what differs, and who has what. It does not know what a setting means."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..types import plain


LONGEST = 60  # characters of a value that are shown
SHOWN = 3  # differences that one sentence lists


class Difference(NamedTuple):
    """One setting that not all ingredients have alike.

    Args:
        name (`str`):
            Of the setting, such as `"text_config.num_attention_heads"`.
        values (`Mapping[str, Any]`):
            Ingredient -> its value; `None` where it has none.
    """

    name: str
    values: Mapping[str, Any]

    def __str__(self) -> str:
        holders: dict[str, list[str]] = {}
        for ingredient, value in self.values.items():
            holders.setdefault(_key(value), []).append(ingredient)
        first = {key: self.values[names[0]] for key, names in holders.items()}
        texts = dict(zip(first, shown_apart(list(first.values())), strict=True))
        parts = [f"{', '.join(names)} {has(names)} {texts[key]}" for key, names in holders.items()]
        return f"{self.name}: {', '.join(parts)}"


def find_differences(settings: Mapping[str, Mapping[str, Any]]) -> list[Difference]:
    """What differs between ingredients; `None` is the same as a setting that is not there.

    Args:
        settings (`Mapping[str, Mapping[str, Any]]`):
            Ingredient -> its settings, as [`flatten`] gives them.

    Returns:
        `list[Difference]`: sorted by name.
    """
    names = {name for found in settings.values() for name in found}
    differences = []
    for name in sorted(names):
        values = {ingredient: found.get(name) for ingredient, found in settings.items()}
        if len({_key(value) for value in values.values()}) > 1:
            differences.append(Difference(name, values))
    return differences


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names; lists stay whole, and whole numbers lose their point."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = plain(value)
    return found


def several(differences: Sequence[Difference]) -> str:
    """The first of several differences in one sentence, and how many more there are."""
    more = len(differences) - SHOWN
    text = "; ".join(map(str, differences[:SHOWN]))
    return f"{text}; and {more} more" if more > 0 else text


def has(names: Sequence[str]) -> str:
    """The verb for these subjects."""
    return "has" if len(names) == 1 else "have"


def shown_apart(values: Sequence[Any]) -> list[str]:
    """Different values as short texts that differ as well: of long lists the first place where they do."""
    texts = [_shown(value) for value in values]
    if len(set(texts)) == len(values):
        return texts
    if all(isinstance(value, list) for value in values):
        place = _first_apart(values)
        return [f"{_shown(value[place : place + 1])} at {place} of {len(value)}" for value in values]
    whole = [str(value) for value in values]
    place = max(0, _first_apart(whole) - 8)
    return [repr(f"... {text[place : place + LONGEST]}") for text in whole]


def _first_apart(values: Sequence[Sequence[Any]]) -> int:
    shortest = min(map(len, values))
    for place in range(shortest):
        if len({_key(value[place]) for value in values}) > 1:
            return place
    return shortest


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."


def _key(value: Any) -> str:
    """Equal for values that mean the same: `10000` and `10000.0`, but not `1` and `True`."""
    return json.dumps(plain(value), sort_keys=True, default=str)


def usual_holder(differences: Iterable[Difference]) -> str | None:
    """An ingredient that has, at the first difference, what most have."""
    for difference in differences:
        keys = {ingredient: _key(value) for ingredient, value in difference.values.items()}
        counts = list(keys.values())
        return max(keys, key=lambda ingredient: counts.count(keys[ingredient]))
    return None
