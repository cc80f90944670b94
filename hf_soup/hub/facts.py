"""What the model cards of ingredients say: licences, languages and data sets, and whether they agree."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple


UNSTATED = "not stated"
# What the Hub takes; anything else would make it refuse the soup.
SLUG = r"[a-z0-9][a-z0-9.-]*"
LANGUAGE = r"[a-z]{2,3}(-[A-Za-z0-9]+)?|code|multilingual"
DATASET = r"[\w.-]+(/[\w.-]+)?"


class Facts(NamedTuple):
    """What a soup may say of itself because its ingredients do.

    Args:
        license (`dict[str, str]`, *optional*):
            The licence as metadata has it, where all ingredients have the same one.
        licenses (`dict[str, tuple[str, ...]]`, *optional*):
            Licence -> names of the ingredients that have it, where they differ.
        language (`tuple[str, ...]`, *optional*), datasets (`tuple[str, ...]`, *optional*):
            What all ingredients name.
    """

    license: Mapping[str, str] = {}
    licenses: Mapping[str, tuple[str, ...]] = {}
    language: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()


def gather_facts(cards: Mapping[str, Mapping[str, Any]], hidden: bool = False) -> Facts:
    """Put together what ingredients say of themselves.

    Args:
        cards (`Mapping[str, Mapping[str, Any]]`):
            Name of an ingredient -> the metadata of its card.
        hidden (`bool`, *optional*, defaults to `False`):
            Whether some are private: what they were trained on is not told then.

    Returns:
        [`Facts`]
    """
    found: dict[str, list[str]] = {}
    for name, card in cards.items():
        found.setdefault(_license(card), []).append(name)
    licenses = {license: tuple(names) for license, names in found.items()}
    agreed: dict[str, str] = {}
    (license, *others) = licenses
    if not others and re.fullmatch(SLUG, license.partition(":")[0]):
        first = next(iter(cards.values()))
        agreed = {"license": license.partition(":")[0]}
        if agreed["license"] == "other":  # a link would lead to the repository of a private one
            keys = ("license_name", *(() if hidden else ("license_link",)))
            agreed |= {key: first[key] for key in keys if isinstance(first.get(key), str)}
    if agreed or (license == UNSTATED and not others):
        licenses = {}
    language = [code for code in _agreed(cards, "language") if re.fullmatch(LANGUAGE, code)]
    datasets = [] if hidden else [name for name in _agreed(cards, "datasets") if re.fullmatch(DATASET, name)]
    return Facts(agreed, licenses, tuple(language), tuple(datasets))


def _license(card: Mapping[str, Any]) -> str:
    """`mit`, or `other: its name`."""
    (license, *more) = [text.lower() for text in _strings(card.get("license"))] or [UNSTATED]
    if more:
        return " and ".join(sorted([license, *more]))
    name = card.get("license_name")
    return f"other: {name}" if license == "other" and isinstance(name, str) else license


def _agreed(cards: Mapping[str, Mapping[str, Any]], key: str) -> tuple[str, ...]:
    """What every card lists under a key, in the order of the first."""
    first, *rest = (_strings(card.get(key)) for card in cards.values())
    return tuple(item for item in first if all(item in other for other in rest))


def _strings(value: Any) -> list[str]:
    """A string or a list of them, as metadata may have either; anything else is nothing."""
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, str) and item.strip()]
