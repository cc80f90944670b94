"""What `config.json` says of the computation, compared as transformers reads it.

Old and new spellings of a setting are one, and a setting that is left out has its default. Names of classes are
compared in `labels.py`, and sizes with the tensors. No weights and no model classes are loaded.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from ..types import plain
from .differences import Difference, find_differences, flatten
from .model_code import SHARED, names_read


Effect = Literal["matters", "harmless", "unknown"]

LABELS = re.compile(r"^(id2label|label2id|_?num_labels|num_classes|label_names|label_descriptions)$")
# Fields that only training, the loss or the form of outputs depends on, and names.
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
NOT_HARMLESS = re.compile(r"^token_dropout$")  # by which ESM scales its embeddings at inference too
# Fields of generation in older configurations; `generation_config.json` is compared with the processors.
IS_GENERATION = re.compile(
    r"""
    ^( do_sample | num_beams | num_beam_groups | top_[kp] | temperature | typical_p | epsilon_cutoff | eta_cutoff
    | repetition_penalty | length_penalty | diversity_penalty | (encoder_)?no_repeat_ngram_size | early_stopping
    | (max|min)_length | max_new_tokens | num_return_sequences | bad_words_ids | forced_(bos|eos)_token_id
    | (begin_)?suppress_tokens | remove_invalid_values | exponential_decay_length_penalty )$
    """,
    re.VERBOSE,
)
# Names that mean computation where no code of a model can be read.
MATTERS = re.compile(
    r"""
    rope | rotary | heads?(_|$) | (^|_)act(_|$|ivation) | norm | eps(ilon)?$ | position | window | problem_type | pool
    | scal(e|ing) | soft_?cap | temperature | ^tie_ | patch | stride | kernel | bias | expert | ^is_ | layer | depth
    | _size$ | _dim$ | ^(n|d)_[a-z]+$ | attention | causal | alibi | residual | logit | multiplier | ^summary_ | theta
    | ^(mean|std|interpolation|crop_\w+|architecture|model_type|global_pool|pruned_heads)$
    """,
    re.VERBOSE,
)
# Settings of a head, which a base model has no use for.
OF_A_HEAD = re.compile(r"^(problem_type|classifier_\w+|summary_\w+|pad_token_id|use_weighted_layer_sum)$")
SIZES = re.compile(r"(^|_)(size|dim|channels?|layers|depths?|sizes|dims|inner|embd|model|positions|embeddings)$")
TOKEN_IDS = re.compile(r"_token_id$|_token_index$")
ENDS_OF_TEXTS = re.compile(r"^(decoder_start|forced_bos|forced_eos|bos|eos|cls|sep|mask|unk)_token_id$")
WRITES = ("CausalLM", "ConditionalGeneration", "LMHeadModel")  # architectures that do not pool by padding
LONGEST_POSITIONS = ("max_position_embeddings", "n_positions")
PLAIN_ROPE = ("default", "linear")  # under which no frequency depends on the longest position
ACTIVATIONS = {  # transformers' own names for one function
    "swish": "silu",
    "gelu_python": "gelu",
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_accurate", "gelu_python_tanh"), "gelu_pytorch_tanh"),
}
INNER_SIZES = ("n_inner", "intermediate_size")  # four times the width where they are null
# Values that older versions wrote for settings that are gone.
FORMER_DEFAULTS = {"position_embedding_type": "absolute"}


class _Read(NamedTuple):
    """A configuration as it is read.

    Args:
        settings (`dict[str, Any]`):
            Dotted name -> value.
        declared (`frozenset[str]`):
            The names that its class defines; empty where transformers knows no such class.
        used (`frozenset[str]`):
            The names that its model computes with, by its code or else by what they are called.
    """

    settings: dict[str, Any]
    declared: frozenset[str]
    used: frozenset[str]


class ConfigDifferences(NamedTuple):
    """What differs in the configurations of models.

    Args:
        decisive (`list[Difference]`):
            What changes the computation.
        noted (`list[Difference]`):
            What may change it.
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
    if _are_alike(configs.values()):  # nearly always, and without transformers
        return ConfigDifferences([], [])
    models = _read_all(configs)
    architecture = _architecture_of(configs.values())
    decisive, noted = [], []
    for difference in find_differences({name: model.settings for name, model in models.items()}):
        effect = _classify(difference, models, architecture)
        is_size = SIZES.search(difference.name) is not None
        if effect == "matters" and (sizes or not is_size):
            decisive.append(difference)
        elif effect == "unknown":
            noted.append(difference)
    return ConfigDifferences(decisive, noted)


def _architecture_of(configs: Iterable[Mapping[str, Any]]) -> str:
    """The first class that a configuration names; empty where none does."""
    for config in configs:
        architectures = config.get("architectures")
        if architectures and architectures[0]:
            return architectures[0]
    return ""


