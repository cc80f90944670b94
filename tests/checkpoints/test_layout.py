"""Tests of tensor names: they are assigned as transformers does on loading, whatever version or wrapper wrote them."""

import json
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_architectures import MODELS, make

import hf_soup
from hf_soup import testing
from hf_soup.checkpoints import layout_cache
from hf_soup.checkpoints.layout import fit, names_in_depth
from hf_soup.checkpoints.layout_cache import cache_folder
from hf_soup.checkpoints.memory import build_model, quiet_transformers
from hf_soup.checkpoints.reader import TensorSpec
from hf_soup.errors import IncompatibleError, MissingExtraError


PARAMETRISED = {"conv_dim": [8, 8], "conv_stride": [2, 2], "conv_kernel": [3, 3], "num_feat_extract_layers": 2}
MORE = {
    "Wav2Vec2ForSequenceClassification": (
        "Wav2Vec2Config",
        {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, **PARAMETRISED}
        | {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8},
    ),
    "Qwen2MoeForCausalLM": (
        "Qwen2MoeConfig",
        {
            "vocab_size": 40,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 24,
        }
        | {
            "num_experts": 2,
            "moe_intermediate_size": 8,
            "shared_expert_intermediate_size": 8,
            "num_key_value_heads": 1,
        },
    ),
    "BartForSequenceClassification": (
        "BartConfig",
        {"vocab_size": 40, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, **testing.BART}
        | {"decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 16},
    ),
}


def make_any(name, seed=0):
    """A tiny model of one of the architectures."""
    if name in MODELS:
        return make(name, seed)
    config_name, fields = MORE[name]
    with quiet_transformers():
        transformers.set_seed(seed)
        return getattr(transformers, name)(getattr(transformers, config_name)(**fields)).eval()


def without_prefix(model, state):
    """Names without the prefix of the body."""
    prefix = f"{model.base_model_prefix}."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def old_names(model, state):
    """Names from TensorFlow, and of weight normalisation before parametrisations."""
    pairs = {
        "LayerNorm.weight": "LayerNorm.gamma",
        "LayerNorm.bias": "LayerNorm.beta",
        "parametrizations.weight.original0": "weight_g",
        "parametrizations.weight.original1": "weight_v",
    }
    renamed = {}
    for name, tensor in state.items():
        for new, old in pairs.items():
            name = name.replace(new, old)
        renamed[name] = tensor
    return renamed


VARIANTS = {
    "as saved": lambda model, state: state,
    "in memory": lambda model, state: dict(model.state_dict()),
    "torch.compile": lambda model, state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
    "DDP": lambda model, state: {f"module.{name}": tensor for name, tensor in state.items()},
    "both": lambda model, state: {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
    "a module of theirs": lambda model, state: {f"net.{name}": tensor for name, tensor in state.items()},
    "theirs, compiled": lambda model, state: {f"model._orig_mod.{name}": tensor for name, tensor in state.items()},
    "old names": old_names,
    "without prefix": without_prefix,
}


def fitted(model, state):
    """The result of fitting the names of a state to the model."""
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    specs = {
        name: TensorSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in state.items()
    }
    return fit(config, specs)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", [*MODELS, *MORE])
def test_names_are_those_of_todays_files(tmp_path, name, variant):
    """Whatever names a file has, each tensor gets the name that `save_pretrained` writes and the right values, and
    tensors that transformers would not find are not found."""
    model = make_any(name)
    with quiet_transformers():
        model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    state = VARIANTS[variant](model, saved)
    found = fitted(model, state)
    absent = set(found.expected) - set(found.specs) - found.optional
    extra = set(found.specs) - set(found.expected)
    if variant in ("in memory", "old names", "without prefix"):  # without a wrapper, compare with transformers itself
        with quiet_transformers():
            _, info = type(model).from_pretrained(
                None, config=model.config, state_dict=dict(state), output_loading_info=True
            )
        assert bool(info["missing_keys"]) == bool(absent)
        assert bool(info["unexpected_keys"]) == bool(extra)
    else:
        assert not absent
        assert not extra
    memory = model.state_dict()
    for key, spec in found.specs.items():
        right = saved[key] if key in saved else memory[key]
        assert torch.equal(state[spec.key], right), key
    if variant != "in memory":  # in memory there may also be tensors that files do not hold
        assert set(found.specs) == set(saved)


@pytest.mark.parametrize("wrong", ["missing", "unexpected", "misshapen"])
def test_what_would_not_load_is_not_saved(tmp_path, text_runs, wrong):
    """A tensor that all ingredients lack, have in addition, or have in a shape other than that of config.json is a
    problem that names it."""
    runs = []
    for index, run in enumerate(text_runs[:2]):
        state = load_file(run / "model.safetensors")
        if wrong == "missing":
            del state["classifier.weight"]
        elif wrong == "unexpected":
            state["more.weight"] = torch.zeros(2)
        else:
            state["classifier.weight"] = torch.zeros(5, 32)
        runs.append(testing.save_text_model(testing.tiny_text_model(index), tmp_path / f"run-{index}"))
        save_file(state, runs[-1] / "model.safetensors", metadata={"format": "pt"})
    report = hf_soup.check(runs)
    assert not report.ok
    offender = "more.weight" if wrong == "unexpected" else "classifier.weight"
    assert all(offender in problem for problem in report.problems)
    assert len(report.problems) == 2
    with pytest.raises(IncompatibleError, match=offender):
        hf_soup.merge(runs)


def test_another_process_remembers_names(tmp_path, text_runs):
    """Once the names of a model are cached, another process merges without importing transformers' models."""
    hf_soup.check(text_runs)
    assert list(cache_folder().glob("*.json"))
    code = (
        "import sys, hf_soup; hf_soup.merge(sys.argv[2:]).save_pretrained(sys.argv[1]); "
        "assert 'transformers.modeling_utils' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "soup", *text_runs[:2]], check=True)


def test_what_is_remembered_may_be_spoilt(text_runs):
    """An unreadable cache file is ignored."""
    hf_soup.check(text_runs)
    for path in cache_folder().glob("*.json"):
        path.write_text("{")

    layout_cache._read.cache_clear()
    assert hf_soup.check(text_runs).ok


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["NoSuchModel"]}, "has no NoSuchModel"),
        ({"architectures": None}, "names no architecture"),
        ({"num_attention_heads": 5}, "cannot build a BertForSequenceClassification"),
        ({"hidden_act": 5}, "field 'hidden_act': TypeError: Field 'hidden_act' expected"),
    ],
)
def test_a_model_that_cannot_be_built_is_no_soup(tmp_path, config, message):
    """If transformers cannot build the model of config.json, the check says why and a merge is refused."""
    runs = [testing.save_text_model(testing.tiny_text_model(seed), tmp_path / f"run-{seed}") for seed in range(2)]
    for run in runs:
        path = run / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
    assert message in hf_soup.check(runs).problems[0]
    with pytest.raises(IncompatibleError, match=message):
        hf_soup.merge(runs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\nX needs timm. You can install it with pip:\n`pip install timm`.\n", "pip: `pip install timm`[.]$"),
        ("It is wrong.\nMore of it:\nmore", "It is wrong[.]$"),
    ],
)
def test_messages_of_transformers_are_whole_sentences(monkeypatch, text, expected):
    """Errors quote the first line of transformers' message, and the next one too if the first ends with a colon."""

    def fail(*_args, **_options):
        raise ImportError(text)

    monkeypatch.setattr(transformers.BertModel, "from_pretrained", fail)
    with pytest.raises(MissingExtraError, match=expected):
        build_model({"model_type": "bert", "architectures": ["BertModel"]}, {})


