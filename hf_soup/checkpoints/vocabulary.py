"""The vocabulary of a checkpoint, from its tokenizer's files alone: which id is which token, and which are special.

It builds no tokenizer. Ingredients whose ids mean different words average to nonsense although every shape fits.
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
SENTENCEPIECE = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "spm.model")


class Vocabulary(NamedTuple):
    """What a tokenizer knows.

    Args:
        tokens (`dict[int, str]`):
            Id -> token, added tokens included.
        special (`dict[str, str]`):
            Role (`"pad_token"`, `"cls_token"` ...) -> token.
        digest (`str`):
            Of the tokens, so that equal ones are told at once.
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
            What errors call the checkpoint.

    Returns:
        [`Vocabulary`], *optional*: `None` where there is no file that holds one (an image model, sentencepiece alone).

    Raises:
        [`IngredientError`]: if a file is no JSON, or is laid out as no tokenizer's.
    """
    with as_error(IngredientError, f"the tokenizer files of {where} cannot be read. Save them again"):
        return _parse(tuple(sorted((name, files[name]) for name in (*FILES, *SENTENCEPIECE) if name in files)))


@functools.lru_cache(maxsize=4)  # most ingredients have the same files: read once, and in memory once
def _parse(content: tuple[tuple[str, bytes], ...]) -> Vocabulary | None:
    files = dict(content)
    if "tokenizer.json" in files:
        data = _json(files, "tokenizer.json")
        tokens = _of_model(data["model"].get("vocab", {}))
        tokens |= {item["id"]: item["content"] for item in data.get("added_tokens") or ()}
    elif "vocab.json" in files:
        tokens = _of_model(_json(files, "vocab.json"))
    elif "vocab.txt" in files:
        if files["vocab.txt"].count(b"\n") > VALUES_OF_WORDS:
            raise IngredientError(f"vocab.txt has more than {VALUES_OF_WORDS:,} lines, which no model has words for.")
        lines = files["vocab.txt"].decode("utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n")
        tokens = dict(enumerate(lines))
    elif sentences := [name for name in SENTENCEPIECE if name in files]:  # not opened: equal or not
        import xxhash

        tokens = {0: f"{sentences[0]} {xxhash.xxh3_128_hexdigest(files[sentences[0]])}"}
    else:
        return None
    config = _json(files, "tokenizer_config.json")
    if "tokenizer.json" not in files:
        tokens |= {int(index): token for token, index in _json(files, "added_tokens.json").items()}
        tokens |= {int(index): _content(token) for index, token in (config.get("added_tokens_decoder") or {}).items()}
    config |= _json(files, "special_tokens_map.json")
    special = {key: _content(value) for key, value in config.items() if key.endswith("_token") and value}
    return vocabulary_of(tokens, {key: value for key, value in special.items() if isinstance(value, str)})


def _json(files: Mapping[str, bytes], name: str) -> Any:
    return parse_bounded(files.get(name, b"{}"), name, most=VALUES_OF_WORDS)


def vocabulary_of(tokens: dict[int, str], special: dict[str, str]) -> Vocabulary:
    """A vocabulary with its digest."""
    import xxhash

    return Vocabulary(tokens, special, xxhash.xxh3_128_hexdigest(json.dumps(sorted(tokens.items())).encode()))


def in_both(one: Vocabulary, other: Vocabulary) -> Vocabulary:
    """A vocabulary with the ids alone that another has as well."""
    return vocabulary_of({index: token for index, token in one.tokens.items() if index in other.tokens}, one.special)


def difference(one: Vocabulary, other: Vocabulary) -> str | None:
    """The first ids that are other tokens in two vocabularies, in words, or `None` if there is none."""
    if one.digest == other.digest:
        return None
    keys = one.tokens.keys() | other.tokens.keys()
    ids = sorted(key for key in keys if one.tokens.get(key) != other.tokens.get(key))
    shown = ", ".join(f"{key} is {one.tokens.get(key)!r} against {other.tokens.get(key)!r}" for key in ids[:3])
    return f"{len(ids)} tokens differ: {shown}"


def _of_model(vocab: Any) -> dict[int, str]:
    """BPE, WordPiece and WordLevel map tokens to ids; Unigram lists (token, score)."""
    if isinstance(vocab, dict):
        return {index: token for token, index in vocab.items()}
    return {index: token for index, (token, _) in enumerate(vocab)}


def _content(value: Any) -> Any:
    return value.get("content") if isinstance(value, dict) else value
