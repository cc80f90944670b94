"""Tests of what can be given as ingredients: ordered iterables, paths of all kinds, a folder of runs."""

import shutil

import pytest
from command import run as hf_soup_command

import hf_soup
from hf_soup import testing
from hf_soup.errors import IngredientError, RecipeError
from hf_soup.types import Ingredient


@pytest.fixture(scope="module")
def runs(tmp_path_factory, text_runs):
    """A folder with three runs, one of them only in a Trainer checkpoint subfolder, and with other files."""
    folder = tmp_path_factory.mktemp("folder") / "runs"
    for source, name in zip(text_runs, ("run-2", "run-10", "run-1/checkpoint-4"), strict=True):
        shutil.copytree(source, folder / name)
    (folder / "logs").mkdir()
    (folder / "notes.txt").write_text("mine")
    return folder


NAMES = ("run-1", "run-2", "run-10")


@pytest.mark.parametrize("form", [list, tuple, iter, dict.fromkeys, lambda paths: (path for path in paths)])
def test_any_iterable_with_an_order(form, text_runs):
    """A list, a tuple, an iterator, the keys of a dict and a generator are the same ingredients."""
    given = form(text_runs)
    if isinstance(given, dict):
        given = given.keys()
    assert hf_soup.merge(given).recipe.names == ("run-0", "run-1", "run-2")


def test_a_generator_is_read_once_by_every_verb(text_runs, tmp_path):
    """`check`, `analyze` and `advise` consume a generator only once."""
    paths = text_runs[0].parent
    assert hf_soup.check(paths.glob("run-*")).ok
    assert len(hf_soup.analyze(paths.glob("run-*")).names) == 3
    assert hf_soup.advise(paths.glob("run-*")).verdict


def test_a_folder_of_runs_stands_for_its_runs(runs):
    """A folder of runs, as a path, text or list, stands for its runs in natural order, without its other content."""
    for given in (runs, str(runs), [runs], [str(runs)]):
        assert hf_soup.merge(given).recipe.names == NAMES
    assert hf_soup.check(runs).ok


def test_a_folder_beside_other_ingredients(runs, text_runs):
    """In a list with other ingredients, a folder of runs stands for its runs too."""
    names = hf_soup.merge([text_runs[0], runs]).recipe.names
    assert names == ("run-0", *NAMES)


def test_a_tilde_is_the_home(runs, monkeypatch):
    """`~` is expanded in the path of a folder of runs or of a run."""
    monkeypatch.setenv("HOME", str(runs.parent))
    assert hf_soup.merge("~/runs").recipe.names == NAMES
    assert hf_soup.merge(["~/runs/run-2", "~/runs/run-10"]).recipe.names == ("run-2", "run-10")


def test_the_folder_of_a_sweep_is_the_sweep(tmp_path, text_runs):
    """The folder of a sweep is loaded as the sweep, with its runs and its base model."""
    base = testing.save_text_model(testing.tiny_text_model(0), tmp_path / "base")
    data = testing.tiny_texts(20)
    given = {"output_dir": tmp_path / "runs", "validation": data, "training_args": {"max_steps": 1}}
    sweep = hf_soup.sweep(base, data, space={"seed": [0, 1]}, **given)
    soup = hf_soup.merge(tmp_path / "runs", method="ties")
    assert soup.recipe.names == tuple(run.name for run in sweep)
    assert soup.recipe.base_model.source == str(sweep.base_model)


@pytest.mark.parametrize("form", [set, frozenset])
def test_a_set_is_refused(form, text_runs):
    """A set is refused, because the first ingredient gives the soup its settings and a set has no order."""
    with pytest.raises(RecipeError, match="a set has no order"):
        hf_soup.merge(form(map(str, text_runs)))


def test_one_model_is_no_list(text_runs):
    """A single model instead of a list raises a RecipeError that shows the list to write."""
    model = testing.tiny_text_model(0)
    for one in (str(text_runs[0]), text_runs[0], Ingredient("a", "a"), model, model.state_dict(), "user/run1"):
        with pytest.raises(RecipeError, match=r"ingredients are a list; to take one alone, write \["):
            hf_soup.merge(one)
    with pytest.raises(RecipeError, match="not int"):
        hf_soup.merge(3)


def test_a_folder_without_runs_says_what_is_there(runs, tmp_path):
    """A folder that is neither a model nor a folder of runs raises a RecipeError that lists its content."""
    (tmp_path / "logs").mkdir()
    with pytest.raises(RecipeError, match=r"neither a model nor a folder of runs.* it contains logs"):
        hf_soup.merge(tmp_path)


def test_the_command_line_takes_a_folder(runs, tmp_path):
    """`hf-soup merge` takes a folder of runs."""
    result = hf_soup_command("merge", str(runs), "-o", str(tmp_path / "soup"))
    assert result.returncode == 0, result.stderr
    assert hf_soup.load_recipe(tmp_path / "soup").names == NAMES


def test_a_folder_with_one_run_is_expanded_beside_others(tmp_path, text_runs):
    """A folder with a single run is expanded too, although the number of sources stays the same."""
    shutil.copytree(text_runs[2], tmp_path / "more" / "last")
    assert hf_soup.merge([text_runs[0], tmp_path / "more"]).recipe.names == ("run-0", "last")


def test_a_model_of_another_format_is_described(tmp_path):
    """A folder with a model of another format raises an error about that format."""
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(IngredientError, match="gguf"):
        hf_soup.merge([tmp_path])


def test_numbers_in_names_are_in_order(tmp_path, text_runs):
    """Integers and decimals in names are sorted by value."""
    names = ("lr-0.001-seed-2", "lr-0.001-seed-10", "lr-0.003-seed-1", "lr-0.01-seed-1")
    for name in reversed(names):
        shutil.copytree(text_runs[0], tmp_path / "runs" / name)
    assert hf_soup.merge(tmp_path / "runs").recipe.names == names
