"""Recipes and cook files are read back as they were written, and mistakes in them are reported with their place."""

import dataclasses
import math

import hypothesis
import pytest
import yaml
from hypothesis import strategies as st

from hf_soup.errors import RecipeError
from hf_soup.formats.cook_file import load_cook_file
from hf_soup.formats.recipe_file import dump_recipe, load_recipe
from hf_soup.types import DataDescription, Folds, Holdout, Ingredient, Recipe, Selection, Trial


TEXT = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=12)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64).filter(lambda number: number != 0)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@hypothesis.settings(
    max_examples=100, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.example(names=["1e-5", "null", "07"], weight=1.0, params={"a": "1e-3"}, seed=0)
@hypothesis.given(
    names=st.lists(TEXT, min_size=1, max_size=4, unique=True), weight=NUMBERS, params=PLAIN, seed=st.integers(0, 2**40)
)
def test_a_recipe_survives_its_file(tmp_path, names, weight, params, seed):
    """Any recipe is read back exactly as it was written and has the same fingerprint."""
    recipe = Recipe(
        tuple(Ingredient(name, str(tmp_path / "runs" / str(i)), files={"a": "b"}) for i, name in enumerate(names)),
        {"": (weight,) * len(names), "layer.1": (1.0,) * len(names)},
        params={"some": params},
        seed=seed,
        selection=Selection(
            "greedy",
            params={"some": params},
            dataset=DataDescription("data", "xxh3-128:0", 7),
            score=weight,
            trials=(
                Trial(names[0], True, "", weight, ingredient=names[0]),
                Trial(names[-1], False, names[0], weight, -weight, -weight, weight, alpha=0.5),
                Trial(names[-1], False, "stopped", at_most=weight),
            ),
            reference={names[0]: weight},
            why=names[0],
            holdout=Holdout(3, weight, 0.25),
            rows=seed,
            folds=Folds(2, (weight, 1.0), weight, -weight),
        ),
    )
    path = tmp_path / "soup_recipe.yaml"
    path.write_text(dump_recipe(recipe, tmp_path), encoding="utf-8")
    again = load_recipe(path)
    assert again == recipe
    assert again.fingerprint() == recipe.fingerprint()


def test_folders_are_written_relative_or_by_name(tmp_path):
    """A saved recipe refers to folders by relative paths, so that they can move; a published one contains no path."""
    recipe = Recipe((Ingredient("run", str(tmp_path / "runs" / "run")),), (1.0,))
    assert yaml.safe_load(dump_recipe(recipe, tmp_path / "soup"))["ingredients"][0]["source"] == "../runs/run"
    assert str(tmp_path) not in dump_recipe(recipe)


def test_fingerprint_is_of_what_decides_the_bytes():
    """Weights, method, order, dtype and files change the fingerprint; selection and versions do not."""
    items = (Ingredient("a", "a"), Ingredient("b", "b"))
    recipe = Recipe(items, (1, 2))
    found = dataclasses.replace(recipe, selection=Selection("greedy"), versions={"torch": "2"})
    assert found.fingerprint() == recipe.fingerprint()
    for other in (
        Recipe(items, (2, 1)),
        Recipe(items[::-1], (1, 2)),
        Recipe(items, (1, 2), params={"normalize": False}),
        Recipe(items, (1, 2), dtype="float16"),
        Recipe((items[0], dataclasses.replace(items[1], files={"x": "y"})), (1, 2)),
    ):
        assert other.fingerprint() != recipe.fingerprint()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1,), "are 1 .* for 2 ingredients"),
        ((0, 0), "all zero"),
        ((1, math.nan), "not finite"),
        ({"": (1, 1), "classifier": (1, 2, 3)}, "weights of 'classifier' are 3"),
        ("ab", "a sequence of numbers"),
        (3, "a sequence of numbers"),
    ],
)
def test_bad_weights(weights, message):
    """Weights of the wrong length, non-finite, all zero or not numeric raise a RecipeError that says which it is."""
    with pytest.raises(RecipeError, match=message):
        Recipe((Ingredient("a", "a"), Ingredient("b", "b")), weights)


COOK = """
base_model: some/model
data: {path: some/data}
sweep: {space: {learning_rate: [1e-5, 3e-5]}}
merge: {strategy: greedy}
output_dir: out
"""


def cook_file(tmp_path, text):
    """Write a cook file."""
    path = tmp_path / "cook.yaml"
    path.write_text(text)
    return path


