"""The compiled sums have the bits of the sums of torch."""

import itertools

import numpy as np
import pytest
import torch

import hf_soup
from hf_soup import testing
from hf_soup.checkpoints.digest import bytes_of
from hf_soup.errors import IngredientError, RecipeError
from hf_soup.merging import sums
from hf_soup.merging.blend import round_to
from hf_soup.methods.linear import linear


compiled = pytest.mark.skipif(sums.weighted_sum is None, reason="no compiler was there on installation")
DTYPES = {"float32": torch.float64, "bfloat16": torch.float32, "float16": torch.float32}
WEIGHTS = {
    "equal": lambda count: (1.0,) * count,
    "whole": lambda count: tuple(float(number % 5 + 1) for number in range(count)),
    "negative": lambda count: tuple((-1) ** number * (0.3 + number) for number in range(count)),
    "tiny": lambda count: tuple(1e-20 * (number + 1) for number in range(count)),
}


def by_torch(tensors, weights, normalize):
    """The sum of the method, rounded to the type of the tensors."""
    dtype = str(tensors[0].dtype).removeprefix("torch.")
    wide = torch.empty(tensors[0].shape, dtype=DTYPES[dtype])
    return round_to(linear(iter(tensors), weights, normalize=normalize, out=wide), dtype)


def in_one_pass(tensors, weights, normalize):
    """The compiled sum, and whether it is finite."""
    dtype = str(tensors[0].dtype).removeprefix("torch.")
    out = torch.empty_like(tensors[0])
    wide = torch.empty(tensors[0].shape, dtype=DTYPES[dtype])
    total = float(np.add.accumulate(np.array(weights, dtype=np.float64))[-1]) if normalize else 0.0
    for begin in range(0, len(tensors), sums.AT_ONCE):
        part = tensors[begin : begin + sums.AT_ONCE]
        is_last = begin + sums.AT_ONCE >= len(tensors)
        is_finite = sums.add_up(
            dtype,
            [bytes_of(tensor) for tensor in part],
            tuple(weights[begin : begin + sums.AT_ONCE]),
            sums=bytes_of(wide) if len(tensors) > sums.AT_ONCE else None,
            begins=begin == 0,
            out=bytes_of(out) if is_last else None,
            total=total if is_last else 0.0,
        )
    return out, is_finite


def bits(tensor):
    """The bits of a tensor, so that -0 differs from 0."""
    return tensor.view(torch.uint8)


@compiled
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 17])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_are_those_of_the_method(dtype, count, kind, normalize):
    """Any number of arrays of any size, with any weights, gives the bits of `linear`."""
    generator = torch.Generator().manual_seed(count)
    weights = WEIGHTS[kind](count)
    if normalize and abs(sum(weights)) < 1e-3 * sum(map(abs, weights)):
        weights = (*weights[:-1], weights[-1] + 1.0)
    for size in (0, 1, 1023, 1024, 5000):
        tensors = [torch.randn(size, generator=generator).to(getattr(torch, dtype)) for _ in range(count)]
        expected = by_torch(tensors, weights, normalize)
        result, is_finite = in_one_pass(tensors, weights, normalize)
        assert torch.equal(bits(result), bits(expected))
        assert is_finite


