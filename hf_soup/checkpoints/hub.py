"""Repositories of the Hub: pinned to a commit, their headers read by range requests, their files fetched when needed.

It talks through `huggingface_hub` alone and turns its errors into ours.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import IngredientError
from ..version import __version__
from .reader import (
    PICKLED_WEIGHTS,
    SAFE_WEIGHTS,
    TensorSpec,
    check_length,
    parse_header,
    read_headers,
    shard_files,
)


if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile


FIRST = 100_000  # bytes that are asked for at once: nearly all headers are shorter
_SOURCE = re.compile(r"(?P<repo_id>[\w.-]+(/[\w.-]+)?)(?P<subfolder>(/[\w.-]+)*)")


class Pin(NamedTuple):
    """What a repository, or a subfolder of one, has at one commit.

    Args:
        commit (`str`):
            40 hexadecimal digits.
        files (`dict[str, str]`):
            Weight file -> its digest as the Hub reports it; pickles if there is nothing else.
        specs (`dict[str, TensorSpec]`):
            Its tensors. None of pickles.
    """

    commit: str
    files: dict[str, str]
    specs: dict[str, TensorSpec]


def split_source(source: str) -> tuple[str, str] | None:
    """`owner/name/sub/folder` as the id of a repository and the folder in it; `None` if it cannot be one."""
    match = _SOURCE.fullmatch(source)
    if match is None or source.startswith(".") or ".." in source.split("/"):
        return None
    return match["repo_id"], match["subfolder"].removeprefix("/")


def pin(source: str, revision: str | None) -> Pin:
    """Resolve a branch, tag or commit once, and read the headers of its weights.

    Args:
        source (`str`):
            Id of a repository, a subfolder behind it if need be.
        revision (`str`, *optional*):
            The branch, tag or commit.

    Raises:
        [`IngredientError`]: if there is no such repository, revision or folder, it is not open to you, or it holds no
            weights.
    """
    from huggingface_hub import HfApi, constants

    repo_id, subfolder = split_source(source)
    api = HfApi(library_name="hf_soup", library_version=__version__)
    with our_errors(source, revision):
        commit = api.resolve_revision(repo_id, revision=revision).resolved
        if constants.HF_HUB_OFFLINE:
            return _from_cache(source, commit)
        tree = api.list_repo_tree(repo_id, subfolder or None, revision=commit)
        inside = {os.path.basename(item.path): item for item in tree if hasattr(item, "blob_id")}  # no folders
        files = _weight_files(source, commit, inside)
        digests = {name: _digest(inside[name]) for name in files}
        if not files[0].endswith(".safetensors"):
            return Pin(commit, digests, {})
        specs: dict[str, TensorSpec] = {}
        with ThreadPoolExecutor(8) as pool:
            for found in pool.map(lambda name: _read_header(source, name, inside[name].size, commit), files):
                specs |= found
        if not specs:
            raise IngredientError(f"{source} holds no tensors.")
        return Pin(commit, digests, dict(sorted(specs.items())))


def resolve(repo_id: str, revision: str | None) -> str:
    """The commit that a branch or tag of a repository is at.

    Raises:
        [`IngredientError`]: if there is no such repository or revision, or it is not open to you.
    """
    from huggingface_hub import HfApi

    with our_errors(repo_id, revision):
        api = HfApi(library_name="hf_soup", library_version=__version__)
        return api.resolve_revision(repo_id, revision=revision).resolved


def fetch(source: str, revision: str, files: list[str]) -> Path:
    """Bring files of one commit here, those that exist, and return the folder that holds them.

    Raises:
        [`IngredientError`]: if the Hub does not give them.
    """
    from huggingface_hub import snapshot_download

    repo_id, subfolder = split_source(source)
    patterns = [f"{subfolder}/{name}".removeprefix("/") for name in files]
    with our_errors(source, revision):
        options = {"library_name": "hf_soup", "library_version": __version__}
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns, **options)) / subfolder


@contextlib.contextmanager
def our_errors(repo_id: str, revision: str | None) -> Iterator[None]:
    """Say what to do about each error of the client."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise IngredientError(
            f"{repo_id} is gated: ask for access on its page, log in with `hf auth login`, then try again."
        ) from None
    except errors.RevisionNotFoundError:
        raise IngredientError(f"{repo_id} has no revision {revision!r}: name a branch, a tag or a commit.") from None
    except errors.RepositoryNotFoundError:
        raise IngredientError(
            f"{repo_id} is neither a folder here nor a model on the Hub that you may see. Check the spelling; for a "
            "private one, log in with `hf auth login`."
        ) from None
    except errors.LocalEntryNotFoundError as error:
        raise IngredientError(
            f"{repo_id} is not in the cache, and the Hub was not asked or is away: {error}"
        ) from None
    except errors.EntryNotFoundError:
        raise IngredientError(f"{repo_id} does not exist at {revision or 'main'}: no such folder there.") from None
    except errors.HFValidationError as error:
        raise IngredientError(f"{repo_id} is neither a folder here nor a Hub id: {error}") from None
    except (OSError, errors.HTTPError, errors.SafetensorsParsingError, errors.RevisionResolutionError) as error:
        raise IngredientError(f"{repo_id} is no folder here, and the Hub did not give it: {error}") from None


