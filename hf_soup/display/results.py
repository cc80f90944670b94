"""How results are displayed: a short repr, a table when printed, and a table and figure in notebooks.

This is the mixin of all results. A result provides its `table`, and a function that draws its figure if it has one.
"""

from __future__ import annotations

import base64
import contextlib
import html
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from ..errors import MissingExtraError, SoupError
from .blocks import TableBlock, blocks


if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST = 100  # characters of a repr
NOTEBOOK_DPI = 110


class Result:
    """Base class of results: `print` shows the table, and a notebook shows the table and the figure."""

    def table(self) -> str:
        """The result as text."""
        raise NotImplementedError

    def _about(self) -> str:
        """A short description for the repr."""
        first_line = self.table().strip().split("\n")[0]
        return first_line if len(first_line) <= LONGEST else f"{first_line[:LONGEST]}..."

    def _picture(self) -> Figure | None:
        """The figure that a notebook shows below the table: that of `plot`, if the result has it."""
        plot: Callable[[], Figure] | None = getattr(self, "plot", None)
        return None if plot is None else plot()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._about()}>"

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        """The representation in notebooks; Jupyter calls this method."""
        parts = [_as_html(block) for block in blocks(self.table())]
        # without matplotlib, or without anything to draw, only the table is shown
        with contextlib.suppress(MissingExtraError, SoupError):
            figure = self._picture()
            if figure is not None:
                parts.append(f'<img alt="" style="max-width: 100%" src="{data_uri(figure, NOTEBOOK_DPI)}">')
        return "\n".join(parts)


def _as_html(block: object) -> str:
    """A table or a paragraph in HTML, with external names as plain text."""
    if not isinstance(block, TableBlock):
        text = html.escape(getattr(block, "text", ""))
        return f"<pre>{text}</pre>" if getattr(block, "code", False) else f"<p>{text.replace(chr(10), '<br>')}</p>"
    head, *body = block.cells
    lines = [_html_line("th", head, block.right), *(_html_line("td", line, block.right) for line in body)]
    return f"<table>{''.join(lines)}</table>"


def _html_line(tag: str, cells: list[str], right: list[bool]) -> str:
    """One line of a table."""
    columns = []
    for cell, is_right in zip(cells, right, strict=True):
        side = "right" if is_right else "left"
        columns.append(f'<{tag} style="text-align: {side}">{html.escape(cell)}</{tag}>')
    return f"<tr>{''.join(columns)}</tr>"


def data_uri(figure: Figure, dpi: float | Literal["figure"] = "figure") -> str:
    """A figure as a data URI, by default in the figure's own resolution."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