class OwnBert(transformers.BertForSequenceClassification):
    """A model class of the user."""


def test_a_class_of_the_users_own(tmp_path):
    """A class unknown to transformers is refused with advice to register it; once registered, it can be merged."""
    models = [OwnBert(testing.tiny_text_model(seed).config) for seed in range(2)]
    with pytest.raises(IncompatibleError, match=r"has no OwnBert .*AutoModel\.register"):
        hf_soup.merge(models)
    transformers.AutoModelForSequenceClassification.register(transformers.BertConfig, OwnBert, exist_ok=True)
    try:
        soup = hf_soup.merge(models)
        folder = soup.save_pretrained(tmp_path / "soup")
        assert type(soup.model) is OwnBert
        with quiet_transformers():
            loaded = OwnBert.from_pretrained(folder)
        assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in soup.model.state_dict().items())
    finally:
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as MAPPING

        MAPPING._extra_content.pop(transformers.BertConfig)


def test_a_changed_byte_of_what_is_remembered_is_no_other_layout(text_runs):
    """A cache file with a changed byte is never read as another layout."""
    config = json.loads((text_runs[0] / "config.json").read_text())
    names = names_in_depth(config)
    path = layout_cache._file(config)
    whole = path.read_bytes()
    for place in range(0, len(whole), max(len(whole) // 160, 1)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        layout_cache._read.cache_clear()
        found = layout_cache.remembered(config)
        assert found is None or tuple(found) == names
    path.write_bytes(whole)
    layout_cache._read.cache_clear()
    assert tuple(layout_cache.remembered(config)) == names
