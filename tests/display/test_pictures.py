"""Pictures show names as they stand, whatever is in them."""

import io
import warnings

import numpy as np
import pytest

from hf_soup.analysis import pictures
from hf_soup.analysis.points import Line, Mark
from hf_soup.analysis.points import Point as Place
from hf_soup.display import comparison as plots
from hf_soup.display import search
from hf_soup.display import sweep as sweep_plot


NAMES = ["$$", r"$x^$ \$y\$ {}%s" + "\ud800\n\x1b\x00", "x" * 5000]


def draw(name):
    """Every picture with one name wherever a name goes."""
    text = {"metric": name, "title": name}
    yield search.plot_search([search.Tried(1, 0.5, "kept", 0.4, 0.6)], where=name, lines={name: 0.5}, **text)
    kinds = ("ingredient", "soup")
    yield plots.plot_scores([plots.Point(name, name, kind, 0.5, 0.4, 0.6) for kind in kinds], **text)
    yield plots.plot_shifts([plots.Dot(name, kind, 0.5, 0.6) for kind in kinds], shifts=name, **text)
    yield plots.plot_reliability([plots.Curve(name, "soup", [0.5], [0.5], [3])], title=name)
    settings = [sweep_plot.Setting(name, [name, 1], [0.5, 0.6], 0)]
    lines = [sweep_plot.Line(name, what, [1, 2], [0.5, 0.6]) for what in ("loss", f"eval_{name}")]
    yield sweep_plot.plot_sweep(settings, lines, best=name, **text)
    yield pictures.plot_heat([name, "b"], np.eye(2), label=name, title=name)
    yield pictures.plot_depth([name], {name: [(0.5, 0.4, 0.6)]}, title=name)
    line = Line(name, name, (0.0, 1.0), (Place(1.0, 0.5), Place(2.0, 0.5)))
    yield pictures.plot_lines([line], None, examples=3, **text)
    marks = [Mark(name, "corner", x, y, 0.0) for x, y in ((0, 0), (1, 0), (0, 1))]
    yield pictures.plot_plane([0, 1], [0, 1], np.ones((2, 2)), marks, examples=3, title=name)
    yield pictures.plot_diversity({name: 0.5}, {name: 0.5}, {name: 0.5}, **text)
    yield pictures.plot_bars([name], {name: [0.5]}, unit=name, title=name)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_no_formula(name):
    """Dollar signs, control codes, lone surrogates and very long names are drawn, not parsed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of signs that the font lacks
        for figure in draw(name):
            figure.set_dpi(30)
            figure.savefig(io.BytesIO(), format="svg")
            width, height = figure.get_size_inches()
            assert width < 30 > height


def test_names_keep_their_dollars():
    """A picture shows the sign itself."""
    figure = plots.plot_scores([plots.Point("a", "$$5", "soup", 0.5, 0.4, 0.6)], metric="m", title="t")
    stream = io.StringIO()
    with_text = {"svg.fonttype": "none"}
    import matplotlib

    with matplotlib.rc_context(with_text):
        figure.savefig(stream, format="svg")
    assert ">$$5<" in stream.getvalue()
