"""Comparison of the companion files that prepare inputs or control outputs.

These are image processors, feature extractors, pooling of sentence models, chat templates and generation settings.
Tokenizers are compared in `tokenization.py`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .checkpoint import GENERATION
from .companion_files import MODULES
from .companions import Companions, companions_of, json_of, mapping_of
from .differences import Difference, find_differences, flatten


if TYPE_CHECKING:
    from .checkpoint import Checkpoint

PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
PROCESSOR_TOPIC, GENERATION_TOPIC = "processor", "generation config"
FILLED_UP = ("image_processor", "feature_extractor")  # processors whose classes define defaults
CHAT = re.compile(r"^(chat_template\.(jinja|json)|tokenizer_config\.json|processor_config\.json)$|\.jinja$")
SENTENCES = re.compile(r"^(modules|config_sentence_transformers|sentence_\w+_config)\.json$|^\d+_\w+/config\.json$")
# The end of a class name that indicates its library.
BACKEND = re.compile(r"(Fast|Pil)$")
CLASS = re.compile(r"^(image_processor|feature_extractor|video_processor)_type$")
RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}  # in PIL's numbering
# Fields that name the class that reads a file, or the form in which results are returned.
UNUSED = re.compile(
    r"""
    ^( processor_class | auto_map | _valid_processor_keys | _processor_class | return_tensors | return_metadata
    | device | data_format | input_data_format | default_to_square | disable_grouping | backend | name_or_path
    | _?(transformers_)?version | __version__\..* | chat_template | _from_model_config | _commit_hash
    | (tokenizer|feature_extractor|image_processor)_class )$
    """,
    re.VERBOSE,
)
# Fields that change the numbers that a model receives.
INPUTS = re.compile(
    r"""
    ^do_ | mean | std | size | crop | resampl | resiz | rescale | pad | pixel | patch | frame | fps | sampl | mel | hop
    | fft | window | chunk | feature | dither | emphasis | norm | attention_mask | interpol | stride | freq | spectro
    | channel | class$ | length | token
    """,
    re.VERBOSE,
)
POOLING_FLAGS = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}  # method -> suffix of its flag
POOLING_DEFAULTS = {"include_prompt": True}  # all other flags of a pooling are off by default


class Topic(NamedTuple):
    """One aspect of a model that companion files determine.

    Args:
        name (`str`):
            Name of the topic in messages.
        wanted (`Callable[[str], bool]`):
            Whether a file belongs to it.
        read (`Callable[[Companions], dict[str, Any]]`):
            Function that reads the settings, by dotted names.
        decisive (`Callable[[str], bool]`):
            Whether a setting of this name changes what the model gets or gives.
    """

    name: str
    wanted: Callable[[str], bool]
    read: Callable[[Companions], dict[str, Any]]
    decisive: Callable[[str], bool]


class Finding(NamedTuple):
    """The differences in one aspect.

    Args:
        topic (`str`):
            The matter.
        decisive (`list[Difference]`):
            Differences that change inputs or outputs.
        noted (`list[Difference]`):
            Differences that change neither, or whose effect is not known.
        without (`list[str]`):
            Ingredients that have nothing of it, where others have.
        generates (`bool`):
            Whether the finding is about the generation configuration, which may come from another ingredient.
    """

    topic: str
    decisive: list[Difference]
    noted: list[Difference]
    without: list[str]
    generates: bool


def compare_processors(checkpoints: Sequence[Checkpoint]) -> list[Finding]:
    """Compare everything that prepares inputs or controls outputs, except tokenizers.

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
        settings = {}
        for name, own_files in files.items():
            with own_files.reading():
                settings[name] = topic.read(own_files)
        finding = _compare(topic, settings)
        if finding.decisive or finding.noted or finding.without:
            findings.append(finding)
    return findings


def _compare(topic: Topic, settings: Mapping[str, dict[str, Any]]) -> Finding:
    """The differences in one aspect; `settings` maps each ingredient to its settings, which may be empty."""
    without = [name for name, own_settings in settings.items() if not own_settings]
    compared = {name: own_settings for name, own_settings in settings.items() if own_settings}
    differences = find_differences(compared)
    some_are_left_out = any(None in difference.values.values() for difference in differences)
    if topic.name == PROCESSOR_TOPIC and some_are_left_out:
        # transformers is needed only here, where one file may state a default that another omits.
        differences = find_differences(_with_defaults(compared))
    decisive, noted = [], []
    for difference in differences:
        if topic.decisive(difference.name):
            decisive.append(difference)
        else:
            noted.append(difference)
    if not compared:  # excludes settings that only some ingredients have
        without = []
    return Finding(topic.name, decisive, noted, without, generates=topic.name == GENERATION_TOPIC)


