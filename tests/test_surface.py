"""The public names are exactly the documented ones."""

import inspect
import re
from pathlib import Path

import pytest

import hf_soup


DOCS = Path(__file__).parent.parent / "docs" / "reference.md"
NAMES = [name for name in hf_soup.__all__ if name != "__version__"]


def test_documented_names_are_the_public_ones():
    """`docs/reference.md` has a heading for every public name and for nothing else."""
    documented = re.findall(r"^### (?:class )?`hf_soup\.(\w+)`$", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(documented) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_public_name_is_there_and_explained(name):
    """Every public name can be imported and has a docstring; that of a function covers its parameters and result."""
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
    """Accessing a name that is not public raises an AttributeError."""
    with pytest.raises(AttributeError, match="no attribute 'blend'"):
        hf_soup.blend  # noqa: B018


def test_every_option_is_documented():
    """`docs/command_line.md` names each option of each command."""
    from hf_soup.cli import main

    text = (DOCS.parent / "command_line.md").read_text(encoding="utf-8")
    for command in main.commands.values():
        assert f"`hf-soup {command.name}" in text
        for option in (parameter for parameter in command.params if parameter.param_type_name == "option"):
            assert any(f"`{name}" in text for name in option.opts), f"{command.name} {option.opts}"


def test_every_key_is_documented():
    """`docs/cook_file.md` and `docs/recipe_file.md` name each key of the files they describe."""
    import dataclasses

    from hf_soup import options, types
    from hf_soup.formats import cook_file

    stages = (
        cook_file.CookFile,
        cook_file.Data,
        cook_file.ShiftedData,
        cook_file.PretrainStage,
        options.SweepOptions,
        options.MergeOptions,
        options.CompareOptions,
        options.SaveOptions,
        options.PushOptions,
    )
    for page, classes in (("cook_file.md", stages), ("recipe_file.md", (types.Recipe, types.Ingredient))):
        text = (DOCS.parent / page).read_text(encoding="utf-8")
        for field in (field for cls in classes for field in dataclasses.fields(cls)):
            assert re.search(rf"\b{field.name}\b", text), f"{page}: {field.name}"
