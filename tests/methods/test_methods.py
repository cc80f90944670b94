"""Methods other than `linear`, compared with numpy and PEFT and used in soups with a base model."""

import numpy as np
import pytest
import torch
import transformers
from peft.utils import merge_utils
from safetensors.torch import load_file

import hf_soup
from hf_soup import testing
from hf_soup.errors import IngredientError, RecipeError
from hf_soup.methods.median import median
from hf_soup.methods.ties import ties


def random_tensors(k, shape=(7, 5), dtype=torch.float64):
    """k tensors of normally distributed numbers."""
    generator = torch.Generator().manual_seed(k)
    return [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(k)]


@pytest.mark.parametrize("k", [1, 2, 3, 4, 9])
def test_median_is_that_of_numpy(k):
    """With equal weights the result is numpy's median, for odd and even numbers of ingredients."""
    tensors = random_tensors(k)
    result = median(iter(tensors), (1.0,) * k)
    assert np.allclose(result, np.median(torch.stack(tensors).numpy(), axis=0), rtol=1e-15)


def test_weights_of_a_median_count_copies():
    """A weight of 3 is equivalent to three copies, and negative weights raise a RecipeError."""
    a, b, c = random_tensors(3)
    assert torch.equal(median(iter([a, b, c]), (3.0, 1.0, 1.0)), median(iter([a, a, a, b, c]), (1.0,) * 5))
    assert torch.equal(median(iter([a, b, c]), (1.0, 2.0, 1.0)), median(iter([a, b, b, c]), (1.0,) * 4))
    with pytest.raises(RecipeError, match="takes no negative weights"):
        median(iter([a, b]), (2.0, -1.0))


def test_median_is_not_moved_by_one_odd_ingredient():
    """An outlier among the ingredients leaves the median within the range of the others."""
    tensors = random_tensors(4)
    result = median(iter([*tensors, torch.full((7, 5), 1e9, dtype=torch.float64)]), (1.0,) * 5)
    assert bool((result <= torch.stack(tensors).amax(dim=0)).all())


