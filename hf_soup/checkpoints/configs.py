"""Comparison of `config.json` between models, and which differences change the computation.

Settings are compared as `config_settings.py` reads them. Class names are compared in `label_problems.py`, and sizes by
means of the tensors. No weights are loaded.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from .config_settings import LABELS, ConfigSettings, read_settings
from .differences import Difference, find_differences


Effect = Literal["matters", "harmless", "unknown"]

# Fields that affect only training, the loss, names or the form of the outputs.
HARMLESS = re.compile(
    r"""
    dropout | drop_?path | layerdrop | pdrop$ | (attn|mlp)_drop | (^|_)drop_(rate|prob|connect|mlp|conv)
    | (^|_)init(_|$) | initializer
    | (^|_)name_or_path$ | ^_?([a-z]+_)?version$ | ^(torch_)?dtype$ | ^architectures$ | ^finetuning_task$
    | ^tokenizer_class$
    | ^task_specific_params$ | ^base_model_\w+_plan$ | ^_commit_hash$ | ^auto_map$ | ^_attn_impl | ^unsloth
    | loss | (?<!depth)(?<!width)_coef(ficient)?s?$ | _cost$ | jitter | noise_ratio$ | box_noise | ^label_smoothing
    | (class|dice|mask|bbox|giou|cls|contrastive|itm|mim|mlm|entropy|no_object|positive_label|diagonal)_weight$
    | ^mask_(time|feature)_ | spec_augment | ^ctc_ | ignore_index$ | momentum$ | ^seed$ | ^num_negatives$ | ^train_
    | ^focal_(alpha|gamma)$ | ^num_denoising$ | ^(over)?sample_ratio$ | ^importance_sample_ratio$
    | gradient_checkpointing | ^use_cache$ | ^use_mems_ | _implementation$ | ^return_(dict|loss)$ | ^pretraining_tp$
    | ^use_\w*kernels$ | ^disable_custom_kernels$
    | ^output_(attentions|hidden_states|past|scores|router_logits) | ^torchscript$ | ^use_bfloat16$
    | ^chunk_size_feed_forward$ | ^onnx_export$
    """,
    re.VERBOSE,
)
NOT_HARMLESS = re.compile(r"^token_dropout$")  # ESM scales its embeddings with these at inference as well
# Generation fields of older configurations; `generation_config.json` is compared with the processors.
IS_GENERATION = re.compile(
    r"""
    ^( do_sample | num_beams | num_beam_groups | top_[kp] | temperature | typical_p | epsilon_cutoff | eta_cutoff
    | repetition_penalty | length_penalty | diversity_penalty | (encoder_)?no_repeat_ngram_size | early_stopping
    | (max|min)_length | max_new_tokens | num_return_sequences | bad_words_ids | forced_(bos|eos)_token_id
    | (begin_)?suppress_tokens | remove_invalid_values | exponential_decay_length_penalty )$
    """,
    re.VERBOSE,
)
# Settings of a head, which do not matter in a base model.
OF_A_HEAD = re.compile(r"^(problem_type|classifier_\w+|summary_\w+|pad_token_id|use_weighted_layer_sum)$")
SIZES = re.compile(r"(^|_)(size|dim|channels?|layers|depths?|sizes|dims|inner|embd|model|positions|embeddings)$")
TOKEN_IDS = re.compile(r"_token_id$|_token_index$")
ENDS_OF_TEXTS = re.compile(r"^(decoder_start|forced_bos|forced_eos|bos|eos|cls|sep|mask|unk)_token_id$")
WRITES = ("CausalLM", "ConditionalGeneration", "LMHeadModel")  # generative architectures, which do not pool by padding
LONGEST_POSITIONS = ("max_position_embeddings", "n_positions")
PLAIN_ROPE = ("default", "linear")  # types for which no frequency depends on the longest position


class ConfigDifferences(NamedTuple):
    """The differences between the configurations of models.

    Args:
        decisive (`list[Difference]`):
            Differences that change the computation.
        noted (`list[Difference]`):
            Differences that may change the computation.
    """

    decisive: list[Difference]
    noted: list[Difference]


def compare_configs(configs: Mapping[str, Mapping[str, Any]], *, sizes: bool = True) -> ConfigDifferences:
    """Compare the configurations of models of one class.

    Args:
        configs (`Mapping[str, Mapping[str, Any]]`):
            Ingredient -> what its `config.json` holds.
        sizes (`bool`, *optional*, defaults to `True`):
            Whether sizes are compared; `False` where shapes of tensors are reported already.

    Returns:
        [`ConfigDifferences`]
    """
    if _are_alike(configs.values()):  # the usual case, handled without transformers
        return ConfigDifferences([], [])
    models = read_settings(configs)
    architecture = _architecture_of(configs.values())
    decisive, noted = [], []
    for difference in find_differences({name: model.values for name, model in models.items()}):
        effect = _classify(difference, models, architecture)
        is_size = SIZES.search(difference.name) is not None
        if effect == "matters" and (sizes or not is_size):
            decisive.append(difference)
        elif effect == "unknown":
            noted.append(difference)
    return ConfigDifferences(decisive, noted)


def _architecture_of(configs: Iterable[Mapping[str, Any]]) -> str:
    """The first class that any of the configurations names; empty if none does."""
    for config in configs:
        architectures = config.get("architectures")
        if architectures and architectures[0]:
            return architectures[0]
    return ""


def _are_alike(configs: Iterable[Mapping[str, Any]]) -> bool:
    """Whether configurations are the same apart from fields that do not matter."""
    distinct: list[Mapping[str, Any]] = []
    for config in configs:
        if config not in distinct:  # comparing mappings is cheaper than writing each as text
            distinct.append(config)
    return len({_comparable(config) for config in distinct}) < 2


def base_differences(base: Mapping[str, Any], tuned: Mapping[str, Any], names: tuple[str, str]) -> list[Difference]:
    """The differences in computation between a base model and a model that was fine-tuned from it.

    Heads and sizes are not compared: tensors that do not fit are reported where the base model is opened.

    Args:
        base (`Mapping`), tuned (`Mapping`):
            Configurations of the base model and of the fine-tuned model.
        names (`tuple[str, str]`):
            Names of the two in messages.
    """
    base_name, tuned_name = names
    model_type = tuned.get("model_type")
    if base.get("model_type") not in (None, model_type):
        return [Difference("model_type", {base_name: base["model_type"], tuned_name: model_type})]
    with_same_head = {**base, "model_type": model_type, "architectures": tuned.get("architectures")}
    differences = compare_configs({base_name: with_same_head, tuned_name: tuned}, sizes=False)
    return [difference for difference in differences.decisive if not OF_A_HEAD.search(difference.name)]


def _comparable(config: Mapping[str, Any]) -> str:
    """The parts of a configuration that have to be compared, as text; a null is kept, a missing field is not."""
    compared_fields = {}
    for key, value in config.items():
        if not _decides_nothing(key):
            compared_fields[key] = value
    return json.dumps(compared_fields, sort_keys=True, default=str)


@functools.lru_cache(maxsize=4096)
def _decides_nothing(name: str) -> bool:
    """Whether a field affects training alone, names something, or holds the class names."""
    if LABELS.search(name):
        return True
    return HARMLESS.search(name) is not None and NOT_HARMLESS.search(name) is None


def _classify(difference: Difference, models: Mapping[str, ConfigSettings], architecture: str) -> Effect:
    """Decide whether a difference changes the computation.

    Args:
        difference ([`Difference`]):
            The setting and its values.
        models (`Mapping[str, ConfigSettings]`):
            Ingredient -> its configuration.
        architecture (`str`):
            The class of the models.
    """
    leaf = difference.name.rpartition(".")[2]
    if _is_harmless(difference, models):
        return "harmless"
    if TOKEN_IDS.search(leaf):
        return _classify_token(leaf, models, architecture)
    if leaf in LONGEST_POSITIONS and _has_plain_rope(difference, models):
        return "unknown"
    is_used = any(difference.name in model.used for model in models.values())
    return "matters" if is_used else "unknown"


def _is_harmless(difference: Difference, models: Mapping[str, ConfigSettings]) -> bool:
    """Whether a setting does not affect the computation, judged by its name and where it is defined."""
    names = difference.name.split(".")
    leaf = names[-1]
    if any(_decides_nothing(name) for name in names):
        return True
    is_declared = any(difference.name in model.declared for model in models.values())
    is_internal = leaf.startswith("_") and not is_declared
    if is_internal or _is_of_generation(leaf, is_declared):
        return True
    # A field that no class defines any more and that is null, false or absent everywhere has no effect.
    classes_are_known = any(model.declared for model in models.values())
    is_on = any(difference.values.values())
    return classes_are_known and not is_declared and not is_on


def _is_of_generation(leaf: str, is_declared: bool) -> bool:
    """Whether a setting belongs to generation; a `temperature` that the configuration class defines does not."""
    if is_declared and leaf == "temperature":
        return False
    return bool(IS_GENERATION.search(leaf))


def _classify_token(leaf: str, models: Mapping[str, ConfigSettings], architecture: str) -> Effect:
    """The effect of a token id: padding affects positions and pooling, the end token encoder-decoders."""
    pools = not architecture.endswith(WRITES)
    if leaf == "pad_token_id":
        is_decisive = pools
    elif leaf == "eos_token_id":
        has_decoder = any(model.values.get("is_encoder_decoder") for model in models.values())
        is_decisive = pools and has_decoder
    else:
        # Tokenizers and generation insert end tokens; other ids, such as those of images, have a meaning inside the
        # model.
        is_decisive = ENDS_OF_TEXTS.search(leaf) is None
    return "matters" if is_decisive else "unknown"


def _has_plain_rope(difference: Difference, models: Mapping[str, ConfigSettings]) -> bool:
    """Whether positions are rotary embeddings that do not depend on the longest position."""
    path = difference.name.rpartition(".")[0]
    start = f"{path}.rope_parameters." if path else "rope_parameters."
    for model in models.values():
        rope_types = _rope_types(model.values, start)
        if not rope_types or any(rope_type not in PLAIN_ROPE for rope_type in rope_types):
            return False
    return True


def _rope_types(settings: Mapping[str, Any], start: str) -> list[Any]:
    """The types of rotary embeddings, of which a model may have several; `start` begins the settings' names."""
    return [value for name, value in settings.items() if name.startswith(start) and name.endswith("_type")]
