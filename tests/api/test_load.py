"""A soup that was saved or pushed is loaded as a `Soup`, and can be used like the original."""

import json

import pytest
from command import run as hf_soup_command
from huggingface_hub import HfApi, ModelCard

import hf_soup
from hf_soup import testing
from hf_soup.errors import IngredientError, RecipeError


VALIDATION, TEST = testing.tiny_texts(30, seed=1), testing.tiny_texts(40, seed=2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, text_runs):
    """The folder of a greedy soup with a comparison."""
    soup = hf_soup.merge(text_runs, strategy="greedy", evaluator=VALIDATION)
    soup.comparison = hf_soup.compare(soup, test=TEST, validation=VALIDATION)
    return soup.save_pretrained(tmp_path_factory.mktemp("saved") / "soup")


def test_a_loaded_soup_is_the_saved_one(saved, tmp_path):
    """A loaded soup has the recipe, selection and comparison of the saved one, and is saved to the same bytes."""
    soup = hf_soup.load(saved)
    assert soup.recipe == hf_soup.load_recipe(saved)
    assert soup.selection.strategy == "greedy"
    assert json.loads(json.dumps(soup.comparison.to_dict())) == json.loads((saved / "comparison.json").read_text())
    again = soup.save_pretrained(tmp_path / "again")
    for name in ("model.safetensors", "README.md", "config.json"):
        assert (again / name).read_bytes() == (saved / name).read_bytes(), name


def test_it_goes_wherever_a_soup_goes(saved):
    """A loaded soup can be compared, also from its folder, verified and cooked again."""
    soup = hf_soup.load(saved)
    names = [model.name for model in hf_soup.compare([soup], test=TEST, validation=VALIDATION).models]
    assert "greedy soup" in names
    names = [model.name for model in hf_soup.compare([saved], test=TEST, validation=VALIDATION).models]
    assert "soup" in names
    assert hf_soup.verify(soup).ok
    assert hf_soup.cook(soup.recipe).soup.recipe == soup.recipe
    assert hf_soup.cook(hf_soup.load_recipe(saved)).soup.recipe == soup.recipe


def test_two_soups_of_one_name_are_told_apart(text_runs):
    """A list of soups with equal names, or an empty list, is refused."""
    soup = hf_soup.merge(text_runs)
    with pytest.raises(RecipeError, match="two soups to compare are called"):
        hf_soup.compare([soup, soup], test=TEST)
    with pytest.raises(RecipeError, match="nothing to compare"):
        hf_soup.compare([], test=TEST)


def test_a_soup_that_was_not_saved_has_nothing_to_verify(text_runs, tmp_path):
    """`verify` refuses a soup that was not saved, and accepts it once it is."""
    soup = hf_soup.merge(text_runs)
    with pytest.raises(RecipeError, match="call save_pretrained first"):
        hf_soup.verify(soup)
    soup.save_pretrained(tmp_path / "soup")
    assert hf_soup.verify(soup).ok


def test_a_soup_of_the_hub_is_loaded_with_its_comparison(saved, hub, tmp_path, hub_runs):
    """A soup pushed from Hub ingredients is loaded with its comparison; a repository without a recipe is refused."""
    soup = hf_soup.merge(hub_runs, strategy="greedy", evaluator=VALIDATION)
    soup.comparison = hf_soup.compare(soup, test=TEST, validation=VALIDATION)
    soup.push_to_hub(f"{hub.user}/{tmp_path.name}-soup")
    loaded = hf_soup.load(f"{hub.user}/{tmp_path.name}-soup")
    assert loaded.comparison.to_dict() == soup.comparison.to_dict()
    assert hf_soup.verify(loaded).ok
    with pytest.raises(RecipeError, match=r"has no soup_recipe\.yaml"):
        hf_soup.load(hub_runs[0])


def test_without_its_ingredients_a_soup_is_not_loaded(tmp_path):
    """Loading a soup whose ingredient is missing raises an error that names the ingredient."""
    run = testing.save_text_model(testing.tiny_text_model(0), tmp_path / "run")
    folder = hf_soup.merge([run]).save_pretrained(tmp_path / "soup")
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    with pytest.raises(IngredientError, match="run"):
        hf_soup.load(folder)


def test_the_shell_pushes_what_was_compared(saved, hub, tmp_path, text_runs):
    """`push SOUP REPO` sends the saved soup with its comparison, or with the one given by `--comparison`."""
    repo_id = f"{hub.user}/{tmp_path.name}"
    done = hf_soup_command("push", saved, repo_id, "--tag", "mine", "--license", "mit", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["repo_id"] == repo_id
    assert "comparison.json" in HfApi().list_repo_files(repo_id)
    card = ModelCard.load(repo_id)
    assert card.data.license == "mit"
    assert "mine" in card.data.tags
    assert "## Results" in card.text

    plain = hf_soup.merge(text_runs).save_pretrained(tmp_path / "plain")
    hf_soup.compare(plain, test=TEST).save(tmp_path / "report")
    done = hf_soup_command("push", plain, f"{repo_id}-2", "--comparison", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    assert f"Pushed to {hub.url}/{repo_id}-2" in done.stdout
    assert "## Results" in ModelCard.load(f"{repo_id}-2").text
    done = hf_soup_command("push", plain, f"{repo_id}-3", "--comparison", tmp_path)
    assert done.returncode == 1
    assert "has no comparison.json" in done.stderr


def test_a_card_as_json(saved):
    """`card --format json` prints the metadata as values and the text after them."""
    card = json.loads(hf_soup_command("card", saved, "--format", "json").stdout)
    assert "model-soup" in card["metadata"]["tags"]
    assert card["text"].lstrip().startswith("#")
    assert hf_soup_command("card", saved).stdout.startswith("---\n")


def test_one_part_of_an_analysis_by_its_name(text_runs):
    """A single part of an analysis can be given as text."""
    assert hf_soup.analyze(text_runs, parts="similarity").similarity is not None
    with pytest.raises(RecipeError, match=r'no part .similarty.*did you mean "similarity"'):
        hf_soup.analyze(text_runs, parts="similarty")
