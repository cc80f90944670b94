"""The public names are the documented ones."""

import inspect
import re
from pathlib import Path

import pytest

import hf_soup


DOCS = Path(__file__).parent.parent / "docs" / "reference.md"
NAMES = [name for name in hf_soup.__all__ if name != "__version__"]


def test_documented_names_are_the_public_ones():
    """`docs/reference.md` has a heading for every public name and for nothing else."""
    documented = re.findall(r"^### `hf_soup\.(\w+)", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(documented) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_public_name_is_there_and_explained(name):
    """Every public name imports, and has a docstring with the sections of Hugging Face's form that it needs."""
    thing = getattr(hf_soup, name)
    text = inspect.getdoc(thing) or ""
    assert text
    if inspect.isfunction(thing):
        for parameter in inspect.signature(thing).parameters.values():
            assert re.search(rf"^ *{parameter.name}( \(.*\))?:$", text, flags=re.MULTILINE), parameter.name
            assert parameter.annotation is not inspect.Parameter.empty, parameter.name
        assert "Returns:" in text
        assert "Raises:" in text


def test_an_unknown_name_is_an_attribute_error():
    """What is not public is not there."""
    with pytest.raises(AttributeError, match="no attribute 'blend'"):
        hf_soup.blend  # noqa: B018
