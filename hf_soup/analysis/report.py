"""An analysis as one file: HTML with its pictures inside, readable without network, and the same as Markdown."""

from __future__ import annotations

import base64
import io
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checkpoints.staging import staged_files
from ..errors import MissingExtraError, RecipeError, warn
from ..tables import align, escape_markup
from ..untrusted import encodable


if TYPE_CHECKING:
    from matplotlib.figure import Figure

HTML_FILE, MARKDOWN_FILE, DATA_FILE = "index.html", "analysis.md", "analysis.json"


class Section(NamedTuple):
    """One part of a report.

    Args:
        name (`str`):
            What files are called after, such as `"similarity"`.
        heading (`str`):
            What it found.
        table (`str`):
            Markdown: tables, and sentences between them.
        figures (`tuple[tuple[str, Figure], ...]`):
            Name of a picture, and the picture.
        data (`Any`):
            Its numbers as plain values.
    """

    name: str
    heading: str
    table: str
    figures: tuple[tuple[str, Figure], ...]
    data: Any


def write_report(
    folder: str | os.PathLike, title: str, lead: str, sections: list[Section], *, html: bool = True
) -> Path:
    """Write `index.html`, `analysis.md` with its pictures, and `analysis.json`.

    Files appear whole, and together where the folder is new.

    Args:
        folder (`str` or `os.PathLike`):
            Made where it is missing.
        title (`str`):
            What the report is of.
        lead (`str`):
            The whole in a sentence.
        sections (`list[Section]`):
            Its parts.
        html (`bool`, *optional*, defaults to `True`):
            Whether `index.html` is written: beside a model card Markdown is enough.

    Returns:
        `Path`: of the HTML file, or of the Markdown where there is none.

    Raises:
        [`OutputError`]: if it cannot be written.
    """
    with staged_files(folder) as stage:
        parts = [f"# {escape_markup(title)}", escape_markup(lead)]
        for section in sections:
            parts += [f"## {escape_markup(section.heading)}", as_markdown(section.table)]
            for name, figure in section.figures:
                figure.savefig(stage / f"{name}.png")
                parts.append(f"![{section.name}]({name}.png)")
        (stage / MARKDOWN_FILE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")
        data = {section.name: section.data for section in sections}
        text = json.dumps(_finite(data), indent=2, default=str)
        (stage / DATA_FILE).write_text(text + "\n", encoding="utf-8")
        if html:
            (stage / HTML_FILE).write_text(encodable(render_html(title, lead, sections)), encoding="utf-8")
    return Path(folder) / (HTML_FILE if html else MARKDOWN_FILE)


def render_html(title: str, lead: str, sections: list[Section]) -> str:
    """The report as one HTML file: pictures inside it, tables that sort by a click on their head."""
    from importlib.resources import files

    import jinja2

    template = (files("hf_soup.analysis") / "templates" / "report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    shown = [
        {
            "name": part.name,
            "heading": part.heading,
            "blocks": blocks(part.table),
            "pictures": list(map(_data_uri, part.figures)),
        }
        for part in sections
    ]
    return environment.from_string(template).render(title=title, lead=lead, sections=shown)


def blocks(markdown: str) -> list[dict[str, Any]]:
    """Our own tables and paragraphs, taken apart: `{"rows": ..., "right": ...}` or `{"text": ...}`."""
    found = []
    for block in markdown.strip().split("\n\n"):
        lines = block.split("\n")
        if len(lines) > 1 and lines[0].startswith("|") and set(lines[1]) <= set("|-: "):
            cells = [_cells(line) for line in lines]
            found.append({"rows": [cells[0], *cells[2:]], "right": [cell.endswith(":") for cell in cells[1]]})
        else:
            code = all(line.startswith("    ") for line in lines)
            found.append({"text": "\n".join(line.strip() for line in lines), "code": code})
    return found


def as_markdown(table: str) -> str:
    """What a terminal shows as a Markdown file has it: cells and sentences hold names that others gave."""
    parts = []
    for block in blocks(table):
        if "rows" in block:
            parts.append(align(block["rows"], escape=escape_markup))
        elif block["code"]:
            parts.append("\n".join(f"    {line}" for line in block["text"].split("\n")))
        else:
            parts.append("\n".join(map(escape_markup, block["text"].split("\n"))))
    return "\n\n".join(parts)


def figures_of(what: Any, *kinds: str, name: str) -> tuple[tuple[str, Figure], ...]:
    """Pictures of a result, where matplotlib is installed."""
    try:
        if not kinds:
            return ((name, what.plot()),)
        return tuple((f"{name}-{kind}", what.plot(kind)) for kind in kinds)
    except MissingExtraError as error:
        warn(f"no picture was drawn: {error}")
        return ()
    except RecipeError:  # there is nothing to draw
        return ()


def _finite(value: Any) -> Any:
    """Plain values without numbers that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _cells(line: str) -> list[str]:
    """The cells of a row; a bar within one is escaped."""
    inner = line.strip().removeprefix("|").removesuffix("|").replace("\\|", "\0")
    return [cell.strip().replace("\0", "|") for cell in inner.split("|")]


def _data_uri(named: tuple[str, Figure]) -> dict[str, str]:
    name, figure = named
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    text = base64.b64encode(stream.getvalue()).decode()
    panels = [panel.get_title(loc="left") for panel in figure.get_axes()]
    heading = next((title for title in [*panels, figure.get_suptitle()] if title), name)
    return {
        "name": name,
        "uri": f"data:image/png;base64,{text}",
        "alt": heading.replace("\n", " ").replace("\\$", "$"),
    }
