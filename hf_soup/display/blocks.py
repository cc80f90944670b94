"""Parsing of a result's text into the package's own tables and the paragraphs between them."""

from __future__ import annotations

from typing import NamedTuple

from .tables import cells_of_table


class TableBlock(NamedTuple):
    """A parsed table.

    Args:
        cells (`list[list[str]]`):
            Line by line, the head first.
        right (`list[bool]`):
            Whether each column is aligned to the right.
    """

    cells: list[list[str]]
    right: list[bool]


class TextBlock(NamedTuple):
    """A paragraph.

    Args:
        text (`str`):
            Lines of the text, without indentation.
        code (`bool`):
            Whether they are commands.
    """

    text: str
    code: bool


def blocks(markdown: str) -> list[TableBlock | TextBlock]:
    """Split a text into the package's own tables and paragraphs.

    Args:
        markdown (`str`):
            Blocks with an empty line between them, as `.table()` of a result gives them.
    """
    result: list[TableBlock | TextBlock] = []
    for block in markdown.strip().split("\n\n"):
        lines = block.split("\n")
        # A table has a rule below its head: dashes, with a colon if a column is right-aligned.
        if len(lines) > 1 and lines[0].startswith("|") and set(lines[1]) <= set("|-: "):
            rule = lines[1].strip("|").split("|")
            result.append(TableBlock(cells_of_table(block), right=[cell.endswith(":") for cell in rule]))
        else:
            code = all(line.startswith("    ") for line in lines)
            result.append(TextBlock("\n".join(line.strip() for line in lines), code))
    return result