def _weight_files(source: str, commit: str, inside: Collection[str]) -> list[str]:
    """The files that hold the weights: safetensors, single or those that an index names, else pickles."""
    for single in (SAFE_WEIGHTS, PICKLED_WEIGHTS):
        if single in inside:
            return [single]
        index = f"{single}.index.json"
        if index in inside:
            files = shard_files(fetch(source, commit, [index]), single, inside)
            return files if single == SAFE_WEIGHTS else [*files, index]
    raise IngredientError(f"{source} has no weights: neither {SAFE_WEIGHTS} nor an index of shards.")


def _digest(item: RepoFile) -> str:
    return f"sha256:{item.lfs.sha256}" if item.lfs else f"sha1:{item.blob_id}"


def _read_header(source: str, name: str, size: int, commit: str) -> dict[str, TensorSpec]:
    """The tensors of one safetensors file, by range requests; its header is checked as that of a local file is."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    repo_id, subfolder = split_source(source)
    url = hf_hub_url(repo_id, f"{subfolder}/{name}".removeprefix("/"), revision=commit)
    headers = build_hf_headers(library_name="hf_soup", library_version=__version__)

    def part(start: int, stop: int) -> bytes:
        response = get_session().get(url, headers={**headers, "range": f"bytes={start}-{stop - 1}"}, timeout=30)
        hf_raise_for_status(response)
        return response.content[: stop - start]

    begin = part(0, FIRST)
    length = int.from_bytes(begin[:8], "little")
    check_length(length, size, f"{source}/{name}")
    header = begin[8 : 8 + length] if 8 + length <= FIRST else begin[8:] + part(FIRST, 8 + length)
    return parse_header(header, size, name, f"{source}/{name}")


def _from_cache(source: str, commit: str) -> Pin:
    """The same without network, from the cache alone, where a blob is called by its digest."""
    from huggingface_hub import snapshot_download

    repo_id, subfolder = split_source(source)
    patterns = [f"{subfolder}/{name}*".removeprefix("/") for name in ("model", "pytorch_model")]
    options = {"allow_patterns": patterns, "local_files_only": True}
    folder = Path(snapshot_download(repo_id, revision=commit, **options)) / subfolder
    files = _weight_files(source, commit, [path.name for path in folder.iterdir()] if folder.is_dir() else [])
    blobs = {file: (folder / file).resolve().name for file in files}
    digests = {file: f"sha{256 if len(blob) == 64 else 1}:{blob}" for file, blob in blobs.items()}
    return Pin(commit, digests, read_headers(folder) if files[0].endswith(".safetensors") else {})
