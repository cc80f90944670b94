"""An opened ingredient: its configuration and the headers of its weights, pinned; tensors are read on demand.

A `Checkpoint` does not know how the user referred to it; `source.py` creates it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import IncompatibleError, IngredientError, SoupError
from ..types import Ingredient
from ..yaml_text import parse_yaml
from . import hub
from .companion_files import CARD, CompanionFiles, pieces_of
from .content import content_digests, file_state
from .digest import bytes_of, combined_digest, tensor_digest
from .files import OpenFiles
from .folder import read_specs
from .inside import is_there, read_inside
from .pieces import PIECE, piece_starts
from .reader import TensorSpec, read_bytes, read_tensor
from .remote_files import ByteRange, RemoteFiles
from .vocabulary import Vocabulary, read_vocabulary


if TYPE_CHECKING:
    import torch

    from .layout import Fitted

MEMORY = "memory"  # the source of weights that were passed in memory, and the file name that they would have
PRIVATE = "private"  # the source of an ingredient whose name was omitted when its soup was published
ELSEWHERE = "elsewhere"  # the source of an ingredient that was a local folder on the publisher's machine
GENERATION = "generation_config.json"
FRONT_MATTER = re.compile(r"\s*---[^\S\r\n]*[\r\n]+(.*?)[\r\n]+---\s*([\r\n]|$)", re.DOTALL)  # of a model card
LARGEST_CARD = 2_000_000  # bytes; the scores of a thousand benchmarks take half of it


@dataclass(frozen=True)
class Checkpoint:
    """An opened ingredient.

    Args:
        ingredient ([`Ingredient`]):
            The reference that a recipe keeps.
        config (`dict`):
            Content of `config.json`.
        specs (`dict[str, TensorSpec]`):
            Tensors of the checkpoint by their names on disk.
        folder (`Path`, *optional*):
            Folder of the files; for a repository of the Hub, the snapshot of its small files.
        tensors (`Mapping[str, torch.Tensor]`, *optional*):
            The weights themselves when they are in memory.
        generation_config (`str`, *optional*):
            Content that `generation_config.json` would have, for a model in memory that can generate.
        opened_as (`Mapping[str, str]`, *optional*):
            Size and times of each weight file of a folder when it was opened.
        companion_names (`tuple[str, ...]`, *optional*):
            Names of its companion files: tokenizer, processor, modules, licence ...
        subfolders (`tuple[str, ...]`, *optional*):
            Folders of the weights: `""` for the folder itself, and subfolders that hold modules of the model.
        fitted ([`Fitted`], *optional*):
            How its tensors go with the class that its configuration names.
        notes (`tuple[str, ...]`, *optional*):
            Notes on what was chosen where the source left a choice, what was renamed and what is left out.
        problems (`tuple[str, ...]`, *optional*):
            Why it is no ingredient as it is.
        remote ([`RemoteFiles`], *optional*):
            Its weight files on a server, if they are read from there and not downloaded.
    """

    ingredient: Ingredient
    config: dict[str, Any]
    specs: dict[str, TensorSpec]
    folder: Path | None = None
    tensors: Mapping[str, torch.Tensor] | None = field(default=None, compare=False)
    generation_config: str | None = None
    opened_as: Mapping[str, str] = field(default_factory=dict, compare=False)
    companion_names: tuple[str, ...] = ()
    subfolders: tuple[str, ...] = ("",)
    fitted: Fitted | None = field(default=None, compare=False)
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    remote: RemoteFiles | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The ingredient's name."""
        return self.ingredient.name

    @property
    def architecture(self) -> str:
        """The class that its configuration names, or else its model type."""
        if not self.config:  # the top folder holds no transformers model, but its modules do
            return "SentenceTransformer"
        architectures = self.config.get("architectures")
        if architectures:
            return architectures[0]
        return self.config.get("model_type") or "unknown architecture"

    @property
    def in_memory(self) -> bool:
        """Whether the weights were passed in memory."""
        return self.tensors is not None

    @property
    def on_hub(self) -> bool:
        """Whether the weights come from the Hub."""
        return self.ingredient.revision is not None

    @property
    def weights_folder(self) -> Path:
        """The folder that holds its weight files.

        Raises:
            [`IngredientError`]: if the weights are in memory alone.
        """
        if self.folder is None:
            raise IngredientError(f"the weights of {self.name!r} are in memory, and not in a folder.")
        return self.folder

    @property
    def processing_folder(self) -> Path | None:
        """The folder of its tokenizer or processor."""
        return self.folder

    @property
    def generation(self) -> str | None:
        """The content of its `generation_config.json`, if it has one."""
        if self.folder is not None and is_there(self.folder, GENERATION):
            return read_inside(self.folder, GENERATION).decode("utf-8", errors="replace")
        return self.generation_config

    @property
    def computes(self) -> bool:
        """Whether reading a tensor takes torch, because its bytes are not those of a file."""
        return type(self) is not Checkpoint or self.in_memory

    @property
    def is_streamed(self) -> bool:
        """Whether weights are read from a server as they are needed."""
        return self.remote is not None

    @property
    def verified_files(self) -> frozenset[str]:
        """The streamed files that have been read completely, and have the digest that the Hub reports."""
        return frozenset() if self.remote is None else self.remote.verified

    def read_anew(self) -> None:
        """Forget which streamed files have been verified, before they are read once more."""
        if self.remote is not None:
            self.remote.begin()

    def changed_files(self) -> list[str]:
        """The weight files that have been written, replaced or touched since the folder was opened."""
        # the folder is looked up only if there are files: a model in memory has neither
        return [file for file, state in self.opened_as.items() if file_state(self.weights_folder / file) != state]

    def tensors_digest(self) -> str:
        """One digest of the tensors in memory as they are now; computed again only after one of them changed."""
        tensors = self.tensors or {}
        try:
            # torch counts in-place changes of a tensor in `_version`.
            state = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors.values())
        except RuntimeError:  # tensors created in inference mode have no version counter
            return _digest_of(tensors)
        if state not in self._digests:
            self._digests.clear()
            self._digests[state] = _digest_of(tensors)
        return self._digests[state]

    @functools.cached_property
    def _digests(self) -> dict[tuple[tuple[int, int], ...], str]:
        """The digest of the tensors in memory, keyed by their addresses and versions: at most one entry."""
        return {}

    @functools.cached_property
    def companions(self) -> Mapping[str, bytes]:
        """The companion files by name: tokenizer, processor, generation config, modules ..."""
        if self.folder is not None:
            return CompanionFiles(self.folder, self.companion_names)
        if self.generation_config:
            return {GENERATION: self.generation_config.encode()}
        return {}

    @functools.cached_property
    def companion_digests(self) -> dict[str, str]:
        """Digests of its companion files by name; each file is read once for this."""
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
        """The metadata of its model card: licence, languages, data sets."""
        return read_card(self.folder) if self.folder else {}

    @functools.cached_property
    def vocabulary(self) -> Vocabulary | None:
        """The vocabulary in its tokenizer files, if it has any."""
        return read_vocabulary(self.companions, self.name)

    @functools.cached_property
    def unequal_twins(self) -> tuple[tuple[str, str], ...]:
        """Tied weights that the files store twice with different values, as pairs of names. Reads the tensors."""
        if self.fitted is None:
            return ()
        unequal = []
        for spec, name in self.fitted.twins:
            if not self._same_bytes(spec, name):
                unequal.append((spec.key, name))
        return tuple(unequal)

    def _same_bytes(self, spec: TensorSpec, name: str) -> bool:
        """Whether a tensor that is dropped has the same bytes as the one that is kept, compared piece by piece."""
        kept_spec = self.specs[name]
        if (spec.shape, spec.dtype) != (kept_spec.shape, kept_spec.dtype):
            return False
        with OpenFiles() as files:
            for start in piece_starts(spec.numel):
                size = min(PIECE, spec.numel - start) * spec.itemsize
                left_out_bytes, kept_bytes = bytearray(size), bytearray(size)
                self._read_spec(files, spec, start, memoryview(left_out_bytes))
                self._read_spec(files, kept_spec, start, memoryview(kept_bytes))
                if left_out_bytes != kept_bytes:
                    return False
        return True

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor on the CPU. It may be shared with a loaded model: do not change it.

        Raises:
            [`IngredientError`]: if the file is not what its header said, or cannot be fetched.
        """
        if self.tensors is not None:
            return self.tensors[name].cpu()
        if self.remote is not None:
            return _read_remote(self.remote, self.specs[name])
        return read_tensor(self.weights_folder, self._on_disk[name])

    def read_into(self, files: OpenFiles, name: str, start: int, into: memoryview) -> None:
        """Copy the bytes of consecutive elements of one tensor; several threads may read at once.

        Args:
            files (`OpenFiles`):
                Open weight files.
            name (`str`):
                The tensor.
            start (`int`):
                The first element.
            into (`memoryview`):
                Memory that is filled.

        Raises:
            [`IngredientError`]: if the file is not what its header said, or cannot be fetched.
        """
        if self.tensors is None:
            self._read_spec(files, self._on_disk[name], start, into)
        else:
            stop = start + len(into) // self.specs[name].itemsize
            into[:] = bytes_of(self.tensors[name].reshape(-1)[start:stop])

    def _read_spec(self, files: OpenFiles, spec: TensorSpec, start: int, into: memoryview) -> None:
        """Copy the bytes of consecutive elements of a tensor in a file."""
        if self.remote is None:
            read_bytes(files, self.weights_folder, spec, start, into)
        else:
            begin = spec.start + start * spec.itemsize
            self.remote.read(ByteRange(spec.file, begin, begin + len(into)), into)

    def read_row(self, files: OpenFiles, names: Sequence[str], into: memoryview) -> None:
        """Copy the bytes of complete tensors, one after the other, at once if they are adjacent in the file."""
        if self.tensors is None and self._are_adjacent(names):
            self._read_spec(files, self._on_disk[names[0]], 0, into)
            return
        place = 0
        for name in names:
            size = self.specs[name].nbytes
            self.read_into(files, name, 0, into[place : place + size])
            place += size

    def _are_adjacent(self, names: Sequence[str]) -> bool:
        """Whether tensors are stored one after the other in a single file."""
        first = self._on_disk[names[0]]
        end = first.start
        for name in names:
            spec = self._on_disk[name]
            if spec.file != first.file or spec.start != end:
                return False
            end += spec.nbytes
        return True

    def byte_ranges(self, name: str) -> Iterator[tuple[RemoteFiles, ByteRange]]:
        """The bytes on servers that reading a tensor takes; none if its file is here."""
        if self.remote is not None:
            spec = self.specs[name]
            yield self.remote, ByteRange(spec.file, spec.start, spec.start + spec.nbytes)

    def origin(self, name: str) -> object:
        """What tells, unread, that a tensor is the same as that of another ingredient; `None` if unknown."""
        return None

    def kept_dtype(self, name: str) -> str:
        """The type that a tensor has in a soup of type `"auto"`, if this is the widest."""
        return self.specs[name].dtype

    def prepare(self) -> None:
        """Read what is needed before several threads read tensors."""

    def digests_apart(self) -> dict[str, str]:
        """Digests of tensors that are read in another form than they are stored."""
        return {}

    @functools.cached_property
    def _on_disk(self) -> Mapping[str, TensorSpec]:
        """The locations of the tensors in their files; weights on the Hub are downloaded here, unless streamed."""
        if not self.on_hub or self.remote is not None:
            return self.specs
        make_ready([self])
        named_subfolders = [subfolder for subfolder in self.subfolders if subfolder]
        tensors, _ = read_specs(self.weights_folder, named_subfolders)
        places = set()
        for specs in tensors.values():
            places |= set(map(_place_of, specs.values()))
        # The checkpoint was opened from headers alone, which the Hub sent separately from the files.
        for spec in self.specs.values():
            if _place_of(spec) not in places:
                raise IngredientError(
                    f"{self.weights_folder / spec.file} is not the file that the Hub described: {spec.key!r} is not "
                    "in it as it was. Delete it, and it is fetched again."
                )
        return self.specs


def _read_remote(remote: RemoteFiles, spec: TensorSpec) -> torch.Tensor:
    """Read one tensor from a server."""
    import torch

    buffer = torch.empty(spec.nbytes, dtype=torch.uint8)
    remote.read(ByteRange(spec.file, spec.start, spec.start + spec.nbytes), buffer.numpy().data)
    return buffer.view(getattr(torch, spec.dtype)).reshape(spec.shape)


def _place_of(spec: TensorSpec) -> tuple[Any, ...]:
    """Everything that determines which bytes of which file a tensor is, and how they are read."""
    return spec.file, spec.key, spec.shape, spec.dtype, spec.start


def _digest_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """One digest of all tensors, independent of their order."""
    return combined_digest({name: tensor_digest(tensor) for name, tensor in tensors.items()})


def contents_of(items: Sequence[Checkpoint]) -> list[dict[str, str]]:
    """Digests of the current weights of each ingredient, by file, as the Hub reports them or as read here by several
    threads; for weights in memory, one digest of all tensors.

    Raises:
        [`IngredientError`]: if a file cannot be read, or is being changed.
    """
    paths = []
    for item in items:
        if not item.in_memory and not item.on_hub and item.remote is None:
            paths += [item.weights_folder / file for file in item.opened_as]
    digests = content_digests(paths)
    contents = []
    for item in items:
        if item.in_memory:
            contents.append({MEMORY: item.tensors_digest()})
        elif item.on_hub or item.remote is not None:
            contents.append(dict(item.ingredient.files))
        else:
            contents.append({file: digests[str(item.weights_folder / file)] for file in item.opened_as})
    return contents


def read_card(folder: Path) -> dict[str, Any]:
    """The metadata of the model card in a folder; empty if there is none or it cannot be read."""
    try:
        # Some editors write a byte order mark first, which would hide the metadata.
        text = read_inside(folder, CARD, at_most=LARGEST_CARD).decode("utf-8-sig")
        block = FRONT_MATTER.match(text)
        if block is None:
            return {}
        metadata = parse_yaml(block[1], CARD, strict=False)
    except (FileNotFoundError, UnicodeDecodeError, SoupError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def make_ready(items: Sequence[Checkpoint]) -> None:
    """Download all weights from the Hub that are not streamed, and check that no local folder has changed since then.

    Raises:
        [`IngredientError`]: if they cannot be fetched, or a weight file has been replaced since.
    """
    with_files = [item for item in items if not item.in_memory]
    pinned = []
    for item in with_files:
        source, revision, files = item.ingredient.source, item.ingredient.revision, item.ingredient.files
        if revision is not None and item.remote is None:
            pinned.append((source, revision, files))
    hub.fetch_weights(pinned)
    for item in with_files:
        refuse_changed(item)
    problems = []
    for item in with_files:
        problems += unequal_twin_problems(item)
    if problems:
        raise IncompatibleError(problems)
    for item in items:
        item.prepare()


def refuse_changed(item: Checkpoint) -> None:
    """Refuse a folder whose weight files have been written since it was opened.

    Raises:
        [`IngredientError`]: naming the first such file.
    """
    changed = [] if item.on_hub else item.changed_files()
    if changed:
        path = item.weights_folder / changed[0]
        raise IngredientError(f"{path} has changed since {item.name!r} was opened; merge again.")


def unequal_twin_problems(item: Checkpoint) -> list[str]:
    """Problems for weights that an ingredient stores twice with different values although the model ties them."""
    return [
        f"{item.name} holds {key} and {name} with different values, but its config.json ties them into one weight. "
        'Write "tie_word_embeddings": false into config.json if they are meant to be two, or leave one out'
        for key, name in item.unequal_twins
    ]
