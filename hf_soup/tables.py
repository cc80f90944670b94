"""Rows of cells -> a Markdown table whose columns stand below each other, so that it reads well in a terminal too."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from .untrusted import encodable, one_line


LONGEST = 1000  # characters of a cell
# What makes links, HTML, formulas and cells.
MARKUP = re.compile(
    r"[\\`<>&|$*#~{}]|\]\s*[(:\[]|://|\bwww\.", re.IGNORECASE
)  # what makes links, HTML, formulas, cells


def align(lines: Sequence[Sequence[str]], escape: Callable[[str], str] | None = None) -> str:
    """Lay out a table; the first column is flush left, the others flush right.

    Args:
        lines (`Sequence[Sequence[str]]`):
            Its cells, as many in each line; the first line is the head.
        escape (`Callable`, *optional*):
            What makes plain text of a cell; by default only the bars of a table are escaped.

    Raises:
        [`ValueError`]: if a line has more or fewer cells than the head: they would stand below another column.
    """
    for line in lines:
        if len(line) != len(lines[0]):
            raise ValueError(f"a table of {list(lines[0])} has a line of {len(line)} cells: {list(line)}")
    escape = escape or (lambda cell: cell.replace("|", "\\|"))
    lines = [[escape(one_line(cell, LONGEST)) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 1) + (":" if column else "-") for column, width in enumerate(widths)) + "|"
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, rule, *body])


def escape(text: object) -> str:
    """Text from elsewhere (names, labels) as plain text in Markdown: no link, no HTML, no table cell of its own."""
    escaped = re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", one_line(encodable(str(text)), LONGEST))
    return re.sub(r"\bwww\.", r"www\\.", escaped.replace("://", ":\\//"), flags=re.IGNORECASE)


def escape_markup(text: object) -> str:
    """The same where there is anything to escape; numbers, intervals and ordinary names stay as they are."""
    plain = one_line(encodable(str(text)), LONGEST)
    return escape(text) if MARKUP.search(plain) else plain


def cell(value: Any) -> str:
    """One setting as a table shows it."""
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def shared_line(settings: Mapping[str, Any], varied: Collection[str]) -> list[str]:
    """The line below a table of runs that says what all have alike; no line where there is nothing.

    Args:
        settings (`Mapping[str, Any]`):
            What the runs share.
        varied (`Collection[str]`):
            Names of settings that have a column in the table.
    """
    common = ", ".join(f"{name}={cell(value)}" for name, value in settings.items() if name not in varied)
    return [f"\nAll: {common}"] if common else []
