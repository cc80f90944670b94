"""Pictures show names literally, whatever characters they contain, and stay readable."""

import io
import warnings

import matplotlib
import numpy as np
import pytest

from hf_soup.analysis import pictures
from hf_soup.analysis.points import Line, Mark
from hf_soup.analysis.points import Point as Place
from hf_soup.display import comparison as plots
from hf_soup.display import figure as pictures_in_general
from hf_soup.display import search
from hf_soup.display import sweep as sweep_plot


NAMES = ["$$", r"$x^$ \$y\$ {}%s" + "\ud800\n\x1b\x00", "x" * 5000]


def draw(name):
    """Yield every picture, with the same name wherever a name is used."""
    text = {"metric": name, "title": name}
    yield search.plot_search([search.Tried(1, 0.5, "kept", 0.4, 0.6)], where=name, lines={name: 0.5}, **text)
    kinds = ("ingredient", "soup")
    named = [search.Tried(1, 0.5, "single", name=name)]
    yield search.plot_search(named, where=name, lines={name: 0.5}, **text)
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
    """Dollar signs, control characters, lone surrogates and very long names are drawn and not parsed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about characters that the font lacks
        for figure in draw(name):
            figure.set_dpi(30)
            figure.savefig(io.BytesIO(), format="svg")
            width, height = figure.get_size_inches()
            assert width < 30 > height


def test_names_keep_their_dollars():
    """A picture shows dollar signs literally."""
    figure = plots.plot_scores([plots.Point("a", "$$5", "soup", 0.5, 0.4, 0.6)], metric="m", title="t")
    stream = io.StringIO()
    with_text = {"svg.fonttype": "none"}
    with matplotlib.rc_context(with_text):
        figure.savefig(stream, format="svg")
    assert ">$$5<" in stream.getvalue()


def test_long_names_keep_both_ends():
    """A long name is cut in the middle, because runs often differ only at the end of their names."""
    name = "vit-base-patch16-224-in21k-finetuned-digits-lr3e-4-seed1"
    short = pictures_in_general.shown(name, 24)
    assert len(short) == 24
    assert short.startswith("vit-base-")
    assert short.endswith("lr3e-4-seed1")
    assert pictures_in_general.shown("run-1", 24) == "run-1"


def test_every_picture_has_the_same_fonts_whatever_the_user_has_set():
    """All pictures have the same font sizes, whatever matplotlib settings the user has."""
    titles, labels, ticks = set(), set(), set()
    with matplotlib.rc_context({"font.size": 30, "xtick.labelsize": 30, "axes.labelsize": 30, "figure.titlesize": 30}):
        for figure in draw("a"):
            figure.set_dpi(30)
            figure.savefig(io.BytesIO(), format="png")
            axes = figure.get_axes()[0]
            titles.add(figure._suptitle.get_fontsize())
            labels.add(axes.xaxis.label.get_fontsize())
            ticks |= {label.get_fontsize() for label in axes.get_xticklabels()}
    assert (titles, labels, ticks) == ({11}, {9.5}, {9})


def test_an_ingredient_far_away_does_not_crush_the_others():
    """The axis ends near the models to compare, and an arrow marks an ingredient beyond it."""
    points = [
        plots.Point("test", "a", "ingredient", -60, -60, -60),
        plots.Point("test", "soup", "soup", 1, 0, 2),
        plots.Point("test", "best", "chosen", 0, 0, 0),
    ]
    axes = plots.plot_scores(points, metric="m", title="t", from_zero=True).axes[0]
    assert axes.get_xlim()[0] > -20
    assert [line.get_marker() for line in axes.get_lines()].count("<") == 1


def test_few_single_models_have_no_line():
    """A trend line is drawn only if there are enough single models for it to mean something."""

    def dashed(models):
        dots = [plots.Dot(f"run-{i}", "ingredient", i, 2 * i) for i in range(models)]
        figure = plots.plot_shifts([*dots, plots.Dot("soup", "soup", 2, 5)], metric="m", shifts="s", title="t")
        return [line for line in figure.axes[0].get_lines() if line.get_linestyle() == "--"]

    assert not dashed(3)
    assert len(dashed(8)) == 1


def test_trials_have_their_names_beside_the_axis():
    """Trials are named on the y-axis from top to bottom; if there are too many, the x-axis numbers them."""

    def axes(count):
        tried = [search.Tried(i, 0.5 + i / 1000, "single", name=f"run-{i}") for i in range(count)]
        return search.plot_search(tried, metric="m", where="trial", lines={"uniform": 0.6}, title="t").axes[0]

    few, many = axes(15), axes(150)
    assert [label.get_text() for label in few.get_yticklabels()] == [f"run-{i}" for i in range(15)]
    top, bottom = few.get_ylim()[::-1]
    assert top < bottom
    assert many.get_xlabel() == "trial"


@pytest.mark.parametrize("runs", [2, 6, 12])
def test_the_curves_of_a_sweep_are_told_apart(runs):
    """Each curve has a unique colour and line style, and the legend lists the names with the best first."""
    lines = [sweep_plot.Line(f"run-{i}", "eval_m", [1, 2], [0.1, 0.1 * i]) for i in range(runs)]
    figure = sweep_plot.plot_sweep([], lines, metric="m", best=f"run-{runs - 1}", title="t")
    curves = figure.get_axes()[1].get_lines()
    assert len({(curve.get_color(), curve.get_linestyle()) for curve in curves}) == runs
    legend = figure.subfigs[0].legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [f"run-{i}" for i in reversed(range(runs))]


@pytest.mark.parametrize("higher", [True, False])
def test_the_curves_of_many_runs_are_shaded_by_score(higher):
    """Of many runs only the best is named, and the others are darker the better they score."""
    lines = [sweep_plot.Line(f"run-{i}", "eval_m", [1, 2], [0.1, 0.1 * i]) for i in range(30)]
    best = "run-29" if higher else "run-0"
    figure = sweep_plot.plot_sweep([], lines, metric="m", best=best, title="t", higher_is_better=higher)
    greys = {}
    for curve in figure.get_axes()[1].get_lines():
        if curve.get_label() != best:
            greys[curve.get_ydata()[-1]] = float(curve.get_color())
    in_order = [greys[score] for score in sorted(greys, reverse=higher)]
    assert in_order == sorted(in_order)
    assert len(figure.subfigs[0].legends[0].get_texts()) == 2
