"""A repository of the Hub as an ingredient: pinned to a commit, with the digests and headers of its weight files.

The weights stay on the Hub until `hub.fetch_weights` is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .companion_files import SortedFiles, sizes_in
from .folder import read_specs
from .hub import digest_at_hub, fetch, hub_path, list_files, resolve
from .hub_cache import blob_of, cache_of, digest_of
from .hub_errors import our_errors
from .hub_headers import read_part
from .listed_files import Listing
from .other_contents import ADAPTER, ADAPTER_WEIGHTS
from .reader import TensorSpec


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
        listing = _listing(source, commit, {name: file.size for name, file in files.items()})
        chosen = listing.checkpoint()
        if chosen is not None:
            name, reason = chosen
            return pin_repository(f"{source}/{name}", commit)._replace(checkpoint=name, reason=reason)
        sorted_files, weight_files = listing.weights()
        digests = {name: digest_at_hub(files[name]) for name in weight_files}
        # the file of an adapter is small, and read when it is opened
        readable = [name for name in weight_files if name.endswith(".safetensors") and name != ADAPTER_WEIGHTS]
        return Pin(commit, digests, listing.headers(readable), sorted_files, listing.small_files())


def _listing(source: str, commit: str, sizes: Mapping[str, int]) -> Listing:
    """The files of a repository, or of a subfolder of one, at a commit."""
    path = hub_path(source)
    return Listing(
        source,
        sizes,
        fetch=lambda subfolder, files: fetch(f"{source}/{subfolder}".removesuffix("/"), commit, files),
        read=lambda name, start, stop: read_part(path.repo_id, path.file(name), commit, start, stop),
    )


def _pin_from_cache(source: str, commit: str) -> Pin:
    """A repository read from the cache without network access; the name of a blob there is its digest."""
    repo_id, subfolder = hub_path(source)
    folder = cache_of(repo_id) / "snapshots" / commit / subfolder
    sizes: dict[str, int] = {}
    if folder.is_dir():
        sizes = sizes_in(folder)
    listing = _listing(source, commit, sizes)
    chosen = listing.checkpoint()
    if chosen is not None:
        name, reason = chosen
        return _pin_from_cache(f"{source}/{name}", commit)._replace(checkpoint=name, reason=reason)
    sorted_files, weight_files = listing.weights()
    digests = {}
    for name in weight_files:
        digest = blob_of(folder / name, repo_id)
        if digest is None:  # a cache without links, as on Windows
            digest = digest_of(folder / name, "sha256")
        digests[name] = digest
    specs: dict[str, dict[str, TensorSpec]] = {}
    if ADAPTER not in weight_files and all(name.endswith((".safetensors", ".json")) for name in weight_files):
        specs = read_specs(folder, sorted_files.subfolders).specs
    return Pin(commit, digests, specs, sorted_files, listing.small_files())
