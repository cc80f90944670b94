"""The precision that merging promises, checked against float64 references for all types, orders and scales."""

import math

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from hf_soup.checkpoints.checkpoint import Checkpoint
from hf_soup.checkpoints.pieces import PIECE
from hf_soup.checkpoints.reader import AVERAGED, TensorSpec
from hf_soup.errors import IncompatibleError, IngredientError, RecipeError
from hf_soup.merging.agreement import Agreement
from hf_soup.merging.blend import blend, round_to
from hf_soup.merging.in_memory import write_into
from hf_soup.merging.setup import set_up
from hf_soup.types import Ingredient, Mixture


FLOATS = list(AVERAGED)
MANTISSA = {"float64": 52, "float32": 23, "bfloat16": 7, "float16": 10, "float8_e4m3fn": 3, "float8_e5m2": 2}
MANTISSA |= {"float8_e4m3fnuz": 3, "float8_e5m2fnuz": 2}
SETTINGS = hypothesis.settings(max_examples=60, deadline=None)


def checkpoint(index, **tensors):
    """A checkpoint in memory."""
    specs = {k: TensorSpec(k, tuple(t.shape), str(t.dtype).removeprefix("torch.")) for k, t in tensors.items()}
    return Checkpoint(Ingredient(f"run-{index}", "memory"), {"architectures": ["Some"]}, specs, None, tensors)


def merged(tensors, weights=None, **options):
    """The result of merging one tensor per ingredient, or several by name; options are those of `set_up`."""
    checkpoints = []
    for index, tensor in enumerate(tensors):
        by_name = tensor if isinstance(tensor, dict) else {"x": tensor}
        checkpoints.append(checkpoint(index, **by_name))
    mixture = Mixture([item.ingredient for item in checkpoints], weights or (1.0,) * len(checkpoints))
    soup = blended(set_up(checkpoints, Agreement(), **options).plan(mixture), checkpoints)
    return soup["x"] if set(soup) == {"x"} else soup


def blended(plan, checkpoints):
    """The tensors of a merge by name."""
    tensors = {spec.name: torch.empty(spec.numel, dtype=getattr(torch, spec.dtype)) for spec in plan.specs}

    blend(plan, checkpoints, write_into(tensors))
    return {spec.name: tensors[spec.name].reshape(spec.shape) for spec in plan.specs}


