"""Returned objects have a one-line repr, print as a table and are shown as HTML in a notebook."""

import matplotlib.figure
import pytest

import hf_soup
from hf_soup import testing
from hf_soup.api.cook_plan import plan_cook
from hf_soup.api.sweep import plan_runs


DATA, TEST = testing.tiny_texts(24, seed=1), testing.tiny_texts(24, seed=2)


@pytest.fixture(scope="module")
def results(tmp_path_factory, text_runs):
    """One object of each type that a public function returns, by name."""
    folder = tmp_path_factory.mktemp("results")
    soup = hf_soup.merge(text_runs, strategy="greedy", evaluator=DATA)
    saved = soup.save_pretrained(folder / "soup")
    analysis = hf_soup.analyze(text_runs, evaluator=DATA, parts=hf_soup.options.PARTS, points=3)
    given = {"validation": DATA, "space": [{"seed": 0}], "training_args": {"max_steps": 1}}
    (folder / "cook.yaml").write_text(f"ingredients: [{text_runs[0]}]\nmerge: {{}}\noutput_dir: {folder}/out\n")
    return {
        "soup": soup,
        "selection": soup.selection,
        "recipe": soup.recipe,
        "comparison": hf_soup.compare(soup, test=TEST),
        "check": hf_soup.check(text_runs),
        "verification": hf_soup.verify(saved),
        "lineage": hf_soup.lineage(saved),
        "advice": hf_soup.advise(text_runs, DATA),
        "analysis": analysis,
        **{name: getattr(analysis, name) for name in hf_soup.options.PARTS},
        "plan of a sweep": plan_runs(text_runs[0], DATA, output_dir=folder / "runs", **given),
        "sweep": hf_soup.sweep(text_runs[0], DATA, output_dir=folder / "runs", **given),
        "plan of a cook": plan_cook(folder / "cook.yaml"),
        "cooked": hf_soup.cook(folder / "cook.yaml"),
    }


def test_a_repr_is_short_and_print_shows_the_table(results):
    """The repr of a result is one short line, and its string is its table."""
    for name, result in results.items():
        assert "\n" not in repr(result), name
        assert len(repr(result)) <= 200, name
        assert str(result) == result.table(), name
        assert len(str(result)) > 10, name


def test_a_notebook_shows_the_table_and_the_picture(results):
    """A notebook shows a result's table as HTML, and its picture if it has one."""
    for name, result in results.items():
        html = result._repr_html_()
        assert "<td" in html or "<p>" in html, name
        assert ("data:image/png" in html) == (hasattr(result, "plot") or name == "soup"), name


def test_names_of_others_are_text_in_a_notebook(text_runs):
    """Names are escaped in HTML, so they cannot act as markup."""
    named = hf_soup.load_ingredient(text_runs[0], name="<img src=x onerror=alert(1)>")
    html = hf_soup.merge([named, text_runs[1]])._repr_html_()
    assert "<img src=x" not in html
    assert "&lt;img" in html


def test_a_picture_shows_itself(results):
    """A figure displays itself as PNG in Jupyter without pyplot."""
    figure = results["selection"].plot()
    assert isinstance(figure, matplotlib.figure.Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_public_modules_need_no_import_of_their_own():
    """Public modules are attributes of hf_soup without an import of their own, as the documentation writes them."""
    assert hf_soup.metrics.load_metric("accuracy") is not None
    assert hf_soup.testing.tiny_texts(3).num_rows == 3
    assert hf_soup.transforms.shifted_copy
