"""An opened ingredient: its configuration and the headers of its weights, pinned; it reads its tensors when asked.

It does not know what a user called it; `source.py` makes it.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import IncompatibleError, IngredientError, SoupError
from ..types import Ingredient
from ..yaml_text import parse_yaml
from . import hub
from .content import content_digests, file_state
from .digest import bytes_of, combined_digest, tensor_digest
from .files import OpenFiles
from .files_beside import CARD, FilesBeside, pieces_of
from .folder import read_specs
from .inside import is_there, read_inside
from .pieces import PIECE, piece_starts
from .reader import TensorSpec, read_bytes, read_tensor
from .vocabulary import Vocabulary, read_vocabulary


if TYPE_CHECKING:
    import torch

    from .layout import Fitted

MEMORY = "memory"
PRIVATE = "private"  # the source of an ingredient whose name was left out when its soup was published
ELSEWHERE = "elsewhere"  # of one that was a folder on the machine that published it
GENERATION = "generation_config.json"
FRONT_MATTER = re.compile(r"\s*---[^\S\r\n]*[\r\n]+(.*?)[\r\n]+---\s*([\r\n]|$)", re.DOTALL)  # of a card
LARGEST_CARD = 2_000_000  # bytes; the scores of a thousand benchmarks take half of it


@dataclass(frozen=True)
class Checkpoint:
    """An opened ingredient.

    Args:
        ingredient ([`Ingredient`]):
            The reference that a recipe keeps.
        config (`dict`):
            What its `config.json` holds.
        specs (`dict[str, TensorSpec]`):
            Its tensors by their names on disk.
        folder (`Path`, *optional*):
            Where its files lie; for a repository of the Hub, the snapshot of its small files.
        tensors (`Mapping[str, torch.Tensor]`, *optional*):
            The weights themselves when they are in memory.
        generation_config (`str`, *optional*):
            What `generation_config.json` would hold, of a model in memory that can generate.
        opened_as (`Mapping[str, str]`, *optional*):
            Size and times of each weight file of a folder when it was opened.
        beside (`tuple[str, ...]`, *optional*):
            Files in its folder that belong to the weights: tokenizer, processor, modules, licence ...
        parts (`tuple[str, ...]`, *optional*):
            Where its weights lie: `""`, the folder itself, and sub-folders that hold modules of the model.
        fitted ([`Fitted`], *optional*):
            How its tensors go with the class that its configuration names.
        notes (`tuple[str, ...]`, *optional*):
            What was chosen where the source left a choice, what was renamed, what stays behind.
        problems (`tuple[str, ...]`, *optional*):
            Why it is no ingredient as it is.
    """

    ingredient: Ingredient
    config: dict[str, Any]
    specs: dict[str, TensorSpec]
    folder: Path | None = None
    tensors: Mapping[str, torch.Tensor] | None = field(default=None, compare=False)
    generation_config: str | None = None
    opened_as: Mapping[str, str] = field(default_factory=dict, compare=False)
    beside: tuple[str, ...] = ()
    parts: tuple[str, ...] = ("",)
    fitted: Fitted | None = field(default=None, compare=False)
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The ingredient's name."""
        return self.ingredient.name

    @property
    def architecture(self) -> str:
        """The class that its configuration names, or the kind of model."""
        if not self.config:
            return "SentenceTransformer"
        return (self.config.get("architectures") or [self.config.get("model_type") or "unknown architecture"])[0]

    @property
    def in_memory(self) -> bool:
        """Whether the weights were handed over in memory."""
        return self.tensors is not None

    @property
    def on_hub(self) -> bool:
        """Whether the weights come from the Hub."""
        return self.ingredient.revision is not None

    @property
    def generation(self) -> str | None:
        """What its `generation_config.json` holds, if it has one."""
        if self.folder is not None and is_there(self.folder, GENERATION):
            return read_inside(self.folder, GENERATION).decode("utf-8", errors="replace")
        return self.generation_config

    def changed_files(self) -> list[str]:
        """The weight files of its folder that have been written, replaced or touched since it was opened."""
        return [file for file, state in self.opened_as.items() if file_state(self.folder / file) != state]

    def tensors_digest(self) -> str:
        """One digest of the tensors in memory as they are now; made again only when one of them was changed."""
        memory = self.__dict__.setdefault("_digested", {})
        with contextlib.suppress(RuntimeError):  # tensors of inference mode do not count their changes
            now = tuple((tensor.data_ptr(), tensor._version) for tensor in self.tensors.values())
            if now not in memory:
                memory.clear()
                memory[now] = self._tensors_digest()
            return memory[now]
        return self._tensors_digest()

    def _tensors_digest(self) -> str:
        return combined_digest({name: tensor_digest(tensor) for name, tensor in self.tensors.items()})

    @functools.cached_property
    def companions(self) -> Mapping[str, bytes]:
        """The files that belong to the weights, by name: tokenizer, processor, generation config, modules ..."""
        if self.folder is None:
            return {GENERATION: self.generation_config.encode()} if self.generation_config else {}
        return FilesBeside(self.folder, self.beside)

    @functools.cached_property
    def companion_digests(self) -> dict[str, str]:
        """File name -> digest of each of its companions, which are read once for it."""
        import xxhash

        digests = {}
        for name in self.companions:
            digest = xxhash.xxh3_128()
            for piece in pieces_of(self.companions, name):
                digest.update(piece)
            digests[name] = digest.hexdigest()
        return digests

    @functools.cached_property
    def card(self) -> dict[str, Any]:
        """What its model card says of it: licence, languages, data sets."""
        return read_card(self.folder) if self.folder else {}

    @functools.cached_property
    def vocabulary(self) -> Vocabulary | None:
        """What its tokenizer's files say, if it has any."""
        return read_vocabulary(self.companions, self.name)

    @functools.cached_property
    def torn_twins(self) -> tuple[tuple[str, str], ...]:
        """Tied weights that the files hold twice, with different values: the two names of each. Reads them."""
        if self.fitted is None:
            return ()
        return tuple((spec.key, name) for spec, name in self.fitted.twins if not self._same_bytes(spec, name))

    def _same_bytes(self, spec: TensorSpec, name: str) -> bool:
        own = self.specs[name]
        if (spec.shape, spec.dtype) != (own.shape, own.dtype):
            return False
        with OpenFiles() as files:
            for start in piece_starts(spec.numel):
                size = min(PIECE, spec.numel - start) * spec.itemsize
                one, other = bytearray(size), bytearray(size)
                read_bytes(files, self.folder, spec, start, memoryview(one))
                read_bytes(files, self.folder, own, start, memoryview(other))
                if one != other:
                    return False
        return True

    def read(self, name: str) -> torch.Tensor:
        """One tensor, on the CPU. It may be shared with a loaded model: do not change it.

        Raises:
            [`IngredientError`]: if the file is not what its header said, or cannot be fetched.
        """
        if self.tensors is not None:
            return self.tensors[name].cpu()
        return read_tensor(self.folder, self._on_disk[name])

    def read_into(self, files: OpenFiles, name: str, start: int, into: memoryview) -> None:
        """Copy the bytes of consecutive elements of one tensor; several threads may read at once.

        Args:
            files (`OpenFiles`):
                What has the weight files open.
            name (`str`):
                The tensor.
            start (`int`):
                The first element.
            into (`memoryview`):
                Is filled.

        Raises:
            [`IngredientError`]: if the file is not what its header said, or cannot be fetched.
        """
        if self.tensors is None:
            read_bytes(files, self.folder, self._on_disk[name], start, into)
        else:
            stop = start + len(into) // self.specs[name].itemsize
            into[:] = bytes_of(self.tensors[name].reshape(-1)[start:stop])

    def read_row(self, files: OpenFiles, names: Sequence[str], into: memoryview) -> None:
        """The same for whole tensors, one behind the other; at once if they lie so in the file."""
        if self.tensors is None:
            first = self._on_disk[names[0]]
            end, row = first.start, True
            for spec in map(self._on_disk.__getitem__, names):
                row = row and spec.file == first.file and spec.start == end
                end += spec.nbytes
            if row:
                read_bytes(files, self.folder, first, 0, into)
                return
        place = 0
        for name in names:
            size = self.specs[name].nbytes
            self.read_into(files, name, 0, into[place : place + size])
            place += size

    @functools.cached_property
    def _on_disk(self) -> Mapping[str, TensorSpec]:
        """Where the tensors lie in local files; the weights of a Hub repository are fetched here."""
        if not self.on_hub:
            return self.specs
        make_ready([self])
        tensors, _ = read_specs(self.folder, [part for part in self.parts if part])
        there = {(spec.file, spec.key): spec for of_part in tensors.values() for spec in of_part.values()}
        for spec in self.specs.values():
            found = there.get((spec.file, spec.key))
            if found is None or found[1:5] != spec[1:5]:  # shape, type, file and place
                raise IngredientError(
                    f"{self.folder / spec.file} is not the file that the Hub described: {spec.key!r} is not in it as "
                    "it was. Delete it, and it is fetched again."
                )
        return self.specs


