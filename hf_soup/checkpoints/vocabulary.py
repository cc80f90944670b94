"""The vocabulary of a checkpoint, read from its tokenizer's files: the tokens with their ids, and the special tokens.

No tokenizer is built. Averaging ingredients whose ids mean different tokens gives nonsense although every shape fits.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import IngredientError
from ..untrusted import as_error
from .inside import VALUES_OF_WORDS, parse_bounded


FILES = (
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
SHOWN = 3  # differing tokens that are listed
SENTENCEPIECE = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "spm.model")


class Vocabulary(NamedTuple):
    """The tokens of a tokenizer.

    Args:
        tokens (`dict[int, str]`):
            Id -> token, added tokens included.
        special (`dict[str, str]`):
            Role (`"pad_token"`, `"cls_token"` ...) -> token.
        digest (`str`):
            Digest of the tokens, so that equal vocabularies are recognised at once.
    """

    tokens: dict[int, str]
    special: dict[str, str]
    digest: str


def read_vocabulary(files: Mapping[str, bytes], where: str) -> Vocabulary | None:
    """Read the vocabulary from tokenizer files.

    Args:
        files (`Mapping[str, bytes]`):
            File name -> content.
        where (`str`):
            Name of the checkpoint in errors.

    Returns:
        [`Vocabulary`], *optional*: `None` where there is no file that holds one (an image model, sentencepiece alone).

    Raises:
        [`IngredientError`]: if a file is no JSON, or is laid out as no tokenizer's.
    """
    with as_error(IngredientError, f"the tokenizer files of {where} cannot be read. Save them again"):
        names = sorted(name for name in (*FILES, *SENTENCEPIECE) if name in files)
        return _parse(tuple((name, files[name]) for name in names))


@functools.lru_cache(maxsize=4)  # most ingredients have the same files, which are read and stored only once
def _parse(contents: tuple[tuple[str, bytes], ...]) -> Vocabulary | None:
    """The vocabulary in files, given as pairs of name and content so that it can be cached."""
    files = dict(contents)
    tokens = _tokens_in(files)
    if tokens is None:
        return None
    config = _json(files, "tokenizer_config.json")
    if "tokenizer.json" not in files:  # it includes the added tokens
        for token, index in _json(files, "added_tokens.json").items():
            tokens[int(index)] = token
        decoder = config.get("added_tokens_decoder") or {}
        for index, token in decoder.items():
            tokens[int(index)] = _text_of(token)
    roles = {**config, **_json(files, "special_tokens_map.json")}
    return vocabulary_of(tokens, _special_tokens(roles))


def _special_tokens(roles: Mapping[str, Any]) -> dict[str, str]:
    """Role -> token, from tokenizer settings (`"pad_token"`)."""
    special = {}
    for role, token in roles.items():
        text = _text_of(token)
        if role.endswith("_token") and token and isinstance(text, str):
            special[role] = text
    return special


def _tokens_in(files: Mapping[str, bytes]) -> dict[int, str] | None:
    """Id -> token, from the first file that contains them; without tokens that other files add."""
    if "tokenizer.json" in files:
        data = _json(files, "tokenizer.json")
        tokens = _of_model(data["model"].get("vocab", {}))
        for added in data.get("added_tokens") or ():
            tokens[added["id"]] = added["content"]
        return tokens
    if "vocab.json" in files:
        return _of_model(_json(files, "vocab.json"))
    if "vocab.txt" in files:
        return _lines_of(files["vocab.txt"])
    for name in SENTENCEPIECE:
        if name in files:
            import xxhash

            # The file is not parsed; a single artificial token makes vocabularies equal exactly if the files are.
            return {0: f"{name} {xxhash.xxh3_128_hexdigest(files[name])}"}
    return None


def _lines_of(content: bytes) -> dict[int, str]:
    """Id -> token, from a file with one token per line, such as `vocab.txt`."""
    if content.count(b"\n") > VALUES_OF_WORDS:
        raise IngredientError(f"vocab.txt has more than {VALUES_OF_WORDS:,} lines, which no model has words for.")
    lines = content.decode("utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n")
    return dict(enumerate(lines))


def _json(files: Mapping[str, bytes], name: str) -> Any:
    """The content of a JSON file; empty if the file is missing."""
    return parse_bounded(files.get(name, b"{}"), name, most=VALUES_OF_WORDS)


def vocabulary_of(tokens: dict[int, str], special: dict[str, str]) -> Vocabulary:
    """A vocabulary with its digest."""
    import xxhash

    content = json.dumps(sorted(tokens.items())).encode()
    return Vocabulary(tokens, special, xxhash.xxh3_128_hexdigest(content))


def in_both(vocabulary: Vocabulary, other_vocabulary: Vocabulary) -> Vocabulary:
    """A vocabulary restricted to the ids that another one has as well."""
    common = {index: token for index, token in vocabulary.tokens.items() if index in other_vocabulary.tokens}
    return vocabulary_of(common, vocabulary.special)


def difference(vocabulary: Vocabulary, other_vocabulary: Vocabulary) -> str | None:
    """The first ids that are different tokens in two vocabularies, in words, or `None` if there are none."""
    if vocabulary.digest == other_vocabulary.digest:
        return None
    tokens, other_tokens = vocabulary.tokens, other_vocabulary.tokens
    ids = tokens.keys() | other_tokens.keys()
    differing = sorted(index for index in ids if tokens.get(index) != other_tokens.get(index))
    examples = []
    for index in differing[:SHOWN]:
        examples.append(f"{index} is {tokens.get(index)!r} against {other_tokens.get(index)!r}")
    return f"{len(differing)} tokens differ: {', '.join(examples)}"


def _of_model(vocab: Any) -> dict[int, str]:
    """Id -> token, for a model of the tokenizers library: BPE, WordPiece and WordLevel map tokens to ids."""
    if isinstance(vocab, dict):
        return {index: token for token, index in vocab.items()}
    tokens = {}
    for index, (token, _) in enumerate(vocab):  # Unigram lists tokens with their scores
        tokens[index] = token
    return tokens


def _text_of(value: Any) -> Any:
    """The text of a token, which may be stored with its flags."""
    return value.get("content") if isinstance(value, dict) else value
