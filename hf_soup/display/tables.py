"""Markdown tables with aligned columns, which are readable in a terminal too."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence

from ..untrusted import encodable, one_line


LONGEST = 1000  # characters of a cell
SHORTEST = 12  # minimum length to which cells are cut if a table is too wide for a terminal
CUT = "…"  # stands for the omitted middle of a text
# `NUMBER` matches a number with a sign, a unit or an interval, or an interval alone; `MARKUP` matches whatever makes
# links, HTML, formulas and cells.
NUMBER = re.compile(r"[-+]?\d[\d,.]*(e[-+]?\d+)?( ?%| ?[A-Za-z]{1,2})?( \[[^\]]*\])?|\[[-+\d][^\]]*\]")
NOT_KNOWN = ("", "-", "?")  # cells that are not numbers but may occur in a numeric column
MARKUP = re.compile(r"[\\`<>&|$*#~{}]|\]\s*[(:\[]|://|\bwww\.", re.IGNORECASE)


def align(lines: Sequence[Sequence[str]], escape: Callable[[str], str] | None = None) -> str:
    """Lay out a table: numeric columns are right-aligned, text columns and the first column left-aligned.

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
    # of the original cells: escaping would hide the brackets of an interval
    columns = list(zip(*lines, strict=True))
    right = [False, *(_holds_numbers(column[1:]) for column in columns[1:])]
    head, *body = [_padded(line, widths, right) for line in cells]
    return "\n".join([head, _rule(widths, right), *body])


def _holds_numbers(column: Sequence[str]) -> bool:
    """Whether a column, without its head, contains only numbers."""
    known = [cell for cell in column if cell not in NOT_KNOWN]
    return bool(known) and all(NUMBER.fullmatch(cell) for cell in known)


def _plain_cells(line: Sequence[str], plain_text: Callable[[str], str]) -> list[str]:
    """The cells of a line, shortened, without line breaks, as plain text."""
    return [plain_text(one_line(cell, LONGEST)) for cell in line]


def _rule(widths: Sequence[int], right: Sequence[bool]) -> str:
    """The rule between head and body; a colon at the end of a column means right-aligned in Markdown."""
    dashes = []
    for width, is_right in zip(widths, right, strict=True):  # a cell has a space on both sides
        dashes.append("-" * (width + 1) + (":" if is_right else "-"))
    return f"|{'|'.join(dashes)}|"


def _escape_bars(cell: str) -> str:
    """A cell with its vertical bars escaped."""
    return cell.replace("|", "\\|")


def _padded(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    """One line of a table."""
    padded = []
    for cell, width, is_right in zip(cells, widths, right, strict=True):
        padded.append(cell.rjust(width) if is_right else cell.ljust(width))
    return f"| {' | '.join(padded)} |"


def fitted(text: str, width: int) -> str:
    """Fit the text of a result to a terminal: the longest texts of wide tables are cut in the middle.

    Args:
        text (`str`):
            Tables and paragraphs, as `.table()` of a result gives them.
        width (`int`):
            Characters in a line of the terminal.
    """
    sections = text.split("\n\n")
    for index, section in enumerate(sections):
        lines = section.split("\n")
        if lines[0].startswith("|") and len(lines[0]) > width:
            sections[index] = align(_cut_to(cells_of_table(section), width))
    return "\n\n".join(sections)


def cells_of_table(table: str) -> list[list[str]]:
    """The cells of a table made by [`align`], starting with the head and without the rule."""
    head, _, *body = table.split("\n")
    cells = []
    for line in (head, *body):
        # An escaped bar belongs to a cell: a character that no name contains replaces it while the line is split.
        inner = line.strip().removeprefix("|").removesuffix("|").replace("\\|", "\0")
        cells.append([cell.strip().replace("\0", "|") for cell in inner.split("|")])
    return cells


def _cut_to(cells: list[list[str]], width: int) -> list[list[str]]:
    """Cut the longest texts of a table until it fits; numbers and short texts are not cut."""
    columns = list(zip(*cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    texts = [index for index, column in enumerate(columns) if index == 0 or not _holds_numbers(column[1:])]
    too_wide = sum(widths) + 3 * len(widths) + 1 - width
    while too_wide > 0:
        # one character at a time from the widest column, so that several long columns shrink equally
        widest = max(texts, key=widths.__getitem__)
        if widths[widest] <= SHORTEST:
            break
        widths[widest] -= 1
        too_wide -= 1
    return [[cut_in_the_middle(cell, widths[index]) for index, cell in enumerate(line)] for line in cells]


def cut_in_the_middle(text: str, most: int) -> str:
    """A text shortened to at most `most` characters, with its beginning and its end."""
    if len(text) <= most:
        return text
    kept = most - len(CUT)
    end = kept // 2
    return f"{text[: kept - end]}{CUT}{text[len(text) - end :]}"


def escape(text: object) -> str:
    """External text (names, labels) as plain text in Markdown: without links, HTML or cell separators."""
    escaped = re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", one_line(encodable(str(text)), LONGEST))
    # GitHub's Markdown also turns bare addresses into links.
    without_schemes = escaped.replace("://", ":\\//")
    return re.sub(r"\bwww\.", r"www\\.", without_schemes, flags=re.IGNORECASE)


def escape_markup(text: object) -> str:
    """The same, if there is anything to escape; numbers, intervals and ordinary names are unchanged."""
    plain = one_line(encodable(str(text)), LONGEST)
    return escape(text) if MARKUP.search(plain) else plain


def cell(value: object) -> str:
    """A setting as shown in a table."""
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def shared_line(settings: Mapping[str, object], varied: Collection[str]) -> list[str]:
    """The line below a table of runs with the settings that all share; empty if there are none.

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
