"""What figures share: colours, fonts, labels, an empty figure. matplotlib is an optional extra, imported on use."""

from __future__ import annotations

import functools
import io
import itertools
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

from ..errors import MissingExtraError
from ..untrusted import one_line


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can distinguish. The keys are roles of models in a comparison.
COLORS = {"ingredient": "#999999", "chosen": "#E69F00", "uniform": "#56B4E9", "soup": "#009E73", "ensemble": "#CC79A7"}
# Models with the same role share a colour and use these markers in turn.
MARKERS = {"ingredient": "o", "chosen": "D", "uniform": "v", "soup": "sP*h", "ensemble": "^<>X"}
# The same authors' colours for elements without a role; green is reserved for highlights.
CYCLE = ("#0072B2", "#E69F00", "#CC79A7", "#56B4E9", "#D55E00", "#666666")
NOMINAL = "#0072B2"  # lines that models are compared with
GRID = "#e6e6e6"
LONGEST = 60  # characters of a name in a figure
LABEL = 24  # characters of a name on the axis next to the panels
WIDTH = 6.4  # inches: the text of a figure with this width is readable on a phone
SMALL = 8  # points: text inside a panel, where there is much of it
# The style of every figure, independent of the user's matplotlib settings.
STYLE: dict[Any, Any] = {  # matplotlib lists every key in its types
    "text.usetex": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "figure.titlesize": 11,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,  # the grid is behind the data
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "savefig.dpi": "figure",
}

Arguments = ParamSpec("Arguments")


def shown(name: str, most: int = LONGEST) -> str:
    """A name as shown in a figure: shortened in the middle, with dollar signs escaped so that they start no formula.

    Names of runs often differ only at their ends, so more is kept of the end than of the beginning.

    Args:
        name (`str`):
            A name that others gave.
        most (`int`, *optional*, defaults to 60):
            Number of characters above which it is cut.
    """
    line = one_line(name, len(name))
    if len(line) > most:
        end = 3 * (most - 1) // 5
        line = f"{line[: most - 1 - end]}…{line[-end:]}"
    return line.replace("$", r"\$")


def in_style(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Decorate a function so that it draws its figure in the fonts and sizes of `STYLE`.

    Args:
        draw (`Callable`):
            A function that returns a figure of [`figure_class`].
    """

    @functools.wraps(draw)
    def styled(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        figure_class()  # its error explains what to install if matplotlib is missing
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


def wrapped(title: str, width: int) -> str:
    """A title wrapped to lines of `width` characters, with dollar signs escaped."""
    lines = textwrap.wrap(one_line(title), width)
    return "\n".join(lines).replace("$", r"\$")  # a dollar sign would start a formula


@functools.cache
def figure_class() -> type[Figure]:
    """A matplotlib figure class that needs no display and that notebooks render as an image.

    Raises:
        [`MissingExtraError`]: if matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("pictures need matplotlib: pip install 'hf-soup[plot]'") from None

    class Picture(Figure):
        """A figure that renders itself; Jupyter renders matplotlib's own only after pyplot was imported."""

        def draw(self, renderer: Any) -> None:
            # The font of a family, such as sans-serif, is looked up when text is drawn.
            with matplotlib.rc_context(STYLE):
                super().draw(renderer)

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
    width: float,
    height: float,
    title: str,
    *,
    heights: Sequence[int] = (1,),
    columns: int = 1,
    share_x: bool = True,
    share_y: bool = False,
) -> tuple[Figure, list[Axes]]:
    """An empty figure with several panels in a grid.

    Args:
        width (`float`), height (`float`):
            Size of the figure in inches.
        title (`str`):
            Title of the figure.
        heights (`Sequence[int]`, *optional*):
            The relative height of each row of panels.
        columns (`int`, *optional*, defaults to 1):
            Panels beside each other.
        share_x (`bool`, *optional*, defaults to `True`), share_y (`bool`, *optional*, defaults to `False`):
            Whether all panels have one x axis, or one y axis.

    Returns:
        The figure, and its panels row by row.

    Raises:
        [`MissingExtraError`]: if matplotlib is not installed.
    """
    figure = new_canvas(width, height, title)
    grid = figure.subplots(len(heights), columns, height_ratios=heights, sharex=share_x, sharey=share_y, squeeze=False)
    return figure, list(grid.reshape(-1))


def new_canvas(width: float, height: float, title: str) -> Figure:
    """A figure with its title, and without panels.

    Args:
        width (`float`), height (`float`):
            In inches.
        title (`str`):
            What it shows.

    Raises:
        [`MissingExtraError`]: if matplotlib is not installed.
    """
    figure = figure_class()(figsize=(width, height), dpi=150, layout="constrained")
    figure.suptitle(wrapped(title, letters(width)), x=0.01, ha="left")
    return figure


def letters(width: float) -> int:
    """How many characters of a title fit into a width in inches."""
    return int(width * 11)


def markers_of(named: Sequence[tuple[str, str]]) -> dict[str, str]:
    """A marker for each model; models with the same role get different ones.

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