def contents_of(items: Sequence[Checkpoint]) -> list[dict[str, str]]:
    """What the weights of each ingredient are now: file -> digest of its content, as the Hub reports it or as it is
    read here, on several threads for all at once; of weights in memory, one digest of the tensors.

    Raises:
        [`IngredientError`]: if a file cannot be read, or is being changed.
    """
    local = [item for item in items if not item.in_memory and not item.on_hub]
    digests = content_digests(item.folder / file for item in local for file in item.opened_as)
    found = []
    for item in items:
        if item.in_memory:
            found.append({MEMORY: item.tensors_digest()})
        elif item.on_hub:
            found.append(dict(item.ingredient.files))
        else:
            found.append({file: digests[str(item.folder / file)] for file in item.opened_as})
    return found


def read_card(folder: Path) -> dict[str, Any]:
    """The metadata of the model card in a folder; empty where there is none, or it cannot be read."""
    try:
        text = read_inside(folder, CARD, at_most=LARGEST_CARD).decode("utf-8-sig")
        block = FRONT_MATTER.match(text)
        found = parse_yaml(block[1], CARD, strict=False) if block else {}
    except (FileNotFoundError, UnicodeDecodeError, SoupError):
        return {}
    return found if isinstance(found, dict) else {}


def make_ready(items: Sequence[Checkpoint]) -> None:
    """Fetch the weights of the Hub, all at once, and compare folders with what they were when they were opened.

    Raises:
        [`IngredientError`]: if they cannot be fetched, or a weight file has been replaced since.
    """
    items = [item for item in items if not item.in_memory]
    pinned = [item.ingredient for item in items if item.on_hub]
    hub.fetch_weights([(item.source, item.revision, item.files) for item in pinned])
    for item in (item for item in items if not item.on_hub):
        for file in item.changed_files():
            raise IngredientError(f"{item.folder / file} has changed since {item.name!r} was opened; merge again.")
    torn = [line for item in items for line in torn_twin_problems(item)]
    if torn:
        raise IncompatibleError(torn)


def torn_twin_problems(item: Checkpoint) -> list[str]:
    """Weights that an ingredient holds twice with different values, although they are one in the model."""
    return [
        f"{item.name} holds {key} and {name} with different values, and by its config.json they are one weight. "
        'Write "tie_word_embeddings": false into config.json if they are tied there and are two, or leave one out'
        for key, name in item.torn_twins
    ]
