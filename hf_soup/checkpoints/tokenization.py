"""What tokenizers do with a text, compared between ingredients: normalisation, splitting, special tokens.

Which id is which token is in `vocabulary.py`. Equal files are not read; only where files differ and their settings
too, transformers builds the tokenizers and tells how they act.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .companions import Companions, companions_of, have_equal_files, mapping_of
from .differences import Difference, find_differences, flatten, has, shown_apart
from .files_beside import TOKENIZER
from .staging import temporary_folder
from .vocabulary import Vocabulary, vocabulary_of


if TYPE_CHECKING:
    from .checkpoint import Checkpoint

# Fields that say where a tokenizer was, how it was last called, or how ids become text again.
IGNORED = re.compile(
    r"""
    ^( name_or_path | [a-z_]+_file | processor_class | tokenizer_class | auto_map | chat_template | is_local | backend
    | transformers_version | use_fast | from_slow | local_files_only | max_length | stride | truncation_strategy
    | padding | padding_strategy | pad_to_multiple_of | pad_token_type_id | return_tensors
    | clean_up_tokenization_spaces | errors | sp_model_kwargs | skip_special_tokens | truncation )$
    """,
    re.VERBOSE,
)
ROLE = re.compile(r"^[a-z]+_token$|^(additional|extra)_special_tokens")
NOTED = re.compile(r"^(model_max_length|padding_side|truncation_side|model_input_names|decoder)(\.|$)")
PIPELINE = re.compile(r"^(normalizer|pre_tokenizer|post_processor)(\.|$)")
CAUSAL = ("CausalLM", "LMHeadModel")  # architectures that need no padding to write
POST_PROCESSOR = "post_processor"
ADDED = "added token "
SHOWN = 3


def read_vocabularies(checkpoints: Sequence[Checkpoint]) -> dict[str, Vocabulary]:
    """Ingredient -> the vocabulary of its tokenizer, without those that have none.

    Files that differ in their layout (`vocab.txt` or `tokenizer.json`) are read by transformers where their own ids
    are not the same at once.
    """
    if have_equal_files(checkpoints):
        vocabulary = checkpoints[0].vocabulary
        return {} if vocabulary is None else {item.name: vocabulary for item in checkpoints}
    by_files: dict[Companions, Vocabulary | None] = {}
    files = _tokenizer_files(checkpoints)
    for item in checkpoints:
        if files[item.name] not in by_files:
            by_files[files[item.name]] = item.vocabulary
    known = {kind: found for kind, found in by_files.items() if found is not None}
    if len({found.digest for found in known.values()}) > 1 and len({_layout(kind) for kind in known}) > 1:
        built = {kind: _build(kind) for kind in known}
        if all(built.values()):
            known = {kind: vocabulary for kind, (_, vocabulary) in built.items()}
    return {name: known[kind] for name, kind in files.items() if kind in known}


def compare_tokenizers(checkpoints: Sequence[Checkpoint]) -> tuple[list[str], list[Difference], list[str]]:
    """Compare how the tokenizers of ingredients act.

    Args:
        checkpoints (`Sequence[Checkpoint]`):
            Opened ingredients.

    Returns:
        `tuple[list[str], list[Difference], list[str]]`: for each other tokenizer a sentence that tells what it does
            otherwise; what differs and leaves short texts as they are; and sentences about files that other programs
            may read otherwise.
    """
    files = _tokenizer_files(checkpoints)
    files = {name: found for name, found in files.items() if found.digests}
    if len(set(files.values())) < 2:
        return [], [], []
    written = {}
    for name, found in files.items():
        with found.reading():
            written[name] = _written(found)
    if not find_differences(written):
        return [], [], []
    acting, built = written, {name: _build(found) for name, found in files.items()}
    if all(built.values()):
        acting = {name: found[0] for name, found in built.items()}
    differences = find_differences(acting)
    writes = all(name.endswith(CAUSAL) for item in checkpoints for name in item.config.get("architectures") or ("",))
    noted = [difference for difference in differences if _is_noted(difference, writes)]
    decisive = [difference for difference in differences if difference not in noted]
    only_written: list[str] = []
    if not decisive and acting is not written:
        with_file = {name: found for name, found in written.items() if "tokenizer.json" in files[name].names}
        apart = [found for found in find_differences(with_file) if PIPELINE.search(found.name)]
        only_written = [
            f"tokenizer.json: {_in_short(found)}, from which transformers builds the same tokenizer, and other "
            "programs may not"
            for found in apart[:1]
        ]
    return _sentences(decisive, list(files)), noted, only_written


def _tokenizer_files(checkpoints: Sequence[Checkpoint]) -> dict[str, Companions]:
    """Ingredient -> the files of its tokenizer, of which some may have none."""
    return {item.name: companions_of(item, lambda name: bool(TOKENIZER.fullmatch(name))) for item in checkpoints}


def _is_noted(difference: Difference, writes: bool) -> bool:
    """Whether short texts stay as they are: also with a token for padding where models write, or others have none."""
    if difference.name == "pad_token":
        return writes or None in difference.values.values()
    return bool(NOTED.search(difference.name))


def _in_short(difference: Difference) -> str:
    return "the post-processor differs" if difference.name == POST_PROCESSOR else str(difference)


def _sentences(differences: Sequence[Difference], names: Sequence[str]) -> list[str]:
    """For each other tokenizer who has it and what it does otherwise than the usual one."""
    if not differences:
        return []
    differences = _foremost_first(differences)
    whole = {name: json.dumps([found.values[name] for found in differences], default=str) for name in names}
    usual = Counter(whole.values()).most_common(1)[0][0]
    reference = next(name for name in names if whole[name] == usual)
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(whole[name], []).append(name)
    del groups[usual]
    sentences = []
    for group in groups.values():
        own = _added(differences, group[0])
        parts: list[str] = []
        for difference in differences:
            values = [difference.values[group[0]], difference.values[reference]]
            if values[0] != values[1]:
                part = _part(difference.name, values, own, f"{'it' if len(group) == 1 else 'they'} {has(group)}")
                parts += [part] if part not in parts else []
        more = f", and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
        what = ", ".join(parts[:SHOWN]) + more
        sentences.append(f"{', '.join(group)} {has(group)} another tokenizer than {reference}: {what}")
    return sentences


def _added(differences: Sequence[Difference], name: str) -> frozenset[str]:
    """The added tokens that an ingredient has, of those that differ."""
    added = [found for found in differences if found.name.startswith(ADDED) and found.values[name] is not None]
    return frozenset(found.name.rpartition(": ")[0] for found in added)


def _part(name: str, values: Sequence[Any], own: frozenset[str], it_has: str) -> str:
    """One difference between a tokenizer and the usual one, in words."""
    token = name.rpartition(": ")[0]
    if name.startswith(ADDED) and None in values:
        return f"{it_has} {'the' if token in own else 'no'} {token}"
    if name == POST_PROCESSOR:
        one, other = map(_tokens_of, values)
        how = "in another way" if one == other else f"against {other}"
        return f"the post-processor differs: it adds {one} {how}"
    one, other = shown_apart(values)
    article = "the " if ROLE.search(name) else ""
    return f"{article}{name} is {one} against {other}"


def _tokens_of(post_processor: Any) -> str:
    """The special tokens that a post-processor adds, as a list in words."""
    waiting, found = [post_processor], []
    while waiting:
        part = waiting.pop(0)
        if not isinstance(part, Mapping):
            continue
        found += list(part.get("special_tokens") or ())
        found += [part[role][0] for role in ("cls", "sep") if isinstance(part.get(role), list) and part[role]]
        waiting += part.get("processors") or ()
    return ", ".join(map(repr, dict.fromkeys(found))) or "no token"


def _foremost_first(differences: Sequence[Difference]) -> list[Difference]:
    """Special tokens, then parts of another kind instead of all their settings, other settings, flags of tokens."""
    kinds = {found.name.removesuffix("type") for found in differences if _is_kind(found)}
    kept = [found for found in differences if _is_kind(found) or not found.name.startswith(tuple(kinds))]
    return sorted(kept, key=_rank)


def _rank(difference: Difference) -> int:
    if ROLE.search(difference.name):
        return 0
    if _is_kind(difference):
        return 1
    return 3 if difference.name.startswith(ADDED) else 2


def _is_kind(difference: Difference) -> bool:
    return difference.name.endswith(".type")


def _layout(files: Companions) -> bool:
    return "tokenizer.json" in files.names


@functools.lru_cache(maxsize=64)
def _written(files: Companions) -> dict[str, Any]:
    """What the files say of a tokenizer, but for what decides nothing: settings by dotted names."""
    contents = files.contents()
    found = _pipeline(mapping_of(contents, "tokenizer.json"))
    special = mapping_of(contents, "special_tokens_map.json")
    config = {**mapping_of(contents, "tokenizer_config.json"), **special}
    for key, value in config.items():
        if IGNORED.search(key):
            continue
        if ROLE.search(key):
            found[key] = _contents(value)
        else:
            found |= flatten({key: value})
    named = dict(files.digests)
    for name in files.names:  # of these it is known whether they are equal
        if not name.endswith(".json") or name in ("vocab.json", "added_tokens.json", "tekken.json"):
            found[name] = named[name]
    return found


@functools.lru_cache(maxsize=16)
def _build(files: Companions) -> tuple[dict[str, Any], Vocabulary] | None:
    """How transformers' tokenizer of these files acts, and its vocabulary; `None` where it builds none."""
    from .memory import quiet_transformers

    try:
        from transformers import AutoTokenizer

        with quiet_transformers(), temporary_folder() as folder:
            for name, content in files.contents().items():
                (folder / name).write_bytes(content)
            (folder / "config.json").write_text(json.dumps({"model_type": files.kind} if files.kind else {}))
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            backend = json.loads(tokenizer.backend_tokenizer.to_str())
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # whatever files make transformers trip over; its Rust parts raise no `Exception`
        return None
    special = {role: _contents(value) for role, value in tokenizer.special_tokens_map.items()}
    settings = ("model_max_length", "padding_side", "truncation_side", "model_input_names", "split_special_tokens")
    acting = {**_pipeline(backend), **special}
    acting |= {name: getattr(tokenizer, name, None) for name in settings}
    tokens = {index: token for token, index in tokenizer.get_vocab().items()}
    return acting, vocabulary_of(tokens, {})


def _pipeline(data: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a `tokenizer.json` by dotted names, without ids of tokens, truncation and padding."""
    model = dict(data.get("model") or {})
    model.pop("vocab", None)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.pop("merges", None) or ()]
    parts = {key: data.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")}
    found = flatten({**parts, "model": model, "merges": merges or None})
    found[POST_PROCESSOR] = data.get("post_processor")
    for token in data.get("added_tokens") or ():
        flags = {key: value for key, value in token.items() if key not in ("id", "content")}
        found |= flatten(flags, f"{ADDED}{token.get('content')!r}: ")
    return found


def _contents(value: Any) -> Any:
    """A special token, or several, by their texts."""
    if isinstance(value, Mapping):
        return value["content"] if "content" in value else {key: _contents(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_contents(item) for item in value]
    return value if value is None else str(value)