@pytest.mark.filterwarnings("ignore:The density 1.0 is greater:UserWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_ties_is_that_of_peft(k, density, dtype):
    """On the same changes the result equals PEFT's `ties` to 1e-6, and `scale` multiplies the merged change."""
    base, *tensors = random_tensors(k + 1, dtype=dtype)
    reference = merge_utils.ties([tensor - base for tensor in tensors], torch.ones(k, dtype=dtype), density)
    result = ties(iter(tensors), (1.0,) * k, base=base, density=density, scale=0.7)
    assert torch.allclose(result, base + 0.7 * reference, atol=1e-6, rtol=0)


def reference_ties(base, tensors, weights, density, election):
    """TIES in numpy, one number at a time, as mergekit ("weighted") and PEFT ("unweighted") define it."""
    base = base.double().numpy()
    changes = []
    for tensor in tensors:
        change = (tensor.double().numpy() - base).ravel()
        count = max(1, int(density * change.size)) if density else 0
        kept = np.argsort(-abs(change), kind="stable")[:count]
        trimmed = np.zeros_like(change)
        trimmed[kept] = change[kept]
        changes.append(trimmed)
    merged = np.zeros(base.size)
    for place in range(base.size):
        column = [change[place] for change in changes]
        if election == "weighted":
            column = [weight * change for weight, change in zip(weights, column, strict=True)]
        sign = 1 if sum(column) >= 0 else -1
        agreeing = [index for index, change in enumerate(column) if np.sign(change) == sign]
        if not agreeing:
            continue
        if election == "weighted":
            merged[place] = sum(column[i] for i in agreeing) / sum(weights[i] for i in agreeing)
        else:
            mean = sum(weights) / len(weights)
            merged[place] = sum(column[i] * weights[i] / mean for i in agreeing) / len(agreeing)
    return base + merged.reshape(base.shape)


@pytest.mark.parametrize("election", ["weighted", "unweighted"])
@pytest.mark.parametrize("density", [0.0, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (3.0, 1.0, 0.5), (0.1, 0.2, 5.0)])
def test_ties_is_what_its_formula_says(weights, density, election):
    """`ties` agrees with a float64 reference, for equal and unequal weights and all densities."""
    base, *tensors = random_tensors(4)
    result = ties(iter(tensors), weights, base=base, density=density, election=election)
    assert np.allclose(result, reference_ties(base, tensors, weights, density, election), rtol=0, atol=1e-12)


def test_the_weights_take_part_in_the_election():
    """In a weighted election -0.6 with weight 3 outvotes +1 with weight 1; in an unweighted one it does not."""
    base = torch.zeros(1, dtype=torch.float64)
    tensors = [torch.tensor([change], dtype=torch.float64) for change in (1.0, -0.6)]
    options = {"base": base, "density": 1.0}
    assert ties(iter(tensors), (1.0, 3.0), **options).item() == pytest.approx(-0.6)  # 3 * -0.6 / 3
    assert ties(iter(tensors), (1.0, 3.0), **options, election="unweighted").item() == pytest.approx(0.5)  # 1 / 2 * 1


@pytest.mark.parametrize("weights", [(0.5, 2.0, 0.5), (1.5, 1.0, 0.5), (1.0, 1.0, 1.0), (4.0, -2.0, 1.0)])
def test_an_unweighted_election_is_that_of_peft(weights):
    """In an unweighted election, weights relative to their mean act like PEFT's weights, including negative ones."""
    base, *tensors = random_tensors(4)
    reference = merge_utils.ties([tensor - base for tensor in tensors], torch.tensor(weights), 0.5)
    doubled = tuple(2 * weight for weight in weights)
    result = ties(iter(tensors), doubled, base=base, density=0.5, election="unweighted")
    assert torch.allclose(result, base + reference, atol=1e-6)


def test_with_equal_weights_the_elections_agree():
    """With equal weights, whatever their size, both elections give the same result."""
    base, *tensors = random_tensors(6)
    results = [
        ties(iter(tensors), (0.3,) * 5, base=base, density=0.4, election=election)
        for election in ("weighted", "unweighted")
    ]
    assert torch.allclose(*results, rtol=0, atol=1e-12)


def test_an_ingredient_of_weight_zero_has_no_vote():
    """A weighted election ignores an ingredient of weight 0; if all weights are 0, the result is the base model."""
    base, *tensors = random_tensors(4)
    result = ties(iter(tensors), (2.0, 0.0, 1.0), base=base, density=0.5)
    assert torch.equal(result, ties(iter([tensors[0], tensors[2]]), (2.0, 1.0), base=base, density=0.5))
    assert torch.equal(ties(iter(tensors), (0.0,) * 3, base=base, density=0.5), base)


def test_ties_refuses_what_it_cannot_do():
    """Invalid densities and elections, and negative weights in a weighted election, raise a RecipeError."""
    base, *tensors = random_tensors(4)
    with pytest.raises(RecipeError, match="density is between 0 and 1"):
        ties(iter(tensors), (1.0,) * 3, base=base, density=1.5)
    with pytest.raises(RecipeError, match='"weighted" and "unweighted", not \'total\''):
        ties(iter(tensors), (1.0,) * 3, base=base, election="total")
    with pytest.raises(RecipeError, match=r'none may be negative.*election="unweighted" takes'):
        ties(iter(tensors), (2.0, -1.0, 1.0), base=base)


@pytest.mark.parametrize("election", ["weighted", "unweighted"])
def test_a_small_tensor_keeps_its_largest_change(election):
    """Two numbers with density 0.2 keep the larger change, density 0 gives the base, and empty tensors stay empty."""
    base = torch.zeros(2, dtype=torch.float64)
    tensors = [torch.tensor([0.1, 1.0], dtype=torch.float64)] * 2
    options = {"density": 0.2, "election": election}
    assert ties(iter(tensors), (1.0, 1.0), base=base, **options).tolist() == [0.0, 1.0]
    assert torch.equal(ties(iter(tensors), (1.0, 1.0), base=base, density=0.0, election=election), base)
    empty = torch.empty(0, 3, dtype=torch.float64)
    assert ties(iter([empty, empty]), (1.0, 1.0), base=empty, **options).shape == (0, 3)


@pytest.mark.parametrize("election", ["weighted", "unweighted"])
def test_a_ties_soup_of_unequal_weights(tmp_path, text_runs, election):
    """The recipe names the election, an ingredient of weight 0 is ignored, and the soup can be rebuilt bit for bit."""
    base = testing.save_text_model(testing.tiny_text_model(9), tmp_path / "base")
    options = {"method": "ties", "base_model": base, "density": 0.4, "election": election}
    soup = hf_soup.merge(text_runs, weights=[3, 0, 1], **options)
    assert soup.recipe.params["election"] == election
    folder = soup.save_pretrained(tmp_path / "soup")
    start = load_file(base / "model.safetensors")
    runs = [load_file(run / "model.safetensors") for run in (text_runs[0], text_runs[2])]
    for name, tensor in load_file(folder / "model.safetensors").items():
        reference = reference_ties(start[name], [run[name] for run in runs], (3.0, 1.0), 0.4, election)
        assert np.allclose(tensor, reference, rtol=0, atol=1e-6), name
    again = hf_soup.cook(folder, output_dir=tmp_path / "again").folder
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_a_median_soup(tmp_path, text_runs):
    """A saved soup with the method median is the elementwise median of the files."""
    folder = hf_soup.merge(text_runs, method="median").save_pretrained(tmp_path / "soup")
    states = [load_file(run / "model.safetensors") for run in text_runs]
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(tensor, torch.stack([state[name] for state in states]).median(dim=0).values), name


@pytest.fixture
def body(tmp_path):
    """A pretrained body without the head that the ingredients have."""
    testing.save_text_model(testing.tiny_text_model(9), tmp_path / "whole")
    transformers.AutoModel.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "body")
    return tmp_path / "body"


