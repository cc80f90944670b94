"""Safetensors files: their headers, checked before anything else, and their tensors, or parts of them.

It does not know what a model is. The format: 8 bytes with the length of a JSON header, the header, then the data.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import IngredientError
from ..untrusted import SMALL_FILE, as_error, one_line, open_file
from .files import OpenFiles
from .inside import is_there, json_inside, place_of


if TYPE_CHECKING:
    import torch

SAFE_WEIGHTS = "model.safetensors"
SAFE_INDEX = "model.safetensors.index.json"
PICKLED_WEIGHTS = "pytorch_model.bin"

MOST_TENSORS = 100_000  # in one file; models of more have shards
LONGEST_NAME = 1000  # of a tensor
MOST_SIZES = 64  # of a tensor; torch has no more
METADATA = 10_000  # brackets in a header that belong to no tensor: what metadata quotes

# The format's name of a type -> torch's name and bytes for each element, in the format's own order of types.
DTYPES = {
    "BOOL": ("bool", 1),
    "U8": ("uint8", 1),
    "I8": ("int8", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E8M0": ("float8_e8m0fnu", 1),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 1),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 1),
    "I16": ("int16", 2),
    "U16": ("uint16", 2),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I32": ("int32", 4),
    "U32": ("uint32", 4),
    "F32": ("float32", 4),
    "C64": ("complex64", 8),
    "F64": ("float64", 8),
    "I64": ("int64", 8),
    "U64": ("uint64", 8),
}
CODES = {name: code for code, (name, _) in DTYPES.items()}
PACKED = ("F4", "F6_E2M3", "F6_E3M2")  # types of the format in which several numbers share bytes
# What is averaged; everything else is copied where it is equal. F8_E8M0 holds scales of quantised blocks.
AVERAGED = tuple(name for name in CODES if "float" in name and name != "float8_e8m0fnu")


class TensorSpec(NamedTuple):
    """One tensor as a header describes it.

    Args:
        name (`str`):
            Its key.
        shape (`tuple[int, ...]`):
            Its sizes.
        dtype (`str`):
            torch's name of its type, such as `"float32"`.
        file (`str`):
            The file that holds it, relative to its checkpoint's folder; empty in memory.
        start (`int`):
            Where its bytes begin in that file.
        part (`str`):
            The sub-folder whose module it belongs to (`2_Dense` of a SentenceTransformer); empty for the model itself.
        stored (`str`):
            Its key in the file where that is another one than `name`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: str = ""
    start: int = 0
    part: str = ""
    stored: str = ""

    @property
    def key(self) -> str:
        """Its key in the file that holds it."""
        return self.stored or self.name

    @property
    def numel(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """How many bytes an element takes."""
        return DTYPES[CODES[self.dtype]][1]

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        return self.numel * self.itemsize

    @property
    def is_floating(self) -> bool:
        """Whether it holds numbers that can be averaged."""
        return self.dtype in AVERAGED


def read_raw_header(path: Path) -> tuple[bytes, os.stat_result]:
    """The header of one safetensors file as it stands, and the state of the file.

    Raises:
        [`IngredientError`]: if the file cannot be read, or is shorter than its header.
    """
    with as_error(IngredientError, f"cannot read {one_line(path)}"), open_file(path) as file:
        state = os.fstat(file.fileno())
        length = int.from_bytes(file.read(8), "little")
        check_length(length, state.st_size, str(path))
        return file.read(length), state


def read_header(path: Path) -> dict[str, TensorSpec]:
    """Read and check the header of one safetensors file.

    Args:
        path (`Path`):
            The file.

    Returns:
        `dict[str, TensorSpec]`: its tensors by name.

    Raises:
        [`IngredientError`]: if the header is cut off, no JSON, or its tensors do not fill the file exactly.
    """
    header, state = read_raw_header(path)
    return parse_header(header, state.st_size, path.name, str(path))


def check_length(length: int, size: int, where: str) -> None:
    """Refuse a header that says that it is longer than its file, or than any model needs.

    Raises:
        [`IngredientError`]: with the numbers.
    """
    if size < 8 or length > size - 8:
        raise IngredientError(
            f"{where} is no whole safetensors file: its header should be {length} bytes, the file has {size}. Fetch "
            "or save it again."
        )
    if length > SMALL_FILE:
        raise IngredientError(
            f"{where} has a header of {length:,} bytes, which no model needs; at most {SMALL_FILE:,} are read."
        )


def parse_header(header: bytes, size: int, file: str, where: str) -> dict[str, TensorSpec]:
    """The tensors that a header describes, if they fill the file exactly.

    Args:
        header (`bytes`):
            Its JSON.
        size (`int`):
            Of the whole file in bytes.
        file (`str`):
            The file's name in its checkpoint.
        where (`str`):
            What errors call it.

    Raises:
        [`IngredientError`]: if it is no JSON, or says anything that cannot be.
    """
    end = 8 + len(header)
    try:
        with as_error(IngredientError, f"{where} has a corrupt safetensors header. Fetch or save it again"):
            _refuse_other_nesting(header)
            entries = json.loads(header, object_pairs_hook=_no_key_twice)
            entries.pop("__metadata__", None)
            specs = {name: _spec(name, entry, file, end) for name, entry in entries.items()}
    except _UnknownTypeError as error:
        raise IngredientError(f"{where}: {error}") from None
    for spec in sorted(specs.values(), key=lambda spec: (spec.start, spec.nbytes)):
        if spec.start != end:
            raise IngredientError(
                f"{where}: tensor {one_line(spec.name)!r} does not begin where the one before it ends."
            )
        end += spec.nbytes
    if end != size:
        raise IngredientError(f"{where} should have {end} bytes by its header and has {size}. Fetch or save it again.")
    return specs


def widest(dtypes: Sequence[str]) -> str:
    """The smallest type that holds every value of all of them (bfloat16 and float16 meet in float32)."""
    if len(set(dtypes)) == 1:
        return dtypes[0]
    import torch

    # every larger type holds both kinds of float8
    larger = [getattr(torch, name) for name in dtypes if "float8" not in name]
    return str(functools.reduce(torch.promote_types, larger)).removeprefix("torch.") if larger else "float16"


def read_bytes(files: OpenFiles, folder: Path, spec: TensorSpec, start: int, into: memoryview) -> None:
    """Read the bytes of consecutive elements of one tensor.

    Args:
        files (`OpenFiles`):
            What has the file open, or opens it.
        folder (`Path`):
            Of the checkpoint.
        spec (`TensorSpec`):
            Which tensor.
        start (`int`):
            The first element.
        into (`memoryview`):
            Is filled.

    Raises:
        [`IngredientError`]: if the file cannot be read or ends before the tensor does.
    """
    path = f"{folder}{os.sep}{spec.file}"
    try:
        whole = files.read(path, spec.start + start * spec.itemsize, into)
    except OSError as error:
        raise IngredientError(f"cannot read {path}: {error.strerror}.") from None
    if not whole:
        raise IngredientError(f"{path} ended in the middle of tensor {one_line(spec.name)!r}.")


def read_tensor(folder: Path, spec: TensorSpec) -> torch.Tensor:
    """Read one tensor into memory of its own; errors as of [`read_bytes`]."""
    import torch

    buffer = torch.empty(spec.nbytes, dtype=torch.uint8)
    with OpenFiles() as files:
        read_bytes(files, folder, spec, 0, memoryview(buffer.numpy()))
    return buffer.view(getattr(torch, spec.dtype)).reshape(spec.shape)


def shard_files(folder: Path, single: str = SAFE_WEIGHTS, inside: Collection[str] | None = None) -> list[str]:
    """The weight files of a checkpoint folder: the single one, or those that its index names.

    Args:
        folder (`Path`):
            That holds the index, or the single file.
        single (`str`, *optional*, defaults to `"model.safetensors"`):
            What the single file is called; the index is called after it.
        inside (`Collection[str]`, *optional*):
            The files that there are; by default those in the folder.

    Raises:
        [`IngredientError`]: if the index is no index, or names a file outside the folder or one that is not there.
    """
    if is_there(folder, single):
        return [single]
    return sorted(set(_weight_map(folder, single, inside).values()))


def _weight_map(folder: Path, single: str, inside: Collection[str] | None) -> dict[str, str]:
    """Which file holds which tensor, as the index of shards says; nothing in it is believed."""
    index, suffix = folder / f"{single}.index.json", Path(single).suffix
    with as_error(IngredientError, f"{one_line(index)} is no index of shards"):
        weight_map = dict(json_inside(folder, index.name)["weight_map"])
        files = set(weight_map.values())
    if not files:
        raise IngredientError(f"{index} names no shards.")
    for name in files:
        if not isinstance(name, str) or os.path.basename(name) != name or not name.endswith(suffix):
            raise IngredientError(
                f"{index} names {one_line(name)!r}; shards lie in the index's own folder and are {suffix} files."
            )
        if not (is_there(folder, name) if inside is None else name in inside):
            raise IngredientError(
                f"{folder} lacks the shard {one_line(name)} that its index names. Fetch or save it again."
            )
    return weight_map


def read_headers(folder: Path) -> dict[str, TensorSpec]:
    """All tensors of a folder with safetensors files by name, sorted.

    Raises:
        [`IngredientError`]: if a file is corrupt, a tensor is in two shards or not where the index says, or there is
            none.
    """
    indexed = None if is_there(folder, SAFE_WEIGHTS) else _weight_map(folder, SAFE_WEIGHTS, None)
    specs: dict[str, TensorSpec] = {}
    for file in [SAFE_WEIGHTS] if indexed is None else sorted(set(indexed.values())):
        header, state = read_raw_header(place_of(folder, file))
        tensors = parse_header(header, state.st_size, file, str(folder / file))
        twice = sorted(specs.keys() & tensors.keys())
        if twice:
            raise IngredientError(f"{folder} has the tensor {twice[0]!r} in two shards. Save it again.")
        specs |= tensors
    if not specs:
        raise IngredientError(f"{folder} holds no tensors.")
    if indexed is not None:
        _compare_index(folder, indexed, specs)
    return dict(sorted(specs.items()))


def _compare_index(folder: Path, indexed: Mapping[str, str], specs: Mapping[str, TensorSpec]) -> None:
    wrong = sorted(indexed.items() ^ {(name, spec.file) for name, spec in specs.items()})
    if wrong:
        raise IngredientError(
            f"{folder}: its index and its shards disagree about {len({name for name, _ in wrong})} tensors, such as "
            f"{wrong[0][0]!r} in {wrong[0][1]}. Fetch or save it again."
        )


class _UnknownTypeError(IngredientError):
    """A header that is whole, with a tensor of a type that cannot be read."""


def _spec(name: str, entry: dict, file: str, data_start: int) -> TensorSpec:
    if len(name) > LONGEST_NAME or one_line(name, LONGEST_NAME) != name:  # half characters, line breaks
        raise ValueError(f"{one_line(name, 40)!r} is no name of a tensor")
    begin, end = entry["data_offsets"]
    if not isinstance(entry["shape"], list) or len(entry["shape"]) > MOST_SIZES:
        raise ValueError(f"tensor {one_line(name)!r} has a shape that is no list of at most {MOST_SIZES} sizes")
    shape = tuple(entry["shape"])
    told = f"tensor {one_line(name)!r} has the type {one_line(entry['dtype'], 40)}"
    if entry["dtype"] in PACKED:
        raise _UnknownTypeError(
            f"{told}, numbers that share bytes, which torch cannot add up. Average the weights that it was quantised "
            "from."
        )
    if entry["dtype"] not in DTYPES:
        raise _UnknownTypeError(
            f"{told}, which the safetensors format did not have when this version of hf_soup was made. Upgrade "
            "hf_soup, or save it as one of the types of torch."
        )
    if not all(type(number) is int and 0 <= number < 2**63 for number in (begin, end, *shape)):
        raise ValueError(f"tensor {one_line(name)!r} has a shape or offsets that are not whole numbers")
    spec = TensorSpec(name, shape, DTYPES[entry["dtype"]][0], file, data_start + begin)
    if end - begin != spec.nbytes:
        raise ValueError(
            f"tensor {one_line(name)!r} of shape {list(shape)} and type {entry['dtype']} has {end - begin} bytes"
        )
    return spec


def _refuse_other_nesting(header: bytes) -> None:
    """Refuse a header that is mostly something else than tensors before it takes many times its size in memory."""
    tensors = header.count(b'"data_offsets"')
    if tensors > MOST_TENSORS:
        raise ValueError(f"it names more than {MOST_TENSORS:,} tensors")
    if header.count(b"[") + header.count(b"{") > 3 * tensors + METADATA:
        raise ValueError("it holds more than tensors")


def _no_key_twice(pairs: list) -> dict:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice")
    return result
