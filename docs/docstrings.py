"""Docstrings of Hugging Face's form: their text, their arguments, what they return and raise. For `generate.py`."""

from __future__ import annotations

import inspect
import re
from typing import Any, NamedTuple


ENTRY = re.compile(r"(?P<name>\*{0,2}\w+)(?: \((?P<type>.*)\))?:$")


class Entry(NamedTuple):
    """One argument or attribute in a docstring."""

    name: str
    type: str
    text: str


class Docstring(NamedTuple):
    """A docstring of Hugging Face's form: its text, and its sections."""

    text: str
    arguments: list[Entry]
    returns: str
    raises: list[str]


def read_docstring(thing: Any) -> Docstring:
    """The docstring of a function or class, in its parts."""
    sections: dict[str, list[str]] = {"": []}
    current = ""
    for line in (inspect.getdoc(thing) or "").splitlines():
        if re.fullmatch(r"(Args|Returns|Raises|Attributes|Yields|Examples?):", line):
            current = line[:-1]
            sections[current] = []
            continue
        if line and not line.startswith(" "):  # text again
            current = ""
        sections[current].append(line)
    returns = " ".join(line.strip() for line in sections.get("Returns", []))
    return Docstring(
        text="\n".join(sections[""]).strip(),
        arguments=_entries(sections.get("Args") or sections.get("Attributes") or []),
        returns=returns.strip(),
        raises=_items(sections.get("Raises", [])),
    )


def _entries(lines: list[str]) -> list[Entry]:
    entries: list[Entry] = []
    for line in lines:
        if line.startswith("    ") and not line.startswith("     "):
            head = line.strip()
            match = ENTRY.fullmatch(head)
            entries.append(Entry(match["name"], match["type"] or "", "") if match else Entry(head.rstrip(":"), "", ""))
        elif line.strip() and entries:
            last = entries[-1]
            entries[-1] = last._replace(text=f"{last.text} {line.strip()}".strip())
    return entries


def _items(lines: list[str]) -> list[str]:
    """The items of a section, whose further lines are indented more."""
    items: list[str] = []
    for line in lines:
        if not line.strip():
            continue
        if line.startswith("     ") and items:
            items[-1] += f" {line.strip()}"
        else:
            items.append(line.strip())
    return items
