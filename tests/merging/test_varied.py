"""Parameters and weights that differ between tensors: by module, and along the depth of the model."""

import pytest
import torch
from safetensors.torch import load_file

import hf_soup
from hf_soup import testing
from hf_soup.checkpoints.modules import at_depth, depths_of
from hf_soup.errors import RecipeError


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A base model and two fine-tunes of it, with two layers."""
    folder = tmp_path_factory.mktemp("three")
    saved = []
    for seed in range(3):
        model = testing.tiny_text_model(0)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * bool(seed) * torch.randn_like(parameter)
        saved.append(testing.save_text_model(model, folder / f"m{seed}"))
    return saved


def shares(soup, three):
    """How far each tensor of a soup has moved from the first fine-tune to the second."""
    first, second = (load_file(folder / "model.safetensors") for folder in three[1:])
    found = {}
    for name, tensor in soup.model.state_dict().items():
        if tensor.is_floating_point():
            line = (second[name] - first[name]).double()
            found[name] = float(((tensor - first[name]).double() * line).sum() / (line * line).sum())
    return found


def scales(soup, three):
    """How much of the first fine-tune's change each tensor of a soup has."""
    base, first = (load_file(folder / "model.safetensors") for folder in three[:2])
    found = {}
    for name, tensor in soup.model.state_dict().items():
        if tensor.is_floating_point():
            line = (first[name] - base[name]).double()
            found[name] = float(((tensor - base[name]).double() * line).sum() / (line * line).sum())
    return found


def test_a_list_is_interpolated_over_the_layers(three):
    """Embeddings take the first value, the layers equal steps, and what is above them the last one."""
    soup = hf_soup.merge(three[1:2], method="task_arithmetic", base_model=three[0], scale=[0.2, 0.6])
    for name, scale in scales(soup, three).items():
        expected = 0.2 if "embeddings" in name or "layer.0" in name else 0.6
        assert scale == pytest.approx(expected, abs=1e-3), name


def test_values_by_module_and_by_depth_within_a_module(three):
    """The longest prefix decides, and its value may be a list."""
    scale = {"": 0.5, "encoder": [0.0, 1.0], "classifier": 2}
    soup = hf_soup.merge(three[1:2], method="task_arithmetic", base_model=three[0], scale=scale)
    for name, value in scales(soup, three).items():
        expected = {"bert.encoder.layer.0": 0.0, "bert.encoder.layer.1": 1.0, "classifier": 2.0}
        wanted = next((number for prefix, number in expected.items() if name.startswith(prefix)), 0.5)
        assert value == pytest.approx(wanted, abs=1e-3), name


def test_weights_along_the_depth(three):
    """Weights by name may be lists along the depth; the recipe has them by module and can be cooked again."""
    soup = hf_soup.merge(three[1:], weights={"m1": [3, 1], "m2": [1, 1]})
    for name, share in shares(soup, three).items():
        expected = 0.25 if "embeddings" in name or "layer.0" in name else 0.5
        assert share == pytest.approx(expected, abs=1e-3), name
    assert soup.recipe.weights["encoder.layer.0"] == (3.0, 1.0)


def test_a_recipe_keeps_the_values(three, tmp_path):
    """A saved soup names the values as they were given, and its recipe gives the same bits."""
    scale = {"": [0.2, 0.6], "classifier": 1.0}
    soup = hf_soup.merge(three[1:2], method="task_arithmetic", base_model=three[0], scale=scale)
    soup.save_pretrained(tmp_path / "soup")
    assert hf_soup.load_recipe(tmp_path / "soup").params == {"scale": scale}
    again = hf_soup.cook(tmp_path / "soup").soup
    one, two = soup.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ({"nothing": 1.0}, 'scale: no tensor lies below the module "nothing"'),
        ({"bert": 1.0, "": 0.5, "bert.encoder": 1, "encoder": 2}, "are the same module; give it one value"),
        ([], "is float, not"),
        (["high"], "is float, not"),
        ({"": "high"}, "is float, not"),
    ],
)
def test_wrong_values_are_refused(three, scale, message):
    """A module that is not there, a module named twice, and what is no number raise a RecipeError."""
    with pytest.raises(RecipeError, match=message):
        _ = hf_soup.merge(three[1:2], method="task_arithmetic", base_model=three[0], scale=scale).plan


def test_a_method_of_two_refuses_three(three):
    """More ingredients than a method combines raise a RecipeError that names them; weights of 0 do not count."""
    with pytest.raises(RecipeError, match='"slerp" combines at most 2 ingredients, not 3: m0, m1, m2'):
        _ = hf_soup.merge(three, method="slerp").plan
    assert hf_soup.merge(three, method="slerp", weights=[0, 1, 1]).plan


