"""Facts from the model cards of ingredients: licences, languages and data sets, and whether they agree."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple


UNSTATED = "not stated"
# Values that the Hub accepts in the metadata of a card; it would reject the push for others.
SLUG = r"[a-z0-9][a-z0-9.-]*"
LANGUAGE = r"[a-z]{2,3}(-[A-Za-z0-9]+)?|code|multilingual"
DATASET = r"[\w.-]+(/[\w.-]+)?"


class License(NamedTuple):
    """A licence, as in the metadata of a card; all fields are `None` if there is none.

    Args:
        id (`str`, *optional*):
            Id of the licence, such as `"mit"`; `"other"` if the Hub has no id for it.
        name (`str`, *optional*), link (`str`, *optional*):
            Name and link of a licence that the Hub has no id for.
    """

    id: str | None = None
    name: str | None = None
    link: str | None = None


class Facts(NamedTuple):
    """Facts about a soup that follow from the cards of its ingredients.

    Args:
        license ([`License`], *optional*):
            Licence, if all ingredients have the same.
        licenses (`dict[str, tuple[str, ...]]`, *optional*):
            Names of the ingredients with each licence, if they differ.
        language (`tuple[str, ...]`, *optional*), datasets (`tuple[str, ...]`, *optional*):
            Languages and data sets that all ingredients name.
    """

    license: License = License()
    licenses: Mapping[str, tuple[str, ...]] = {}
    language: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()


def gather_facts(cards: Mapping[str, Mapping[str, Any]], hidden: bool = False) -> Facts:
    """Collect facts from the cards of ingredients.

    Args:
        cards (`Mapping[str, Mapping[str, Any]]`):
            Metadata of the cards by name of the ingredient; at least one.
        hidden (`bool`, *optional*, defaults to `False`):
            Whether some ingredients are private, so that their data sets are not named.

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
        if agreed.id is not None or UNSTATED in licenses:  # licences do not differ, so they are not listed
            licenses = {}
    languages = [code for code in _agreed(cards, "language") if re.fullmatch(LANGUAGE, code)]
    datasets: list[str] = []
    if not hidden:
        datasets = [name for name in _agreed(cards, "datasets") if re.fullmatch(DATASET, name)]
    return Facts(agreed, licenses, tuple(languages), tuple(datasets))


def _license(text: str, card: Mapping[str, Any], *, hidden: bool) -> License:
    """The licence that all ingredients have; empty if the Hub would not accept it.

    Args:
        text (`str`):
            Licence, as returned by [`_license_text`].
        card (`Mapping[str, Any]`):
            Metadata of the first card with this licence.
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
    if isinstance(link, str) and not hidden:  # the link may name a private repository
        license = license._replace(link=link)
    return license


def _license_text(card: Mapping[str, Any]) -> str:
    """The licence of one card as text, to compare and show: `mit`, or `other: its name`."""
    licenses = [text.lower() for text in _strings(card.get("license"))] or [UNSTATED]
    if len(licenses) > 1:
        return " and ".join(sorted(licenses))
    name = card.get("license_name")
    if licenses == ["other"] and isinstance(name, str):  # two licences without an id on the Hub may differ
        return f"other: {name}"
    return licenses[0]


def _agreed(cards: Mapping[str, Mapping[str, Any]], key: str) -> tuple[str, ...]:
    """The values that every card lists under a key, in the order of the first card."""
    first, *others = [_strings(card.get(key)) for card in cards.values()]
    agreed = []
    for item in first:
        if all(item in strings for strings in others):
            agreed.append(item)
    return tuple(agreed)


def _strings(value: Any) -> list[str]:
    """A string or a list of strings as a list; empty for other values."""
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, str) and item.strip()]