def _are_alike(configs: Iterable[Mapping[str, Any]]) -> bool:
    """Whether configurations are the same but for what decides nothing."""
    distinct: list[Mapping[str, Any]] = []
    for config in configs:
        if config not in distinct:  # to compare mappings is cheaper than to write each as text
            distinct.append(config)
    return len({_comparable(config) for config in distinct}) < 2


def _read_all(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, _Read]:
    """All configurations as transformers reads them; as they are written where it cannot read one of them."""
    texts = {name: json.dumps(config, sort_keys=True, default=str) for name, config in configs.items()}
    # A configuration that says no type is read as one of the others' type.
    model_types = [config["model_type"] for config in configs.values() if config.get("model_type")]
    model_type = model_types[0] if model_types else None
    models = {}
    for name, text in texts.items():
        model = _as_transformers(text, model_type)
        if model is None:
            return {name: _as_written(text) for name, text in texts.items()}
        models[name] = model
    return models


def base_differences(base: Mapping[str, Any], tuned: Mapping[str, Any], names: tuple[str, str]) -> list[Difference]:
    """What a base model computes otherwise than a model that was fine-tuned from it.

    Heads are not compared, nor are sizes: tensors that do not fit are reported where the base is opened.

    Args:
        base (`Mapping`), tuned (`Mapping`):
            Their configurations.
        names (`tuple[str, str]`):
            What to call the two.
    """
    base_name, tuned_name = names
    model_type = tuned.get("model_type")
    if base.get("model_type") not in (None, model_type):
        return [Difference("model_type", {base_name: base["model_type"], tuned_name: model_type})]
    with_same_head = {**base, "model_type": model_type, "architectures": tuned.get("architectures")}
    differences = compare_configs({base_name: with_same_head, tuned_name: tuned}, sizes=False)
    return [difference for difference in differences.decisive if not OF_A_HEAD.search(difference.name)]


def _comparable(config: Mapping[str, Any]) -> str:
    """What has to be compared of a configuration, as text; null is a value, where a field left out has its default."""
    kept = {}
    for key, value in config.items():
        if not _decides_nothing(key):
            kept[key] = value
    return json.dumps(kept, sort_keys=True, default=str)


@functools.lru_cache(maxsize=4096)
def _decides_nothing(name: str) -> bool:
    """Whether a field is of training alone, says what something is called, or has the classes' names."""
    if LABELS.search(name):
        return True
    return HARMLESS.search(name) is not None and NOT_HARMLESS.search(name) is None


@functools.lru_cache(maxsize=128)
def _as_transformers(text: str, model_type: str | None) -> _Read | None:
    """A configuration as its class reads it; `None` where transformers has no such class or it refuses."""
    from .memory import quiet_transformers

    config = {"model_type": model_type, **json.loads(text)}
    try:
        from transformers import CONFIG_MAPPING

        with quiet_transformers():
            model = _fields(CONFIG_MAPPING[config["model_type"]].from_dict(copy.deepcopy(config)))
    except Exception:  # whatever a configuration makes transformers trip over
        return None
    return model._replace(settings=_in_one_spelling(model.settings, _has_one_class(config)))


@functools.lru_cache(maxsize=128)
def _as_written(text: str) -> _Read:
    """A configuration without defaults; names alone tell what its model computes with."""
    config = json.loads(text)
    settings = _in_one_spelling(flatten(config), _has_one_class(config))
    return _Read(settings, frozenset(), frozenset(filter(_sounds_like_computation, settings)))


def _sounds_like_computation(name: str) -> bool:
    return bool(MATTERS.search(name.rpartition(".")[2]))


def _has_one_class(config: Mapping[str, Any]) -> bool:
    """Whether a head has one output, which transformers takes for a regression."""
    return len(config.get("id2label") or ()) == 1 or config.get("num_labels") == 1


def _fields(config: Any, prefix: str = "", outer: frozenset[str] = frozenset()) -> _Read:
    """The settings of a configuration and of those within it.

    Args:
        config (`transformers.PretrainedConfig`):
            The configuration.
        prefix (`str`, *optional*):
            What its names begin with, if it lies within another one.
        outer (`frozenset[str]`, *optional*):
            Names that the code of the models around it reads.
    """
    parameters = _parameters_of(type(config))
    in_code = names_read(config)
    settings: dict[str, Any] = {}
    declared: set[str] = set()
    used: set[str] = set()
    for name, value in config.to_dict().items():
        inner = vars(config).get(name)
        if hasattr(inner, "to_dict") and hasattr(inner, "model_type"):
            within = _fields(inner, f"{prefix}{name}.", in_code | outer)
            settings |= within.settings
            declared |= within.declared
            used |= within.used
            continue
        flat = flatten({name: value}, prefix)
        settings |= flat
        if name in parameters:
            declared |= set(flat)
        if in_code:
            is_used = name in in_code or name in outer or SHARED.search(name) is not None
        else:  # no code can be read: what its class asks for, or sounds like computation
            is_used = name in parameters
            used |= set(filter(_sounds_like_computation, flat))
        if is_used:
            used |= set(flat)
    return _Read(settings, frozenset(declared), frozenset(used))


