"""Checkpoints and base models written by different versions of transformers are treated as one model."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_architectures import make

import hf_soup
from hf_soup import testing
from hf_soup.checkpoints.memory import quiet_transformers
from hf_soup.errors import IncompatibleError, IngredientError


def rewrite(folder, change):
    """Change the tensors of a saved model."""
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def gamma(state):
    """Rename tensors to the names that TensorFlow checkpoints had."""
    return {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in state.items()
    }


def test_old_and_new_names_are_one_model(tmp_path, text_runs):
    """Ingredients with old names of LayerNorm give the bytes of those with new names, and the recipe records digests
    of the files as they are."""
    runs = [shutil.copytree(run, tmp_path / run.name) for run in text_runs]
    rewrite(runs[1], gamma)
    assert hf_soup.check(runs).ok
    folder = hf_soup.merge(runs).save_pretrained(tmp_path / "mixed")
    plain = hf_soup.merge(text_runs).save_pretrained(tmp_path / "plain")
    assert (folder / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    again = hf_soup.cook(folder, output_dir=tmp_path / "again").folder
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert hf_soup.verify(folder).ok
    rewrite(runs[1], lambda state: {**state, "classifier.bias": state["classifier.bias"] + 1})
    with pytest.raises(hf_soup.SoupError, match="has changed"):
        hf_soup.cook(folder, output_dir=tmp_path / "changed")


def test_stored_twins_of_tied_weights(tmp_path):
    """A file that stores a tied weight twice can be merged with one that stores it once; if the two copies differ, it
    is refused with a remedy."""
    name, twin = "transformer.wte.weight", "lm_head.weight"
    runs = []
    for seed in range(2):
        runs.append(tmp_path / f"run-{seed}")
        with quiet_transformers():
            make("GPT2LMHeadModel", seed).save_pretrained(runs[-1])
    plain = hf_soup.merge(runs).save_pretrained(tmp_path / "plain")
    rewrite(runs[1], lambda state: {**state, twin: state[name].clone()})
    folder = hf_soup.merge(runs).save_pretrained(tmp_path / "soup")
    assert (folder / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    rewrite(runs[1], lambda state: {key: value for key, value in state.items() if key != name})
    alone = hf_soup.merge(runs).save_pretrained(tmp_path / "alone")
    assert (alone / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    rewrite(runs[1], lambda state: {**state, name: state[twin] + 1})
    with pytest.raises(IncompatibleError, match=r"different values.*tie_word_embeddings"):
        hf_soup.merge(runs)


def test_twins_of_the_hub_are_compared_when_they_are_here(hub, tmp_path):
    """For Hub repositories, different copies of a tied weight are found when the weights are read."""
    from huggingface_hub import HfApi

    ids = []
    for seed in range(2):
        folder = tmp_path / f"run-{seed}"
        with quiet_transformers():
            make("GPT2LMHeadModel", seed).save_pretrained(folder)
        rewrite(folder, lambda state: {**state, "lm_head.weight": state["transformer.wte.weight"] + 1})
        ids.append(f"{hub.user}/{tmp_path.name}-{seed}")
        HfApi().create_repo(ids[-1])
        HfApi().upload_folder(repo_id=ids[-1], folder_path=folder)
    soup = hf_soup.merge(ids)
    with pytest.raises(IncompatibleError, match="different values"):
        soup.save_pretrained(tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


def test_two_tensors_for_one(tmp_path, text_runs):
    """A tensor stored under its old and new name is accepted if both are equal, and refused with both names if not."""
    run = shutil.copytree(text_runs[0], tmp_path / "run")
    name = "bert.embeddings.LayerNorm"
    rewrite(run, lambda state: {**state, f"{name}.gamma": state[f"{name}.weight"].clone()})
    folder = hf_soup.merge([run, text_runs[1]]).save_pretrained(tmp_path / "soup")
    plain = hf_soup.merge(text_runs[:2]).save_pretrained(tmp_path / "plain")
    assert (folder / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    rewrite(run, lambda state: {**state, f"{name}.gamma": state[f"{name}.weight"] + 1})
    with pytest.raises(IncompatibleError, match=r"LayerNorm\.(gamma|weight) and .* with different values"):
        hf_soup.merge([run, text_runs[1]])


def test_buffers_of_every_layer_that_are_one_now(tmp_path):
    """The rotary tables that ESM of transformers 4 stored for each layer map to the single one of today."""
    fields = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    fields |= {"intermediate_size": 24, "mask_token_id": 3, "pad_token_id": 1, "position_embedding_type": "rotary"}
    runs = [tmp_path / f"run-{seed}" for seed in range(2)]
    for seed, run in enumerate(runs):
        transformers.set_seed(seed)
        with quiet_transformers():
            transformers.EsmForSequenceClassification(transformers.EsmConfig(**fields)).save_pretrained(run)
    plain = hf_soup.merge(runs).save_pretrained(tmp_path / "plain")

    def old(state):
        (key,) = [key for key in state if "inv_freq" in key]
        table = state.pop(key)
        places = [f"esm.encoder.layer.{index}.attention.self.rotary_embeddings.inv_freq" for index in range(2)]
        return state | {place: table.clone() for place in places}

    rewrite(runs[1], old)
    folder = hf_soup.merge(runs).save_pretrained(tmp_path / "soup")
    assert (folder / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()


def test_a_pickled_base_of_another_head(tmp_path, text_runs):
    """A pickled base model with the tensors of another head is read for the body of the ingredients."""
    base = shutil.copytree(text_runs[2], tmp_path / "base")
    state = load_file(base / "model.safetensors")
    more = {**state, "cls.seq_relationship.weight": torch.zeros(2, 32)}
    right = hf_soup.merge(text_runs[:2], method="ties", base_model=text_runs[2]).save_pretrained(tmp_path / "right")
    torch.save(more, base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    base = hf_soup.load_ingredient(base, allow_pickle=True)
    soup = hf_soup.merge(text_runs[:2], method="ties", base_model=base)
    folder = soup.save_pretrained(tmp_path / "soup")
    assert (folder / "model.safetensors").read_bytes() == (right / "model.safetensors").read_bytes()


BASES = {
    "the same, old names": ("BertForMaskedLM", "BertForMaskedLM", gamma),
    "body": ("BertForSequenceClassification", "BertModel", dict),
    "body, old names": ("BertForSequenceClassification", "BertModel", gamma),
    "another head": ("BertForSequenceClassification", "BertForMaskedLM", dict),
    "without prefix": (
        "GPT2LMHeadModel",
        "GPT2LMHeadModel",
        lambda state: {name.removeprefix("transformer."): tensor for name, tensor in state.items()},
    ),
    "experts": ("MixtralForCausalLM", "MixtralModel", dict),
    "renamed in memory": ("ViTForImageClassification", "ViTModel", dict),
    "compiled": (
        "T5ForConditionalGeneration",
        "T5ForConditionalGeneration",
        lambda state: {f"_orig_mod.{n}": t for n, t in state.items()},
    ),
}


@pytest.mark.parametrize("kind", BASES)
def test_a_base_under_any_names(tmp_path, kind):
    """A base model of another class or version gives the same soup as one with the names of the ingredients, except
    for tensors outside of the body."""
    tuned_class, base_class, rename = BASES[kind]
    tuned = [make(tuned_class, seed) for seed in range(2)]
    right = make(tuned_class, 7)
    runs = [tmp_path / f"run-{seed}" for seed in range(2)]
    with quiet_transformers():
        for model, run in zip(tuned, runs, strict=True):
            model.save_pretrained(run)
        right.save_pretrained(tmp_path / "right")
        body = getattr(transformers, base_class).from_pretrained(tmp_path / "right")
        body.save_pretrained(tmp_path / "base")
    rewrite(tmp_path / "base", rename)
    expected = load_file(
        hf_soup.merge(runs, method="ties", base_model=tmp_path / "right").save_pretrained(tmp_path / "a")
        / "model.safetensors"
    )
    soup = hf_soup.merge(runs, method="ties", base_model=tmp_path / "base")
    found = load_file(soup.save_pretrained(tmp_path / "b") / "model.safetensors")
    shared = set(load_file(tmp_path / "right" / "model.safetensors"))
    lacking = {name for name in shared if not torch.equal(found[name], expected[name])}
    heads = ("classifier", "lm_head", "cls.", "vit.pooler", "bert.pooler")
    assert all(name.startswith(heads) for name in lacking), lacking
    if base_class == tuned_class:
        assert not lacking


def test_a_base_of_something_else(tmp_path, text_runs):
    """A base model in which most of the body is missing or of another size raises an IngredientError."""
    with quiet_transformers():
        testing.tiny_text_model(0, hidden_size=16).save_pretrained(tmp_path / "narrow")
        make("GPT2LMHeadModel", 0).save_pretrained(tmp_path / "gpt2")
    for base in ("narrow", "gpt2"):
        with pytest.raises(IngredientError, match="is not a base model of 'run-0'"):
            hf_soup.merge(text_runs, method="ties", base_model=tmp_path / base)
        with pytest.raises(IngredientError, match="is not a base model of 'run-0'"):
            hf_soup.check(text_runs, base_model=tmp_path / base)
        with pytest.raises(hf_soup.SoupError, match="is not a base model of 'run-0'"):
            hf_soup.merge(text_runs, strategy="interpolate", evaluator=lambda model: 1.0, base_model=tmp_path / base)


def test_single_tensors_that_a_base_lacks_are_named(tmp_path, text_runs):
    """A base model may lack a few tensors of the body, which a note lists."""
    base = shutil.copytree(text_runs[2], tmp_path / "base")
    rewrite(base, lambda state: {name: tensor for name, tensor in state.items() if "pooler" not in name})
    soup = hf_soup.merge(text_runs[:2], method="ties", base_model=base)
    (note,) = [note for note in soup.plan.report.notes if "averaged without it" in note]
    assert "bert.pooler.dense.bias, bert.pooler.dense.weight" in note


def test_a_config_of_its_own_names_its_class(tmp_path, text_runs):
    """A classifier whose config names the bare body is refused, because it would lose its head on loading."""
    runs = [shutil.copytree(run, tmp_path / run.name) for run in text_runs[:2]]
    for run in runs:
        path = run / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": ["BertModel"]}))
    with pytest.raises(IncompatibleError, match=r"classifier\.bias.*which BertModel does not have"):
        hf_soup.merge(runs)