def test_a_body_is_a_base_for_models_with_a_head(tmp_path, text_runs, body):
    """Tensors of a headless base model match those of the ingredients; the head is averaged, which a note says."""
    soup = hf_soup.merge(text_runs, method="ties", base_model=body, density=0.4)
    assert any("2 tensors that the base model lacks" in note for note in soup.plan.report.notes)
    state = load_file(soup.save_pretrained(tmp_path / "soup") / "model.safetensors")
    base = load_file(body / "model.safetensors")
    runs = [load_file(run / "model.safetensors") for run in text_runs]
    for name, tensor in state.items():
        given = [run[name].double() for run in runs]
        if name.startswith("classifier"):
            reference = sum(given) / 3
        else:
            reference = ties(iter(given), (1.0,) * 3, base=base[name.removeprefix("bert.")].double(), density=0.4)
        assert torch.equal(tensor, reference.float()), name


def test_a_base_with_other_names_in_memory(tmp_path, image_runs):
    """A ViT body is accepted as base model, although its tensors have other names in memory than on disk."""
    body = transformers.AutoModel.from_pretrained(image_runs[0])
    body.save_pretrained(tmp_path / "body")
    soup = hf_soup.merge([image_runs[0]] * 2, method="ties", base_model=tmp_path / "body")
    state = load_file(soup.save_pretrained(tmp_path / "soup") / "model.safetensors")
    start = load_file(image_runs[0] / "model.safetensors")
    assert all(torch.equal(state[name], start[name]) for name in start)  # no changes, so nothing is added


