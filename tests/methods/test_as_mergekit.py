"""The methods of mergekit: equal to its results on small tensors, and to their formulas in float64.

`mergekit_values.json` was written by `benchmarks/against_mergekit.py --values`.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_soup import plugins
from hf_soup.errors import RecipeError
from hf_soup.methods import _changes


FILE = json.loads((Path(__file__).parent / "mergekit_values.json").read_text())
BASE, *MODELS = (np.array(rows) for rows in FILE["tensors"])
CASES = {case["method"]: case for case in FILE["cases"]}


def call(name, tensors, weights, *, base=None, dtype=torch.float64, **params):
    """The result of a method for numpy arrays."""
    given = {} if base is None else {"base": torch.tensor(base, dtype=dtype)}
    as_tensors = iter([torch.tensor(tensor, dtype=dtype) for tensor in tensors])
    return plugins.load_function("method", name)(as_tensors, weights, **given, **params).numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_mergekit(name, dtype):
    """The result equals that of mergekit 0.1.5, which computes in float32, to its rounding."""
    case = CASES[name]
    weights = case["weights"]
    base = BASE if case["base"] else None
    merged = call(name, MODELS[: len(weights)], weights, base=base, dtype=dtype, **case["params"])
    np.testing.assert_allclose(merged, np.array(case["merged"]), rtol=0, atol=3e-7)


# Formulas in numpy, each written from the paper


def unit(x):
    """A vector of length 1."""
    return x / np.linalg.norm(x)


def slerp(x, y, t):
    """Shoemake's interpolation of the flat tensors."""
    angle = np.arccos(unit(x).ravel() @ unit(y).ravel())
    return (np.sin((1 - t) * angle) * x + np.sin(t * angle) * y) / np.sin(angle)


def elected(changes, weights, *, normalize):
    """The changes whose weighted sign is that of the sum, element by element."""
    merged = np.zeros_like(BASE)
    for place in np.ndindex(BASE.shape):
        own = [weight * change[place] for weight, change in zip(weights, changes, strict=True)]
        sign = 1 if sum(own) >= 0 else -1
        agree = [index for index, value in enumerate(own) if np.sign(value) == sign]
        total = sum(weights[index] for index in agree)
        merged[place] = sum(own[index] for index in agree) / ((total or 1) if normalize else 1)
    return merged


def crumbs(change, density, gamma):
    """A change without the largest elements, and then without the smallest."""
    order = np.argsort(np.abs(change), axis=None)
    top = int(gamma * change.size)
    keep = order[change.size - top - int(density * change.size) : change.size - top]
    kept = np.zeros(change.size)
    kept[keep] = change.ravel()[keep]
    return kept.reshape(change.shape)


def karcher(tensors, weights):
    """The weighted Karcher mean, by gradient descent with small steps until it stands still."""
    shares = np.array(weights) / sum(weights)
    units = [unit(tensor.ravel()) for tensor in tensors]
    point = unit(sum(share * own for share, own in zip(shares, units, strict=True)))
    for _ in range(2000):
        step = 0
        for share, own in zip(shares, units, strict=True):
            angle = np.arccos(np.clip(point @ own, -1, 1))
            step = step + share * angle * unit(own - (own @ point) * point)
        point = unit(point + 0.3 * step)
    length = sum(share * np.linalg.norm(tensor) for share, tensor in zip(shares, tensors, strict=True))
    return (length * point).reshape(tensors[0].shape)


def model_stock(changes, axis):
    """Equation 2 of the paper, with the mean cosine of all pairs."""
    count = len(changes)
    norms = [np.sqrt((change**2).sum(axis=axis, keepdims=True)) for change in changes]
    cosines = []
    for i in range(count):
        for j in range(i):
            product = (changes[i] * changes[j]).sum(axis=axis, keepdims=True)
            cosines.append(product / (norms[i] * norms[j]))
    cosine = np.mean(cosines, axis=0)
    return count * cosine / (1 + (count - 1) * cosine) * np.mean(changes, axis=0)


def sce(changes, share):
    """Selected elements, weights by mean squares, elected signs."""
    variance = np.var(changes, axis=0)
    keep = variance >= np.sort(variance, axis=None)[-int(share * variance.size)]
    changes = [change * keep for change in changes]
    squares = np.array([(change**2).mean() for change in changes])
    weights = squares / squares.sum()
    sign = np.where(sum(changes) >= 0, 1, -1)
    kept = [np.sign(change) == sign for change in changes]
    total = sum(weight * own for weight, own in zip(weights, kept, strict=True))
    merged = sum(weight * own * change for weight, own, change in zip(weights, kept, changes, strict=True))
    return merged / np.where(total == 0, 1, total)