def _parameters_of(config_class: type) -> set[str]:
    """The settings that a class of configurations defines."""
    if dataclasses.is_dataclass(config_class):
        return {field.name for field in dataclasses.fields(config_class)}
    return set(inspect.signature(config_class).parameters)


def _in_one_spelling(settings: Mapping[str, Any], one_class: bool) -> dict[str, Any]:
    """The same settings with one name for each function, and a number for a pair of equal ones."""
    spelt = {}
    for name, value in settings.items():
        path, _, leaf = name.rpartition(".")
        # transformers keeps the old name of the kind of rotary positions beside the new one.
        is_old_name = leaf == "type" and f"{path}.rope_type" in settings
        if LABELS.search(leaf) or is_old_name:
            continue
        if leaf in INNER_SIZES and value is None:
            value = _inner_size(settings, path)
        if leaf == "problem_type" and value is None:
            # What transformers takes it for, and writes into the configuration of a model that it trains.
            value = "regression" if one_class else "single_label_classification"
        spelt[name] = plain(_spelt(leaf, value))
    return spelt


def _spelt(leaf: str, value: Any) -> Any:
    """One value in the spelling of today; `leaf` is the last part of the setting's name."""
    if value == FORMER_DEFAULTS.get(leaf):
        return None
    if leaf == "pos_att_type" and isinstance(value, str):  # DeBERTa: "c2p|p2c" is the list of the two
        value = value.split("|")
    if isinstance(value, str) and "act" in leaf:
        return ACTIVATIONS.get(value, value)
    if isinstance(value, list):
        return _spelt_list(leaf, value)
    return value


def _spelt_list(leaf: str, values: list[Any]) -> Any:
    """One list in the spelling of today: a single value where one would mean the same."""
    if leaf == "pos_att_type":  # a set of terms, in any order
        return sorted(values)
    is_for_each_layer = leaf == "attention_window"  # Longformer: one width is that of all layers
    if not values or not (is_for_each_layer or _is_pair(leaf, values)):
        return values
    first = values[0]
    all_equal = all(value == first for value in values)
    return first if all_equal else values


def _inner_size(settings: Mapping[str, Any], path: str) -> int | None:
    """The width of feed-forward layers where a configuration says null."""
    start = f"{path}." if path else ""
    for width in ("n_embd", "hidden_size"):
        size = settings.get(f"{start}{width}")
        if isinstance(size, int):
            return 4 * size
    return None


def _is_pair(leaf: str, values: list[Any]) -> bool:
    """Whether a list is height and width, of which one number can stand for both."""
    return len(values) == 2 and re.search("size|stride", leaf) is not None


def _classify(difference: Difference, models: Mapping[str, _Read], architecture: str) -> Effect:
    """Whether a difference changes the computation.

    Args:
        difference ([`Difference`]):
            The setting and its values.
        models (`Mapping[str, _Read]`):
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


def _is_harmless(difference: Difference, models: Mapping[str, _Read]) -> bool:
    """Whether a setting has nothing to do with the computation, by what it is called and where it is defined."""
    names = difference.name.split(".")
    leaf = names[-1]
    if any(_decides_nothing(name) for name in names):
        return True
    is_declared = any(difference.name in model.declared for model in models.values())
    is_internal = leaf.startswith("_") and not is_declared
    if is_internal or _is_of_generation(leaf, is_declared):
        return True
    # A field that no class defines any more, and that is null, false or absent everywhere, switches nothing on.
    classes_are_known = any(model.declared for model in models.values())
    is_on = any(difference.values.values())
    return classes_are_known and not is_declared and not is_on


def _is_of_generation(leaf: str, is_declared: bool) -> bool:
    """A `temperature` that a class of configurations defines is one of its model (CLIP, VITS ...)."""
    if is_declared and leaf == "temperature":
        return False
    return bool(IS_GENERATION.search(leaf))


def _classify_token(leaf: str, models: Mapping[str, _Read], architecture: str) -> Effect:
    """Ids of padding decide positions and where decoders pool, that of the end where encoder-decoders pool."""
    pools = not architecture.endswith(WRITES)
    if leaf == "pad_token_id":
        return "matters" if pools else "unknown"
    has_decoder = any(model.settings.get("is_encoder_decoder") for model in models.values())
    if leaf == "eos_token_id":
        return "matters" if pools and has_decoder else "unknown"
    return "unknown" if ENDS_OF_TEXTS.search(leaf) else "matters"


def _has_plain_rope(difference: Difference, models: Mapping[str, _Read]) -> bool:
    """Whether positions are rotations that do not depend on the longest one."""
    path = difference.name.rpartition(".")[0]
    start = f"{path}.rope_parameters." if path else "rope_parameters."
    for model in models.values():
        ropes = [value for name, value in model.settings.items() if name.startswith(start) and name.endswith("_type")]
        if not ropes or any(rope not in PLAIN_ROPE for rope in ropes):
            return False
    return True
