"""Repositories of the Hub: pinned to a commit, their headers read by range requests, their files fetched when needed.

It talks through `huggingface_hub` alone and turns its errors into ours.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import IngredientError
from ..version import __version__
from .reader import DTYPES, TensorSpec, read_headers, shard_files


if TYPE_CHECKING:
    from huggingface_hub import HfApi


class Pin(NamedTuple):
    """What a repository has at one commit.

    Args:
        commit (`str`):
            40 hexadecimal digits.
        files (`dict[str, str]`):
            Weight file -> its digest as the Hub reports it.
        specs (`dict[str, TensorSpec]`):
            Its tensors; where they begin in their files is not known before those are here.
    """

    commit: str
    files: dict[str, str]
    specs: dict[str, TensorSpec]


def pin(repo_id: str, revision: str | None) -> Pin:
    """Resolve a branch, tag or commit once, and read the headers of its weights.

    Raises:
        [`IngredientError`]: if there is no such repository or revision, it is not open to you, or has no safetensors.
    """
    from huggingface_hub import HfApi, constants

    api = HfApi(library_name="hf_soup", library_version=__version__)
    with _our_errors(repo_id, revision):
        commit = api.resolve_revision(repo_id, revision=revision).resolved
        return _from_cache(repo_id, commit) if constants.HF_HUB_OFFLINE else _from_hub(api, repo_id, commit)


def fetch(repo_id: str, revision: str, files: list[str]) -> Path:
    """Bring files of one commit here, those that exist, and return the folder of the snapshot.

    Raises:
        [`IngredientError`]: if the Hub does not give them.
    """
    from huggingface_hub import snapshot_download

    with _our_errors(repo_id, revision):
        options = {"library_name": "hf_soup", "library_version": __version__}
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=files, **options))


@contextlib.contextmanager
def _our_errors(repo_id: str, revision: str | None) -> Iterator[None]:
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
    except errors.NotASafetensorsRepoError:
        raise IngredientError(f"{repo_id} has no safetensors weights. Convert them once and push them.") from None
    except errors.HFValidationError as error:
        raise IngredientError(f"{repo_id} is neither a folder here nor a Hub id: {error}") from None
    except (OSError, errors.HTTPError, errors.SafetensorsParsingError, errors.RevisionResolutionError) as error:
        raise IngredientError(f"{repo_id} is no folder here, and the Hub did not give it: {error}") from None


def _from_hub(api: HfApi, repo_id: str, commit: str) -> Pin:
    metadata = api.get_safetensors_metadata(repo_id, revision=commit)
    specs = {}
    for file, header in metadata.files_metadata.items():
        for name, tensor in header.tensors.items():
            if tensor.dtype not in DTYPES:
                raise IngredientError(f"{repo_id}: {name} has the type {tensor.dtype!r}, which cannot be averaged.")
            specs[name] = TensorSpec(name, tuple(tensor.shape), DTYPES[tensor.dtype][0], file)
    digests = {
        item.path: f"sha256:{item.lfs.sha256}" if item.lfs else f"sha1:{item.blob_id}"
        for item in api.list_repo_tree(repo_id, revision=commit)
        if item.path in metadata.files_metadata
    }
    return Pin(commit, dict(sorted(digests.items())), dict(sorted(specs.items())))


def _from_cache(repo_id: str, commit: str) -> Pin:
    """The same without network, from the cache alone, where a blob is called by its digest."""
    from huggingface_hub import snapshot_download

    patterns = ["*.safetensors", "*.safetensors.index.json"]
    folder = Path(snapshot_download(repo_id, revision=commit, allow_patterns=patterns, local_files_only=True))
    specs = read_headers(folder)
    blobs = {file: (folder / file).resolve().name for file in shard_files(folder)}
    return Pin(commit, {f: f"sha{256 if len(blob) == 64 else 1}:{blob}" for f, blob in blobs.items()}, specs)