@compiled
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_number_of_16_bits_is_read_and_written(dtype):
    """Each of the 65,536 patterns is itself again, and infinity and NaN are noticed one by one."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(getattr(torch, dtype))
    finite = every[every.isfinite()]
    result, is_finite = in_one_pass([finite], (1.0,), True)
    assert torch.equal(bits(result), bits(finite))
    assert is_finite
    for value in every[~every.isfinite()][::17]:
        tensor = torch.zeros(3000, dtype=every.dtype)
        tensor[2999] = value
        assert not in_one_pass([tensor], (1.0,), True)[1]


@compiled
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_results_are_rounded_to_the_nearest_even(dtype):
    """Halves, sums next to halves, subnormal numbers and the largest one are rounded as torch rounds."""
    every = torch.arange(0, 2**15, dtype=torch.int16).view(getattr(torch, dtype))
    finite = every[every.isfinite()]
    after = torch.cat([finite[1:], finite[-1:]])
    for weights in ((1.0, 1.0), (1.0, 1.0 + 2**-12), (1.0 + 2**-12, 1.0), (3.0, 1.0), (1.0, 0.001)):
        expected = by_torch([finite, after], weights, True)
        result, _ = in_one_pass([finite, after], weights, True)
        assert torch.equal(bits(result), bits(expected)), weights


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_is_noticed_anywhere(dtype, value):
    """One element among thousands is enough, in any array."""
    for place, count in itertools.product((0, 1023, 1024, 2999), (1, 3)):
        tensors = [torch.ones(3000, dtype=getattr(torch, dtype)) for _ in range(count)]
        tensors[-1][place] = value
        assert not in_one_pass(tensors, (1.0,) * count, True)[1]
    largest = torch.full((10,), torch.finfo(getattr(torch, dtype)).max, dtype=getattr(torch, dtype))
    assert not in_one_pass([largest, largest], (1.0, 1.0), False)[1]
    assert in_one_pass([largest, largest], (1.0, 1.0), True)[1] or dtype == "bfloat16"  # whose sum overflows float32


@compiled
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("float64", [b"12345678"], (1.0,), None, True, bytearray(8), 1.0), "sums are of"),
        (("float32", [], (), None, True, bytearray(8), 1.0), "sums are of"),
        (("float32", [b"1234"], (1.0, 2.0), None, True, bytearray(8), 1.0), "sums are of"),
        (("float32", [b"1234", b"12345678"], (1.0, 2.0), None, True, bytearray(8), 1.0), "different sizes"),
        (("float32", [b"12345678"], (1.0,), None, True, bytearray(4), 1.0), "no room for results"),
        (("float32", [b"12345678"], (1.0,), bytearray(8), True, None, 1.0), "no room for sums"),
        (("float32", [b"12345678"], (1.0,), None, True, None, 1.0), "no sums to go on with"),
        (("float32", [b"12345678"], (1.0,), None, False, bytearray(8), 1.0), "no sums to go on with"),
    ],
)
def test_wrong_arguments_do_not_reach_memory(arguments, message):
    """Sizes are checked before anything is read or written."""
    with pytest.raises(ValueError, match=message):
        sums.weighted_sum(*arguments)


@pytest.mark.filterwarnings("ignore::hf_soup.errors.SoupWarning")
@pytest.mark.parametrize(
    "options", [{}, {"weights": [2, 0.5, 1]}, {"normalize": False}, {"dtype": "bfloat16"}], ids=str
)
def test_soups_are_the_same_without_the_extension(options, text_runs, tmp_path, monkeypatch):
    """A saved soup has the same bytes whether sums are compiled or not."""
    folders = []
    for name in ("compiled", "torch"):
        folders.append(hf_soup.merge(text_runs, **options).save_pretrained(tmp_path / name))
        monkeypatch.setattr(sums, "weighted_sum", None)
    files = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert files[0] == files[1]


@pytest.mark.filterwarnings("ignore::hf_soup.errors.SoupWarning")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_errors_are_the_same_without_the_extension(dtype, tmp_path, monkeypatch):
    """NaN in an ingredient and sums that do not fit are told in the same words."""
    runs = []
    for seed in range(2):
        model = testing.tiny_text_model(seed).to(getattr(torch, dtype))
        with torch.no_grad():
            model.classifier.weight[0, 0] = torch.finfo(getattr(torch, dtype)).max
        runs.append(testing.save_text_model(model, tmp_path / f"run-{seed}"))
    bad = testing.tiny_text_model(2).to(getattr(torch, dtype))
    with torch.no_grad():
        bad.classifier.bias[1] = float("nan")
    runs.append(testing.save_text_model(bad, tmp_path / "run-2"))
    told = []
    for _ in range(2):
        with pytest.raises(RecipeError, match="does not fit into") as overflow:
            hf_soup.merge(runs[:2], normalize=False).build_model()
        with pytest.raises(IngredientError, match=r"'run-2' holds NaN or infinity in classifier\.bias") as nan:
            hf_soup.merge(runs).build_model()
        told.append((str(overflow.value), str(nan.value)))
        monkeypatch.setattr(sums, "weighted_sum", None)
    assert told[0] == told[1]