def random_tensor(seed, dtype, size=257, scale=1.0):
    """Normally distributed numbers in the given type."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(size, generator=generator, dtype=torch.float64) * scale).to(getattr(torch, dtype))


def half_ulp(x, dtype):
    """Half the distance from |x| to the next value of the type."""
    finfo = torch.finfo(getattr(torch, dtype))
    exponent = torch.floor(torch.log2(x.abs().clamp(min=finfo.tiny)))
    return torch.exp2(exponent - MANTISSA[dtype]) / 2


@pytest.mark.parametrize("k", [1, 2, 3, 7, 72])
@pytest.mark.parametrize("dtype", [name for name in FLOATS if name != "float64"])
def test_copies_give_exactly_that_checkpoint(dtype, k):
    """Merging copies of a checkpoint gives exactly the same bits, for types of up to 32 bits."""
    x = random_tensor(k, dtype, 5000)
    assert torch.equal(merged([x] * k).view(torch.uint8), x.view(torch.uint8))


@SETTINGS
@hypothesis.given(k=st.integers(1, 9), seed=st.integers(0, 10**6), scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e4]))
def test_float32_is_the_float64_mean_cast(k, seed, scale):
    """The mean of float32 ingredients is computed in float64 and cast once."""
    tensors = [random_tensor(seed + i, "float32", scale=scale) for i in range(k)]
    reference = (sum((t.double() for t in tensors), torch.zeros(257, dtype=torch.float64)) / k).float()
    assert torch.equal(merged(tensors), reference)


@SETTINGS
@hypothesis.given(
    dtype=st.sampled_from(["float64", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"]),
    k=st.integers(1, 72),
    seed=st.integers(0, 10**6),
    weighted=st.booleans(),
)
def test_error_is_within_the_promise(dtype, k, seed, weighted):
    """Errors are at most half an ulp + k 2^-23 sum|w x| / |sum w|, or k 2^-52 of that quotient for float64."""
    tensors = [random_tensor(seed + i, dtype) for i in range(k)]
    draw = torch.Generator().manual_seed(seed)
    weights = (torch.rand(k, generator=draw, dtype=torch.float64) + 0.1).tolist() if weighted else [1.0] * k
    exact = [
        math.fsum(w * float(t[i]) for w, t in zip(weights, tensors, strict=True)) / math.fsum(weights)
        for i in range(257)
    ]
    exact = torch.tensor(exact, dtype=torch.float64)
    size = sum(w * t.double().abs() for w, t in zip(weights, tensors, strict=True)) / sum(weights)
    bound = k * (2**-52 if dtype == "float64" else 2**-23) * size
    if dtype != "float64":
        bound = (
            bound + half_ulp(exact, dtype) * (1 + 2**-8) + torch.finfo(getattr(torch, dtype)).smallest_normal * 2**-10
        )
    assert ((merged(tensors, tuple(weights)).double() - exact).abs() <= bound).all()


@SETTINGS
@hypothesis.given(
    order=st.permutations(range(5)), factor=st.sampled_from([1e-3, 0.5, 3.0, 1e6]), dtype=st.sampled_from(FLOATS)
)
def test_order_and_scale_of_weights_do_not_matter(order, factor, dtype):
    """Reordering ingredients or scaling all weights changes the result by rounding errors only."""
    tensors = [random_tensor(i, dtype) for i in range(5)]
    weights = (0.3, 1.0, 2.0, 0.7, 1.1)
    result = merged(tensors, weights).double()
    reordered = merged([tensors[i] for i in order], tuple(weights[i] * factor for i in order)).double()
    # one ulp of the result, if the two sums fall on different sides of the midpoint between two values
    slack = 2 * half_ulp(result, dtype) + 1e-5 * (dtype != "float64") * (MANTISSA[dtype] < 20) + 1e-12
    assert ((result - reordered).abs() <= slack).all()


def test_weights_are_relative_unless_told_otherwise():
    """Weights are relative, as in [2, 1, 1], unless `normalize=False` uses them unchanged."""
    a, b, c = (random_tensor(i, "float32") for i in range(3))
    assert torch.equal(merged([a, b, c], (2, 1, 1)), ((a.double() * 2 + b + c) / 4).float())
    assert torch.equal(merged([a, b], (1, -1), params={"normalize": False}), (a.double() - b).float())


def test_negative_weights_extrapolate():
    """`linear` accepts negative weights, as in 2 a - b."""
    a, b = random_tensor(0, "float32"), random_tensor(1, "float32")
    assert torch.equal(merged([a, b], (2, -1)), (a.double() * 2 - b).float())


def test_weights_that_cancel_are_refused():
    """Weights that sum to zero, exactly or up to rounding, raise a RecipeError, since a mean divides by the sum."""
    a, b, c = (random_tensor(i, "float32") for i in range(3))
    with pytest.raises(RecipeError, match="sum to zero"):
        merged([a, b], (1, -1))
    with pytest.raises(RecipeError, match="sum to zero"):
        merged([a, b, c], (0.1, 0.2, -0.3))


def test_weight_zero_reads_nothing():
    """An ingredient with weight 0 is not read, so NaN in it has no effect."""
    a, bad = random_tensor(0, "float32"), torch.full((257,), math.nan)
    assert torch.equal(merged([a, bad], (1, 0)), a)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16", "float8_e5m2"])
def test_nan_and_infinity_name_ingredient_and_tensor(dtype, value):
    """NaN or infinity in an ingredient raises an IngredientError that names the ingredient and the tensor."""
    good = random_tensor(0, dtype)
    bad = good.clone()
    bad[100] = value
    with pytest.raises(IngredientError, match=r"'run-1' holds NaN or infinity in x"):
        merged([good, bad])


def test_a_type_that_is_too_narrow_is_refused():
    """A value that does not fit into the requested type raises a RecipeError instead of becoming infinity."""
    with pytest.raises(RecipeError, match="does not fit into float16"):
        merged([torch.full((2,), 70000.0)], dtype="float16")


def test_integers_are_copied_and_never_averaged():
    """Equal integer buffers are copied, counters come from the first ingredient, and others raise an error."""
    ids = torch.arange(4)
    same = merged([{"x": random_tensor(0, "float32"), "ids": ids}] * 2)
    assert torch.equal(same["ids"], ids)
    assert same["ids"].dtype == torch.int64
    counters = [{"x": random_tensor(0, "float32"), "bn.num_batches_tracked": torch.tensor(n)} for n in (5, 9)]
    assert merged(counters)["bn.num_batches_tracked"] == 5
    different = [{"x": random_tensor(0, "float32"), "ids": ids + n} for n in (0, 1)]
    with pytest.raises(IncompatibleError, match="buffer ids differs"):
        merged(different)


@pytest.mark.parametrize(
    ("dtypes", "result"),
    [
        (("float32", "bfloat16"), "float32"),
        (("bfloat16", "float16"), "float32"),
        (("float8_e4m3fn", "float8_e5m2"), "float16"),
        (("float8_e4m3fn", "bfloat16"), "bfloat16"),
        (("float64", "float16"), "float64"),
    ],
)
def test_mixed_types_give_the_widest(dtypes, result):
    """The soup's type holds all values of mixed inputs, and the sum is as precise as the widest input needs."""
    a, b = (random_tensor(i, dtype) for i, dtype in enumerate(dtypes))
    soup = merged([a, b])
    assert soup.dtype == getattr(torch, result)
    assert torch.allclose(soup.double(), (a.double() + b.double()) / 2, rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"])
def test_float64_is_rounded_once(dtype):
    """A float64 value near the midpoint of two narrow values is rounded to the nearer one, without double rounding."""
    wide = {2: torch.int16, 1: torch.int8}[getattr(torch, dtype).itemsize]
    values = torch.arange(2 ** (8 * wide.itemsize - 1)).to(wide).view(getattr(torch, dtype)).double()
    values = values[values.isfinite()].unique()
    below, above = values[:-1], values[1:]
    middle, step = (below + above) / 2, above - below
    for sign in (1, -1):
        assert torch.equal(round_to(sign * (middle - step * 2**-30), dtype).double(), sign * below)
        assert torch.equal(round_to(sign * (middle + step * 2**-30), dtype).double(), sign * above)


LARGE = 2 * PIECE + 77


@pytest.mark.parametrize("method", ["linear", "median"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_tensors_of_many_pieces(method, dtype):
    """A tensor larger than a piece gives the same result as one processed at once."""
    tensors = [random_tensor(i, dtype, LARGE) for i in range(3)]
    exact = torch.stack([t.double() for t in tensors])
    exact = exact.mean(dim=0) if method == "linear" else exact.median(dim=0).values
    soup = merged(tensors, method=method).double()
    assert ((soup - exact).abs() <= 2 * half_ulp(exact, dtype) + 1e-15).all()


def test_many_small_tensors_of_many_kinds():
    """Small tensors processed together get their own types, weights and shapes, next to empty and large ones."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(), (0,), (3,), (7, 5), (2, 3, 4), (PIECE,), (PIECE + 1,)]
    kinds = ["float32", "bfloat16", "float64", "float16", "float8_e5m2"]
    names = [f"{'ab'[i % 2]}.{i:03}" for i in range(40)]
    items = []
    for _ in range(3):
        tensors = {
            name: torch.randn(shapes[i % 7], generator=generator).to(getattr(torch, kinds[i // 3 % 5]))
            for i, name in enumerate(names)
        }
        items.append({**tensors, "a.ids": torch.arange(5)})
    soup = merged(items, {"": (1, 1, 1), "a": (1, 2, 0.5)})
    assert torch.equal(soup["a.ids"], torch.arange(5))
    for name in names:
        weights = (1, 2, 0.5) if name.startswith("a") else (1, 1, 1)
        exact = sum(w * item[name].double() for w, item in zip(weights, items, strict=True)) / sum(weights)
        assert soup[name].shape == exact.shape
        tolerance = 2 * half_ulp(exact, str(soup[name].dtype).removeprefix("torch.")) + 1e-4
        assert ((soup[name].double() - exact).abs() <= tolerance).all(), name


def test_nan_among_small_tensors_names_its_tensor():
    """NaN is attributed to the right tensor when small tensors are processed together."""
    good = {f"layer.{i}": random_tensor(i, "float32", 10) for i in range(20)}
    bad = good | {"layer.13": torch.tensor([1.0] * 9 + [math.nan])}
    with pytest.raises(IngredientError, match=r"'run-1' holds NaN or infinity in layer\.13:"):
        merged([good, bad, good])


@pytest.mark.parametrize("method", ["linear", "median"])
def test_large_finite_numbers_are_no_infinity(method):
    """Large finite values, whose sum over a tensor overflows, are not taken for infinity."""
    big = torch.full((1000,), 3e38)
    assert torch.equal(merged([big, big], method=method), big)
    half = torch.full((1000,), 60000.0, dtype=torch.float16)
    assert torch.equal(merged([half, half], method=method), half)


def test_any_number_of_threads_gives_the_same_bytes():
    """The result has the same bytes for any number of threads."""
    tensors = [{"x": random_tensor(i, "bfloat16", LARGE), "y": random_tensor(i + 9, "float32", 50)} for i in range(3)]
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5, 8):
            torch.set_num_threads(threads)
            results.append(merged(tensors, (0.3, 1.1, 2.0)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0][name], other[name]) for other in results[1:] for name in ("x", "y"))