def test_a_greedy_ties_soup(tmp_path, text_runs, body):
    """Greedy search works with TIES: the scored soup is the saved one, and it can be rebuilt bit for bit."""
    data = testing.tiny_texts(60)
    soup = hf_soup.merge(text_runs, strategy="greedy", evaluator=data, method="ties", base_model=body, density=0.5)
    assert soup.recipe.method == "ties"
    assert soup.recipe.params == {"density": 0.5}
    folder = soup.save_pretrained(tmp_path / "soup")
    saved = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    assert all(torch.equal(tensor, soup.model.state_dict()[name]) for name, tensor in saved.state_dict().items())
    again = hf_soup.cook(folder, output_dir=tmp_path / "again").folder
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_ties_needs_its_base(tmp_path, text_runs, image_runs):
    """TIES without a base model, or with an unrelated one, raises an error."""
    with pytest.raises(RecipeError, match="needs what the ingredients were fine-tuned from: base_model="):
        hf_soup.merge(text_runs, method="ties")
    with pytest.raises(IngredientError, match="0 of 39 tensors of the body fit"):
        hf_soup.merge(text_runs, method="ties", base_model=image_runs[0])


def test_a_base_that_changed_is_refused(tmp_path, text_runs):
    """If the base model has changed, rebuilding the soup from its recipe raises an IngredientError."""
    base = testing.save_text_model(testing.tiny_text_model(9), tmp_path / "base")
    folder = hf_soup.merge(text_runs, method="ties", base_model=base).save_pretrained(tmp_path / "soup")
    testing.save_text_model(testing.tiny_text_model(10), base)
    with pytest.raises(IngredientError, match="'base' are not those that the recipe was made from"):
        hf_soup.cook(folder, output_dir=tmp_path / "again")


def noisy(tensors, weights, *, rng):
    """The first tensor with added noise."""
    (first, *_) = tensors
    return first + torch.randn(first.shape, generator=rng, dtype=first.dtype)


def test_random_numbers_belong_to_seed_and_tensor(tmp_path, text_runs):
    """The numbers of `rng` depend on the seed and the tensor's name, not on shards or the order of tensors."""
    folders = [
        hf_soup.merge(text_runs, method="test_methods:noisy", seed=seed).save_pretrained(
            tmp_path / str(index), max_shard_size=size
        )
        for index, (seed, size) in enumerate(((1, "50GB"), (1, "20KB"), (2, "50GB")))
    ]
    whole, shards, other_seed = (
        {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
        for folder in folders
    )
    assert all(torch.equal(whole[name], shards[name]) for name in whole)
    assert not any(torch.equal(whole[name], other_seed[name]) for name in whole)
    assert not torch.equal(whole["bert.pooler.dense.bias"], whole["bert.encoder.layer.0.output.dense.bias"])


def against_base(tensors, weights, *, base, out):
    """The mean of the tensors, computed in `out`, with the base model subtracted and added again."""
    out.copy_(next(tensors))
    for tensor in tensors:
        out += tensor
    return out.div_(len(weights)).sub_(base).add_(base)


def test_a_base_is_not_lost_among_the_sums(text_runs):
    """A method may ask for both the base model and a buffer for its sums."""
    soup = hf_soup.merge(text_runs[:1] * 3, method="test_methods:against_base", base_model=text_runs[1]).model
    start = load_file(text_runs[0] / "model.safetensors")
    assert all(torch.allclose(tensor, start[name], atol=1e-6) for name, tensor in soup.state_dict().items())


@pytest.mark.parametrize("weights", [(0.1, 0.2, 0.3), (1.0, 2.0, 3.0)])
def test_a_median_between_two_is_found_whatever_the_unit(weights):
    """If half the weight is on each side, the median is the midpoint, even when sums of weights are rounded."""
    a, b, c = (torch.tensor([x], dtype=torch.float64) for x in (3.0, 2.0, 1.0))
    assert median(iter([a, b, c]), weights).item() == 1.5
