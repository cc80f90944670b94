"""`auto` without validation data: the mean shrunk towards the base model, by the cosines of the changes."""

import itertools

import pytest
import torch
from safetensors.torch import load_file

import hf_soup
from hf_soup import testing
from hf_soup.errors import RecipeError


def model_away_from(start, seed, size, shared=0.0):
    """A model that went away from the start in a direction of its own, and by `shared` in a common one."""
    model, common = testing.tiny_text_model(start), torch.Generator().manual_seed(99)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            together = torch.randn(parameter.shape, generator=common)
            parameter += size * (torch.randn(parameter.shape, generator=generator) + shared * together)
    return model


@pytest.fixture
def base(tmp_path):
    """What the models started from."""
    return testing.save_text_model(testing.tiny_text_model(0), tmp_path / "base")


def saved(folder, **options):
    """Three fine-tunes."""
    return [
        testing.save_text_model(model_away_from(0, seed, 0.01, **options), folder / f"run-{seed}")
        for seed in (1, 2, 3)
    ]


@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_each_module_is_shrunk_by_its_cosines(tmp_path, base, shared):
    """Every tensor is t * mean + (1 - t) * base with the t of its module, against float64."""
    runs = saved(tmp_path, shared=shared)
    soup = hf_soup.merge(runs, strategy="auto", base_model=base)
    start = {name: tensor.double() for name, tensor in load_file(base / "model.safetensors").items()}
    states = [{name: tensor.double() for name, tensor in load_file(run / "model.safetensors").items()} for run in runs]
    made = soup.model.state_dict()
    for module in hf_soup.modules(runs[0]):
        names = [name for name in start if name.removeprefix("bert.").startswith(f"{module.name}.")]
        changes = [torch.cat([(state[name] - start[name]).flatten() for name in names]) for state in states]
        cosines = [torch.cosine_similarity(a, b, dim=0).item() for a, b in itertools.combinations(changes, 2)]
        cosine = max(sum(cosines) / 3, 0.0)
        share = 3 * cosine / (1 + 2 * cosine)
        for name in names:
            mean = sum(state[name] for state in states) / 3
            expected = share * mean + (1 - share) * start[name]
            torch.testing.assert_close(made[name].double(), expected, rtol=1e-4, atol=1e-6)
    assert "There is no validation data" in soup.selection.why


def test_models_that_agree_are_kept(tmp_path, base):
    """Three times the same fine-tune is that fine-tune."""
    run = saved(tmp_path)[0]
    soup = hf_soup.merge([run, hf_soup.load_ingredient(run, name="again")], strategy="auto", base_model=base)
    for name, tensor in load_file(run / "model.safetensors").items():
        torch.testing.assert_close(soup.model.state_dict()[name], tensor, rtol=1e-5, atol=1e-7)


def test_without_a_base_model_the_soup_is_uniform(tmp_path, base):
    """The reason says what is missing, and the recipe can be verified."""
    runs = saved(tmp_path)
    soup = hf_soup.merge(runs, strategy="auto")
    assert soup.recipe.weights == (1.0, 1.0, 1.0)
    assert "no base model" in soup.selection.why
    shrunk = hf_soup.merge(runs, strategy="auto", base_model=base).save_pretrained(tmp_path / "soup")
    assert hf_soup.verify(shrunk).ok


def test_groups_need_an_evaluator(tmp_path, base):
    """Groups are chosen by score."""
    with pytest.raises(RecipeError, match="chooses among groups by validation score"):
        hf_soup.merge(saved(tmp_path), strategy="auto", group_by={"run-1": "a", "run-2": "a", "run-3": "b"})


def test_the_base_model_of_a_sweep_is_known(tmp_path, base):
    """Runs of a sweep are shrunk towards what they started from, without naming it."""
    runs = hf_soup.sweep(
        base,
        testing.tiny_texts(32),
        validation=testing.tiny_texts(16, seed=1),
        space={"seed": [0, 1]},
        output_dir=tmp_path / "runs",
        training_args={"epochs": 1, "batch_size": 16, "learning_rate": 1e-2},
    )
    soup = hf_soup.merge(runs, strategy="auto")
    assert len(soup.recipe.ingredients) == 3
    assert "the base model the rest" in soup.selection.why
