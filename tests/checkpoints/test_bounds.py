"""Numbers in a configuration or header that no model can have are refused before anything is built from them."""

import json
import shutil
import struct
import time
import tracemalloc

import pytest

import hf_soup
from hf_soup.checkpoints.bounds import refuse_unbounded
from hf_soup.checkpoints.memory import empty_model
from hf_soup.checkpoints.reader import TensorSpec, parse_header
from hf_soup.checkpoints.source import open_checkpoint
from hf_soup.errors import IngredientError
from hf_soup.training.start import _read_config


@pytest.fixture
def run(tmp_path, text_runs):
    """A valid checkpoint, to be damaged."""
    return shutil.copytree(text_runs[0], tmp_path / "run")


def change(run, **fields):
    """Set fields of the configuration."""
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | fields))


FIELDS = {
    "layers": {"num_hidden_layers": 2**31},
    "layers of a million": {"num_hidden_layers": 10**6},
    "heads": {"num_attention_heads": 2**31},
    "positions": {"max_position_embeddings": 2**31},
    "size": {"hidden_size": 2**40},
    "words": {"vocab_size": 2**40},
    "classes": {"num_labels": 10**9},
    "digits": {"intermediate_size": 10**400},
    "negative": {"num_hidden_layers": -(2**40)},
    "list of layers": {"layer_types": ["full_attention"] * 200_000},
    "list of anything": {"transformers_version": [1] * 200_000},
    "nested": {"text_config": {"num_hidden_layers": 2**31}},
    "id of a class": {"id2label": {"1" * 400: "a", "0": "b"}},
    "half a character": {"id2label": {"0": "\ud800", "1": "b"}},
}


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_configuration_beyond_its_tensors_is_refused_at_once(run, fields):
    """An impossible configuration is refused within a few seconds and 40 MB."""
    change(run, **fields)
    start = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(IngredientError, match="cannot be right"):
            hf_soup.check([run, run])
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 5


def test_base_model_beyond_all_bounds_is_refused(run):
    """A sweep refuses an impossible configuration of its base model, and names the field."""
    change(run, num_hidden_layers=2**31)
    with pytest.raises(hf_soup.SoupError, match="num_hidden_layers is 2147483648"):
        _read_config(str(run), None, {})


LARGE = [
    {"num_hidden_layers": 126, "hidden_size": 16384, "vocab_size": 262_208, "max_position_embeddings": 131_072},
    {"max_position_embeddings": 10_485_760, "hidden_size": 5120, "rope_theta": 500_000_000},
    {
        "num_hidden_layers": 61,
        "n_routed_experts": 384,
        "n_group": 8,
        "moe_layer_freq": 1,
        "rope_scaling": {"factor": 40},
    },
    {"vocab_size": 1_000_000, "num_labels": 21_841, "hidden_size": 1024},
    {"eos_token_id": [128_001, 128_008], "model_max_length": 10**30, "seed": 2**32, "image_token_id": 151_655},
    {"max_position_embeddings": 262_144, "hidden_size": 4096},
]


@pytest.mark.parametrize("config", LARGE, ids=range(len(LARGE)))
def test_configurations_of_large_models_are_taken(config):
    """The numbers of existing large models are accepted."""
    specs = {f"layers.{index}": TensorSpec(f"layers.{index}", (262_208, 16384), "bfloat16") for index in range(1500)}
    refuse_unbounded(config, "config.json", specs)


def test_modules_are_counted_while_a_model_is_built(run):
    """Building a model with more modules than the limit is stopped, and other models can still be built."""
    config = json.loads((run / "config.json").read_text())
    with pytest.raises(IngredientError, match="more than 10 modules"):
        empty_model(config, 10)
    assert empty_model(config, 1000)


@pytest.mark.parametrize("sizes", [[2**63 - 1] * 100_000, [10**18] * 1000, [1] * 1_000_000, [True], [2.0]])
def test_shapes_that_multiply_to_megabytes_are_refused(sizes):
    """Shapes with impossible sizes are refused at once, with a short message."""
    header = json.dumps({"x": {"dtype": "F32", "shape": sizes, "data_offsets": [0, 4]}}).encode()
    start = time.process_time()
    with pytest.raises(IngredientError) as raised:
        parse_header(header, 8 + len(header) + 4, "x", "x")
    assert time.process_time() - start < 1
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    "header", [b"[" + b"[]," * 3_000_000 + b"1]", b'{"a":' * 100_000, b" " * 1000, b"9" * 100_000]
)
def test_headers_of_something_else_take_no_memory(run, header):
    """A header that is not valid JSON is refused within 40 MB."""
    (run / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    tracemalloc.start()
    try:
        with pytest.raises(IngredientError, match="corrupt safetensors header"):
            open_checkpoint(run)
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors.index.json"])
def test_small_files_of_millions_of_values_are_refused(run, name):
    """Small files with millions of values are refused, because parsed they would take fifty times their size."""
    (run / name).write_bytes(b'{"a": [' + b"{}," * 600_000 + b"1]}")
    if "index" in name:
        (run / "model.safetensors").unlink()
    with pytest.raises(IngredientError, match="more than 1,000,000 values"):
        open_checkpoint(run)
