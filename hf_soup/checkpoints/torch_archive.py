"""A file of `torch.save` without its numbers: what was saved, with the place of each tensor in place of the tensor.

Such a file is a zip archive with a pickle and an uncompressed entry for each storage. Of the classes in the pickle
only tensors, containers and types are made; all others become objects that do nothing, so that no code is run.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..errors import IngredientError
from ..untrusted import as_error, open_file
from .reader import CODES, DTYPES


STORAGES = {  # class of a storage -> torch's name of its type
    "BFloat16Storage": "bfloat16",
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ComplexFloatStorage": "complex64",
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "ShortStorage": "int16",
}
LOCAL_HEADER = 30  # bytes of the header of an entry in a zip archive, before its name and an extra field


class Storage(NamedTuple):
    """A storage: torch's name of its type, the position of its bytes in the file, and their number."""

    dtype: str
    start: int
    nbytes: int


class StoredTensor(NamedTuple):
    """A tensor in a file.

    Args:
        dtype (`str`):
            torch's name of its type.
        shape (`tuple[int, ...]`), stride (`tuple[int, ...]`):
            Its shape, and the distance of neighbours in each dimension.
        start (`int`):
            Position in the file at which its first number begins.
    """

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    start: int

    @property
    def numel(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def is_by_rows(self) -> bool:
        """Whether its numbers lie one after the other, row by row."""
        if not self.numel:
            return True
        for place, (size, stride) in enumerate(zip(self.shape, self.stride, strict=True)):
            if size > 1 and stride != math.prod(self.shape[place + 1 :]):
                return False
        return True


class Inert:
    """Stands for an object of any other class, and ignores what is done with it."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Ignore a value."""

    def extend(self, values: Any) -> None:
        """Ignore values."""


def read_archive(path: Path, start: int = 0, length: int | None = None) -> Any:
    """Read what `torch.save` has written, with a [`StoredTensor`] in place of each tensor.

    Args:
        path (`Path`):
            The file.
        start (`int`, *optional*, defaults to 0), length (`int`, *optional*):
            The part of the file that was written; by default all of it.

    Raises:
        [`IngredientError`]: if it is no such archive, or damaged.
    """
    with as_error(IngredientError, f"{path} is damaged"), open_file(path) as file:
        if length is None:
            length = file.seek(0, io.SEEK_END) - start
        with zipfile.ZipFile(_Section(file, start, length)) as archive:
            entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
            if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
                raise IngredientError(f"{path} was written on a machine with another order of bytes.")

            def place_of(key: str) -> tuple[int, int]:
                entry = entries[f"data/{key}"]
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise IngredientError(f"{path} is compressed, so it cannot be read in ranges.")
                file.seek(start + entry.header_offset)
                header = file.read(LOCAL_HEADER)
                sizes = (int.from_bytes(header[place : place + 2], "little") for place in (26, 28))
                return start + entry.header_offset + LOCAL_HEADER + sum(sizes), entry.file_size

            return _Unpickler(io.BytesIO(archive.read(entries["data.pkl"])), place_of).load()


class _Unpickler(pickle.Unpickler):
    """Makes tensors without numbers, containers and types, and inert objects for all other classes."""

    def __init__(self, file: IO[bytes], place_of: Callable[[str], tuple[int, int]]):
        super().__init__(file)
        self._place_of = place_of

    def persistent_load(self, pid: Any) -> Storage:
        _, storage_type, key, *_ = pid
        return Storage(storage_type, *self._place_of(str(key)))

    def find_class(self, module: str, name: str) -> Any:
        # functions are made anew for each file, because a pickle can set attributes of what it is given
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor_v3"):
            return lambda *arguments: _stored_tensor(name, *arguments)
        if module == "torch._utils" and name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return lambda tensor, *_: tensor
        if (module, name) == ("torch._tensor", "_rebuild_from_type_v2"):  # of a tensor with attributes
            return lambda function, kind, arguments, state: function(*arguments)
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch", "Size"):
            return tuple
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and name in CODES:  # a type
            return name
        return type(name, (Inert,), {})


def _stored_tensor(
    function: str, storage: Storage, offset: int, size: Sequence[int], stride: Sequence[int], *others: Any
) -> StoredTensor:
    """The place of a tensor, from the arguments that torch makes one from.

    Args:
        function (`str`):
            Name of the function of torch, of which the newer one says the type apart from the storage.
        storage ([`Storage`]), offset (`int`), size (`Sequence[int]`), stride (`Sequence[int]`):
            Where the tensor is.
        others (*any*):
            Whether it has a gradient, its hooks, and for the newer function its type.
    """
    dtype = others[2] if function.endswith("v3") else storage.dtype
    itemsize = DTYPES[CODES[dtype]][1]
    last = sum((count - 1) * distance for count, distance in zip(size, stride, strict=True))
    if math.prod(size) and (min(offset, *size, *stride) < 0 or (offset + last + 1) * itemsize > storage.nbytes):
        raise ValueError(f"a tensor of {list(size)} reaches beyond its {storage.nbytes:,} bytes")
    return StoredTensor(dtype, tuple(size), tuple(stride), storage.start + offset * itemsize)


class _Section(io.RawIOBase):
    """A part of a file, as a file of its own."""

    def __init__(self, file: IO[bytes], start: int, length: int):
        self._file, self._start, self._length, self._place = file, start, length, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._length}[whence]
        self._place = max(base + offset, 0)
        return self._place

    def read(self, size: int = -1) -> bytes:
        left = max(self._length - self._place, 0)
        size = left if size < 0 else min(size, left)
        self._file.seek(self._start + self._place)
        content = self._file.read(size)
        self._place += len(content)
        return content
