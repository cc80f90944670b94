"""An analysis as one HTML file with embedded figures, readable offline, and the same as Markdown."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checkpoints.staging import staged_files
from ..display.blocks import TableBlock, blocks
from ..display.results import data_uri
from ..display.tables import align, escape_markup
from ..errors import MissingExtraError, RecipeError, warn
from ..untrusted import encodable


if TYPE_CHECKING:
    from matplotlib.figure import Figure

HTML_FILE, MARKDOWN_FILE, DATA_FILE = "index.html", "analysis.md", "analysis.json"


class Section(NamedTuple):
    """One part of a report.

    Args:
        name (`str`):
            Name that the files of the section begin with, such as `"similarity"`.
        heading (`str`):
            Finding of the section, as its heading.
        table (`str`):
            Markdown: tables, and sentences between them.
        figures (`tuple[tuple[str, Figure], ...]`):
            Name of a picture, and the picture.
        data (`dict[str, Any]`):
            Numbers of the section as plain values.
    """

    name: str
    heading: str
    table: str
    figures: tuple[tuple[str, Figure], ...]
    data: dict[str, Any]


def write_report(
    folder: str | os.PathLike[str],
    title: str,
    lead: str,
    sections: list[Section],
    *,
    command: str = "",
    html: bool = True,
) -> Path:
    """Write `index.html`, `analysis.md` with its figures, and `analysis.json`.

    Each file appears only when it is complete, and all at once if the folder is new.

    Args:
        folder (`str` or `os.PathLike`):
            Made where it is missing.
        title (`str`):
            Title of the report.
        lead (`str`):
            The whole in a sentence, best as what to do.
        sections (`list[Section]`):
            Sections of the report.
        command (`str`, *optional*):
            Command that follows from the report.
        html (`bool`, *optional*, defaults to `True`):
            Whether `index.html` is written: beside a model card Markdown is enough.

    Returns:
        `Path`: of the HTML file, or of the Markdown where there is none.

    Raises:
        [`OutputError`]: if it cannot be written.
    """
    with staged_files(folder) as stage:
        paragraphs = [f"# {escape_markup(title)}", escape_markup(lead)]
        if command:  # four spaces make it a code block, in which nothing needs escaping
            paragraphs.append(f"    {command}")
        for section in sections:
            paragraphs += [f"## {escape_markup(section.heading)}", as_markdown(section.table)]
            for name, figure in section.figures:
                figure.savefig(stage / f"{name}.png")
                paragraphs.append(f"![{section.name}]({name}.png)")
        (stage / MARKDOWN_FILE).write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")
        data = {section.name: section.data for section in sections}
        text = json.dumps(_finite(data), indent=2, default=str)  # other values are written as text
        (stage / DATA_FILE).write_text(text + "\n", encoding="utf-8")
        if html:
            # Names may contain lone surrogates, which UTF-8 cannot encode.
            (stage / HTML_FILE).write_text(encodable(render_html(title, lead, sections, command)), encoding="utf-8")
    return Path(folder) / (HTML_FILE if html else MARKDOWN_FILE)


def render_html(title: str, lead: str, sections: list[Section], command: str = "") -> str:
    """The report as one HTML file with embedded figures, and tables that are sorted by a click on a heading."""
    from importlib.resources import files

    import jinja2

    template = (files("hf_soup.analysis") / "templates" / "report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    entries = []
    for section in sections:
        entry = {
            "name": section.name,
            "heading": section.heading,
            # The template distinguishes blocks by their fields: `cells` of a table, `code` and `text` of a paragraph.
            "blocks": blocks(section.table),
            "pictures": [_picture(name, figure) for name, figure in section.figures],
        }
        entries.append(entry)
    return environment.from_string(template).render(title=title, lead=lead, command=command, sections=entries)


def as_markdown(table: str) -> str:
    """Terminal output as Markdown: cells and sentences contain untrusted names, which are escaped."""
    paragraphs = []
    for block in blocks(table):
        if isinstance(block, TableBlock):
            paragraphs.append(align(block.cells, escape=escape_markup))
            continue
        lines = block.text.split("\n")
        if block.code:  # nothing needs escaping in a code block
            paragraphs.append("\n".join(f"    {line}" for line in lines))
        else:
            paragraphs.append("\n".join(map(escape_markup, lines)))
    return "\n\n".join(paragraphs)


def figures_of(pictures: Mapping[str, Callable[[], Figure]]) -> tuple[tuple[str, Figure], ...]:
    """The figures of a result, if matplotlib is installed and there is something to draw.

    Args:
        pictures (`Mapping[str, Callable[[], Figure]]`):
            Name of each picture -> what draws it.

    Returns:
        `tuple[tuple[str, Figure], ...]`: name of a picture, and the picture.
    """
    try:
        return tuple((name, draw()) for name, draw in pictures.items())
    except MissingExtraError as error:
        warn(f"no picture was drawn: {error}")
        return ()
    except RecipeError:  # there is nothing to draw
        return ()


def _finite(value: Any) -> Any:
    """Plain values without NaN and infinity, which Python would write to JSON and other readers reject."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _picture(name: str, figure: Figure) -> dict[str, str]:
    """A figure for the template: its bytes, and its title as alternative text."""
    heading = figure.get_suptitle() or name
    return {
        "name": name,
        "uri": data_uri(figure),
        "alt": heading.replace("\n", " ").replace("\\$", "$"),  # the title without the escapes that prevent formulas
    }