def ram(changes, epsilon, r=0.0, alpha=0.0):
    """Shared changes are averaged, those of one model are added, with a factor."""
    active = [np.abs(change) > epsilon for change in changes]
    count = sum(own.astype(int) for own in active)
    merged = sum(own * change for own, change in zip(active, changes, strict=True)) / np.maximum(count, 1)
    for own, change in zip(active, changes, strict=True):
        alone = own & (count == 1)
        shared = own & (count > 1)
        factor = 1 + r * min(shared.sum() / max(alone.sum(), 1), alpha)
        merged = np.where(alone, factor * change, merged)
    return merged


def fusion(change, base):
    """Changes whose importance is an outlier."""

    def softmax(rows):
        return np.exp(rows) / np.exp(rows).sum(-1, keepdims=True)

    new, old = softmax(base + change), softmax(base)
    importance = np.abs(change) * (new * np.log(new / old)).sum(-1, keepdims=True)
    low, middle, high = np.quantile(importance, [0.25, 0.5, 0.75])
    return change * (importance >= middle + 1.5 * (high - low))


W = [0.5, 1.0, 0.7]
CHANGES = [model - BASE for model in MODELS]
TWO = MODELS[:2]


def plus(*terms):
    """The base model plus weighted changes."""
    return BASE + sum(weight * change for weight, change in zip(W, terms, strict=True))


