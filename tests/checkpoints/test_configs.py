"""Tests of the comparison of configurations: only settings that change the computation are reported as problems."""

import json
import shutil
import subprocess
import sys

import pytest
from notes import besides_heads

import hf_soup
from hf_soup.checkpoints.configs import base_differences, compare_configs
from hf_soup.checkpoints.differences import Difference, find_differences, flatten
from hf_soup.errors import IncompatibleError


BERT = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_attention_heads": 4}
GPT2 = {"model_type": "gpt2", "architectures": ["GPT2ForSequenceClassification"], "n_embd": 64, "n_head": 4}
CLIP = {"model_type": "clip", "architectures": ["CLIPModel"], "text_config": {"hidden_size": 64, "dropout": 0.1}}
VIT = {"model_type": "vit", "architectures": ["ViTForImageClassification"]}
BART = {"model_type": "bart", "architectures": ["BartForSequenceClassification"]}
TIMM = {"model_type": "timm_wrapper", "architectures": ["TimmWrapperForImageClassification"], "label_names": ["a"]}
SPEECH = {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"]}
MIXTRAL = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}
ESM = {"model_type": "esm", "architectures": ["EsmForSequenceClassification"], "vocab_size": 8, "pad_token_id": 1}
QWEN = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 64, "num_attention_heads": 4}
JAMBA = {"model_type": "jamba", "architectures": ["JambaForCausalLM"]}
MISTRAL = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
LONG = {"model_type": "longformer", "architectures": ["LongformerForSequenceClassification"]}
DEBERTA = {"model_type": "deberta-v2", "architectures": ["DebertaV2ForSequenceClassification"]}
RELATIVE = {**DEBERTA, "relative_attention": True}
OWN = {"model_type": "not_in_transformers", "architectures": ["OwnModel"], "width": 3}
ROPE = {"rope_type": "linear", "factor": 2.0}


def compared(config, changes):
    """The names of the decisive and of the noted differences between a configuration and a changed copy of it."""
    decisive, noted = compare_configs({"run1": config, "run2": {**config, **changes}})
    return [found.name for found in decisive], [found.name for found in noted]


