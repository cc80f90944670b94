"""The output on disk: safetensors files, sharded on request, written in parts as they arrive.

The origin of the tensors is unknown here. Files are byte for byte what `safetensors` itself would write.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from .digest import Digests, bytes_of
from .files import OpenFiles
from .reader import CODES, DTYPES, LENGTH, SAFE_INDEX, TensorSpec
from .shard_size import shard_size
from .subfolders import subfolder_prefix


if TYPE_CHECKING:
    import torch

ALIGNMENT = 8  # bytes: safetensors aligns the data to a multiple of it
_RANK = {code: rank for rank, code in enumerate(DTYPES)}  # safetensors puts the highest first


@contextlib.contextmanager
def weight_files(
    folder: Path, specs: Sequence[TensorSpec], *, max_shard_size: int | str = "50GB"
) -> Iterator[WeightFiles]:
    """Safetensors files whose layout is planned in advance, so that parts of tensors can be written as they arrive.

    Args:
        folder (`Path`):
            An existing folder.
        specs (`Sequence[TensorSpec]`):
            Name, shape and type of each tensor that will be written.
        max_shard_size (`int` or `str`, *optional*, defaults to `"50GB"`):
            Largest size of a shard, as in transformers. A tensor that is larger gets a shard of its own.

    Raises:
        [`OutputError`]: if `max_shard_size` is no size.
        [`OSError`]: if a file cannot be written, which `staged_folder` turns into an `OutputError`.
    """
    specs_by_subfolder: dict[str, list[TensorSpec]] = {}
    for spec in specs:
        specs_by_subfolder.setdefault(spec.subfolder, []).append(spec)
    placed: dict[str, TensorSpec] = {}
    indexes: dict[Path, dict[str, Any]] = {}
    for subfolder, subfolder_specs in specs_by_subfolder.items():
        (folder / subfolder).mkdir(parents=True, exist_ok=True)
        layout = _lay_out(folder, subfolder, subfolder_specs, max_shard_size)
        placed |= layout.placed
        if layout.shard_index is not None:
            indexes[folder / subfolder / SAFE_INDEX] = layout.shard_index
    with OpenFiles("r+b") as files:
        sink = WeightFiles(folder, placed, files)
        yield sink
    sink.refuse_gaps()
    # Readers consider a folder with an index complete, so indexes are written last.
    for path, index in indexes.items():
        path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


class _SubfolderLayout(NamedTuple):
    """The location of each tensor of a subfolder (its file and offset) and the index of shards."""

    placed: dict[str, TensorSpec]
    shard_index: dict[str, Any] | None


def _lay_out(folder: Path, subfolder: str, specs: Sequence[TensorSpec], max_shard_size: int | str) -> _SubfolderLayout:
    """The files of a subfolder with their headers: the location of each tensor, and the index if there are shards.

    In a subfolder's own files, tensor names do not include the subfolder.
    """
    from huggingface_hub import split_state_dict_into_shards_factory

    prefix = subfolder_prefix(subfolder)
    by_key = {spec.name.removeprefix(prefix): spec for spec in specs}
    # The function behind transformers' own splitting; it needs only sizes, so specs take the place of tensors.
    split = split_state_dict_into_shards_factory(
        by_key,
        get_storage_size=lambda spec: spec.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard_size(max_shard_size),
    )
    placed = {}
    for file, keys in split.filename_to_tensors.items():
        path = f"{subfolder}/{file}".removeprefix("/")
        file_specs = [by_key[key]._replace(name=key) for key in keys]
        starts = _write_header(folder / path, file_specs)
        for key, start in starts.items():
            placed[prefix + key] = by_key[key]._replace(file=path, start=start)
    if not split.is_sharded:
        return _SubfolderLayout(placed, None)
    total = sum(spec.numel for spec in specs)
    index = {"metadata": {"total_parameters": total, **split.metadata}, "weight_map": split.tensor_to_filename}
    return _SubfolderLayout(placed, index)


class WeightFiles:
    """Writes the parts of tensors to their locations in files. Created by [`weight_files`].

    Args:
        folder (`Path`):
            Folder of the files.
        specs (`Mapping[str, TensorSpec]`):
            Each tensor with its file and where it begins there.
        files (`OpenFiles`):
            Open for writing.
    """

    def __init__(self, folder: Path, specs: Mapping[str, TensorSpec], files: OpenFiles):
        self._folder, self._specs, self._files = folder, specs, files
        self._to_come = {name: spec.nbytes for name, spec in specs.items()}
        self._lock = threading.Lock()
        self._digests = Digests()
        for spec in specs.values():
            self._digests.expect(spec.name, spec.numel)

    def write(self, name: str, start: int, elements: torch.Tensor) -> None:
        """Write elements of one tensor, covering complete pieces; threads may write at once."""
        spec, data = self._specs[name], bytes_of(elements)
        path = f"{self._folder}{os.sep}{spec.file}"
        self._files.write(path, spec.start + start * spec.itemsize, data)
        self._digests.add(name, start, data, spec.itemsize)
        with self._lock:
            self._to_come[name] -= len(data)

    def digests(self) -> dict[str, str]:
        """The digest of each tensor as it was written."""
        return self._digests.result()

    def refuse_gaps(self) -> None:
        """Check that every planned byte has been written exactly once."""
        incomplete = [name for name, count in self._to_come.items() if count]
        if incomplete:
            raise RuntimeError(f"{len(incomplete)} planned tensors did not come whole, such as {incomplete[0]}")


def _write_header(path: Path, specs: Sequence[TensorSpec]) -> dict[str, int]:
    """Lay the tensors out as safetensors does (widest type first, then by name) and return their offsets."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offsets: dict[str, int] = {}
    end = 0
    for spec in sorted(specs, key=lambda spec: (-_RANK[CODES[spec.dtype]], spec.name)):
        offsets[spec.name] = end
        end += spec.nbytes
        header[spec.name] = {
            "dtype": CODES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [offsets[spec.name], end],
        }
    # Without spaces and escapes, like serde_json, so that the bytes are those of `safetensors`.
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    data_start = LENGTH + len(text)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(LENGTH, "little") + text)
        _reserve(file, data_start + end)
    return {name: data_start + offset for name, offset in offsets.items()}


def _reserve(file: BinaryIO, size: int) -> None:
    """Reserve space, so that a full disk is noticed before any work and several threads write at full speed."""
    file.flush()
    if not hasattr(os, "posix_fallocate"):  # macOS and Windows
        file.truncate(size)
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # the file system cannot reserve space
            raise
        file.truncate(size)