def is_compared(name: str) -> bool:
    """Whether the settings in a file with this name are compared here, rather than its digest."""
    return any(topic.wanted(name) for topic in TOPICS)


@functools.lru_cache(maxsize=64)
def _read_processors(files: Companions) -> dict[str, Any]:
    """The settings of image, video and audio processing, by the names of processor and setting."""
    settings = {}
    for processor, own_settings in _processors_in(files.contents()).items():
        for name, value in flatten(own_settings).items():
            name, value = _in_one_spelling(processor, name, value)
            if not UNUSED.search(name):
                settings[f"{processor}.{name}"] = value
        if own_settings and f"{processor}.class" not in settings:
            class_name = _usual_class(processor, files.model_type)
            if class_name is not None:
                settings[f"{processor}.class"] = class_name
    return settings


def _processors_in(contents: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """The settings of each processor, from separate files or from `processor_config.json`."""
    processors: dict[str, dict[str, Any]] = {"processor": {}}
    for key, value in mapping_of(contents, "processor_config.json").items():
        if not isinstance(value, Mapping):
            processors["processor"][key] = value
        elif "processor" in key or "extractor" in key:
            processors[key] = dict(value)
        elif "tokenizer" not in key:  # tokenizers are compared separately
            processors["processor"][key] = value
    alone = mapping_of(contents, "preprocessor_config.json")
    is_audio = "sampling_rate" in alone and "image_mean" not in alone
    name = "feature_extractor" if is_audio else "image_processor"  # the file may belong to either
    processors.setdefault(name, dict(alone))
    processors.setdefault("video_processor", dict(mapping_of(contents, "video_preprocessor_config.json")))
    return processors


def _in_one_spelling(processor: str, name: str, value: Any) -> tuple[str, Any]:
    """A setting as newer versions of transformers write it."""
    if CLASS.search(name) and isinstance(value, str):
        value = BACKEND.sub("", value)
        if processor == "image_processor":
            value = value.replace("FeatureExtractor", "ImageProcessor")
        name = "class"
    if name.endswith("resample"):
        value = RESAMPLING.get(value, value)
    return name, value


def _usual_class(processor: str, model_type: str | None) -> str | None:
    """The class that transformers uses for this model type if a file names none; `None` if there is no such class."""
    if model_type is None:
        return None
    # transformers fills these tables when it imports the modules, which do not declare them as their own.
    if processor == "image_processor":
        from transformers.models.auto.image_processing_auto import (  # type: ignore[attr-defined]
            IMAGE_PROCESSOR_MAPPING_NAMES,
        )

        backends = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type) or {}
        for class_name in backends.values():  # `None` where a backend has no class
            if class_name:
                return BACKEND.sub("", class_name)
        return None
    if processor == "feature_extractor":
        from transformers.models.auto.feature_extraction_auto import (  # type: ignore[attr-defined]
            FEATURE_EXTRACTOR_MAPPING_NAMES,
        )

        return FEATURE_EXTRACTOR_MAPPING_NAMES.get(model_type)
    return None


