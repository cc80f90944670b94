"""Distributed checkpoints of torch: tensors in chunks, as FSDP saves them, which are read where they lie.

`torch.distributed.checkpoint` writes a folder with the chunks of each process, and where each of them belongs: in
pickles (`.metadata` and `*.distcp`), or in safetensors files. Only this information is read here. A chunk in a pickle
is an uncompressed entry of a zip file, so that its bytes can be read in ranges without loading it.
"""

from __future__ import annotations

import json
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import IngredientError, listed
from ..untrusted import as_error, one_line, open_file
from .inside import is_there, place_of
from .reader import CODES, TensorSpec, parse_header, read_raw_header
from .torch_archive import StoredTensor, read_archive


METADATA = ".metadata"
CHUNK_FILE = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")  # of the storage for Hugging Face
SHARDING = "DCP_SHARDING_INFO"  # key of its metadata with the place of each chunk
FOLDERS = re.compile(r"pytorch_model_fsdp(_\d+)?")  # of accelerate, in the folder of a checkpoint
MODEL_STATES = ("model", "module", "state_dict", "model_state_dict")  # usual names of the model among other states


class Chunk(NamedTuple):
    """A rectangular part of a tensor.

    Args:
        offsets (`tuple[int, ...]`), sizes (`tuple[int, ...]`):
            Where it begins in each dimension of the tensor, and its size there.
        file (`str`):
            The file that holds it, relative to the checkpoint's folder.
        start (`int`):
            Position in that file at which its bytes begin, row by row.
        flat (`bool`, *optional*, defaults to `False`):
            Whether it is a range of consecutive elements, so that offset and size are single numbers.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    start: int
    flat: bool = False


class Distributed(NamedTuple):
    """The tensors of a distributed checkpoint.

    Args:
        specs (`dict[str, TensorSpec]`):
            Tensors of the model by name.
        chunks (`dict[str, tuple[Chunk, ...]]`):
            Tensor -> its chunks.
        files (`tuple[str, ...]`):
            All files that belong to it, relative to the checkpoint's folder.
    """

    specs: dict[str, TensorSpec]
    chunks: dict[str, tuple[Chunk, ...]]
    files: tuple[str, ...]


def distributed_folder(folder: Path) -> str | None:
    """The folder in a checkpoint with its chunks: `""` for itself, or that of accelerate; `None` if there is none."""
    inside = sorted(path.name for path in folder.iterdir() if FOLDERS.fullmatch(path.name) and path.is_dir())
    for name in ("", *inside):
        if is_pickled(folder / name) or chunk_files(folder / name):
            return name
    return None


def is_pickled(folder: Path) -> bool:
    """Whether a folder holds chunks in pickles."""
    return is_there(folder, METADATA)


def chunk_files(folder: Path) -> list[str]:
    """The safetensors files with chunks in a folder."""
    return sorted(path.name for path in folder.iterdir() if CHUNK_FILE.fullmatch(path.name) and path.is_file())


def read_distributed(folder: Path, inner: str) -> Distributed:
    """Read where the chunks of a model are.

    Args:
        folder (`Path`):
            Folder of the checkpoint.
        inner (`str`):
            The folder in it that holds the chunks, as returned by [`distributed_folder`].

    Raises:
        [`IngredientError`]: if the information is damaged, chunks are missing or overlap, or the model cannot be told
            from other states.
    """
    place = place_of(folder, inner)
    prefix = f"{inner}/" if inner else ""
    if is_pickled(place):
        chunks, dtypes, shapes = _of_pickles(place, prefix)
        files = [METADATA, *sorted({Path(chunk.file).name for parts in chunks.values() for chunk in parts})]
    else:
        files = chunk_files(place)
        chunks, dtypes, shapes = _of_safetensors(place, prefix, files)
    specs = {}
    for name, parts in chunks.items():
        specs[name] = TensorSpec(name, shapes[name], dtypes[name], parts[0].file)
    return Distributed(specs, chunks, tuple(prefix + file for file in files))


def refuse_gaps(spec: TensorSpec, chunks: Sequence[Chunk]) -> None:
    """Raise an error if chunks do not make up a tensor exactly.

    Raises:
        [`IngredientError`]: naming the tensor.
    """
    total = 0
    for chunk in chunks:
        shape = (spec.numel,) if chunk.flat else spec.shape
        for offset, size, whole in zip(chunk.offsets, chunk.sizes, shape, strict=True):
            if offset < 0 or size < 0 or offset + size > whole:
                raise IngredientError(f"a chunk of {one_line(spec.name)!r} lies outside of its shape.")
        total += math.prod(chunk.sizes)
    # chunks inside of a tensor that share nothing and have as many numbers as it has make it up
    ordered = sorted((chunk for chunk in chunks if math.prod(chunk.sizes)), key=lambda chunk: chunk.offsets)
    for place, chunk in enumerate(ordered):
        for other in ordered[place + 1 :]:
            if other.offsets and other.offsets[0] >= chunk.offsets[0] + chunk.sizes[0]:
                break  # and all that follow begin later
            if _overlap(chunk, other):
                raise IngredientError(f"two chunks of {one_line(spec.name)!r} hold the same numbers.")
    if total != spec.numel:
        raise IngredientError(
            f"the chunks of {one_line(spec.name)!r} have {total:,} of its {spec.numel:,} numbers: a process has not "
            "saved its part, or saved it elsewhere."
        )


def _overlap(chunk: Chunk, other: Chunk) -> bool:
    """Whether two chunks of a tensor have numbers in common."""
    for begin, size, other_begin, other_size in zip(
        chunk.offsets, chunk.sizes, other.offsets, other.sizes, strict=True
    ):
        if begin + size <= other_begin or other_begin + other_size <= begin:
            return False
    return True


def _of_pickles(
    folder: Path, prefix: str
) -> tuple[dict[str, tuple[Chunk, ...]], dict[str, str], dict[str, tuple[int, ...]]]:
    """Chunks, types and shapes of the tensors of the model in a folder with `.metadata`."""
    with (
        as_error(IngredientError, f"{folder / METADATA} is damaged"),
        open_file(place_of(folder, METADATA)) as file,
    ):
        state = _Unpickler(file).load().state
        entries = {name: entry.state for name, entry in state["state_dict_metadata"].items()}
        tensors = {name: entry for name, entry in entries.items() if entry and "chunks" in entry}
        planned = state.get("planner_data")
        planned = planned if isinstance(planned, dict) else {}
        paths = {name: tuple(map(str, planned.get(name, (name,)))) for name in tensors}
    names = _names_of_model(paths, str(folder))
    chunks: dict[str, list[Chunk]] = {name: [] for name in names.values()}
    dtypes, shapes = {}, {}
    sizes: dict[tuple[str, tuple[int, ...]], tuple[int, ...]] = {}
    with as_error(IngredientError, f"{folder / METADATA} is damaged"):
        for stored, name in names.items():
            entry = tensors[stored]
            dtypes[name] = entry["properties"].state[0]
            shapes[name] = tuple(map(int, entry["size"]))
            if not isinstance(dtypes[name], str) or dtypes[name] not in CODES:
                raise ValueError(f"{one_line(name)!r} has a type that no weights have")
            for chunk in entry["chunks"]:
                sizes[stored, tuple(chunk.state["offsets"])] = tuple(map(int, chunk.state["sizes"]))
        for index, info in state["storage_data"].items():
            fqn, place = index.state["fqn"], info.state
            if fqn not in names:
                continue
            if place.get("transform_descriptors"):
                raise IngredientError(f"{folder} holds chunks that are compressed, which cannot be read in ranges.")
            name, file = names[fqn], place["relative_path"]
            offsets = tuple(map(int, index.state["offset"] or (0,) * len(shapes[name])))
            of_chunk = sizes[fqn, offsets]
            start = _start_of(place_of(folder, file), place["offset"], place["length"], of_chunk, dtypes[name])
            chunks[name].append(Chunk(offsets, of_chunk, prefix + file, start))
    return {name: tuple(parts) for name, parts in chunks.items()}, dtypes, shapes


def _names_of_model(paths: Mapping[str, tuple[str, ...]], where: str) -> dict[str, str]:
    """The tensors of the model among those of all states, and their names in it.

    Args:
        paths (`Mapping[str, tuple[str, ...]]`):
            Tensor -> its path in what was saved, such as `("model", "lm_head.weight")`.
        where (`str`):
            Name of the folder in errors.

    Raises:
        [`IngredientError`]: if the model cannot be told from other states.
    """
    states = sorted({path[0] if len(path) > 1 else "" for path in paths.values()})
    state = next((name for name in MODEL_STATES if name in states), None)
    if state is None and len(states) == 1:
        state = states[0]
    if state is None and "" in states:  # the model was saved flat, beside other states
        state = ""
    if state is None:
        raise IngredientError(
            f"{where} holds the states {listed(states)}, of which none is called {' or '.join(MODEL_STATES)}: save "
            "the model under such a name."
        )
    names = {}
    for stored, path in paths.items():
        if (path[0] if len(path) > 1 else "") == state:
            names[stored] = ".".join(path[1:]) if state else stored
    return names


class _Record:
    """Stands for an object of any class, and keeps its state."""

    state: Any = None

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Reads information on chunks as records, without making an object of any class that it names."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch", "Size"):
            return tuple
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in CODES:  # a type
            return name
        # a class of its own for each file, because a pickle can set attributes of what it is given
        return type(name, (_Record,), {})


def _start_of(path: Path, start: int, length: int, sizes: tuple[int, ...], dtype: str) -> int:
    """The position in a file at which the numbers of a chunk begin, which `torch.save` has written there.

    Raises:
        [`IngredientError`]: if the chunk is stored in another form than row by row.
    """
    tensor = read_archive(path, start, length)
    if not isinstance(tensor, StoredTensor) or (tensor.shape, tensor.dtype) != (sizes, dtype):
        raise IngredientError(f"{path} has something else in place of a chunk of {list(sizes)} in {dtype}.")
    if not tensor.is_by_rows:
        raise IngredientError(f"{path} has a chunk that is not stored row by row, which cannot be read in ranges.")
    return tensor.start


def _of_safetensors(
    folder: Path, prefix: str, files: Sequence[str]
) -> tuple[dict[str, tuple[Chunk, ...]], dict[str, str], dict[str, tuple[int, ...]]]:
    """Chunks, types and shapes of the tensors in safetensors files, whose metadata has the place of each chunk."""
    chunks: dict[str, list[Chunk]] = {}
    dtypes: dict[str, str] = {}
    for file in files:
        header = read_raw_header(place_of(folder, file))
        specs = parse_header(header.content, header.size, file, str(folder / file))
        with as_error(IngredientError, f"{folder / file} does not say where its chunks belong"):
            places = json.loads(json.loads(header.content)["__metadata__"][SHARDING])
            for name, spec in specs.items():
                offsets = tuple(map(int, places[name]["saved_offsets"]))
                if dtypes.setdefault(name, spec.dtype) != spec.dtype or len(offsets) != len(spec.shape):
                    raise ValueError(f"{one_line(name)!r} differs between files")
                chunks.setdefault(name, []).append(Chunk(offsets, spec.shape, prefix + file, spec.start))
    shapes = {}
    for name, parts in chunks.items():
        ends = [[offset + size for offset, size in zip(part.offsets, part.sizes, strict=True)] for part in parts]
        shapes[name] = tuple(max(dimension) for dimension in zip(*ends, strict=True))
    return {name: tuple(parts) for name, parts in chunks.items()}, dtypes, shapes
