"""Which files of a listing are the weights of a checkpoint; the files themselves are fetched only where they decide.

The listing is that of a repository of the Hub or of a folder on an object store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import IngredientError
from ..threads import side_by_side
from .companion_files import CARD, CONFIG, SortedFiles, sort_files
from .folder import choose_checkpoint
from .other_contents import ADAPTER, ADAPTER_WEIGHTS, has_no_weights
from .reader import LENGTH, PICKLED_WEIGHTS, SAFE_INDEX, SAFE_WEIGHTS, TensorSpec, check_length, parse_header
from .shards import shard_files


# Any of these files indicates that there are weights of the model itself.
WEIGHTS = (SAFE_WEIGHTS, SAFE_INDEX, PICKLED_WEIGHTS, f"{PICKLED_WEIGHTS}.index.json")
FIRST = 100_000  # bytes of the first request for a header, enough for nearly all of them


class Listing(NamedTuple):
    """The files of a place that is not a local folder.

    Args:
        source (`str`):
            Name of the place in errors.
        sizes (`Mapping[str, int]`):
            File -> its size in bytes.
        fetch (`Callable[[str, list[str]], Path]`):
            Fetches small files of a subfolder (`""` is the place itself), and returns the folder that holds them.
        read (`Callable[[str, int, int], bytes]`):
            Reads the bytes of a file from a position to another one; fewer if the file is shorter.
    """

    source: str
    sizes: Mapping[str, int]
    fetch: Callable[[str, list[str]], Path]
    read: Callable[[str, int, int], bytes]

    def checkpoint(self) -> tuple[str, str] | None:
        """The chosen Trainer checkpoint of a place without other weights, and the reason for the choice."""
        if _has_weights(self.sizes) or sort_files(dict.fromkeys(self.sizes, 0)).subfolders:
            return None
        folders = {name.split("/")[0] for name in self.sizes if "/" in name}
        return choose_checkpoint(folders, lambda name: self.fetch(name, ["trainer_state.json"]))

    def weights(self) -> tuple[SortedFiles, list[str]]:
        """The other files, and the files that hold weights, including those of subfolders.

        Raises:
            [`IngredientError`]: if there are no weights, or an index names shards that are not there.
        """
        sorted_files = sort_files(self.sizes)
        has_own_weights = _has_weights(self.sizes)
        if not has_own_weights and {ADAPTER, ADAPTER_WEIGHTS} <= set(self.sizes):
            return sorted_files, [ADAPTER, ADAPTER_WEIGHTS]
        if not has_own_weights and not sorted_files.subfolders:
            raise IngredientError(has_no_weights(self.sizes, self.source))
        weight_files = []
        if has_own_weights:
            weight_files += self._weight_files("")
        for subfolder in sorted_files.subfolders:  # each has a single file, or shards and its own index
            weight_files += [f"{subfolder}/{name}" for name in self._weight_files(subfolder)]
        return sorted_files, weight_files

    def _weight_files(self, subfolder: str) -> list[str]:
        """The files of a folder with its weights: safetensors, a single file or those of an index, or else pickles."""
        names = [os.path.basename(name) for name in self.sizes if os.path.dirname(name) == subfolder]
        for single in (SAFE_WEIGHTS, PICKLED_WEIGHTS):
            if single in names:
                return [single]
            index = f"{single}.index.json"
            if index in names:
                files = shard_files(self.fetch(subfolder, [index]), single, names)
                if single == PICKLED_WEIGHTS:  # the index is included, so that its digest is recorded too
                    files.append(index)
                return files
        where = f"{self.source}/{subfolder}".removesuffix("/")
        raise IngredientError(has_no_weights(names, where))

    def headers(self, names: Sequence[str]) -> dict[str, dict[str, TensorSpec]]:
        """Subfolder -> its tensors, from the headers of safetensors files, which are read in parallel.

        Raises:
            [`IngredientError`]: if a header is none, or its tensors do not fill the file exactly.
        """
        specs: dict[str, dict[str, TensorSpec]] = {}
        for name, file_specs in zip(names, side_by_side(self._header, names), strict=True):
            subfolder = os.path.dirname(name)
            subfolder_specs = specs.setdefault(subfolder, {})
            for key, spec in file_specs.items():
                subfolder_specs[key] = spec._replace(file=name, subfolder=subfolder)
        if names and not any(specs.values()):
            raise IngredientError(f"{self.source} holds no tensors.")
        # In the order of names, as `shards.read_headers` returns the tensors of a local folder.
        return {subfolder: dict(sorted(subfolder_specs.items())) for subfolder, subfolder_specs in specs.items()}

    def _header(self, name: str) -> dict[str, TensorSpec]:
        """The tensors of one safetensors file; its header is checked like that of a local file."""
        size, where = self.sizes[name], f"{self.source}/{name}"
        beginning = self.read(name, 0, FIRST)
        length = int.from_bytes(beginning[:LENGTH], "little")
        check_length(length, size, where)
        end = LENGTH + length
        header = beginning[LENGTH:end]
        if end > FIRST:
            header += self.read(name, FIRST, end)
        return parse_header(header, size, name, where)

    def small_files(self) -> tuple[str, ...]:
        """The names of the configuration and the model card, if they exist."""
        return tuple(name for name in (CONFIG, CARD) if name in self.sizes)


def _has_weights(names: Collection[str]) -> bool:
    """Whether there are weights of the model itself, in one file or in shards."""
    return any(name in names for name in WEIGHTS)
