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
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ..types import plain
from .differences import Difference, find_differences, flatten
from .model_code import SHARED, names_read


Kind = Literal["matters", "harmless", "unknown"]

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
SIZES = re.compile(r"(^|_)(size|dim|channels?|layers|depths?|sizes|dims|inner|embd|model|positions|embeddings)$")
TOKEN_IDS = re.compile(r"_token_id$|_token_index$")
ENDS_OF_TEXTS = re.compile(r"^(decoder_start|forced_bos|forced_eos|bos|eos|cls|sep|mask|unk)_token_id$")
WRITES = ("CausalLM", "ConditionalGeneration", "LMHeadModel")  # architectures that do not pool by padding
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


def compare_configs(
    configs: Mapping[str, Mapping[str, Any]], *, sizes: bool = True
) -> tuple[list[Difference], list[Difference]]:
    """Compare the configurations of models of one class.

    Args:
        configs (`Mapping[str, Mapping[str, Any]]`):
            Ingredient -> what its `config.json` holds.
        sizes (`bool`, *optional*, defaults to `True`):
            Whether sizes are compared; `False` where shapes of tensors have told already.

    Returns:
        `tuple[list[Difference], list[Difference]]`: what changes the computation, and what may.
    """
    distinct: list[Mapping[str, Any]] = []
    for config in configs.values():
        if config not in distinct:
            distinct.append(config)
    if len({_comparable(config) for config in distinct}) < 2:  # nearly always, and without transformers
        return [], []
    raw = {name: json.dumps(config, sort_keys=True, default=str) for name, config in configs.items()}
    kind = next(filter(None, (config.get("model_type") for config in configs.values())), None)
    read = {name: _as_transformers(text, kind) for name, text in raw.items()}
    if any(found is None for found in read.values()):
        read = {name: _as_written(text) for name, text in raw.items()}
    declared = frozenset.union(*(found.declared for found in read.values()))
    used = frozenset.union(*(found.used for found in read.values()))
    architecture = next((config["architectures"][0] for config in configs.values() if config.get("architectures")), "")
    matters, unknown = [], []
    for difference in find_differences({name: found.settings for name, found in read.items()}):
        found = _classify(difference, declared, used, read, architecture)
        if found == "matters" and (sizes or not SIZES.search(difference.name)):
            matters.append(difference)
        elif found == "unknown":
            unknown.append(difference)
    return matters, unknown


def base_differences(base: Mapping[str, Any], tuned: Mapping[str, Any], names: Sequence[str]) -> list[Difference]:
    """What a base model computes otherwise than a model that was fine-tuned from it.

    Heads are not compared, nor are sizes: tensors that do not fit are told where the base is opened.

    Args:
        base (`Mapping`), tuned (`Mapping`):
            Their configurations.
        names (`Sequence[str]`):
            What to call the two.
    """
    own_heads = re.compile(r"^(problem_type|classifier_\w+|summary_\w+|pad_token_id|use_weighted_layer_sum)$")
    same_class = {"model_type": tuned.get("model_type"), "architectures": tuned.get("architectures")}
    if base.get("model_type") not in (None, tuned.get("model_type")):
        return [Difference("model_type", dict(zip(names, (base["model_type"], tuned.get("model_type")), strict=True)))]
    matters, _ = compare_configs({names[0]: {**base, **same_class}, names[1]: tuned}, sizes=False)
    return [difference for difference in matters if not own_heads.search(difference.name)]


def _comparable(config: Mapping[str, Any]) -> str:
    """What has to be compared of a configuration, as text; null is a value, where a field left out has its default."""
    kept = {}
    for key, value in config.items():
        if not _is_harmless(key) and not LABELS.search(key):
            kept[key] = value
    return json.dumps(kept, sort_keys=True, default=str)


@functools.lru_cache(maxsize=4096)
def _is_harmless(name: str) -> bool:
    return bool(HARMLESS.search(name)) and not NOT_HARMLESS.search(name)


@functools.lru_cache(maxsize=128)
def _as_transformers(text: str, kind: str | None) -> _Read | None:
    """A configuration as its class reads it; `None` where transformers has no such class or it refuses."""
    from .memory import quiet_transformers

    config = {"model_type": kind, **json.loads(text)}
    try:
        from transformers import CONFIG_MAPPING

        with quiet_transformers():
            read = CONFIG_MAPPING[config["model_type"]].from_dict(copy.deepcopy(config))
            found = _fields(read)
    except Exception:  # whatever a configuration makes transformers trip over
        return None
    return found._replace(settings=_in_one_spelling(found.settings, _has_one_class(config)))


@functools.lru_cache(maxsize=128)
def _as_written(text: str) -> _Read:
    config = json.loads(text)
    settings = _in_one_spelling(flatten(config), _has_one_class(config))
    return _Read(settings, frozenset(), frozenset(filter(_sounds_like_computation, settings)))


