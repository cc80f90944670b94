"""The lineage of a soup."""

import pytest
from huggingface_hub import HfApi

import hf_soup
from hf_soup import testing
from hf_soup.errors import IngredientError


def put(repo_id, folder, card=None):
    """Upload a model to the Hub, optionally with a card."""
    HfApi().create_repo(repo_id)
    HfApi().upload_folder(repo_id=repo_id, folder_path=folder)
    if card:
        HfApi().upload_file(repo_id=repo_id, path_or_fileobj=card.encode(), path_in_repo="README.md")


@pytest.fixture
def family(hub, text_runs, tmp_path):
    """The common name of a base model, two runs, their soup, and a soup of that soup and a folder."""
    name = f"{hub.user}/{tmp_path.name}"
    put(f"{name}-base", text_runs[2])
    for index in range(2):
        put(f"{name}-run-{index}", text_runs[index], f"---\nbase_model: {name}-base\n---\n")
    hf_soup.merge([f"{name}-run-0", f"{name}-run-1"]).push_to_hub(f"{name}-inner")
    hf_soup.merge([f"{name}-inner", text_runs[2]], weights=[3, 1]).push_to_hub(f"{name}-outer")
    return name


def test_a_soup_of_soups_is_followed_to_the_bases(family):
    """The lineage of a soup of soups contains all ingredients with their weights, down to their base models."""
    found = hf_soup.lineage(f"{family}-outer")
    inner, folder = found.children
    assert (found.role, found.note) == ("soup", "weighted soup, linear")
    assert (inner.name, inner.role, inner.weights) == (f"{family}-inner", "soup", (3.0,))
    assert [child.name for child in inner.children] == [f"{family}-run-0", f"{family}-run-1"]
    assert [[base.name for base in child.children] for child in inner.children] == [[f"{family}-base"]] * 2
    assert inner.children[0].children[0].role == "base model"
    assert folder.name == "run-2"
    assert folder.note == "a folder elsewhere"
    lines = found.table().split("\n")
    assert len(lines) == 7
    assert lines[1].startswith(f"├── {family}-inner@")
    assert lines[2].startswith(f"│   ├── {family}-run-0@")
    assert lines[3].startswith(f"│   │   └── {family}-base@")
    assert lines[6].startswith("└── run-2")


def test_no_weights_are_fetched(hub, family):
    """Lineage reads recipes and cards, but downloads no weights."""
    before = len(hub.log)
    hf_soup.lineage(f"{family}-outer")
    assert [line for line in hub.log[before:] if line.origin == "cdn"] == []


def test_the_commit_of_the_recipe_counts(family, text_runs):
    """Ingredients are read at the commits in the recipe, not at the current state of their branches."""
    HfApi().upload_file(
        repo_id=f"{family}-run-0", path_or_fileobj=b"---\nbase_model: a/b\n---\n", path_in_repo="README.md"
    )
    inner = hf_soup.lineage(f"{family}-inner")
    assert inner.children[0].children[0].name == f"{family}-base"


def test_what_is_gone_private_or_in_memory_is_said(family, hub, tmp_path):
    """Ingredients that are gone or were in memory get a note, and the rest of the tree is complete."""
    HfApi().delete_repo(f"{family}-run-0")
    found = hf_soup.lineage(f"{family}-inner")
    assert found.children[0].note.startswith("cannot be read")
    assert found.children[1].children[0].name == f"{family}-base"
    soup = hf_soup.merge([testing.tiny_text_model(0), f"{family}-run-1"]).save_pretrained(tmp_path / "soup")
    assert hf_soup.lineage(soup).children[0].note == "a model in memory"


def test_a_circle_ends(hub, tmp_path, text_runs):
    """Cards that name each other as base models end with a note instead of a loop."""
    name = f"{hub.user}/{tmp_path.name}"
    put(f"{name}-a", text_runs[0], f"---\nbase_model: {name}-b\n---\n")
    put(f"{name}-b", text_runs[0], f"---\nbase_model: {name}-a\n---\n")
    found = hf_soup.lineage(f"{name}-a")
    assert found.children[0].children[0].note == "already listed above"


def test_a_model_that_is_no_soup_has_its_base(family):
    """The lineage of a model that is not a soup consists of the base model in its card."""
    found = hf_soup.lineage(f"{family}-run-1")
    assert found.role == "ingredient"
    assert [child.name for child in found.children] == [f"{family}-base"]


def test_what_is_not_there_is_an_error(hub, tmp_path):
    """A name that is neither a folder nor a repository raises an IngredientError."""
    with pytest.raises(IngredientError, match="neither a folder here nor a model on the Hub"):
        hf_soup.lineage(f"{hub.user}/{tmp_path.name}-nothing")
    with pytest.raises(IngredientError, match="neither a folder here nor a Hub id"):
        hf_soup.lineage("../nothing")
