"""Soups of many architectures: the saved folder loads completely, and memory and disk give the same bytes."""

import pytest
import torch
import transformers
from safetensors.torch import load_file

import hf_soup
from hf_soup.checkpoints.memory import quiet_transformers


TEXT = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
DECODER = {**TEXT, "num_key_value_heads": 1, "max_position_embeddings": 32}
IMAGE = {"image_size": 16, "patch_size": 4, "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2}
STAGES = {"depths": [1, 1], "hidden_sizes": [4, 8], "num_stages": 2}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "vocab_size": 40}
WHISPER = {
    "vocab_size": 60,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "num_mel_bins": 8,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_source_positions": 20,
    "max_target_positions": 20,
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CLIP = {
    "text_config": {**TEXT, "max_position_embeddings": 16},
    "vision_config": {**IMAGE, "intermediate_size": 24},
    "projection_dim": 8,
}
# class -> its configuration
MODELS = {
    "BertForSequenceClassification": ("BertConfig", TEXT),
    "BertForMaskedLM": ("BertConfig", TEXT),
    "DistilBertForSequenceClassification": (
        "DistilBertConfig",
        {"vocab_size": 40, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24},
    ),
    "RobertaForSequenceClassification": ("RobertaConfig", TEXT),
    "DebertaV2ForSequenceClassification": ("DebertaV2Config", TEXT),
    "ModernBertForSequenceClassification": (
        "ModernBertConfig",
        {**TEXT, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "ViTForImageClassification": ("ViTConfig", {**IMAGE, "intermediate_size": 24}),
    "DeiTForImageClassification": ("DeiTConfig", {**IMAGE, "intermediate_size": 24}),
    "SwinForImageClassification": (
        "SwinConfig",
        {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2},
    ),
    "ConvNextForImageClassification": ("ConvNextConfig", STAGES),
    "ResNetForImageClassification": (
        "ResNetConfig",
        {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"},
    ),
    "MobileNetV1ForImageClassification": ("MobileNetV1Config", {"depth_multiplier": 0.1, "image_size": 32}),
    "T5ForConditionalGeneration": ("T5Config", T5),
    "GPT2LMHeadModel": ("GPT2Config", {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 40, "n_positions": 8}),
    "LlamaForCausalLM": ("LlamaConfig", {**DECODER, "tie_word_embeddings": True}),
    "LlamaForCausalLM untied": ("LlamaConfig", DECODER),
    "MixtralForCausalLM": ("MixtralConfig", {**DECODER, "num_local_experts": 2, "num_experts_per_tok": 1}),
    "CLIPModel": ("CLIPConfig", CLIP),
    "WhisperForConditionalGeneration": ("WhisperConfig", WHISPER),
}


def make(name, seed):
    """A tiny model in which every float tensor is random, also those initialised to ones or zeros."""
    config_name, fields = MODELS[name]
    with quiet_transformers():
        transformers.set_seed(seed)
        model = getattr(transformers, name.split()[0])(getattr(transformers, config_name)(**fields))
        with torch.no_grad():
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(torch.randn(tensor.shape) * 0.02)
        return model.eval()


@pytest.mark.filterwarnings("ignore:the model has BatchNorm")  # two of these models have it
@pytest.mark.parametrize("name", MODELS)
def test_every_architecture(tmp_path, name):
    """The soup is the mean of its ingredients' files, loads without missing or unexpected keys, and equals the model
    in memory, with the same bytes from ingredients in memory, on disk and mixed."""
    models = [make(name, seed) for seed in range(3)]
    folders = [tmp_path / f"run-{seed}" for seed in range(3)]
    with quiet_transformers():
        for model, folder in zip(models, folders, strict=True):
            model.save_pretrained(folder)
    soup = hf_soup.merge(folders)
    folder = soup.save_pretrained(tmp_path / "soup")
    state, parts = load_file(folder / "model.safetensors"), [load_file(run / "model.safetensors") for run in folders]
    assert set(state) == set(parts[0])
    for key, tensor in state.items():
        exact = sum(part[key].double() for part in parts) / 3 if tensor.is_floating_point() else parts[0][key]
        assert torch.equal(tensor, exact.to(tensor.dtype)), key
    with quiet_transformers():
        loaded, info = type(models[0]).from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")), info
    in_memory = soup.model.state_dict()
    assert all(torch.equal(tensor, in_memory[key]) for key, tensor in loaded.state_dict().items())
    for index, sources in enumerate((models, [models[0], folders[1], models[2].state_dict()])):
        config = {**models[0].config.to_dict(), "architectures": [type(models[0]).__name__]}
        opened = [hf_soup.load_ingredient(source, config=config) for source in sources]
        other = hf_soup.merge(opened).save_pretrained(tmp_path / f"other-{index}")
        assert (other / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
