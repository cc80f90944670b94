"""The settings of a tokenizer: those in its files, and those of the tokenizer that transformers builds from them.

The comparison is in `tokenization.py`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .companions import Companions, mapping_of
from .differences import flatten
from .staging import temporary_folder
from .vocabulary import Vocabulary, vocabulary_of


# Fields about a tokenizer's origin, its last call, or decoding.
IGNORED = re.compile(
    r"""
    ^( name_or_path | [a-z_]+_file | processor_class | tokenizer_class | auto_map | chat_template | is_local | backend
    | transformers_version | use_fast | from_slow | local_files_only | max_length | stride | truncation_strategy
    | padding | padding_strategy | pad_to_multiple_of | pad_token_type_id | return_tensors
    | clean_up_tokenization_spaces | errors | sp_model_kwargs | skip_special_tokens | truncation )$
    """,
    re.VERBOSE,
)
# Special tokens, by their roles.
ROLE = re.compile(r"^[a-z]+_token$|^(additional|extra)_special_tokens")
# Attributes of a built tokenizer that are not part of its pipeline.
TOKENIZER_SETTINGS = (
    "model_max_length",
    "padding_side",
    "truncation_side",
    "model_input_names",
    "split_special_tokens",
)
ONLY_WORDS = ("vocab.json", "added_tokens.json", "tekken.json")  # files that are compared only for equality
POST_PROCESSOR = "post_processor"
ADDED = "added token "  # the prefix of the names of an added token's flags


class BuiltTokenizer(NamedTuple):
    """A tokenizer that transformers has built.

    Args:
        settings (`dict[str, Any]`):
            How it acts, by dotted names.
        vocabulary ([`Vocabulary`]):
            Vocabulary of the tokenizer.
    """

    settings: dict[str, Any]
    vocabulary: Vocabulary


@functools.lru_cache(maxsize=64)
def written_settings(files: Companions) -> dict[str, Any]:
    """The settings in a tokenizer's files that matter, by dotted names."""
    contents = files.contents()
    settings = _pipeline(mapping_of(contents, "tokenizer.json"))
    special_tokens = mapping_of(contents, "special_tokens_map.json")
    config = {**mapping_of(contents, "tokenizer_config.json"), **special_tokens}
    for key, value in config.items():
        if IGNORED.search(key):
            continue
        if ROLE.search(key):
            settings[key] = _texts_of(value)
        else:
            settings |= flatten({key: value})
    # Files in other formats (SentencePiece, `merges.txt`) are not parsed, only compared for equality.
    for name, digest in files.digests:
        if not name.endswith(".json") or name in ONLY_WORDS:
            settings[name] = digest
    return settings


def build_tokenizers(files: Iterable[Companions]) -> dict[Companions, BuiltTokenizer] | None:
    """The tokenizers of these files; `None` if transformers cannot build one of them."""
    built = {}
    for own_files in files:
        tokenizer = _build(own_files)
        if tokenizer is None:
            return None
        built[own_files] = tokenizer
    return built


@functools.lru_cache(maxsize=16)
def _build(files: Companions) -> BuiltTokenizer | None:
    """The settings and vocabulary of transformers' tokenizer for these files; `None` if it cannot be built."""
    from .memory import quiet_transformers

    config = {}
    if files.model_type:  # determines the class if `tokenizer_config.json` names none
        config["model_type"] = files.model_type
    try:
        from transformers import AutoTokenizer

        with quiet_transformers(), temporary_folder() as folder:
            for name, content in files.contents().items():
                (folder / name).write_bytes(content)
            (folder / "config.json").write_text(json.dumps(config))
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            backend = json.loads(tokenizer.backend_tokenizer.to_str())
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # Rust panics of tokenizers are not subclasses of `Exception`
        return None
    settings = _pipeline(backend)
    for role, value in tokenizer.special_tokens_map.items():
        settings[role] = _texts_of(value)
    for name in TOKENIZER_SETTINGS:
        settings[name] = getattr(tokenizer, name, None)
    tokens = {index: token for token, index in tokenizer.get_vocab().items()}
    return BuiltTokenizer(settings, vocabulary_of(tokens, {}))


def _pipeline(data: Mapping[str, Any]) -> dict[str, Any]:
    """The steps of a `tokenizer.json` by dotted names, without token ids, truncation and padding."""
    model = dict(data.get("model") or {})
    model.pop("vocab", None)
    merges = []
    for merge in model.pop("merges", None) or ():
        # Older versions of tokenizers store a merge as one text, newer ones as a pair.
        text = merge if isinstance(merge, str) else " ".join(merge)
        merges.append(text)
    steps = {key: data.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")}
    settings = flatten({**steps, "model": model, "merges": merges or None})
    settings[POST_PROCESSOR] = data.get("post_processor")
    for token in data.get("added_tokens") or ():
        # The ids are in the vocabulary; the flags determine where in a text a token is recognised.
        flags = {key: value for key, value in token.items() if key not in ("id", "content")}
        settings |= flatten(flags, f"{ADDED}{token.get('content')!r}: ")
    return settings


def _texts_of(value: Any) -> Any:
    """The texts of one or several special tokens; files store a token as a text, or as a mapping with its flags."""
    if isinstance(value, Mapping):
        if "content" in value:
            return value["content"]
        return {key: _texts_of(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_texts_of(item) for item in value]
    if value is None:
        return None
    return str(value)
