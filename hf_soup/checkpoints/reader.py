"""One safetensors file: its header, which is validated first, and its tensors, complete or in ranges.

Models are unknown here. The format is 8 bytes with the length of a JSON header, the header, then the data. `shards.py`
reads the files of a sharded model.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import IngredientError
from ..untrusted import SMALL_FILE, as_error, one_line, open_file
from .files import OpenFiles


if TYPE_CHECKING:
    import torch

SAFE_WEIGHTS = "model.safetensors"
SAFE_INDEX = "model.safetensors.index.json"
PICKLED_WEIGHTS = "pytorch_model.bin"

LENGTH = 8  # bytes before the header, which hold its length as a little-endian number
MOST_TENSORS = 100_000  # in one file; larger models are sharded
LONGEST_NAME = 1000  # characters of the name of a tensor
MOST_SIZES = 64  # dimensions of a tensor; torch has no more
METADATA = 10_000  # brackets in a header that belong to no tensor, such as in metadata

# The format's name of a type -> torch's name and bytes per element, in the format's own order of types.
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
PACKED = ("F4", "F6_E2M3", "F6_E3M2")  # types of the format that store several numbers in a byte
# The types that are averaged; all others are copied if they are equal. F8_E8M0 holds scales of quantised blocks.
AVERAGED = tuple(name for name in CODES if "float" in name and name != "float8_e8m0fnu")


class TensorSpec(NamedTuple):
    """One tensor as a header describes it.

    Args:
        name (`str`):
            Name of the tensor.
        shape (`tuple[int, ...]`):
            Shape of the tensor.
        dtype (`str`):
            torch's name of its type, such as `"float32"`.
        file (`str`):
            The file that holds it, relative to its checkpoint's folder; empty in memory.
        start (`int`):
            Position in that file at which the bytes of the tensor begin.
        subfolder (`str`):
            The sub-folder whose module it belongs to (`2_Dense` of a SentenceTransformer); empty for the model itself.
        stored (`str`):
            Name of the tensor in the file, where it differs from `name`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: str = ""
    start: int = 0
    subfolder: str = ""
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
        return bytes_per_element(self.dtype)

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        return self.numel * self.itemsize

    @property
    def is_floating(self) -> bool:
        """Whether it holds numbers that can be averaged."""
        return self.dtype in AVERAGED


def bytes_per_element(dtype: str) -> int:
    """How many bytes an element of a type takes, such as 4 for `"float32"`."""
    return DTYPES[CODES[dtype]][1]


class RawHeader(NamedTuple):
    """The unparsed header of a safetensors file, and the state of the file when it was read.

    Args:
        content (`bytes`):
            JSON text of the header.
        size (`int`):
            Size of the whole file in bytes.
        changed (`int`):
            When the file was changed, in nanoseconds.
    """

    content: bytes
    size: int
    changed: int

    @property
    def digest(self) -> str:
        """A digest that shows whether the file is still the same, without reading its tensors."""
        import xxhash

        return "stat:" + xxhash.xxh3_128_hexdigest(self.content + f"{self.size}:{self.changed}".encode())


def read_raw_header(path: Path) -> RawHeader:
    """Read the header of one safetensors file without parsing it.

    Raises:
        [`IngredientError`]: if the file cannot be read, or is shorter than its header.
    """
    with as_error(IngredientError, f"cannot read {one_line(path)}"), open_file(path) as file:
        state = os.fstat(file.fileno())
        length = int.from_bytes(file.read(LENGTH), "little")
        check_length(length, state.st_size, str(path))
        return RawHeader(file.read(length), state.st_size, state.st_mtime_ns)


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
    header = read_raw_header(path)
    return parse_header(header.content, header.size, path.name, str(path))


def check_length(length: int, size: int, where: str) -> None:
    """Refuse a header whose stated length exceeds its file, or what any model needs.

    Raises:
        [`IngredientError`]: with the numbers.
    """
    if size < LENGTH or length > size - LENGTH:
        raise IngredientError(
            f"{where} is not a complete safetensors file: its header should be {length} bytes, the file has {size}. "
            "Fetch "
            "or save it again."
        )
    if length > SMALL_FILE:
        raise IngredientError(
            f"{where} has a header of {length:,} bytes, which no model needs; at most {SMALL_FILE:,} are read."
        )


def parse_header(header: bytes, size: int, file: str, where: str) -> dict[str, TensorSpec]:
    """Parse a header, and check that its tensors fill the file exactly.

    Args:
        header (`bytes`):
            JSON text of the header.
        size (`int`):
            Size of the whole file in bytes.
        file (`str`):
            The file's name in its checkpoint.
        where (`str`):
            Name of the file in errors.

    Raises:
        [`IngredientError`]: if it is no JSON, or says anything that cannot be.
    """
    data_start = LENGTH + len(header)
    try:
        with as_error(IngredientError, f"{where} has a corrupt safetensors header. Fetch or save it again"):
            _refuse_other_nesting(header)
            entries = json.loads(header, object_pairs_hook=_no_key_twice)
            entries.pop("__metadata__", None)
            specs = {name: _spec(name, entry, file, data_start) for name, entry in entries.items()}
    except _UnknownTypeError as error:
        raise IngredientError(f"{where}: {error}") from None
    _refuse_gaps(specs, data_start, size, where)
    return specs