FORMULAS = {
    "slerp": (TWO, [1, 3], {}, slerp(*TWO, 0.75)),
    "nuslerp": (TWO, [1, 3], {}, slerp(*TWO, 0.75)),
    "nuslerp of changes": (TWO, [1, 3], {"base": BASE}, BASE + slerp(*CHANGES[:2], 0.75)),
    "nuslerp by row": (TWO, [1, 3], {"per": "row"}, [slerp(x, y, 0.75) for x, y in zip(*TWO, strict=True)]),
    "nuslerp by column": (
        TWO,
        [1, 3],
        {"per": "column"},
        np.stack([slerp(x, y, 0.75) for x, y in zip(TWO[0].T, TWO[1].T, strict=True)]).T,
    ),
    "multislerp": (
        MODELS,
        W,
        {},
        unit(sum(w * unit(m) for w, m in zip(W, MODELS, strict=True)))
        * np.average([np.linalg.norm(m) for m in MODELS], weights=W),
    ),
    "karcher": (MODELS, W, {"max_iter": 100, "tol": 1e-12}, karcher(MODELS, W)),
    "task_arithmetic": (MODELS, W, {"base": BASE}, plus(*CHANGES)),
    "task_arithmetic normalized": (
        MODELS,
        W,
        {"base": BASE, "normalize": True, "scale": 0.5},
        BASE + 0.5 * np.average(CHANGES, axis=0, weights=W),
    ),
    "breadcrumbs": (
        MODELS,
        W,
        {"base": BASE, "density": 0.5, "gamma": 0.1},
        plus(*(crumbs(change, 0.5, 0.1) for change in CHANGES)),
    ),
    "breadcrumbs_ties": (
        MODELS,
        W,
        {"base": BASE, "density": 0.5, "gamma": 0.1},
        BASE + elected([crumbs(change, 0.5, 0.1) for change in CHANGES], W, normalize=False),
    ),
    "ties without a divisor": (
        MODELS,
        W,
        {"base": BASE, "density": 1.0, "normalize": False},
        BASE + elected(CHANGES, W, normalize=False),
    ),
    "dare_ties of all": (MODELS, W, {"base": BASE, "rng": None}, BASE + elected(CHANGES, W, normalize=False)),
    "dare_linear of all": (MODELS, W, {"base": BASE, "rng": None}, plus(*CHANGES)),
    "della of all": (MODELS, W, {"base": BASE, "rng": None}, BASE + elected(CHANGES, W, normalize=True)),
    "della_linear of all": (MODELS, W, {"base": BASE, "rng": None}, plus(*CHANGES)),
    "model_stock": (MODELS, [1, 1, 1], {"base": BASE}, BASE + model_stock(CHANGES, None)),
    "model_stock by row": (MODELS, [1, 1, 1], {"base": BASE, "per": "row"}, BASE + model_stock(CHANGES, 1)),
    "sce": (MODELS, [1, 1, 1], {"base": BASE, "select_topk": 0.3}, BASE + sce(CHANGES, 0.3)),
    "ram": (MODELS, [1, 1, 1], {"base": BASE, "epsilon": 0.04}, BASE + ram(CHANGES, 0.04)),
    "ramplus_tl": (
        MODELS,
        [1, 1, 1],
        {"base": BASE, "epsilon": 0.04, "r": 0.5, "alpha": 0.9},
        BASE + ram(CHANGES, 0.04, 0.5, 0.9),
    ),
    "arcee_fusion": (MODELS[:1], [1], {"base": BASE}, BASE + fusion(CHANGES[0], BASE)),
    "nearswap": (TWO, [1, 1], {"t": 0.05}, TWO[0] + np.clip(TWO[1] - TWO[0], -0.05, 0.05)),
    "passthrough": (MODELS[:1], [1], {"scale": 0.5}, 0.5 * MODELS[0]),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_results_are_those_of_the_formula(name):
    """The result equals a formula in numpy, written independently, to float64 rounding."""
    tensors, weights, params, expected = FORMULAS[name]
    np.testing.assert_allclose(call(name.split()[0], tensors, weights, **params), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("number", [2, 3])
def test_iso_c_has_one_singular_value(number):
    """The merged change of a matrix has the singular vectors of the sum and the mean of its singular values; other
    tensors have the mean change.
    """
    total = sum(w * change for w, change in zip(W[:number], CHANGES[:number], strict=True))
    merged = call("iso_c", MODELS[:number], W[:number], base=BASE, scale=0.5) - BASE
    left, values, right = np.linalg.svd(total, full_matrices=False)
    np.testing.assert_allclose(merged, 0.5 * values.mean() * left @ right, atol=1e-12)
    flat = call("iso_c", [model[0] for model in MODELS[:number]], W[:number], base=BASE[0])
    np.testing.assert_allclose(flat, BASE[0] + total[0] / number, atol=1e-12)


def test_angles_near_zero_are_interpolated_linearly():
    """Tensors of one direction, opposite directions or no length give finite results on the line between them."""
    x = MODELS[0]
    for y in (2 * x, -x, np.zeros_like(x)):
        for name in ("slerp", "nuslerp"):
            merged = call(name, [x, y], [1, 1])
            assert np.isfinite(merged).all()
    np.testing.assert_allclose(call("slerp", [x, 2 * x], [1, 1]), 1.5 * x, rtol=1e-12)
    for name in ("multislerp", "karcher"):
        np.testing.assert_allclose(call(name, [x, -x], [1, 1]), 0 * x, atol=1e-12)  # the directions cancel


def drawn(sparsify, change, draws=4000):
    """Results of a random function for many draws: (draws, ...)."""
    change = torch.tensor(change)
    results = []
    for seed in range(draws):
        results.append(sparsify(change, torch.Generator().manual_seed(seed)).numpy())
    return np.stack(results)


def test_dropped_elements_have_the_stated_probability():
    """DARE keeps each element with the probability `density`, independently of the others."""
    kept = drawn(lambda x, rng: _changes.drop_random(x, 0.3, rng, rescale=False), CHANGES[0]) != 0
    assert np.abs(kept.mean(0) - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 4000)
    pairs = np.corrcoef(kept.reshape(4000, -1).T)
    assert np.abs(pairs - np.eye(len(pairs))).max() < 0.1


def test_small_elements_are_dropped_more_often():
    """DELLA's probabilities rise linearly with the rank of an element in its row."""
    kept = drawn(lambda x, rng: _changes.drop_small(x, 0.5, 0.2, rng, rescale=False), CHANGES[0]) != 0
    ranks = np.abs(CHANGES[0]).argsort(1).argsort(1)
    expected = 0.3 + ranks / 6 * 0.4
    assert np.abs(kept.mean(0) - expected).max() < 5 * np.sqrt(0.25 / 4000)


def test_rescaling_keeps_the_sum_of_magnitudes():
    """With `rescale` the kept elements have the same sum of magnitudes as all elements, not 1 / density times it."""
    results = drawn(lambda x, rng: _changes.drop_random(x, 0.5, rng, rescale=True), CHANGES[0], draws=20)
    np.testing.assert_allclose(np.abs(results).sum((1, 2)), np.abs(CHANGES[0]).sum())


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("dare_ties", {"density": 1.5, "rng": None}, "density is between 0 and 1, not 1.5"),
        ("breadcrumbs", {"gamma": -0.1}, "gamma is between 0 and 1"),
        ("della", {"density": 0.1, "epsilon": 0.2, "rng": None}, "density - epsilon is between 0 and 1"),
        ("della", {"rng": None, "weights": [1, -0.9, 0.5]}, "none may be negative"),
        ("breadcrumbs_ties", {"normalize": True, "weights": [1, -0.9, 0.5]}, "none may be negative"),
        ("sce", {"select_topk": 2}, "select_topk is between 0 and 1"),
    ],
)
def test_values_out_of_range_are_refused(name, params, message):
    """A parameter out of its range raises a RecipeError that names it."""
    weights = params.pop("weights", W)
    with pytest.raises(RecipeError, match=message):
        call(name, MODELS, weights, base=BASE, **params)
