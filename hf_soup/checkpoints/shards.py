"""The weight files of one folder (a single file, or the shards that an index names) and all tensors in them.

An index is not trusted: neither its file names, nor which of the files holds a tensor.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import IngredientError
from ..untrusted import as_error, one_line
from .inside import is_there, json_inside, place_of
from .reader import SAFE_WEIGHTS, TensorSpec, parse_header, read_raw_header


def shard_files(folder: Path, single: str = SAFE_WEIGHTS, inside: Collection[str] | None = None) -> list[str]:
    """The weight files of a checkpoint folder: a single file, or those that an index names.

    Args:
        folder (`Path`):
            Folder that holds the index, or the single file.
        single (`str`, *optional*, defaults to `"model.safetensors"`):
            The name of the single file; that of the index begins with it.
        inside (`Collection[str]`, *optional*):
            The files that there are; by default those in the folder.

    Raises:
        [`IngredientError`]: if the index is no index, or names a file outside the folder or one that is not there.
    """
    if is_there(folder, single):
        return [single]
    return sorted(set(_weight_map(folder, single, inside).values()))


class FolderHeaders(NamedTuple):
    """The contents of the headers of the safetensors files in one folder.

    Args:
        specs (`dict[str, TensorSpec]`):
            The tensors by name, sorted.
        digests (`dict[str, str]`):
            File -> a digest of its header, size and time of change.
    """

    specs: dict[str, TensorSpec]
    digests: dict[str, str]


def read_headers(folder: Path) -> FolderHeaders:
    """Read the header of each safetensors file of a folder, once.

    Raises:
        [`IngredientError`]: if a file is corrupt, a tensor is in two shards or not where the index says, or there is
            none.
    """
    weight_map: dict[str, str] | None = None
    files = [SAFE_WEIGHTS]
    if not is_there(folder, SAFE_WEIGHTS):
        weight_map = _weight_map(folder, SAFE_WEIGHTS, None)
        files = sorted(set(weight_map.values()))
    specs: dict[str, TensorSpec] = {}
    digests: dict[str, str] = {}
    for file in files:
        header = read_raw_header(place_of(folder, file))
        digests[file] = header.digest
        shard_specs = parse_header(header.content, header.size, file, str(folder / file))
        # It is unclear which of the two applies.
        in_two_shards = sorted(specs.keys() & shard_specs.keys())
        if in_two_shards:
            raise IngredientError(f"{folder} has the tensor {in_two_shards[0]!r} in two shards. Save it again.")
        specs |= shard_specs
    if not specs:
        raise IngredientError(f"{folder} holds no tensors.")
    if weight_map is not None:
        _compare_index(folder, weight_map, specs)
    return FolderHeaders(dict(sorted(specs.items())), digests)


def _weight_map(folder: Path, single: str, inside: Collection[str] | None) -> dict[str, str]:
    """Tensor -> the file that holds it, according to the index of shards."""
    index = folder / f"{single}.index.json"
    suffix = Path(single).suffix
    with as_error(IngredientError, f"{one_line(index)} is not an index of shards"):
        weight_map = dict(json_inside(folder, index.name)["weight_map"])
        files = set(weight_map.values())
    if not files:
        raise IngredientError(f"{index} names no shards.")
    for name in files:
        if not isinstance(name, str) or os.path.basename(name) != name or not name.endswith(suffix):
            raise IngredientError(
                f"{index} names {one_line(name)!r}; shards lie in the index's own folder and are {suffix} files."
            )
        if inside is None:
            exists = is_there(folder, name)
        else:  # a repository whose shards have not been downloaded
            exists = name in inside
        if not exists:
            raise IngredientError(
                f"{folder} lacks the shard {one_line(name)} that its index names. Fetch or save it again."
            )
    return weight_map


def _compare_index(folder: Path, weight_map: Mapping[str, str], specs: Mapping[str, TensorSpec]) -> None:
    """Refuse an index whose tensors, or the files for them, differ from those of the shards."""
    places = {(name, spec.file) for name, spec in specs.items()}
    differences = sorted(weight_map.items() ^ places)  # pairs that are on one side only
    if differences:
        names = {name for name, _ in differences}
        name, file = differences[0]
        raise IngredientError(
            f"{folder}: its index and its shards disagree about {len(names)} tensors, such as {name!r} in {file}. "
            "Fetch or save it again."
        )
