"""What lies beside the weights and prepares inputs or directs outputs, compared by what it says.

That is image processors, feature extractors, pooling of sentence models, chat templates and generation configurations.
Tokenizers are in `tokenization.py`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .checkpoint import GENERATION
from .companions import Companions, companions_of, json_of, mapping_of
from .differences import Difference, find_differences, flatten


if TYPE_CHECKING:
    from .checkpoint import Checkpoint

PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
CHAT = re.compile(r"^(chat_template\.(jinja|json)|tokenizer_config\.json|processor_config\.json)$|\.jinja$")
SENTENCES = re.compile(r"^(modules|config_sentence_transformers|sentence_\w+_config)\.json$|^\d+_\w+/config\.json$")
# The end of a class name that says with which library it computes.
BACKEND = re.compile(r"(Fast|Pil)$")
CLASS = re.compile(r"^(image_processor|feature_extractor|video_processor)_type$")
RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}  # as PIL numbers them
# Fields that say which class reads a file, or in which form results are returned.
UNUSED = re.compile(
    r"""
    ^( processor_class | auto_map | _valid_processor_keys | _processor_class | return_tensors | return_metadata
    | device | data_format | input_data_format | default_to_square | disable_grouping | backend | name_or_path
    | _?(transformers_)?version | __version__\..* | chat_template | _from_model_config | _commit_hash
    | (tokenizer|feature_extractor|image_processor)_class )$
    """,
    re.VERBOSE,
)
# Fields that change the numbers a model gets.
INPUTS = re.compile(
    r"""
    ^do_ | mean | std | size | crop | resampl | resiz | rescale | pad | pixel | patch | frame | fps | sampl | mel | hop
    | fft | window | chunk | feature | dither | emphasis | norm | attention_mask | interpol | stride | freq | spectro
    | channel | class$ | length | token
    """,
    re.VERBOSE,
)
POOLING_DEFAULTS = {"include_prompt": True}  # every other flag of a pooling is off where it is left out


class Topic(NamedTuple):
    """One matter that files beside the weights decide.

    Args:
        name (`str`):
            What messages call it.
        wanted (`Callable[[str], bool]`):
            Whether a file belongs to it.
        read (`Callable[[Companions], dict[str, Any]]`):
            Its settings by dotted names.
        decisive (`Callable[[str], bool]`):
            Whether a setting of this name changes what the model gets or gives.
    """

    name: str
    wanted: Callable[[str], bool]
    read: Callable[[Companions], dict[str, Any]]
    decisive: Callable[[str], bool]


class Finding(NamedTuple):
    """What differs in one matter.

    Args:
        topic (`str`):
            The matter.
        decisive (`list[Difference]`):
            What changes inputs or outputs.
        noted (`list[Difference]`):
            What changes neither, or what is not known.
        without (`list[str]`):
            Ingredients that have nothing of it, where others have.
        generates (`bool`):
            Whether it is the generation configuration, which may come from another ingredient.
    """

    topic: str
    decisive: list[Difference]
    noted: list[Difference]
    without: list[str]
    generates: bool


def compare_processors(checkpoints: Sequence[Checkpoint]) -> list[Finding]:
    """Compare all that prepares inputs or directs outputs, but for tokenizers.

    Args:
        checkpoints (`Sequence[Checkpoint]`):
            Opened ingredients.

    Returns:
        `list[Finding]`: one for each matter in which they differ.
    """
    findings = []
    for topic in TOPICS:
        files = {item.name: companions_of(item, topic.wanted) for item in checkpoints}
        if len(set(files.values())) < 2:
            continue
        read = {}
        for name, found in files.items():
            with found.reading():
                read[name] = topic.read(found)
        without = [name for name, settings in read.items() if not settings]
        held = {name: settings for name, settings in read.items() if settings}
        differences = find_differences(held)
        if topic.name == "processor" and any(None in found.values.values() for found in differences):
            differences = find_differences(_with_defaults(held))
        decisive = [found for found in differences if topic.decisive(found.name)]
        noted = [found for found in differences if not topic.decisive(found.name)]
        if decisive or noted or (held and without):
            findings.append(Finding(topic.name, decisive, noted, without if held else [], topic.name in GENERATES))
    return findings


def is_compared(name: str) -> bool:
    """Whether a file of this name is read for a comparison here, rather than told to be equal or not."""
    return any(topic.wanted(name) for topic in TOPICS)


@functools.lru_cache(maxsize=64)
def _read_processors(files: Companions) -> dict[str, Any]:
    """Image, video and audio processing, in one file each or all in `processor_config.json`: the parts by name."""
    contents = files.contents()
    whole = mapping_of(contents, "processor_config.json")
    parts: dict[str, dict[str, Any]] = {"processor": {}}
    for key, value in whole.items():
        if isinstance(value, Mapping) and ("processor" in key or "extractor" in key):
            parts[key] = dict(value)
        elif not isinstance(value, Mapping) or "tokenizer" not in key:
            parts["processor"][key] = value
    alone = mapping_of(contents, "preprocessor_config.json")
    is_audio = "sampling_rate" in alone and "image_mean" not in alone
    parts.setdefault("feature_extractor" if is_audio else "image_processor", dict(alone))
    parts.setdefault("video_processor", dict(mapping_of(contents, "video_preprocessor_config.json")))
    found = {}
    for part, settings in parts.items():
        for name, value in flatten(settings).items():
            if CLASS.search(name) and isinstance(value, str):
                value = BACKEND.sub("", value)
                if part == "image_processor":
                    value = value.replace("FeatureExtractor", "ImageProcessor")
                name = "class"
            if name.endswith("resample"):
                value = RESAMPLING.get(value, value)
            if not UNUSED.search(name):
                found[f"{part}.{name}"] = value
        if settings and f"{part}.class" not in found:
            found |= {f"{part}.class": name for name in _usual_class(part, files.kind)}
    return found


def _usual_class(part: str, kind: str | None) -> list[str]:
    """The class that transformers takes for this kind of model where a file names none; empty where it knows none."""
    if part == "image_processor":
        from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

        backends = IMAGE_PROCESSOR_MAPPING_NAMES.get(kind) or {}
        return [BACKEND.sub("", name) for name in backends.values() if name][:1]
    if part == "feature_extractor":
        from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES

        return [name for name in (FEATURE_EXTRACTOR_MAPPING_NAMES.get(kind),) if name]
    return []


def _with_defaults(settings: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    """The same settings as transformers' classes fill them up; as they are where it has no such class."""
    filled = {}
    for name, found in settings.items():
        try:
            filled[name] = _fill_up(found)
        except Exception:  # whatever a processor makes transformers trip over
            return settings
    return filled


