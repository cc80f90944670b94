"""What pictures have in common: colours, markers, names, an empty figure. matplotlib is an extra, imported at use."""

from __future__ import annotations

import functools
import io
import itertools
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..errors import MissingExtraError
from ..untrusted import one_line


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart. The keys are roles of models in a comparison.
COLORS = {"ingredient": "#999999", "chosen": "#E69F00", "uniform": "#56B4E9", "soup": "#009E73", "ensemble": "#CC79A7"}
# Models of one role have one colour, and these markers in turn.
MARKERS = {"ingredient": "o", "chosen": "D", "uniform": "v", "soup": "sP*h", "ensemble": "^<>X"}
NOMINAL = "#0072B2"  # lines that models are compared with
GRID = "#eeeeee"
LONGEST = 60  # characters of a name in a picture


def shown(name: str, most: int = LONGEST) -> str:
    """A name as a picture shows it: short, and as it stands, since dollar signs would make it a formula."""
    return one_line(name, most).replace("$", r"\$")


def wrapped(title: str, width: int) -> str:
    """A title in lines of so many characters, as it stands."""
    lines = textwrap.wrap(one_line(title), width)
    return "\n".join(lines).replace("$", r"\$")  # a formula would begin at a dollar sign


@functools.cache
def figure_class() -> type[Figure]:
    """matplotlib's figure, which needs no screen, and which a notebook shows as a picture.

    Raises:
        [`MissingExtraError`]: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("pictures need matplotlib: pip install 'hf-soup[plot]'") from None

    class Picture(Figure):
        """A figure that shows itself: Jupyter knows matplotlib's own as pictures only once pyplot was imported."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=110)
            return buffer.getvalue()

    return Picture


def new_figure(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """An empty figure with one panel.

    Args:
        width (`float`), height (`float`):
            Size in inches.
        title (`str`):
            Title of the figure.

    Raises:
        [`MissingExtraError`]: if matplotlib is not installed.
    """
    figure, panels = new_panels(width, height, title)
    return figure, panels[0]


def new_panels(
    width: float, height: float, title: str, *, heights: Sequence[int] = (1,), columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """An empty figure with several panels, below or beside each other.

    Args:
        width (`float`), height (`float`):
            Size of the figure in inches.
        title (`str`):
            Title of the figure.
        heights (`Sequence[int]`, *optional*):
            The relative height of each row of panels.
        columns (`int`, *optional*, defaults to 1):
            Panels beside each other.

    Returns:
        The figure, and its panels row by row.

    Raises:
        [`MissingExtraError`]: if matplotlib is not installed.
    """
    figure = figure_class()(figsize=(width, height), dpi=150, layout="constrained")
    grid = figure.subplots(len(heights), columns, height_ratios=heights, sharex=True, squeeze=False)
    panels: list[Axes] = list(grid.reshape(-1))
    text = wrapped(title, int(width * 11))  # about 11 characters of this size fit into an inch
    if columns == 1:
        panels[0].set_title(text, fontsize=10, loc="left")
    else:
        figure.suptitle(text, fontsize=10, x=0.01, ha="left")
    for panel in panels:
        panel.set_axisbelow(True)  # the grid lies behind what is drawn
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels


def markers_of(named: Sequence[tuple[str, str]]) -> dict[str, str]:
    """A marker for each model, of those of its role in turn.

    Args:
        named (`Sequence[tuple[str, str]]`):
            Name and role of each.
    """
    markers: dict[str, str] = {}
    markers_left: dict[str, Iterator[str]] = {}
    for name, role in named:
        if role not in markers_left:
            markers_left[role] = itertools.cycle(MARKERS[role])
        markers[name] = next(markers_left[role])
    return markers