def _sounds_like_computation(name: str) -> bool:
    return bool(MATTERS.search(name.rpartition(".")[2]))


def _has_one_class(config: Mapping[str, Any]) -> bool:
    return len(config.get("id2label") or ()) == 1 or config.get("num_labels") == 1


def _fields(config: Any, prefix: str = "", outer: frozenset[str] = frozenset()) -> _Read:
    """The settings of a configuration and of those within it; `outer` are names that the code around it reads."""
    cls = type(config)
    if dataclasses.is_dataclass(cls):
        own = {field.name for field in dataclasses.fields(cls)}
    else:
        own = set(inspect.signature(cls.__init__).parameters)
    in_code = names_read(config)
    settings: dict[str, Any] = {}
    declared: set[str] = set()
    used: set[str] = set()
    for key, value in config.to_dict().items():
        inner = vars(config).get(key)
        if hasattr(inner, "to_dict") and hasattr(inner, "model_type"):
            theirs = _fields(inner, f"{prefix}{key}.", in_code | outer)
            settings, declared, used = settings | theirs.settings, declared | theirs.declared, used | theirs.used
            continue
        found = flatten({key: value}, prefix)
        settings |= found
        declared |= set(found) if key in own else set()
        if in_code:
            used |= set(found) if key in in_code | outer or SHARED.search(key) else set()
        else:
            used |= set(found) if key in own else set(filter(_sounds_like_computation, found))
    return _Read(settings, frozenset(declared), frozenset(used))


def _in_one_spelling(settings: Mapping[str, Any], one_class: bool) -> dict[str, Any]:
    """The same settings with one name for each function, and a number for a pair of equal ones."""
    found = {}
    for name, value in settings.items():
        path, _, leaf = name.rpartition(".")
        if LABELS.search(leaf) or (leaf == "type" and f"{path}.rope_type" in settings):
            continue
        if leaf == "problem_type" and value is None:  # what transformers takes it for, and notes when it trains
            value = "regression" if one_class else "single_label_classification"
        if value == FORMER_DEFAULTS.get(leaf):
            value = None
        if isinstance(value, str) and re.search("act", leaf):
            value = ACTIVATIONS.get(value, value)
        if isinstance(value, list) and value and (leaf == "attention_window" or _is_pair(leaf, value)):
            value = value[0] if all(item == value[0] for item in value) else value
        if leaf == "pos_att_type" and isinstance(value, (str, list)):
            value = sorted(value.split("|") if isinstance(value, str) else value)
        if leaf in INNER_SIZES and value is None:
            start = f"{path}." if path else ""
            widths = [settings.get(f"{start}{width}") for width in ("n_embd", "hidden_size")]
            value = next((4 * width for width in widths if isinstance(width, int)), None)
        found[name] = plain(value)
    return found


def _is_pair(leaf: str, value: list[Any]) -> bool:
    return len(value) == 2 and bool(re.search("size|stride", leaf))


def _classify(
    difference: Difference,
    declared: frozenset[str],
    used: frozenset[str],
    read: Mapping[str, _Read],
    architecture: str,
) -> Kind:
    parts = difference.name.split(".")
    leaf = parts[-1]
    if any(_is_harmless(part) or LABELS.search(part) for part in parts):
        return "harmless"
    known = difference.name in declared
    if (IS_GENERATION.search(leaf) and not (known and leaf == "temperature")) or (leaf.startswith("_") and not known):
        return "harmless"
    if declared and not known and not any(difference.values.values()):  # left out, or off
        return "harmless"
    if TOKEN_IDS.search(leaf):
        return _classify_token(leaf, read, architecture)
    if leaf in ("max_position_embeddings", "n_positions") and _has_plain_rope(difference, read):
        return "unknown"
    return "matters" if difference.name in used else "unknown"


def _classify_token(leaf: str, read: Mapping[str, _Read], architecture: str) -> Kind:
    """Ids of padding decide positions and where decoders pool, that of the end where encoder-decoders pool."""
    pools = not architecture.endswith(WRITES)
    if leaf == "pad_token_id":
        return "matters" if pools else "unknown"
    two_parts = any(found.settings.get("is_encoder_decoder") for found in read.values())
    if leaf == "eos_token_id":
        return "matters" if pools and two_parts else "unknown"
    return "unknown" if ENDS_OF_TEXTS.search(leaf) else "matters"


def _has_plain_rope(difference: Difference, read: Mapping[str, _Read]) -> bool:
    """Whether positions are rotations that do not depend on the longest one."""
    prefix = difference.name.rpartition(".")[0]
    start = f"{prefix}.rope_parameters." if prefix else "rope_parameters."
    for found in read.values():
        kinds = [value for name, value in found.settings.items() if name.startswith(start) and name.endswith("_type")]
        if not kinds or any(kind not in PLAIN_ROPE for kind in kinds):
            return False
    return True
