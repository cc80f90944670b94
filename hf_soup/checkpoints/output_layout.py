"""Which files the weights of a soup are written to: shards with their headers, and indexes. Nothing is written here.

Files are byte for byte what `safetensors` itself would write.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .reader import CODES, DTYPES, LENGTH, SAFE_INDEX, TensorSpec
from .shard_size import shard_size
from .subfolders import subfolder_prefix


ALIGNMENT = 8  # bytes: safetensors aligns the data to a multiple of it
_RANK = {code: rank for rank, code in enumerate(DTYPES)}  # safetensors puts the highest first


class OutputShard(NamedTuple):
    """A weight file that will be written.

    Args:
        file (`str`):
            Its name, with that of its subfolder.
        header (`bytes`):
            The bytes before those of the tensors.
        specs (`Mapping[str, TensorSpec]`):
            Tensor -> the file, and where it begins there.
        nbytes (`int`):
            Size of the file.
    """

    file: str
    header: bytes
    specs: Mapping[str, TensorSpec]
    nbytes: int


class OutputLayout(NamedTuple):
    """The files that the weights are written to.

    Args:
        shards (`tuple[OutputShard, ...]`):
            The weight files.
        indexes (`Mapping[str, Mapping[str, Any]]`):
            Index file -> its content, for each subfolder with several shards.
    """

    shards: tuple[OutputShard, ...]
    indexes: Mapping[str, Mapping[str, Any]]


def lay_out(specs: Sequence[TensorSpec], max_shard_size: int | str = "50GB") -> OutputLayout:
    """Decide on the files for tensors.

    Args:
        specs (`Sequence[TensorSpec]`):
            Name, shape and type of each tensor.
        max_shard_size (`int` or `str`, *optional*, defaults to `"50GB"`):
            Largest size of a shard, as in transformers. A tensor that is larger gets a shard of its own.

    Raises:
        [`OutputError`]: if `max_shard_size` is no size.
    """
    specs_by_subfolder: dict[str, list[TensorSpec]] = {}
    for spec in specs:
        specs_by_subfolder.setdefault(spec.subfolder, []).append(spec)
    shards: list[OutputShard] = []
    indexes: dict[str, Mapping[str, Any]] = {}
    for subfolder, subfolder_specs in specs_by_subfolder.items():
        of_subfolder, index = _lay_out_subfolder(subfolder, subfolder_specs, max_shard_size)
        shards += of_subfolder
        if index is not None:
            indexes[f"{subfolder}/{SAFE_INDEX}".removeprefix("/")] = index
    return OutputLayout(tuple(shards), indexes)


def _lay_out_subfolder(
    subfolder: str, specs: Sequence[TensorSpec], max_shard_size: int | str
) -> tuple[list[OutputShard], dict[str, Any] | None]:
    """The files of a subfolder, and their index if there are several.

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
    shards = []
    for file, keys in split.filename_to_tensors.items():
        path = f"{subfolder}/{file}".removeprefix("/")
        shards.append(_shard(path, prefix, [by_key[key]._replace(name=key) for key in keys]))
    if not split.is_sharded:
        return shards, None
    total = sum(spec.numel for spec in specs)
    return shards, {"metadata": {"total_parameters": total, **split.metadata}, "weight_map": split.tensor_to_filename}


def _shard(path: str, prefix: str, specs: Sequence[TensorSpec]) -> OutputShard:
    """Lay the tensors of one file out as safetensors does: widest type first, then by name."""
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
    beginning = len(text).to_bytes(LENGTH, "little") + text
    placed = {}
    for spec in specs:
        name = prefix + spec.name
        placed[name] = spec._replace(name=name, file=path, start=len(beginning) + offsets[spec.name])
    return OutputShard(path, beginning, placed, len(beginning) + end)
