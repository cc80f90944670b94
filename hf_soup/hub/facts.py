"""What the model cards of ingredients say: licences, languages and data sets, and whether they agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


UNSTATED = "not stated"


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
    if len(licenses) == 1 and UNSTATED not in licenses:
        first = next(iter(cards.values()))
        agreed = {"license": licenses.popitem()[0].partition(":")[0]}
        more = (
            {key: first.get(key) for key in ("license_name", "license_link")} if agreed["license"] == "other" else {}
        )
        agreed |= {key: value for key, value in more.items() if isinstance(value, str)}
    elif set(licenses) == {UNSTATED}:
        licenses = {}
    datasets = () if hidden else _agreed(cards, "datasets")
    return Facts(agreed, licenses, _agreed(cards, "language"), datasets)


def _license(card: Mapping[str, Any]) -> str:
    """`mit`, or `other: its name`."""
    (license, *more) = _strings(card.get("license")) or [UNSTATED]
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
