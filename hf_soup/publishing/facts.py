"""What the model cards of ingredients say: licences, languages and data sets, and whether they agree."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple


UNSTATED = "not stated"
# What the Hub takes in the metadata of a card; anything else would make it refuse the soup.
SLUG = r"[a-z0-9][a-z0-9.-]*"
LANGUAGE = r"[a-z]{2,3}(-[A-Za-z0-9]+)?|code|multilingual"
DATASET = r"[\w.-]+(/[\w.-]+)?"


class License(NamedTuple):
    """A licence as the metadata of a card has it; none of its fields where there is none.

    Args:
        id (`str`, *optional*):
            Such as `"mit"`; `"other"` for one that the Hub has no id for.
        name (`str`, *optional*), link (`str`, *optional*):
            Of a licence that the Hub has no id for.
    """

    id: str | None = None
    name: str | None = None
    link: str | None = None


class Facts(NamedTuple):
    """What a soup may say of itself because its ingredients do.

    Args:
        license ([`License`], *optional*):
            Where all ingredients have the same one.
        licenses (`dict[str, tuple[str, ...]]`, *optional*):
            Licence -> names of the ingredients that have it, where they differ.
        language (`tuple[str, ...]`, *optional*), datasets (`tuple[str, ...]`, *optional*):
            What all ingredients name.
    """

    license: License = License()
    licenses: Mapping[str, tuple[str, ...]] = {}
    language: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()


def gather_facts(cards: Mapping[str, Mapping[str, Any]], hidden: bool = False) -> Facts:
    """Put together what ingredients say of themselves.

    Args:
        cards (`Mapping[str, Mapping[str, Any]]`):
            Name of an ingredient -> the metadata of its card; at least one.
        hidden (`bool`, *optional*, defaults to `False`):
            Whether some are private: what they were trained on is not told then.

    Returns:
        [`Facts`]
    """
    names_by_license: dict[str, list[str]] = {}
    for name, card in cards.items():
        names_by_license.setdefault(_license_text(card), []).append(name)
    licenses = {text: tuple(names) for text, names in names_by_license.items()}
    agreed = License()
    if len(licenses) == 1:
        agreed = _license(next(iter(licenses)), next(iter(cards.values())), hidden=hidden)
        if agreed.id is not None or UNSTATED in licenses:  # nothing differs, so there is nothing to list
            licenses = {}
    languages = [code for code in _agreed(cards, "language") if re.fullmatch(LANGUAGE, code)]
    datasets: list[str] = []
    if not hidden:
        datasets = [name for name in _agreed(cards, "datasets") if re.fullmatch(DATASET, name)]
    return Facts(agreed, licenses, tuple(languages), tuple(datasets))


def _license(text: str, card: Mapping[str, Any], *, hidden: bool) -> License:
    """The licence that all ingredients have; none if the Hub would not take it.

    Args:
        text (`str`):
            What [`_license_text`] says of it.
        card (`Mapping[str, Any]`):
            The metadata of the first card that states it.
        hidden (`bool`):
            Whether an ingredient is private.
    """
    license_id = text.partition(":")[0]
    if not re.fullmatch(SLUG, license_id):
        return License()
    if license_id != "other":
        return License(license_id)
    license = License(license_id)
    name, link = card.get("license_name"), card.get("license_link")
    if isinstance(name, str):
        license = license._replace(name=name)
    if isinstance(link, str) and not hidden:  # it may lead to the repository of a private one
        license = license._replace(link=link)
    return license


def _license_text(card: Mapping[str, Any]) -> str:
    """The licence of one card, as it is compared with that of others and shown: `mit`, or `other: its name`."""
    licenses = [text.lower() for text in _strings(card.get("license"))] or [UNSTATED]
    if len(licenses) > 1:
        return " and ".join(sorted(licenses))
    name = card.get("license_name")
    if licenses == ["other"] and isinstance(name, str):  # two licences that the Hub has no id for may differ
        return f"other: {name}"
    return licenses[0]


def _agreed(cards: Mapping[str, Mapping[str, Any]], key: str) -> tuple[str, ...]:
    """What every card lists under a key, in the order of the first."""
    first, *others = [_strings(card.get(key)) for card in cards.values()]
    agreed = []
    for item in first:
        if all(item in strings for strings in others):
            agreed.append(item)
    return tuple(agreed)


def _strings(value: Any) -> list[str]:
    """A string or a list of them, as metadata may have either; anything else is nothing."""
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, str) and item.strip()]
