"""Rows of cells -> a Markdown table whose columns stand below each other, so that it reads well in a terminal too."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence

from ..untrusted import encodable, one_line


LONGEST = 1000  # characters of a cell
# What makes links, HTML, formulas and cells.
MARKUP = re.compile(r"[\\`<>&|$*#~{}]|\]\s*[(:\[]|://|\bwww\.", re.IGNORECASE)


def align(lines: Sequence[Sequence[str]], escape: Callable[[str], str] | None = None) -> str:
    """Lay out a table; the first column is flush left, the others flush right.

    Args:
        lines (`Sequence[Sequence[str]]`):
            Cells of the table, the same number in each line. The first line is the head.
        escape (`Callable`, *optional*):
            Function that turns a cell into plain text; by default only the bars of a table are escaped.

    Raises:
        [`ValueError`]: if a line has more or fewer cells than the head: they would stand below another column.
    """
    for line in lines:
        if len(line) != len(lines[0]):
            raise ValueError(f"a table of {list(lines[0])} has a line of {len(line)} cells: {list(line)}")
    cells = [_plain_cells(line, escape or _escape_bars) for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    head, *body = [_padded(line, widths) for line in cells]
    return "\n".join([head, _rule(widths), *body])


def _plain_cells(line: Sequence[str], plain_text: Callable[[str], str]) -> list[str]:
    """The cells of a line, short and without line breaks, as plain text."""
    return [plain_text(one_line(cell, LONGEST)) for cell in line]


def _rule(widths: Sequence[int]) -> str:
    """What stands between head and body; Markdown takes a column that ends in a colon as flush right."""
    dashes = ["-" * (widths[0] + 2)]  # a cell has a space on either side
    for width in widths[1:]:
        dashes.append("-" * (width + 1) + ":")
    return f"|{'|'.join(dashes)}|"


def _escape_bars(cell: str) -> str:
    """A cell whose bars end no cell."""
    return cell.replace("|", "\\|")


def _padded(cells: Sequence[str], widths: Sequence[int]) -> str:
    """One line of a table: its first cell flush left, the others flush right."""
    first = cells[0].ljust(widths[0])
    others = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return f"| {' | '.join([first, *others])} |"


def escape(text: object) -> str:
    """Text from elsewhere (names, labels) as plain text in Markdown: no link, no HTML, no table cell of its own."""
    escaped = re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", one_line(encodable(str(text)), LONGEST))
    # GitHub's Markdown makes links of bare addresses, too.
    without_schemes = escaped.replace("://", ":\\//")
    return re.sub(r"\bwww\.", r"www\\.", without_schemes, flags=re.IGNORECASE)


def escape_markup(text: object) -> str:
    """The same where there is anything to escape; numbers, intervals and ordinary names stay as they are."""
    plain = one_line(encodable(str(text)), LONGEST)
    return escape(text) if MARKUP.search(plain) else plain


def cell(value: object) -> str:
    """One setting as a table shows it."""
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def shared_line(settings: Mapping[str, object], varied: Collection[str]) -> list[str]:
    """The line below a table of runs that says what all have alike; no line where there is nothing.

    Args:
        settings (`Mapping[str, Any]`):
            Settings that the runs share.
        varied (`Collection[str]`):
            Names of settings that have a column in the table.
    """
    common = []
    for name, value in settings.items():
        if name not in varied:
            common.append(f"{name}={cell(value)}")
    return [f"\nAll: {', '.join(common)}"] if common else []