def _with_defaults(settings: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    """The settings completed with the defaults of transformers' classes; unchanged if a class does not exist."""
    filled = {}
    for name, own_settings in settings.items():
        try:
            filled[name] = _fill_up(own_settings)
        except Exception:  # transformers may raise anything for an invalid processor
            return settings
    return filled


def _fill_up(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one ingredient, completed with the defaults of its processors' classes."""
    filled = {name: value for name, value in settings.items() if not name.startswith(FILLED_UP)}
    for processor in FILLED_UP:
        own_settings = {}
        for name, value in settings.items():
            if name.startswith(f"{processor}."):
                own_settings[name.removeprefix(f"{processor}.")] = value
        if not own_settings:
            continue
        class_name = own_settings.pop("class")
        all_settings = _as_class(processor, class_name, _nested(own_settings))
        for name, value in flatten(all_settings).items():
            if not CLASS.search(name) and not UNUSED.search(name):
                filled[f"{processor}.{name}"] = value
        filled[f"{processor}.class"] = class_name
    return filled


def _as_class(processor: str, class_name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """All settings of a transformers class, of which some are given."""
    from transformers.models.auto.feature_extraction_auto import feature_extractor_class_from_name
    from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

    from .memory import quiet_transformers

    with quiet_transformers():
        if processor == "feature_extractor":
            cls = feature_extractor_class_from_name(class_name)
        else:  # the class that computes with PIL needs no torchvision
            cls = get_image_processor_class_from_name(f"{class_name}Pil")
            cls = cls or get_image_processor_class_from_name(class_name)
        return cls.from_dict(settings).to_dict()


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names converted to nested mappings."""
    nested: dict[str, Any] = {}
    for name, value in settings.items():
        *path, leaf = name.split(".")
        mapping = nested
        for key in path:
            mapping = mapping.setdefault(key, {})
        mapping[leaf] = value
    return nested


@functools.lru_cache(maxsize=64)
def _read_templates(files: Companions) -> dict[str, Any]:
    """The chat templates by name, from any of the places where they are stored."""
    contents = files.contents()
    templates: dict[str, Any] = {}
    for file in ("processor_config.json", "tokenizer_config.json", "chat_template.json"):
        template = mapping_of(contents, file).get("chat_template")
        if isinstance(template, str):
            templates["default"] = template
        elif isinstance(template, list):  # several named templates in one file
            for entry in template:
                templates[str(entry.get("name"))] = entry.get("template")
    for file, content in contents.items():
        if file.endswith(".jinja"):
            name = file.rpartition("/")[2].removesuffix(".jinja")
            if file == "chat_template.jinja":
                name = "default"
            templates[name] = content.decode("utf-8", errors="replace")
    return {name: text.rstrip() for name, text in templates.items() if isinstance(text, str)}


@functools.lru_cache(maxsize=64)
def _read_generation(files: Companions) -> dict[str, Any]:
    """The generation settings, except those about their origin."""
    settings = flatten(mapping_of(files.contents(), GENERATION))
    return {name: value for name, value in settings.items() if not UNUSED.search(name)}


@functools.lru_cache(maxsize=64)
def _read_sentences(files: Companions) -> dict[str, Any]:
    """What sentence-transformers does with the model's outputs: its modules, and the settings of each."""
    contents = files.contents()
    settings: dict[str, Any] = {}
    modules = json_of(contents, MODULES)
    if isinstance(modules, list):
        for module in modules:
            settings[f"module {module.get('idx')}"] = str(module.get("type")).rpartition(".")[2]
    for file in files.names:
        if file == MODULES:
            continue
        file_settings = flatten(mapping_of(contents, file))
        if "/" in file:  # of a module in its own folder
            file_settings = _pooling_flags(file_settings)
        prefix = file.removesuffix(".json").removesuffix("/config")
        for name, value in file_settings.items():
            if not UNUSED.search(name):
                settings[f"{prefix}.{name}"] = value
    return settings


def _pooling_flags(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a pooling module, in a common form.

    Old files have a flag for each pooling method, some of which are omitted; new files name the method.
    """
    flags = {}
    for name, value in settings.items():
        if name == "pooling_mode" and isinstance(value, str):
            flags[f"pooling_mode_{POOLING_FLAGS.get(value, value)}"] = True
        elif value != POOLING_DEFAULTS.get(name, False):
            flags[name.replace("word_embedding_dimension", "embedding_dimension")] = value
    return flags


def _changes_inputs(name: str) -> bool:
    """Whether a setting changes the numbers that a model receives; `name` has the processor and the setting."""
    return bool(INPUTS.search(name.partition(".")[2]))


def _changes_embedding(name: str) -> bool:
    """Whether a setting of sentence-transformers changes the embedding: a module, its settings, or lower case."""
    return name.startswith("module ") or bool(re.search(r"^\d+_|do_lower_case$", name))


TOPICS = (
    Topic(PROCESSOR_TOPIC, lambda name: name in PROCESSORS, _read_processors, _changes_inputs),
    Topic(
        "sentence-transformers",
        lambda name: bool(SENTENCES.search(name)),
        _read_sentences,
        _changes_embedding,
    ),
    Topic("chat template", lambda name: bool(CHAT.search(name)), _read_templates, lambda name: False),
    Topic(GENERATION_TOPIC, lambda name: name == GENERATION, _read_generation, lambda name: False),
)