@pytest.mark.parametrize(
    ("names", "depths"),
    [
        (["wte.weight", "h.0.ln.weight", "h.1.ln.weight", "h.2.ln.weight", "ln_f.weight"], [0, 0, 0.5, 1, 1]),
        (["model.layers.9.w", "model.layers.10.w", "model.embed_tokens.w", "lm_head.w"], [0, 1, 0, 1]),
        (
            ["shared.w", "encoder.block.0.w", "encoder.block.1.w", "decoder.block.0.w", "decoder.block.1.w"],
            [0, 0, 1, 0, 1],
        ),
        (["only.weight"], [1]),
        (["layer.0.w"], [0]),
    ],
)
def test_the_depth_of_tensors(names, depths):
    """Layers are numbered in their order as numbers, and every stack from 0 to 1."""
    assert list(depths_of(names).values()) == depths


@pytest.mark.parametrize(
    ("values", "depth", "expected"), [([0, 0.5, 1], 0.25, 0.25), ([3], 0.7, 3), ([0, 1, 0], 1, 0), ([1, 3], 0.5, 2)]
)
def test_values_lie_at_equal_distances(values, depth, expected):
    """The values are interpolated linearly between equal distances."""
    assert at_depth(values, depth) == pytest.approx(expected)


def test_weights_by_pattern_for_each_ingredient(three):
    """Weights of an ingredient may differ between tensors of one layer, and patterns take precedence over modules."""
    weights = {"m1": {"*attention*": [1, 3], "": 1}, "m2": 1}
    soup = hf_soup.merge(three[1:], weights=weights)
    for name, share in shares(soup, three).items():
        expected = 0.25 if "layer.1.attention" in name else 0.5
        assert share == pytest.approx(expected, abs=1e-3), name


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"m1": [], "m2": 1}, r"weights: a value is a number, or a list of numbers along the depth, not \[\]"),
        ({"m1": ["x", "y"], "m2": 1}, "weights: a value is a number"),
        ({"m1": {"": float("nan")}, "m2": 1}, "weights: a value is a number"),
        ({"rX": {"classifier": 1, "": 1}, "m2": 1}, 'weights: there is no ingredient "rX".*m1, m2'),
    ],
)
def test_wrong_weights_by_ingredient_are_refused(three, weights, message):
    """Values that are no numbers, and names of no ingredient, raise a RecipeError that shows them."""
    with pytest.raises(RecipeError, match=message):
        hf_soup.merge(three[1:], weights=weights)


def test_exceptions_within_a_module_are_single_rows(three):
    """The recipe has one row for each module, and one for each tensor that differs within it."""
    soup = hf_soup.merge(three[1:], weights={"m1": {"*query*": 3, "": 1}, "m2": 1})
    rows = soup.recipe.weights
    assert rows["encoder.layer.0"] == (1.0, 1.0)
    assert sorted(set(rows.values())) == [(1.0, 1.0), (3.0, 1.0)]
    assert sum(row == (3.0, 1.0) for row in rows.values()) == 4  # weight and bias in two layers


def test_a_search_over_densities_by_ingredient(three):
    """Parameters by ingredient may be given for a search, whose mixtures have some of the ingredients; a recipe with
    them is cooked without one of them.
    """
    data = testing.tiny_texts(20)
    density = {"m1": 0.5, "m2": 0.3}
    options = {"method": "ties", "base_model": three[0], "density": density}
    assert hf_soup.merge(three[1:], strategy="greedy", evaluator=data, **options).selection.score is not None
    soup = hf_soup.merge(three[1:], **options)
    assert hf_soup.cook(soup.recipe, drop=["m2"]).soup.recipe.params == {"density": {"m1": 0.5}}


def test_a_density_for_each_ingredient(three):
    """A parameter may be given for each ingredient by name; ingredients of weight 0 take no part."""
    options = {"method": "ties", "base_model": three[0]}
    one = hf_soup.merge(three[1:], density={"m1": 0.3, "m2": 1.0}, weights=[1, 0], **options).model.state_dict()
    other = hf_soup.merge(three[1:2], density=0.3, **options).model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    both = hf_soup.merge(three[1:], density={"m1": 0.3, "m2": {"encoder": [0.2, 0.8], "": 0.5}}, **options)
    assert both.model is not None
    with pytest.raises(RecipeError, match='"ties" takes one scale for all ingredients'):
        _ = hf_soup.merge(three[1:], scale={"m1": 0.3, "m2": 1.0}, **options).plan
    with pytest.raises(RecipeError, match=r'density: no tensor has a name like "\*nothing\*"'):
        _ = hf_soup.merge(three[1:], density={"*nothing*": 0.3, "": 1}, **options).plan
