"""What the verbs return, as a person sees it: a short repr, a table when printed, table and picture in a notebook.

The mixin of all results. It knows no numbers: a result says its `table`, and what draws its picture if it has one.
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
    """A result of a verb: `print` shows its table, and a notebook its table and picture."""

    def table(self) -> str:
        """The result as text."""
        raise NotImplementedError

    def _about(self) -> str:
        """What its repr says of it, in a few words."""
        first_line = self.table().strip().split("\n")[0]
        return first_line if len(first_line) <= LONGEST else f"{first_line[:LONGEST]}..."

    def _picture(self) -> Figure | None:
        """The picture that a notebook shows below the table: that of `plot`, if the result has one."""
        plot: Callable[[], Figure] | None = getattr(self, "plot", None)
        return None if plot is None else plot()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._about()}>"

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        """What a notebook shows: Jupyter asks for it by this name."""
        parts = [_as_html(block) for block in blocks(self.table())]
        # without matplotlib, or where there is nothing to draw, the table is all there is
        with contextlib.suppress(MissingExtraError, SoupError):
            figure = self._picture()
            if figure is not None:
                parts.append(f'<img alt="" style="max-width: 100%" src="{data_uri(figure, NOTEBOOK_DPI)}">')
        return "\n".join(parts)


def _as_html(block: object) -> str:
    """A table or a paragraph in HTML, with names that others gave as plain text."""
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
    """A picture as an address that holds it, by default in the figure's own resolution."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