@pytest.mark.parametrize(
    ("config", "changes", "name"),
    [
        (BERT, {"num_attention_heads": 4}, "num_attention_heads"),
        (BERT, {"hidden_act": "relu"}, "hidden_act"),
        (BERT, {"layer_norm_eps": 1e-5}, "layer_norm_eps"),
        (BERT, {"problem_type": "multi_label_classification"}, "problem_type"),
        (BERT, {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        (BERT, {"pad_token_id": 1}, "pad_token_id"),
        (BERT, {"is_decoder": True}, "is_decoder"),
        (BERT, {"tie_word_embeddings": False}, "tie_word_embeddings"),
        (BART, {"eos_token_id": 1}, "eos_token_id"),
        (BART, {"scale_embedding": True}, "scale_embedding"),
        (LLAMA, {"rope_theta": 2e7}, "rope_parameters.rope_theta"),
        (LLAMA, {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_parameters.factor"),
        (LLAMA, {"num_key_value_heads": 1}, "num_key_value_heads"),
        (LLAMA, {"rms_norm_eps": 1e-3}, "rms_norm_eps"),
        (LLAMA, {"sliding_window": 16}, "sliding_window"),
        (GPT2, {"activation_function": "relu"}, "activation_function"),
        (GPT2, {"summary_type": "mean"}, "summary_type"),
        (GPT2, {"pad_token_id": 3}, "pad_token_id"),
        (GPT2, {"scale_attn_weights": False}, "scale_attn_weights"),
        (CLIP, {"text_config": {"hidden_size": 64, "num_attention_heads": 2}}, "text_config.num_attention_heads"),
        (CLIP, {"vision_config": {"patch_size": 16}}, "vision_config.patch_size"),
        (VIT, {"qkv_bias": False}, "qkv_bias"),
        (VIT, {"image_size": 384}, "image_size"),
        (VIT, {"pooler_act": "relu"}, "pooler_act"),
        (TIMM, {"pretrained_cfg": {"mean": [0.4, 0.4, 0.4]}}, "pretrained_cfg.mean"),
        (TIMM, {"architecture": "resnet18"}, "architecture"),
        (SPEECH, {"do_stable_layer_norm": True}, "do_stable_layer_norm"),
        (MIXTRAL, {"num_experts_per_tok": 4}, "num_experts_per_tok"),
        (ESM, {"token_dropout": True}, "token_dropout"),
        (QWEN, {"use_sliding_window": True, "max_window_layers": 2}, "layer_types"),
        (JAMBA, {"attn_layer_offset": 2}, "attn_layer_offset"),
        (LONG, {"attention_window": 256}, "attention_window"),
        (RELATIVE, {"position_buckets": 256}, "position_buckets"),
        (RELATIVE, {"norm_rel_ebd": "layer_norm"}, "norm_rel_ebd"),
        (RELATIVE, {"pos_att_type": ["p2c"]}, "pos_att_type"),
        (MISTRAL, {"sliding_window": None}, "sliding_window"),
        ({"model_type": "gemma2"}, {"attn_logit_softcapping": None}, "attn_logit_softcapping"),
        ({"model_type": "t5"}, {"feed_forward_proj": "gated-gelu"}, "is_gated_act"),
        (OWN, {"num_heads": 4}, "num_heads"),
        (OWN, {"rope_theta": 5.0}, "rope_theta"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_changes_the_computation(config, changes, name):
    """A setting that changes what the same tensors compute is decisive."""
    decisive, _ = compared(config, changes)
    assert name in decisive


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (BERT, {"hidden_dropout_prob": 0.5, "classifier_dropout": 0.1, "initializer_range": 0.5}),
        (BERT, {"_name_or_path": "x", "transformers_version": "4.0.0", "torch_dtype": "float16", "dtype": "bfloat16"}),
        (BERT, {"finetuning_task": "sst2", "task_specific_params": {"a": {"max_length": 3}}, "use_cache": False}),
        (BERT, {"gradient_checkpointing": True, "output_attentions": True, "return_dict": False}),
        (GPT2, {"do_sample": True, "max_length": 50, "resid_pdrop": 0.5, "summary_first_dropout": 0.3}),
        (SPEECH, {"apply_spec_augment": False, "mask_time_prob": 0.5, "layerdrop": 0.3, "ctc_loss_reduction": "mean"}),
        (MIXTRAL, {"router_aux_loss_coef": 0.5, "output_router_logits": True, "router_jitter_noise": 0.1}),
        (CLIP, {"text_config": {"hidden_size": 64, "dropout": 0.9}, "initializer_factor": 0.5}),
        (OWN, {"drop_path_rate": 0.5, "torch_dtype": "float16"}),
    ],
)
def test_what_changes_nothing(config, changes):
    """Dropout, initial values, losses, names, versions and types are neither decisive nor noted."""
    assert compared(config, changes) == ([], [])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (BERT, {**BERT, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "position_embedding_type": "absolute"}),
        (BERT, {**BERT, "problem_type": "single_label_classification"}),
        (GPT2, {**LLAMA, **GPT2, "hidden_size": 64, "num_attention_heads": 4}),
        (GPT2, {**GPT2, "activation_function": "gelu_pytorch_tanh"}),
        ({**LLAMA, "hidden_act": "silu"}, {**LLAMA, "hidden_act": "swish"}),
        (
            {**LLAMA, "rope_theta": 500000.0},
            {**LLAMA, "rope_parameters": {"rope_theta": 500000, "rope_type": "default"}},
        ),
        ({**LLAMA, "rope_scaling": ROPE}, {**LLAMA, "rope_scaling": {"type": "linear", "factor": 2}}),
        ({**LLAMA, "rope_scaling": ROPE}, {**LLAMA, "rope_parameters": {**ROPE, "rope_theta": 10000}}),
        (LLAMA, {**LLAMA, "num_key_value_heads": 4, "head_dim": 16}),
        ({**VIT, "image_size": 224}, {**VIT, "image_size": [224, 224]}),
        ({**BERT, "torch_dtype": "float16"}, {**BERT, "dtype": "float16"}),
        (LONG, {**LONG, "attention_window": [512] * 12}),
        ({**GPT2, "n_inner": None}, {**GPT2, "n_inner": 256}),
        ({"model_type": "gemma4_text"}, {"model_type": "gemma4_text", "rms_norm_eps": 1e-6}),
        ({**RELATIVE, "pos_att_type": "p2c|c2p"}, {**RELATIVE, "pos_att_type": ["c2p", "p2c"]}),
        ({**BERT, "problem_type": None}, BERT),
        (BERT, {key: value for key, value in BERT.items() if key != "model_type"}),
    ],
)
def test_other_spellings_are_one(old, new):
    """A default that is written out and the old name of a setting are no differences."""
    assert compare_configs({"run1": old, "run2": new}) == ([], [])


@pytest.mark.parametrize(
    ("config", "changes", "name"),
    [
        (BERT, {"my_own_field": 3}, "my_own_field"),
        (OWN, {"width": 4}, "width"),
        (LLAMA, {"pad_token_id": 2}, "pad_token_id"),
        (LLAMA, {"max_position_embeddings": 4096}, "max_position_embeddings"),
        (BERT, {"bos_token_id": 2}, "bos_token_id"),
        (QWEN, {"max_window_layers": 21}, "max_window_layers"),
        (BERT, {"directionality": "bidi"}, "directionality"),
        (BERT, {"pooler_fc_size": 768}, "pooler_fc_size"),
        (BERT, {"summary_type": "first"}, "summary_type"),
        ({"model_type": "t5"}, {"n_positions": 512}, "n_positions"),
        (GPT2, {"n_ctx": 1024}, "n_ctx"),
        ({"model_type": "swin"}, {"path_norm": True}, "path_norm"),
        ({"model_type": "distilbert"}, {"tie_weights_": True}, "tie_weights_"),
        (BART, {"normalize_embedding": True}, "normalize_embedding"),
        (BART, {"prefix": " "}, "prefix"),
        ({"model_type": "bloom"}, {"attention_softmax_in_fp32": True}, "attention_softmax_in_fp32"),
        ({"model_type": "bloom"}, {"offset_alibi": 100}, "offset_alibi"),
        ({"model_type": "bloom"}, {"skip_bias_add": True}, "skip_bias_add"),
        ({"model_type": "gemma"}, {"hidden_activation": "gelu_pytorch_tanh"}, "hidden_activation"),
        ({"model_type": "modernbert"}, {"layer_norm_eps": 1e-5}, "layer_norm_eps"),
        ({"model_type": "modernbert"}, {"global_attn_every_n_layers": 3}, "global_attn_every_n_layers"),
        ({"model_type": "gemma3_text"}, {"sliding_window_pattern": 6}, "sliding_window_pattern"),
        ({"model_type": "albert"}, {"down_scale_factor": 1}, "down_scale_factor"),
        (LONG, {"attention_mode": "longformer"}, "attention_mode"),
        ({"model_type": "stablelm"}, {"rope_pct": 0.25}, "rope_pct"),
        (CLIP, {"vision_config": {"summary_type": "first"}}, "vision_config.summary_type"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_may_matter_is_noted(config, changes, name):
    """Unknown fields and fields that the model type does not use are noted."""
    assert compared(config, changes) == ([], [name])


def test_positions_matter_where_frequencies_depend_on_them():
    """The largest position is decisive for dynamic rotary embeddings, whose frequencies depend on it."""
    dynamic = {**LLAMA, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}
    assert compared(dynamic, {"max_position_embeddings": 4096})[0] == ["max_position_embeddings"]


def test_sizes_are_told_once():
    """With `sizes=False` a size that shapes of tensors already show is not reported again."""
    configs = {"run1": BERT, "run2": {**BERT, "hidden_size": 512, "hidden_act": "relu"}}
    assert [found.name for found in compare_configs(configs, sizes=False)[0]] == ["hidden_act"]


def test_equal_values_are_grouped():
    """Ingredients with equal values are grouped, and long values are cut to the part that differs."""
    assert str(Difference("heads", {"a": 2, "b": 4, "c": 2})) == "heads: a, c have 2, b has 4"
    assert str(Difference("x", {"a": None, "b": "y"})) == "x: a has none, b has 'y'"
    kinds = ["full_attention"] * 40
    text = str(Difference("kinds", {"a": kinds, "b": [*kinds[:30], "sliding_attention", *kinds[31:]]}))
    assert text == "kinds: a has ['full_attention'] at 30 of 40, b has ['sliding_attention'] at 30 of 40"
    long = "x" * 100
    assert "y" in str(Difference("text", {"a": long, "b": long + "y"}))
    assert find_differences({"a": flatten({"x": 1.0, "y": {"z": None}}), "b": {"x": 1}}) == []
    assert find_differences({"a": {"x": 1}, "b": {"x": True}})


def test_a_check_lists_each_and_what_to_do(tmp_path, text_runs):
    """A problem names the field, the values with their ingredients, and the remedy."""
    runs = [shutil.copytree(run, tmp_path / run.name) for run in text_runs]
    path = runs[2] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_attention_heads": 4, "layer_norm_eps": 1e-3}))
    found = hf_soup.check(runs).problems
    assert [problem.partition(".")[0] for problem in found[1:]] == [
        "num_attention_heads: run-0, run-1 have 2, run-2 has 4"
    ]
    assert all(problem.endswith('take_from="run-0" (--take-from run-0)') for problem in found)


def test_a_base_that_computes_otherwise_is_told(tmp_path, text_runs):
    """A base model with other settings gives a note, and an error if the soup lies between the base and the runs."""
    base = shutil.copytree(text_runs[2], tmp_path / "base")
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_attention_heads": 4}))
    expected = "the base model computes differently from the ingredients: num_attention_heads: base has 4, run-0 has 2"
    assert expected in hf_soup.check(text_runs[:2], base).notes
    assert expected in hf_soup.merge(text_runs[:2], method="ties", base_model=base).plan.report.notes
    on_the_way = {"strategy": "interpolate", "base_model": base, "evaluator": lambda model: 1.0}
    with pytest.raises(IncompatibleError, match="the base model computes differently"):
        hf_soup.merge(text_runs[:2], **on_the_way)
    soup = hf_soup.merge(text_runs[:2], take_from="run-0", alphas=[0.5], **on_the_way)
    assert "base" in soup.recipe.names
    assert expected in soup.plan.report.notes
    assert besides_heads(hf_soup.check(text_runs[:2], text_runs[2])) == ()


def test_a_base_that_reads_other_words_is_told(tmp_path, text_runs):
    """A base model whose tokenizer has other tokens for some ids gives a note; fewer or unreadable tokens do not."""
    base = shutil.copytree(text_runs[2], tmp_path / "base")
    path = base / "tokenizer.json"
    text = path.read_text()
    path.write_text(text.replace('"good"', '"goodly"'))
    told = "the base model base has another tokenizer than run-0: 1 tokens differ: 5 is 'goodly' against 'good'"
    for notes in (
        besides_heads(hf_soup.check(text_runs[:2], base)),
        hf_soup.merge(text_runs[:2], method="ties", base_model=base).plan.report.notes,
    ):
        assert [note.partition(". ")[0] for note in notes] == [told]
    fewer = json.loads(text)
    fewer["model"]["vocab"].pop("cast")
    path.write_text(json.dumps(fewer))
    assert besides_heads(hf_soup.check(text_runs[:2], base)) == ()
    path.write_text("{")
    assert besides_heads(hf_soup.check(text_runs[:2], base)) == ()


def test_heads_and_sizes_of_a_base_are_its_own():
    """A base model may have another head and vocabulary size, but not another model type."""
    assert base_differences({**BERT, "vocab_size": 30522}, {**BERT, "vocab_size": 30523}, ("base", "run")) == []
    assert base_differences({**BERT, "pad_token_id": 1}, {**BERT, "problem_type": "regression"}, ("base", "run")) == []
    assert [found.name for found in base_differences(GPT2, BERT, ("base", "run"))] == ["model_type"]


def test_equal_configurations_load_nothing(text_runs):
    """A check of runs with equal settings imports no configurations, models or tokenizers of transformers."""
    code = (
        "import sys, hf_soup; report = hf_soup.check(sys.argv[1:]); assert report.ok; "
        "print(*[name for name in sys.modules if name.startswith('transformers.') and "
        "name.rpartition('.')[2] in ('modeling_utils', 'configuration_auto', 'tokenization_auto')])"
    )
    command = [sys.executable, "-c", code, *map(str, text_runs)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == ""


def test_a_comparison_loads_no_model_classes(tmp_path):
    """Comparing configurations imports no model classes."""
    code = (
        "import sys; from hf_soup.checkpoints.configs import compare_configs; "
        "print(compare_configs({'a': {'model_type': 'bert'}, 'b': {'model_type': 'bert', 'hidden_act': 'relu'}})[0]); "
        "print('transformers.modeling_utils' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "hidden_act" in done
    assert done.endswith("False\n")