def _refuse_gaps(specs: Mapping[str, TensorSpec], data_start: int, size: int, where: str) -> None:
    """Refuse tensors that overlap or do not fill their file exactly: the format allows no other bytes."""
    end = data_start
    for spec in sorted(specs.values(), key=lambda spec: (spec.start, spec.nbytes)):  # empty tensors come first
        if spec.start != end:
            raise IngredientError(
                f"{where}: tensor {one_line(spec.name)!r} does not begin where the one before it ends."
            )
        end += spec.nbytes
    if end != size:
        raise IngredientError(f"{where} should have {end} bytes by its header and has {size}. Fetch or save it again.")


def widest(dtypes: Sequence[str]) -> str:
    """The smallest type that can represent all values of the given types (float32 for bfloat16 and float16)."""
    if len(set(dtypes)) == 1:
        return dtypes[0]
    import torch

    # torch does not promote float8; every larger type holds all of its values
    larger = [getattr(torch, name) for name in dtypes if "float8" not in name]
    if not larger:
        return "float16"
    return str(functools.reduce(torch.promote_types, larger)).removeprefix("torch.")


def read_bytes(files: OpenFiles, folder: Path, spec: TensorSpec, start: int, into: memoryview) -> None:
    """Read the bytes of consecutive elements of one tensor.

    Args:
        files (`OpenFiles`):
            Open files, to which the file is added if it is not among them.
        folder (`Path`):
            Folder of the checkpoint.
        spec (`TensorSpec`):
            Tensor to read.
        start (`int`):
            The first element.
        into (`memoryview`):
            Memory that is filled.

    Raises:
        [`IngredientError`]: if the file cannot be read or ends before the tensor does.
    """
    path = f"{folder}{os.sep}{spec.file}"
    try:
        is_whole = files.read(path, spec.start + start * spec.itemsize, into)
    except OSError as error:
        raise IngredientError(f"cannot read {path}: {error.strerror}.") from None
    if not is_whole:
        raise IngredientError(f"{path} ended in the middle of tensor {one_line(spec.name)!r}.")


def read_tensor(folder: Path, spec: TensorSpec) -> torch.Tensor:
    """Read one tensor into its own memory; raises the errors of [`read_bytes`]."""
    import torch

    buffer = torch.empty(spec.nbytes, dtype=torch.uint8)
    with OpenFiles() as files:
        read_bytes(files, folder, spec, 0, buffer.numpy().data)
    return buffer.view(getattr(torch, spec.dtype)).reshape(spec.shape)


class _UnknownTypeError(IngredientError):
    """A valid header with a tensor of an unsupported type."""


def _spec(name: str, entry: dict[str, Any], file: str, data_start: int) -> TensorSpec:
    """A tensor from its entry in a header, which is validated completely."""
    is_plain = name.isascii() and name.isprintable() and " " not in name  # as nearly all names are
    if len(name) > LONGEST_NAME or not (is_plain or one_line(name, LONGEST_NAME) == name):  # surrogates, line breaks
        raise ValueError(f"{one_line(name, 40)!r} is not the name of a tensor")
    begin, end = entry["data_offsets"]
    if not isinstance(entry["shape"], list) or len(entry["shape"]) > MOST_SIZES:
        raise ValueError(f"tensor {one_line(name)!r} has a shape that is not a list of at most {MOST_SIZES} sizes")
    shape = tuple(entry["shape"])
    dtype = _dtype(name, entry["dtype"])
    # `True` is an int as well; larger numbers would overflow in torch and in system calls.
    for number in (begin, end, *shape):
        if type(number) is not int or not 0 <= number < 2**63:
            raise ValueError(f"tensor {one_line(name)!r} has a shape or offsets that are not whole numbers")
    spec = TensorSpec(name, shape, dtype, file, data_start + begin)
    if end - begin != spec.nbytes:
        raise ValueError(
            f"tensor {one_line(name)!r} of shape {list(shape)} and type {entry['dtype']} has {end - begin} bytes"
        )
    return spec


def _dtype(name: str, code: str) -> str:
    """torch's name of the type that a header gives to a tensor."""
    if isinstance(code, str) and code in DTYPES:
        return DTYPES[code][0]
    tensor = f"tensor {one_line(name)!r} has the type {one_line(code, 40)}"
    if code in PACKED:
        raise _UnknownTypeError(
            f"{tensor}, numbers that share bytes, which torch cannot add up. Average the weights that it was "
            "quantised from."
        )
    raise _UnknownTypeError(
        f"{tensor}, which the safetensors format did not have when this version of hf_soup was made. Upgrade hf_soup, "
        "or save it as one of the types of torch."
    )


def _refuse_other_nesting(header: bytes) -> None:
    """Refuse a header that is mostly something other than tensors, since parsing it could fill the memory."""
    tensors = header.count(b'"data_offsets"')
    if tensors > MOST_TENSORS:
        raise ValueError(f"it names more than {MOST_TENSORS:,} tensors")
    if header.count(b"[") + header.count(b"{") > 3 * tensors + METADATA:
        raise ValueError("it holds more than tensors")


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object without duplicate keys; `json` would keep the last value of a key, other readers the first."""
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a key appears twice")
    return entries
