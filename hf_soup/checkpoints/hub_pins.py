"""A repository of the Hub as an ingredient: pinned to a commit, with the digests and headers of its weight files.

The weights stay on the Hub until `hub.fetch_weights` is called.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from ..errors import IngredientError
from ..threads import side_by_side
from .companion_files import CARD, CONFIG, SortedFiles, sizes_in, sort_files
from .folder import choose_checkpoint, read_specs
from .hub import digest_at_hub, fetch, hub_path, list_files, resolve
from .hub_cache import blob_of, cache_of, digest_of
from .hub_errors import our_errors
from .hub_headers import read_header
from .other_contents import ADAPTER, ADAPTER_WEIGHTS, has_no_weights
from .reader import PICKLED_WEIGHTS, SAFE_INDEX, SAFE_WEIGHTS, TensorSpec
from .shards import shard_files


# Any of these files indicates that the repository has weights of the model itself.
WEIGHTS = (SAFE_WEIGHTS, SAFE_INDEX, PICKLED_WEIGHTS, f"{PICKLED_WEIGHTS}.index.json")


class Pin(NamedTuple):
    """The relevant contents of a repository, or of a subfolder of one, at one commit.

    Args:
        commit (`str`):
            40 hexadecimal digits.
        files (`dict[str, str]`):
            Weight file -> its digest as the Hub reports it; pickles if there is nothing else.
        specs (`dict[str, dict[str, TensorSpec]]`):
            Subfolder (`""` is the model itself) -> its tensors. None of pickles.
        sorted_files ([`SortedFiles`]):
            Other files of the repository.
        small (`tuple[str, ...]`):
            Configuration and card, of those that are there.
        checkpoint (`str`, *optional*):
            The folder of a Trainer's checkpoint that all of this is of, where the source has no weights itself.
        reason (`str`, *optional*):
            Why that checkpoint was chosen of those there.
    """

    commit: str
    files: dict[str, str]
    specs: dict[str, dict[str, TensorSpec]]
    sorted_files: SortedFiles
    small: tuple[str, ...]
    checkpoint: str = ""
    reason: str = ""


def pin_repository(source: str, revision: str | None) -> Pin:
    """Resolve a branch, tag or commit once, and read the headers of the weight files.

    Args:
        source (`str`):
            Id of a repository, a subfolder behind it if need be.
        revision (`str`, *optional*):
            The branch, tag or commit.

    Raises:
        [`IngredientError`]: if there is no such repository, revision or folder, it is not open to you, or it holds no
            weights.
    """
    from huggingface_hub import constants

    commit = resolve(source, revision)
    with our_errors(source, revision):
        if constants.HF_HUB_OFFLINE:
            return _pin_from_cache(source, commit)
        files = list_files(source, commit)
        sizes = {name: file.size for name, file in files.items()}
        chosen = _checkpoint_in(source, commit, sizes)
        if chosen is not None:
            name, reason = chosen
            return pin_repository(f"{source}/{name}", commit)._replace(checkpoint=name, reason=reason)
        sorted_files, weight_files = _weights_of(source, commit, sizes)
        digests = {name: digest_at_hub(files[name]) for name in weight_files}
        # the file of an adapter is small, and read when it is opened
        readable = [name for name in weight_files if name.endswith(".safetensors") and name != ADAPTER_WEIGHTS]
        specs = _read_headers(source, commit, sizes, readable)
        return Pin(commit, digests, specs, sorted_files, _small_files(sizes))


def _checkpoint_in(source: str, commit: str, names: Collection[str]) -> tuple[str, str] | None:
    """The chosen Trainer checkpoint of a repository without other weights, and the reason for the choice."""
    if _has_weights(names) or sort_files(dict.fromkeys(names, 0)).subfolders:
        return None
    folders = {name.split("/")[0] for name in names if "/" in name}
    return choose_checkpoint(folders, lambda name: fetch(f"{source}/{name}", commit, ["trainer_state.json"]))


def _read_headers(
    source: str, commit: str, sizes: Mapping[str, int], names: Sequence[str]
) -> dict[str, dict[str, TensorSpec]]:
    """Subfolder -> its tensors, from the headers of safetensors files, which are read in parallel."""
    path = hub_path(source)

    def read(name: str) -> dict[str, TensorSpec]:
        return read_header(
            path.repo_id, path.file(name), commit, file=name, size=sizes[name], where=f"{source}/{name}"
        )

    specs: dict[str, dict[str, TensorSpec]] = {}
    for name, file_specs in zip(names, side_by_side(read, names), strict=True):
        subfolder = os.path.dirname(name)
        subfolder_specs = specs.setdefault(subfolder, {})
        for key, spec in file_specs.items():
            subfolder_specs[key] = spec._replace(file=name, subfolder=subfolder)
    if names and not any(specs.values()):
        raise IngredientError(f"{source} holds no tensors.")
    # In the order of names, as `shards.read_headers` returns the tensors of a local folder.
    return {subfolder: dict(sorted(subfolder_specs.items())) for subfolder, subfolder_specs in specs.items()}


def _small_files(names: Collection[str]) -> tuple[str, ...]:
    """The names of the configuration and the model card, if they exist."""
    return tuple(name for name in (CONFIG, CARD) if name in names)


def _weights_of(source: str, commit: str, sizes: Mapping[str, int]) -> tuple[SortedFiles, list[str]]:
    """The other files of a repository, and the files that hold weights, including those of subfolders."""
    sorted_files = sort_files(sizes)
    has_own_weights = _has_weights(sizes)
    if not has_own_weights and {ADAPTER, ADAPTER_WEIGHTS} <= set(sizes):
        return sorted_files, [ADAPTER, ADAPTER_WEIGHTS]
    if not has_own_weights and not sorted_files.subfolders:
        raise IngredientError(has_no_weights(sizes, source))
    weight_files = []
    if has_own_weights:
        weight_files += _weight_files(source, commit, _files_in(sizes, ""))
    for subfolder in sorted_files.subfolders:  # each has a single file, or shards and its own index
        for name in _weight_files(f"{source}/{subfolder}", commit, _files_in(sizes, subfolder)):
            weight_files.append(f"{subfolder}/{name}")
    return sorted_files, weight_files


def _files_in(names: Collection[str], folder: str) -> list[str]:
    """The files directly in one folder, by their names in it."""
    return [os.path.basename(name) for name in names if os.path.dirname(name) == folder]


def _has_weights(names: Collection[str]) -> bool:
    """Whether there are weights of the model itself, in one file or in shards."""
    return any(name in names for name in WEIGHTS)


def _weight_files(source: str, commit: str, names: Collection[str]) -> list[str]:
    """The files that hold the weights: safetensors, a single file or those that an index names, or else pickles."""
    for single in (SAFE_WEIGHTS, PICKLED_WEIGHTS):
        if single in names:
            return [single]
        index = f"{single}.index.json"
        if index in names:
            files = shard_files(fetch(source, commit, [index]), single, names)
            if single == PICKLED_WEIGHTS:  # the index is included, so that its digest is recorded too
                files.append(index)
            return files
    raise IngredientError(has_no_weights(names, source))


def _pin_from_cache(source: str, commit: str) -> Pin:
    """A repository read from the cache without network access; the name of a blob there is its digest."""
    repo_id, subfolder = hub_path(source)
    folder = cache_of(repo_id) / "snapshots" / commit / subfolder
    sizes: dict[str, int] = {}
    if folder.is_dir():
        sizes = sizes_in(folder)
    chosen = _checkpoint_in(source, commit, sizes)
    if chosen is not None:
        name, reason = chosen
        return _pin_from_cache(f"{source}/{name}", commit)._replace(checkpoint=name, reason=reason)
    sorted_files, weight_files = _weights_of(source, commit, sizes)
    digests = {}
    for name in weight_files:
        digest = blob_of(folder / name, repo_id)
        if digest is None:  # a cache without links, as on Windows
            digest = digest_of(folder / name, "sha256")
        digests[name] = digest
    specs: dict[str, dict[str, TensorSpec]] = {}
    if ADAPTER not in weight_files and all(name.endswith((".safetensors", ".json")) for name in weight_files):
        specs = read_specs(folder, sorted_files.subfolders).specs
    return Pin(commit, digests, specs, sorted_files, _small_files(sizes))
