"""Tests of the reader: headers are checked first, and tensors are those that safetensors reads."""

import json

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hf_soup.checkpoints.reader import read_header, read_tensor
from hf_soup.checkpoints.shards import shard_files
from hf_soup.errors import IngredientError


TENSORS = {
    "f32": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "bf16": torch.ones(5, dtype=torch.bfloat16) / 3,
    "f8": torch.ones(3).to(torch.float8_e4m3fn),
    "i64": torch.tensor(7),
    "flag": torch.tensor([True, False]),
    "none": torch.zeros(0, 4),
}


@pytest.fixture
def path(tmp_path):
    """A valid file with one tensor of each of several types."""
    save_file(TENSORS, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def write(path, header, data=b""):
    """Write a file with the given header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_tensors_are_those_of_safetensors(path):
    """Every type and shape, including scalars and empty tensors, is read as by `safetensors.torch.load_file`."""
    specs = read_header(path)
    reference = load_file(path)
    assert set(specs) == set(reference)
    for name, spec in specs.items():
        tensor = read_tensor(path.parent, spec)
        assert tensor.dtype == reference[name].dtype
        assert tensor.shape == reference[name].shape
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), reference[name].reshape(-1).view(torch.uint8))


@pytest.mark.parametrize("keep", [0, 5, 8, 50, -1])
def test_a_file_that_is_cut_off_is_named(path, keep):
    """A truncated file raises an IngredientError that names it."""
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(IngredientError, match=r"model\.safetensors"):
        read_header(path)


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[1, 2]",
        b'{"a": 1}',
        b'{"a": {}, "a": {}}',
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}},
        {"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}},
        {"a": {"dtype": "Q4", "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        },
        {"a": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 2**64]}},
    ],
)
def test_a_corrupt_header_is_an_ingredient_error(tmp_path, header):
    """A corrupt header raises an IngredientError before any weights are read."""
    write(tmp_path / "model.safetensors", header, b"\0" * 8)
    with pytest.raises(IngredientError):
        read_header(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "a/b.safetensors", "weights.bin"])
def test_an_index_may_not_leave_its_folder(tmp_path, name):
    """A shard outside the index's folder, or that is not a safetensors file, is refused even if it exists."""
    folder = tmp_path / "run"
    (folder / "a").mkdir(parents=True)
    for place in (tmp_path / "other.safetensors", folder / "a" / "b.safetensors", folder / "weights.bin"):
        save_file(TENSORS, place)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(IngredientError, match="shards lie in the index's own folder"):
        shard_files(folder)


def test_a_missing_shard_is_named(tmp_path):
    """A missing shard is named in the error."""
    index = {"weight_map": {"x": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(IngredientError, match="lacks the shard model-00001-of-00002"):
        shard_files(tmp_path)


NUMBERS = st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=3) | st.none()
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "I64", "BOOL", "X", 3]),
        "shape": st.lists(NUMBERS | st.integers(0, 4), max_size=3),
        "data_offsets": st.lists(NUMBERS | st.integers(0, 64), max_size=3),
    }
)
JSON = st.dictionaries(st.text(max_size=4), ENTRY | NUMBERS, max_size=3) | st.lists(NUMBERS, max_size=2) | NUMBERS
HEADER = JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60)


@hypothesis.settings(
    max_examples=300, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(header=HEADER, data=st.binary(max_size=64))
def test_only_ingredient_errors_come_out_of_a_header(tmp_path, header, data):
    """Any header either describes exactly the bytes of the file or raises an IngredientError."""
    path = tmp_path / "model.safetensors"
    write(path, header, data)
    try:
        specs = read_header(path)
    except IngredientError:
        return
    assert sum(spec.nbytes for spec in specs.values()) == len(data)


@hypothesis.settings(
    max_examples=300, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(changes=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=6))
def test_only_ingredient_errors_come_out_of_a_damaged_file(tmp_path, changes):
    """A valid file with changed bytes is read or raises an IngredientError."""
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    path.write_bytes(content)
    try:
        specs = read_header(path)
        for spec in specs.values():
            read_tensor(tmp_path, spec)
    except IngredientError:
        return


@hypothesis.settings(
    max_examples=200, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(index=st.dictionaries(st.just("weight_map"), JSON, max_size=1) | JSON)
def test_only_ingredient_errors_come_out_of_an_index(tmp_path, index):
    """Any arbitrary index raises an IngredientError."""
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(IngredientError):
        shard_files(tmp_path)