def test_numbers_are_numbers(tmp_path):
    """1e-5, 1E+3 and 1.5e-4 are numbers, although plain YAML reads 1e-5 as a string; a date stays a string."""
    file = load_cook_file(cook_file(tmp_path, COOK + "pretrain: null\ningredients: []\n"))
    assert file.sweep.space == {"learning_rate": [1e-5, 3e-5]}
    text = COOK.replace("[1e-5, 3e-5]", "[1E+3, 1.5e-4, .5e2]").replace("some/data", "2020-01-01")
    file = load_cook_file(cook_file(tmp_path, text))
    assert file.sweep.space == {"learning_rate": [1000.0, 0.00015, 50.0]}
    assert file.data.path == "2020-01-01"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("strategy:", "strtegy:", 'unknown key `strtegy` in `merge`; did you mean "strategy"?'),
        ("base_model:", "basemodel:", 'unknown key `basemodel`; did you mean "base_model"?'),
        ("some/data}", "some/data, shifted: {x: {pat: y}}}", '`pat` in `data.shifted.x`; did you mean "path"?'),
        ("{path: some/data}", "{name: some}", "the key `data.path` is missing"),
        ("{path: some/data}", "[1]", "`data`"),
        ("strategy: greedy", "strategy: 3", "`merge.strategy`: input should be a valid string, found 3"),
        ("output_dir: out", "output_dir: out\noutput_dir: two", "appears twice"),
        ("output_dir: out", "output_dir: [", "not valid YAML"),
        ("output_dir: out", "output_dir: {{ out }}", "not valid YAML"),
        ("output_dir: out", "output_dir: !!binary aGk=", "something other than numbers"),
        ("output_dir: out", "output_dir: &a [*a]", "something other than numbers"),
        ("{strategy: greedy}", "{strategy: greedy, weights: [1]}", "either `weights` or a `strategy`"),
        ("some/data}", "some/data, shifted: {test: {split: a}}}", "`data.shifted.test`: choose another name"),
        ("base_model: some/model", "", "`sweep` needs either a `base_model` or a `pretrain`"),
        ("data: {path: some/data}", "", "needs a `data` section"),
        ("{path: some/data}", "{path: some/data, test: x, validation: x}", "data that selects cannot report as well"),
        ("merge: {strategy: greedy}", "compare: {}", "need a `merge` section"),
    ],
)
def test_a_wrong_cook_file_is_told_where(tmp_path, old, new, message):
    """An error in a cook file names the key with its place, and suggests the nearest known key."""
    assert old in COOK
    with pytest.raises(RecipeError) as caught:
        load_cook_file(cook_file(tmp_path, COOK.replace(old, new)))
    assert message in str(caught.value)


def test_values_can_be_set_from_outside(tmp_path):
    """`a.b=value` replaces or adds a value of the file, is read as YAML and is checked like the file."""
    path = cook_file(tmp_path, COOK)
    file = load_cook_file(path, ["data.path=other", "sweep.n_runs=2", "merge.params={accept: '>'}"])
    assert (file.data.path, file.sweep.n_runs, file.merge.params) == ("other", 2, {"accept": ">"})
    with pytest.raises(RecipeError, match="unknown key `runs`"):
        load_cook_file(path, ["sweep.runs=2"])
    with pytest.raises(RecipeError, match="write KEY=VALUE"):
        load_cook_file(path, ["sweep"])
    with pytest.raises(RecipeError, match="`learning_rate` is a list in the file; replace it as a whole"):
        load_cook_file(path, ["sweep.space.learning_rate.a=2"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("method:", "metod:"), 'unknown key `metod`; did you mean "method"?'),
        (lambda text: text.replace("source:", "sorce:"), '`sorce` in `ingredients.0`; did you mean "source"?'),
        (lambda text: text.replace("hf_soup_recipe: 1", "hf_soup_recipe: 2"), "recipe format 2"),
        (lambda text: text.replace("hf_soup_recipe: 1\n", ""), "is not a recipe"),
        (lambda text: text.replace("weights: [1]", "weights: [1, 2]"), "are 2 .* for 1 ingredients"),
        (lambda text: text.replace("weights: [1]", "weights: [one]"), "weights"),
        (lambda text: "- 1", "holds list, not a mapping"),
    ],
)
def test_a_wrong_recipe_is_told_where(tmp_path, change, message):
    """Unknown keys, other formats and wrong types in a recipe raise a RecipeError."""
    path = tmp_path / "soup_recipe.yaml"
    text = dump_recipe(Recipe((Ingredient("a", "a"),), (1,)))
    assert change(text) != text
    path.write_text(change(text))
    with pytest.raises(RecipeError, match=message.replace("?", r"\?")):
        load_recipe(path)
