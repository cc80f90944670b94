"""Tests of cooking a published soup again with changes."""

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file

import hf_soup
from hf_soup import testing
from hf_soup.errors import RecipeError


@pytest.fixture
def soup(hub_runs):
    """The uniform soup of the first two runs, on the Hub."""
    hf_soup.merge(hub_runs[:2]).push_to_hub(f"{hub_runs[0]}-soup")
    return f"{hub_runs[0]}-soup"


def same(one, two):
    """Whether two folders have the same weights."""
    return (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()


def test_a_soup_of_the_hub_is_cooked_again(tmp_path, soup, hub_runs):
    """Cooking from the Hub id alone gives the same bytes."""
    again = hf_soup.cook(soup, output_dir=tmp_path / "again").folder
    reference = hf_soup.merge(hub_runs[:2]).save_pretrained(tmp_path / "reference")
    assert same(again, reference)


@pytest.mark.parametrize(
    ("changes", "members", "options"),
    [
        ({"add": [2]}, [0, 1, 2], {}),
        ({"drop": [1]}, [0], {}),
        ({"add": [2], "drop": [0]}, [1, 2], {}),
        ({"overrides": ["method=median"], "add": [2]}, [0, 1, 2], {"method": "median"}),
        ({"overrides": ["weights=[2, 1]"]}, [0, 1], {"weights": [2, 1]}),
        ({"overrides": ["dtype=bfloat16"]}, [0, 1], {"dtype": "bfloat16"}),
        ({"overrides": ["params.normalize=false"]}, [0, 1], {"normalize": False}),
        ({"overrides": ["strategy=uniform"], "add": [2]}, [0, 1, 2], {"strategy": "uniform"}),
    ],
)
def test_changes(tmp_path, soup, hub_runs, changes, members, options):
    """A changed recipe gives the same soup as a merge with those arguments, and keeps everything else."""
    named = {
        "add": [hub_runs[i] for i in changes.get("add", ())],
        "drop": [hub_runs[i] for i in changes.get("drop", ())],
    }
    cooked = hf_soup.cook(soup, output_dir=tmp_path / "other", overrides=changes.get("overrides", ()), **named)
    reference = hf_soup.merge([hub_runs[i] for i in members], **options).save_pretrained(tmp_path / "reference")
    assert same(cooked.folder, reference)
    assert hf_soup.load_recipe(cooked.folder).ingredients == hf_soup.load_recipe(reference).ingredients


def test_what_stays_is_pinned(soup, hub_runs):
    """An ingredient that stays is taken at its recorded revision, even if its branch has moved."""
    old = hf_soup.load_recipe(soup).ingredients[0].revision
    HfApi().upload_file(repo_id=hub_runs[0], path_or_fileobj=b"new", path_in_repo="notes.txt")
    cooked = hf_soup.cook(soup, add=[hub_runs[2]])
    assert cooked.soup.recipe.ingredients[0].revision == old


def test_a_strategy_that_chooses_takes_data(tmp_path, soup, hub_runs):
    """`evaluator=` names the validation data of a new strategy, and the new recipe has its own selection."""
    testing.tiny_texts(20).to_csv(tmp_path / "validation.csv")
    changes = ["strategy=greedy", f"evaluator={tmp_path}", "metric=accuracy"]
    recipe = hf_soup.cook(soup, overrides=changes, add=[hub_runs[2]]).soup.recipe
    assert recipe.selection.strategy == "greedy"
    assert len(recipe.selection.trials) == 5


def test_the_weights_of_an_added_one_have_to_be_known(tmp_path, hub_runs):
    """An ingredient can be added to unequal weights only if all weights are given or equal ones remain."""
    hf_soup.merge(hub_runs[:2], weights=[2, 1]).push_to_hub(f"{hub_runs[0]}-soup")
    with pytest.raises(RecipeError, match=r"have the weights 2, 1, which does not determine"):
        hf_soup.cook(f"{hub_runs[0]}-soup", add=[hub_runs[2]])
    two = hf_soup.cook(f"{hub_runs[0]}-soup", add=[hub_runs[2]], drop=[hub_runs[0]])
    assert two.soup.recipe.weights_by_module == {"": (1.0, 1.0)}
    given = hf_soup.cook(f"{hub_runs[0]}-soup", add=[hub_runs[2]], overrides=["weights=[2, 1, 1]"])
    assert given.soup.recipe.weights_by_module == {"": (2.0, 1.0, 1.0)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop": ["nobody"]}, "no ingredient is called 'nobody'"),
        ({"overrides": ["strategi=uniform"]}, 'did you mean "strategy"'),
        ({"overrides": ["strategy"]}, "write KEY=VALUE"),
        ({"overrides": ["params=3"]}, "write params.NAME=VALUE"),
        ({"overrides": ["params.nonsense=3"]}, 'takes a parameter "nonsense"'),
        ({"overrides": ["params.seed=3"]}, "write seed=VALUE"),
        ({"overrides": ["weights.classifier=[1, 0]", "weights.=[1, 1]"]}, "sets nothing"),
        ({"overrides": ["strategy=greedy"]}, "evaluator"),
        ({"drop": [0, 1]}, "every ingredient is dropped"),
    ],
)
def test_wrong_changes_are_told(soup, hub_runs, changes, message):
    """Each invalid change raises an error, with a hint for a misspelled name."""
    drop = [hub_runs[item] if isinstance(item, int) else item for item in changes.get("drop", ())]
    with pytest.raises(hf_soup.SoupError, match=message):
        hf_soup.cook(soup, overrides=changes.get("overrides", ()), drop=drop)


def test_a_point_on_the_way_from_a_base_needs_a_strategy(tmp_path, text_runs):
    """The recipe of an interpolation from a base model can be extended only with a new strategy."""
    soup = hf_soup.merge(
        text_runs[:1], strategy="interpolate", base_model=text_runs[2], evaluator=testing.tiny_texts(12)
    ).save_pretrained(tmp_path / "soup")
    with pytest.raises(RecipeError, match="again with strategy"):
        hf_soup.cook(soup, add=[str(text_runs[1])])
    uniform = hf_soup.cook(soup, add=[str(text_runs[1])], overrides=["strategy=uniform"]).soup
    assert len(uniform.recipe.ingredients) == 2


def test_a_cook_file_is_changed_by_its_keys(tmp_path):
    """A cook file refuses `add`, which is for recipes."""
    (tmp_path / "cook.yaml").write_text("output_dir: out\ningredients: [a, b]\nmerge: {}\n")
    with pytest.raises(RecipeError, match="is a cook file: change its list"):
        hf_soup.cook(tmp_path / "cook.yaml", add=["c"])


def test_aligned_labels_stay_aligned(tmp_path):
    """A recipe that permutes a head keeps the permutation when it is changed."""
    folders = [
        testing.save_text_model(
            testing.tiny_text_model(seed, labels=labels),
            tmp_path / f"run-{seed}",
        )
        for seed, labels in enumerate([("no", "yes"), ("yes", "no")])
    ]
    soup = hf_soup.merge(folders, align_labels=True).save_pretrained(tmp_path / "soup")
    other = hf_soup.cook(soup, output_dir=tmp_path / "other", overrides=["weights=[1, 1]"]).folder
    one, two = (load_file(folder / "model.safetensors") for folder in (soup, other))
    assert all(torch.equal(one[name], two[name]) for name in one)
