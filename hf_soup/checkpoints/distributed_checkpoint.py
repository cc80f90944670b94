"""A distributed checkpoint as an ingredient: tensors are put together from their chunks when they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import IngredientError
from ..types import Ingredient
from ..untrusted import as_error, one_line
from .checkpoint import Checkpoint
from .companion_files import CONFIG, SortedFiles
from .content import file_state
from .deepspeed import read_zero, zero_folder
from .digest import bytes_of
from .distributed import Chunk, Distributed, distributed_folder, is_pickled, read_distributed, refuse_gaps
from .files import OpenFiles
from .folder import read_config
from .inside import contents_of, is_there, place_of
from .other_contents import has_no_weights
from .reader import LONGEST_NAME, TensorSpec
from .subfolders import fit_subfolders


if TYPE_CHECKING:
    import torch


STATE = "stat:"  # before what tells whether a file is still the same, in the digests of an ingredient


@dataclass(frozen=True, kw_only=True)
class DistributedCheckpoint(Checkpoint):
    """An opened distributed checkpoint.

    Args:
        chunks (`Mapping[str, tuple[Chunk, ...]]`):
            Tensor, by its name in the files -> its chunks.
    """

    chunks: Mapping[str, tuple[Chunk, ...]] = field(compare=False, repr=False)

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor on the CPU."""
        import torch

        spec = self.specs[name]
        tensor = torch.empty(spec.shape, dtype=getattr(torch, spec.dtype))
        with OpenFiles() as files:
            self._read_spec(files, spec, 0, bytes_of(tensor))
        return tensor

    def _are_adjacent(self, names: Sequence[str]) -> bool:
        """No tensors are read at once, because each may lie in several files."""
        return False

    def _read_spec(self, files: OpenFiles, spec: TensorSpec, start: int, into: memoryview) -> None:
        """Copy the bytes of consecutive elements of a tensor from its chunks."""
        if not len(into):
            return
        chunks = self.chunks[spec.key]
        if any(not chunk.flat and chunk.sizes[1:] != spec.shape[1:] for chunk in chunks):
            into[:] = self._rows(files, spec, chunks, start, len(into) // spec.itemsize)
            return
        stop = start + len(into) // spec.itemsize
        row = spec.numel // spec.shape[0] if spec.shape and spec.shape[0] else 1
        for chunk in chunks:  # each is a range of consecutive elements
            size_of_row = 1 if chunk.flat else row
            first = chunk.offsets[0] * size_of_row if chunk.offsets else 0
            numel = chunk.sizes[0] * size_of_row if chunk.sizes else 1
            begin, end = max(start, first), min(stop, first + numel)
            if begin < end:
                part = into[(begin - start) * spec.itemsize : (end - start) * spec.itemsize]
                self._read_bytes(files, spec, chunk, begin - first, part)

    def _rows(self, files: OpenFiles, spec: TensorSpec, chunks: Sequence[Chunk], start: int, count: int) -> memoryview:
        """Consecutive elements of a tensor whose rows are divided among chunks."""
        import numpy as np

        row = spec.numel // spec.shape[0]
        first, last = start // row, -(-(start + count) // row)
        rows = np.empty((last - first, *spec.shape[1:], spec.itemsize), dtype=np.uint8)
        for chunk in chunks:
            begin, end = max(first, chunk.offsets[0]), min(last, chunk.offsets[0] + chunk.sizes[0])
            if begin >= end:
                continue
            part = np.empty((end - begin, *chunk.sizes[1:], spec.itemsize), dtype=np.uint8)
            numel_of_row = part[0].size // spec.itemsize
            self._read_bytes(files, spec, chunk, (begin - chunk.offsets[0]) * numel_of_row, part.reshape(-1).data)
            inner = tuple(
                slice(offset, offset + size) for offset, size in zip(chunk.offsets[1:], chunk.sizes[1:], strict=True)
            )
            rows[(slice(begin - first, end - first), *inner)] = part
        skipped = (start - first * row) * spec.itemsize
        return rows.reshape(-1)[skipped : skipped + count * spec.itemsize].data

    def _read_bytes(self, files: OpenFiles, spec: TensorSpec, chunk: Chunk, start: int, into: memoryview) -> None:
        """Read consecutive elements of one chunk.

        Raises:
            [`IngredientError`]: if the file cannot be read, or ends too early.
        """
        path = self.weights_folder / chunk.file
        try:
            is_whole = files.read(str(path), chunk.start + start * spec.itemsize, into)
        except OSError as error:
            raise IngredientError(f"cannot read {path}: {error.strerror}.") from None
        if not is_whole:
            raise IngredientError(f"{path} ended in the middle of tensor {one_line(spec.name)!r}.")


def find_distributed(folder: Path, name: str, *, allow_pickle: bool) -> tuple[Distributed, Ingredient] | None:
    """Read where the parts of a model are that large training left, and pin its files; `None` if there are none.

    Args:
        folder (`Path`):
            Folder of the checkpoint.
        name (`str`):
            Name of the ingredient.
        allow_pickle (`bool`):
            Whether pickles may be read, which say where the parts are.

    Raises:
        [`IngredientError`]: if it is in pickles that may not be read, or damaged.
    """
    inner, read = distributed_folder(folder), read_distributed
    if inner is None:
        inner, read = zero_folder(folder), read_zero
    if inner is None:
        return None
    if not allow_pickle and (read is read_zero or is_pickled(folder / inner)):
        # the states are described with the command that puts them together
        raise IngredientError(
            f"{has_no_weights(tuple(contents_of(folder).sizes), str(folder))} Or pass "
            "hf_soup.load_ingredient(..., allow_pickle=True) (--allow-pickle), which reads the parts where they lie, "
            "and runs nothing that the pickles beside them name."
        )
    with as_error(IngredientError, f"{folder} cannot be read"):
        before = {file: file_state(folder / file) for file in contents_of(folder).sizes}
        found = read(folder, inner)
        states = {file: file_state(place_of(folder, file)) for file in found.files}
    for file, state in states.items():
        if before.get(file) != state:
            raise IngredientError(f"{folder / file} is being written; merge again when that is done.")
    for spec in found.specs.values():
        if not isinstance(spec.name, str) or one_line(spec.name, LONGEST_NAME) != spec.name:
            raise IngredientError(f"{folder} has a tensor whose name is none: {one_line(repr(spec.name), 40)}.")
        refuse_gaps(spec, found.chunks[spec.name])
    return found, Ingredient(name, str(folder), files={file: STATE + state for file, state in states.items()})


def open_distributed(
    ingredient: Ingredient, folder: Path, found: Distributed, sorted_files: SortedFiles, notes: Sequence[str]
) -> DistributedCheckpoint:
    """Open a distributed checkpoint.

    Args:
        ingredient ([`Ingredient`]):
            Its reference, with the state of each file when it was read.
        folder (`Path`):
            Folder of the checkpoint; its configuration may lie in the folder around it, as a Trainer leaves it.
        found ([`Distributed`]):
            Its tensors.
        sorted_files ([`SortedFiles`]):
            Its companion files.
        notes (`Sequence[str]`):
            What was chosen where the source left a choice.

    Raises:
        [`IngredientError`]: if there is no configuration, or tensors have other shapes than it says.
    """
    name = ingredient.name
    all_notes = list(notes)
    with as_error(IngredientError, f"{name} cannot be opened"):
        place = folder
        if not is_there(folder, CONFIG) and is_there(folder.parent, CONFIG):
            place = folder.parent
            all_notes.append(f"{name} takes {CONFIG} from the folder around it")
        config = read_config(place, needed=True)
        fitted = fit_subfolders(config, {"": found.specs}, folder)
    for tensor, shape in (fitted.expected or {}).items():
        if tensor in fitted.specs and fitted.specs[tensor].shape != tuple(shape):
            found_shape = list(fitted.specs[tensor].shape)
            raise IngredientError(
                f"the parts of {one_line(tensor)!r} make up the shape {found_shape}, and {CONFIG} of {name} makes it "
                f"{list(shape)}: the part of a process is missing, or it is another model."
            )
    return DistributedCheckpoint(
        ingredient,
        config,
        fitted.specs,
        folder,
        opened_as={file: state.removeprefix(STATE) for file, state in ingredient.files.items()},
        companion_names=sorted_files.taken,
        fitted=fitted,
        notes=(*all_notes, *(f"{name}: {note}" for note in fitted.notes)),
        chunks=found.chunks,
    )
