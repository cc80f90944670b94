"""Companion files of ingredients, read only where their digests differ, and the choice of those a soup takes."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import IngredientError
from ..untrusted import as_error
from .checkpoint import GENERATION, Checkpoint
from .companion_files import PROCESSOR, TEMPLATES, TOKENIZER, pieces_of
from .inside import VALUES_OF_WORDS, parse_bounded
from .named_code import file_without_code, is_searched


@dataclass(frozen=True)
class Companions:
    """Some files of one ingredient; equal to those of another ingredient with the same contents.

    Args:
        digests (`tuple[tuple[str, str], ...]`):
            File name and digest of each, sorted.
        model_type (`str`, *optional*):
            The ingredient's `model_type`, which decides how some files are read.
        owner (`weakref.ref`):
            The ingredient, as long as it exists.
    """

    digests: tuple[tuple[str, str], ...]
    model_type: str | None
    owner: weakref.ref[Checkpoint] = field(compare=False, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The files' names."""
        return tuple(name for name, _ in self.digests)

    def contents(self) -> dict[str, bytes]:
        """The contents by file name, read again at each call."""
        owner = self.owner()
        own_files: Mapping[str, bytes] = {}
        if owner is not None:
            own_files = owner.companions
        return {name: own_files[name] for name in self.names}

    def reading(self) -> contextlib.AbstractContextManager[None]:
        """Convert any error that a reader raises on these files to one that names the ingredient."""
        owner = self.owner()
        what = ", ".join(self.names)
        if owner is not None:
            what += f" of {owner.name}"
        return as_error(IngredientError, f"{what} cannot be read")


def json_of(contents: Mapping[str, bytes], name: str) -> Any:
    """The content of one of these JSON files; an empty mapping if it is missing or not valid JSON."""
    try:
        return parse_bounded(contents.get(name, b"{}"), name, most=VALUES_OF_WORDS)
    except IngredientError:
        return {}


def mapping_of(contents: Mapping[str, bytes], name: str) -> Mapping[str, Any]:
    """The content of one of these JSON files; an empty mapping if it is missing or not a mapping."""
    content = json_of(contents, name)
    if not isinstance(content, Mapping):
        return {}
    return content


def companions_of(item: Checkpoint, wanted: Callable[[str], bool]) -> Companions:
    """The files of an ingredient that a filter selects.

    Args:
        item (`Checkpoint`):
            The ingredient.
        wanted (`Callable[[str], bool]`):
            Whether a file of this name does.
    """
    digests = sorted((name, digest) for name, digest in item.companion_digests.items() if wanted(name))
    # A weak reference, since cached results about `Companions` would otherwise keep checkpoints in memory.
    return Companions(tuple(digests), item.config.get("model_type"), weakref.ref(item))


def have_equal_files(checkpoints: Sequence[Checkpoint]) -> bool:
    """Whether all ingredients have the same companion files, as the runs of a sweep do."""
    return all(item.companion_digests == checkpoints[0].companion_digests for item in checkpoints)


def giver_of_files(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """The ingredient whose tokenizer and processor files the soup takes: the first that has any of them."""
    for item in checkpoints:
        if _processing_files(item):
            return item
    return first_with_files(checkpoints)


def _processing_files(item: Checkpoint) -> list[str]:
    """The files of an ingredient that belong to its tokenizer or processor."""
    files = []
    for name in item.companions:
        if TOKENIZER.fullmatch(name) or TEMPLATES.fullmatch(name) or PROCESSOR.fullmatch(name):
            files.append(name)
    return files


def first_with_files(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """The ingredient whose other files the soup takes: the first that has any."""
    for item in checkpoints:
        if set(item.companions) - {GENERATION}:  # the generation configuration is chosen separately
            return item
    return None


def giver_of_generation(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """The ingredient whose generation configuration the soup takes: the first that has one."""
    return next((item for item in checkpoints if GENERATION in item.companions), None)


class TakenFiles(Mapping[str, bytes]):
    """The files that a soup takes over, without references to code; each is read on demand.

    Args:
        givers (`Mapping[str, Checkpoint]`):
            File -> the ingredient that it comes from.
    """

    def __init__(self, givers: Mapping[str, Checkpoint]):
        self._givers = givers

    def __getitem__(self, name: str) -> bytes:
        giver = self._givers[name]
        content = giver.companions[name]
        if not is_searched(name):
            return content
        return file_without_code(name, content, giver.name)

    def copy(self, name: str, path: Path) -> None:
        """Write one file, in pieces if its content need not be searched."""
        pieces: Iterable[bytes]
        if is_searched(name):
            pieces = [self[name]]
        else:  # such as a vocabulary, which may be large
            pieces = pieces_of(self._givers[name].companions, name)
        with path.open("wb") as file:
            file.writelines(pieces)

    def __iter__(self) -> Iterator[str]:
        return iter(self._givers)

    def __len__(self) -> int:
        return len(self._givers)


def taken_files(checkpoints: Sequence[Checkpoint]) -> TakenFiles:
    """The files that a soup takes over: all of the first ingredient that has any; if that ingredient has no tokenizer
    or processor, these come from the first that does.

    Args:
        checkpoints (`Sequence[Checkpoint]`):
            Ingredients of the soup, starting with the one that provides its settings.
    """
    first, processing = first_with_files(checkpoints), giver_of_files(checkpoints)
    generation = giver_of_generation(checkpoints)
    givers: dict[str, Checkpoint] = {}
    if first is not None:
        givers |= dict.fromkeys(first.companions, first)
        givers.pop(GENERATION, None)
        # Tokenizer and processor files come from one ingredient and are never mixed.
        if processing is not None and not _processing_files(first):
            givers |= dict.fromkeys(_processing_files(processing), processing)
    if generation is not None:
        givers[GENERATION] = generation
    return TakenFiles(givers)


def in_order(checkpoints: Iterable[Checkpoint], settings: Checkpoint | None) -> list[Checkpoint]:
    """The ingredients in their order, except that the one that gives the settings, if any, comes first."""
    items = list(checkpoints)
    if settings is None:
        return items
    others = [item for item in items if item.name != settings.name]
    return [settings, *others]
