"""Comparison of how the tokenizers of ingredients process a text: normalisation, splitting, special tokens.

`vocabulary.py` compares tokens and their ids. Equal files are not read. Only if both the files and their settings
differ does transformers build the tokenizers, to compare their behaviour, in `tokenizer_settings.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .companion_files import TOKENIZER
from .companions import Companions, companions_of, have_equal_files
from .differences import Difference, find_differences, has, shown_apart
from .tokenizer_settings import ADDED, POST_PROCESSOR, ROLE, build_tokenizers, written_settings
from .vocabulary import Vocabulary


if TYPE_CHECKING:
    from .checkpoint import Checkpoint

# Settings that do not change the ids of a short text.
NOTED = re.compile(r"^(model_max_length|padding_side|truncation_side|model_input_names|decoder)(\.|$)")
# Steps that change the ids of a text.
PIPELINE = re.compile(r"^(normalizer|pre_tokenizer|post_processor)(\.|$)")
CAUSAL = ("CausalLM", "LMHeadModel")  # generative architectures, which need no padding
SHOWN = 3  # differences that a sentence lists


class OtherTokenizer(NamedTuple):
    """A tokenizer that behaves differently from that of most ingredients.

    Args:
        sentence (`str`):
            Sentence that names the ingredients with this tokenizer and what it does differently.
        usual (`str`):
            An ingredient that has the tokenizer of most.
    """

    sentence: str
    usual: str


class TokenizerComparison(NamedTuple):
    """The differences between the tokenizers of ingredients.

    Args:
        others (`list[OtherTokenizer]`):
            Tokenizers that make other ids of the same texts.
        noted (`list[Difference]`):
            Differences that leave short texts unchanged.
        only_written (`list[str]`):
            Sentences about files that transformers reads alike, and other programs may not.
    """

    others: list[OtherTokenizer]
    noted: list[Difference]
    only_written: list[str]


def read_vocabularies(checkpoints: Sequence[Checkpoint]) -> dict[str, Vocabulary]:
    """Ingredient -> the vocabulary of its tokenizer, for those that have one.

    Vocabularies in different file formats (`vocab.txt` or `tokenizer.json`) are read by transformers if their own ids
    differ.
    """
    if have_equal_files(checkpoints):
        vocabulary = checkpoints[0].vocabulary
        if vocabulary is None:
            return {}
        return dict.fromkeys((item.name for item in checkpoints), vocabulary)
    files = _tokenizer_files(checkpoints)
    vocabularies: dict[Companions, Vocabulary] = {}
    for item in checkpoints:
        own_files = files[item.name]
        if own_files not in vocabularies and item.vocabulary is not None:
            vocabularies[own_files] = item.vocabulary
    vocabularies = _in_one_layout(vocabularies)
    return {name: vocabularies[own_files] for name, own_files in files.items() if own_files in vocabularies}


def _in_one_layout(vocabularies: dict[Companions, Vocabulary]) -> dict[Companions, Vocabulary]:
    """The same vocabularies, read by transformers if they differ and are in files of different formats."""
    digests = {vocabulary.digest for vocabulary in vocabularies.values()}
    layouts = {_has_tokenizer_json(files) for files in vocabularies}
    if len(digests) < 2 or len(layouts) < 2:
        return vocabularies
    built = build_tokenizers(vocabularies)
    if built is None:
        return vocabularies
    return {files: tokenizer.vocabulary for files, tokenizer in built.items()}


def compare_tokenizers(checkpoints: Sequence[Checkpoint]) -> TokenizerComparison:
    """Compare the behaviour of the ingredients' tokenizers.

    Args:
        checkpoints (`Sequence[Checkpoint]`):
            Opened ingredients.

    Returns:
        [`TokenizerComparison`]
    """
    files = {name: own_files for name, own_files in _tokenizer_files(checkpoints).items() if own_files.digests}
    if len(set(files.values())) < 2:
        return TokenizerComparison([], [], [])
    written = _written_by_ingredient(files)
    if not find_differences(written):
        return TokenizerComparison([], [], [])
    built = build_tokenizers(files.values())
    if built is None:  # only the contents of the files are known
        decisive, noted = _decisive_and_noted(written, checkpoints)
        return TokenizerComparison(_other_tokenizers(decisive, list(files)), noted, [])
    acting = {name: built[own_files].settings for name, own_files in files.items()}
    decisive, noted = _decisive_and_noted(acting, checkpoints)
    only_written = [] if decisive else _only_written_settings(written, files)
    return TokenizerComparison(_other_tokenizers(decisive, list(files)), noted, only_written)


def _written_by_ingredient(files: Mapping[str, Companions]) -> dict[str, dict[str, Any]]:
    """Ingredient -> the settings in its tokenizer files."""
    written = {}
    for name, own_files in files.items():
        with own_files.reading():
            written[name] = written_settings(own_files)
    return written


def _decisive_and_noted(
    settings: Mapping[str, Mapping[str, Any]], checkpoints: Sequence[Checkpoint]
) -> tuple[list[Difference], list[Difference]]:
    """The differences between tokenizers that change the ids of short texts, and those that do not."""
    pads_nothing = all(_needs_no_padding(item) for item in checkpoints)
    decisive, noted = [], []
    for difference in find_differences(settings):
        if _is_noted(difference, pads_nothing):
            noted.append(difference)
        else:
            decisive.append(difference)
    return decisive, noted


def _tokenizer_files(checkpoints: Sequence[Checkpoint]) -> dict[str, Companions]:
    """Ingredient -> its tokenizer files; the list may be empty."""
    return {item.name: companions_of(item, lambda name: bool(TOKENIZER.fullmatch(name))) for item in checkpoints}


def _has_tokenizer_json(files: Companions) -> bool:
    """Whether one file describes the complete pipeline of a tokenizer, as for fast tokenizers."""
    return "tokenizer.json" in files.names


def _needs_no_padding(item: Checkpoint) -> bool:
    """Whether a model continues one text at a time, so that its padding token has no effect."""
    architectures = item.config.get("architectures") or ("",)
    return all(name.endswith(CAUSAL) for name in architectures)


def _only_written_settings(written: Mapping[str, Mapping[str, Any]], files: Mapping[str, Companions]) -> list[str]:
    """A sentence about the first step of the pipeline that differs in the files but not in the built tokenizers.

    Only ingredients with a `tokenizer.json` are considered, since other formats do not describe the pipeline.
    """
    settings = {name: own for name, own in written.items() if _has_tokenizer_json(files[name])}
    for difference in find_differences(settings):
        if PIPELINE.search(difference.name):
            what = str(difference)
            if difference.name == POST_PROCESSOR:  # it is stored as one value, which is too long to show
                what = "the post-processor differs"
            consequence = "from which transformers builds the same tokenizer, and other programs may not"
            return [f"tokenizer.json: {what}, {consequence}"]
    return []


def _is_noted(difference: Difference, pads_nothing: bool) -> bool:
    """Whether the difference leaves short texts unchanged; without padding, this includes another padding token, and a
    padding token that others do not have.
    """
    if difference.name == "pad_token":
        return pads_nothing or None in difference.values.values()
    return bool(NOTED.search(difference.name))


def _other_tokenizers(differences: Sequence[Difference], names: Sequence[str]) -> list[OtherTokenizer]:
    """For each unusual tokenizer, the ingredients that have it, and how it differs from the usual one."""
    if not differences:
        return []
    differences = _foremost_first(differences)
    groups: dict[str, list[str]] = {}  # all differences, as text -> ingredients
    for name in names:
        values = json.dumps([difference.values[name] for difference in differences], default=str)
        groups.setdefault(values, []).append(name)
    usual = max(groups, key=lambda values: len(groups[values]))  # the first among equally large groups
    reference = groups.pop(usual)[0]
    others = []
    for group in groups.values():
        clauses = _clauses(differences, group, reference)
        what = ", ".join(clauses[:SHOWN])
        if len(clauses) > SHOWN:
            what += f", and {len(clauses) - SHOWN} more"
        sentence = f"{', '.join(group)} {has(group)} another tokenizer than {reference}: {what}"
        others.append(OtherTokenizer(sentence, reference))
    return others


def _clauses(differences: Sequence[Difference], group: Sequence[str], reference: str) -> list[str]:
    """How the tokenizer of a group differs from the reference, in words."""
    added = _added_tokens(differences, group[0])
    pronoun = "it" if len(group) == 1 else "they"
    clauses = []
    for difference in differences:
        value, usual_value = difference.values[group[0]], difference.values[reference]
        if value != usual_value:
            clauses.append(_clause(difference.name, value, usual_value, added, f"{pronoun} {has(group)}"))
    return list(dict.fromkeys(clauses))  # the flags of one added token are combined into one clause


def _added_tokens(differences: Sequence[Difference], name: str) -> frozenset[str]:
    """The added tokens of an ingredient among the differences."""
    added = set()
    for difference in differences:
        if difference.name.startswith(ADDED) and difference.values[name] is not None:
            added.add(difference.name.rpartition(": ")[0])
    return frozenset(added)


def _clause(name: str, value: Any, usual_value: Any, added: frozenset[str], it_has: str) -> str:
    """One difference between a tokenizer and the usual one, in words.

    Args:
        name (`str`):
            Name of the setting that differs.
        value (`Any`), usual_value (`Any`):
            Value of the setting in the tokenizer and in the usual one.
        added (`frozenset[str]`):
            The added tokens of the tokenizer, of those that differ.
        it_has (`str`):
            The subject and the verb.
    """
    if name.startswith(ADDED) and (value is None or usual_value is None):
        token = name.rpartition(": ")[0]
        article = "the" if token in added else "no"
        return f"{it_has} {article} {token}"
    if name == POST_PROCESSOR:
        tokens, usual_tokens = _tokens_of(value), _tokens_of(usual_value)
        how = f"against {usual_tokens}"
        if tokens == usual_tokens:
            how = "in another way"
        return f"the post-processor differs: it adds {tokens} {how}"
    text, usual_text = shown_apart([value, usual_value])
    article = "the " if ROLE.search(name) else ""
    return f"{article}{name} is {text} against {usual_text}"


def _tokens_of(post_processor: Any) -> str:
    """The special tokens that a post-processor adds, as a list in words.

    `TemplateProcessing` has a mapping of them, `BertProcessing` and `RobertaProcessing` have one field per role, and a
    `Sequence` contains further post-processors.
    """
    steps, tokens = [post_processor], []
    while steps:
        step = steps.pop(0)
        if not isinstance(step, Mapping):
            continue
        tokens += list(step.get("special_tokens") or ())
        for role in ("cls", "sep"):
            pair = step.get(role)  # the token and its id
            if isinstance(pair, list) and pair:
                tokens.append(pair[0])
        steps += step.get("processors") or ()
    return ", ".join(map(repr, dict.fromkeys(tokens))) or "no token"


def _foremost_first(differences: Sequence[Difference]) -> list[Difference]:
    """Sort: special tokens, then steps of another type without their settings, other settings, and token flags."""
    types = [difference.name for difference in differences if _is_type_of_step(difference)]
    other_steps = tuple(name.removesuffix("type") for name in types)  # the prefixes of all of their settings
    worth_telling = []
    for difference in differences:
        if _is_type_of_step(difference) or not difference.name.startswith(other_steps):
            worth_telling.append(difference)
    return sorted(worth_telling, key=_rank)


def _rank(difference: Difference) -> int:
    """The rank of a difference; smaller numbers come first."""
    if ROLE.search(difference.name):
        return 0
    if _is_type_of_step(difference):
        return 1
    if difference.name.startswith(ADDED):
        return 3
    return 2


def _is_type_of_step(difference: Difference) -> bool:
    return difference.name.endswith(".type")