def _fill_up(settings: Mapping[str, Any]) -> dict[str, Any]:
    from transformers.models.auto.feature_extraction_auto import feature_extractor_class_from_name
    from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

    from .memory import quiet_transformers

    found = {name: value for name, value in settings.items() if not name.startswith(("image_pro", "feature_extr"))}
    for part in ("image_processor", "feature_extractor"):
        own = _nested({k.removeprefix(f"{part}."): v for k, v in settings.items() if k.startswith(f"{part}.")})
        if not own:
            continue
        name = own.pop("class")
        with quiet_transformers():
            if part == "feature_extractor":
                cls = feature_extractor_class_from_name(name)
            else:
                cls = get_image_processor_class_from_name(f"{name}Pil") or get_image_processor_class_from_name(name)
            whole = cls.from_dict(own).to_dict()
        for key, value in flatten(whole).items():
            if not CLASS.search(key) and not UNUSED.search(key):
                found[f"{part}.{key}"] = value
        found[f"{part}.class"] = name
    return found


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as mappings again."""
    whole: dict[str, Any] = {}
    for name, value in settings.items():
        *path, leaf = name.split(".")
        place = whole
        for part in path:
            place = place.setdefault(part, {})
        place[leaf] = value
    return whole


@functools.lru_cache(maxsize=64)
def _read_templates(files: Companions) -> dict[str, Any]:
    """The chat templates by name, wherever they are kept."""
    contents, found = files.contents(), {}
    for name in ("processor_config.json", "tokenizer_config.json", "chat_template.json"):
        kept = mapping_of(contents, name).get("chat_template")
        if isinstance(kept, str):
            found["default"] = kept
        for item in kept if isinstance(kept, list) else ():
            found[str(item.get("name"))] = item.get("template")
    for name, content in contents.items():
        if name.endswith(".jinja"):
            template = "default" if name == "chat_template.jinja" else name.rpartition("/")[2].removesuffix(".jinja")
            found[template] = content.decode("utf-8", errors="replace")
    return {name: text.rstrip() for name, text in found.items() if isinstance(text, str)}


@functools.lru_cache(maxsize=64)
def _read_generation(files: Companions) -> dict[str, Any]:
    found = flatten(mapping_of(files.contents(), GENERATION))
    return {name: value for name, value in found.items() if not UNUSED.search(name)}


@functools.lru_cache(maxsize=64)
def _read_sentences(files: Companions) -> dict[str, Any]:
    """What sentence-transformers does with the model's outputs: its modules, and the settings of each."""
    contents = files.contents()
    found: dict[str, Any] = {}
    modules = json_of(contents, "modules.json")
    for module in modules if isinstance(modules, list) else ():
        found[f"module {module.get('idx')}"] = str(module.get("type")).rpartition(".")[2]
    for name in files.names:
        if name == "modules.json":
            continue
        settings = flatten(mapping_of(contents, name))
        if "/" in name:
            settings = _pooling_flags(settings)
        place = name.removesuffix(".json").removesuffix("/config")
        found |= {f"{place}.{key}": value for key, value in settings.items() if not UNUSED.search(key)}
    return found


def _pooling_flags(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Old files have a flag for each way to pool, of which some are left out; new ones name the way."""
    found = {}
    for key, value in settings.items():
        if key == "pooling_mode" and isinstance(value, str):
            known = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
            found[f"pooling_mode_{known.get(value, value)}"] = True
        elif value != POOLING_DEFAULTS.get(key, False):
            found[key.replace("word_embedding_dimension", "embedding_dimension")] = value
    return found


def _changes_inputs(name: str) -> bool:
    return bool(INPUTS.search(name.partition(".")[2]))


def _changes_embedding(name: str) -> bool:
    return name.startswith("module ") or bool(re.search(r"^\d+_|do_lower_case$", name))


GENERATES = ("generation config",)
TOPICS = (
    Topic("processor", lambda name: name in PROCESSORS, _read_processors, _changes_inputs),
    Topic(
        "sentence-transformers",
        lambda name: bool(SENTENCES.search(name)),
        _read_sentences,
        _changes_embedding,
    ),
    Topic("chat template", lambda name: bool(CHAT.search(name)), _read_templates, lambda name: False),
    Topic("generation config", lambda name: name == GENERATION, _read_generation, lambda name: False),
)
