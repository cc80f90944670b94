"""The JSON Schema of the recipe file, and recipes in earlier formats."""

import copy
import dataclasses
import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import yaml

import hf_soup
from hf_soup import testing
from hf_soup.errors import RecipeError
from hf_soup.formats.recipe_file import FORMAT, dump_recipe, load_recipe
from hf_soup.types import DataDescription, Ingredient, OutputRecord, Recipe, Selection, Trial


SCHEMA = json.loads((files("hf_soup.formats") / "recipe.schema.json").read_text(encoding="utf-8"))
OLD = sorted((Path(__file__).parent / "recipes").glob("format_*.yaml"))


def valid(recipe):
    """Whether the content of a recipe file conforms to the schema."""
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(recipe)


def test_the_schema_is_one_and_names_every_key():
    """The schema is a valid JSON Schema, and its keys are the fields of the classes that are read and written."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert set(SCHEMA["properties"]) == {"hf_soup_recipe", *(field.name for field in dataclasses.fields(Recipe))}
    for name, cls in (("ingredient", Ingredient), ("trial", Trial)):
        assert set(SCHEMA["$defs"][name]["properties"]) == {field.name for field in dataclasses.fields(cls)}
    assert SCHEMA["properties"]["hf_soup_recipe"]["const"] == FORMAT


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weights": {"": [2, 1, 1], "classifier": [1, 0, 0]}, "dtype": "bfloat16"},
        {"method": "ties", "base_model": 0},
        {"method": "fisher", "importance_data": testing.tiny_texts(4)},
        {"strategy": "greedy", "folds": 2},
        {"strategy": "interpolate", "base_model": 0},
        {"strategy": "greedy", "evaluator": "a function"},
    ],
)
def test_recipes_that_we_write_are_valid(tmp_path, text_runs, options):
    """The recipe of every kind of soup conforms to the schema."""
    options = {**options, **({"base_model": text_runs[2]} if "base_model" in options else {})}
    if options.get("evaluator"):
        options["evaluator"] = lambda model: next(model.parameters()).mean().item()
    elif "strategy" in options:
        options["evaluator"] = testing.tiny_texts(12)
    folder = hf_soup.merge(text_runs, **options).save_pretrained(tmp_path / "soup")
    recipe = yaml.safe_load((folder / "soup_recipe.yaml").read_text())
    jsonschema.validate(recipe, SCHEMA)


@pytest.mark.parametrize(
    "change",
    [
        {"hf_soup_recipe": 2},
        {"ingredients": []},
        {"ingredients": [{"name": "a"}]},
        {"ingredients": [{"name": "a", "source": "a", "sauce": 1}]},
        {"ingredients": [{"name": "a", "source": "a", "files": {"x": 1}}]},
        {"weights": "1, 1"},
        {"weights": {}},
        {"weights": ["1", "1"]},
        {"method": 3},
        {"seed": 0.5},
        {"alignments": {"a": [0.5]}},
        {"base_model": "bert"},
        {"unknown": 1},
        {"weights": None},
    ],
)
def test_what_is_not_valid_is_not_read_either(tmp_path, change):
    """The schema and the reader reject the same mistakes."""
    recipe = {
        "hf_soup_recipe": 1,
        "ingredients": [{"name": "a", "source": "a"}, {"name": "b", "source": "b"}],
        "weights": [1, 1],
    }
    path = tmp_path / "soup_recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert valid(recipe)
    assert load_recipe(path).names == ("a", "b")
    wrong = copy.deepcopy(recipe) | change
    path.write_text(yaml.safe_dump(wrong))
    assert not valid(wrong)
    with pytest.raises(RecipeError):
        load_recipe(path)


def test_there_is_a_recipe_of_every_format():
    """There is an example file for every recipe format up to the current one."""
    assert [path.stem for path in OLD] == [f"format_{number}" for number in range(1, FORMAT + 1)]


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_recipes_of_earlier_days_stay_readable(path):
    """A recipe in an earlier format is read with all its values and keeps its fingerprint when written again."""
    recipe = load_recipe(path)
    assert recipe.names == ("run-2", "bert-run1")
    assert recipe.ingredients[1].source == "user/bert-run1"
    assert recipe.ingredients[1].files["model.safetensors"].startswith("sha256:9a")
    assert recipe.weights_by_module == {"": (1.0, 1.0), "classifier": (1.0, 0.0)}
    assert recipe.base_model.name == "base"
    assert recipe.alignments == {"run-2": (1, 0)}
    assert recipe.params == {"normalize": False}
    assert recipe.selection == Selection(
        "greedy",
        metric="accuracy",
        dataset=DataDescription("user/data", "xxh3-128:0", 1000),
        score=0.94,
        trials=(Trial("run-2", True, "the best alone", score=0.93, ingredient="run-2"),),
        why="It stopped at two.",
    )
    assert recipe.output == OutputRecord(72, "xxh3-128:d4bdfb4f540262e629152cb7d1e3e72e")
    again = load_recipe_text(dump_recipe(recipe), path)
    assert again.fingerprint() == recipe.fingerprint()


def load_recipe_text(text, like):
    """Load a recipe from its text in a temporary folder."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / like.name
        path.write_text(text)
        return load_recipe(path)
