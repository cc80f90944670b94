"""Files of repositories in the cache of `huggingface_hub`, where each is a link to its content, named by its digest.

Links that lead elsewhere are refused, and nothing outside the contents of a repository is ever deleted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import IngredientError
from ..untrusted import one_line
from .hub_answers import is_digest


SHA1_DIGITS = 40


def refuse_damaged(digests: Mapping[Path, str], repo_id: str) -> None:
    """Delete files whose bytes differ from what the Hub reported, and raise an error about them.

    Args:
        digests (`Mapping[Path, str]`):
            File in the cache -> its digest.
        repo_id (`str`):
            Repository of the files.

    Raises:
        [`IngredientError`]: if there are such files.
    """
    damaged = []
    for path, digest in digests.items():
        if digest_of(path, digest) != digest:
            damaged.append(path)
    for path in damaged:  # otherwise the next call would use them from the cache
        blob = _content_of(path, repo_id)
        if blob is not None:
            blob.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    if damaged:
        names = ", ".join(one_line(path.name) for path in damaged)
        raise IngredientError(
            f"{names} of {repo_id} came with other contents than the Hub announced. The copy was deleted: try again."
        )


def cache_folder() -> Path:
    """The folder of the client's cache, which may not exist yet."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser().resolve()


def cache_of(repo_id: str) -> Path:
    """The folder of a repository in the client's cache."""
    from huggingface_hub.file_download import repo_folder_name

    return cache_folder() / repo_folder_name(repo_id=repo_id, repo_type="model")


def blob_of(path: Path, repo_id: str) -> str | None:
    """The digest by which the cache names the content of a file; `None` if it is not a link, as on some systems.

    Args:
        path (`Path`):
            The file in the cache; need not exist.
        repo_id (`str`):
            Repository of the file.

    Raises:
        [`IngredientError`]: if the link leads anywhere but to a content of that repository.
    """
    if not path.is_symlink():
        return None
    blob = _content_of(path, repo_id)
    if blob is None:
        raise IngredientError(
            f"{one_line(path)}, in the cache of the Hub, is a link to {one_line(path.readlink())}, which the Hub "
            "did not send. Delete that link, and try again."
        )
    if len(blob.name) == SHA1_DIGITS:  # git's digest of a small file
        return f"sha1:{blob.name}"
    return f"sha256:{blob.name}"


def digest_of(path: Path, like: str) -> str:
    """The digest of a file, of the same kind as another one: sha256, or git's sha1 for small files."""
    algorithm = like.partition(":")[0]
    with path.open("rb") as file:
        if algorithm == "sha1":
            git_blob = hashlib.sha1(b"blob %d\0" % path.stat().st_size)  # git hashes a header and then the content
            return f"sha1:{hashlib.file_digest(file, lambda: git_blob).hexdigest()}"
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _content_of(path: Path, repo_id: str) -> Path | None:
    """The target of one step of a cache link; the content itself may be a link to a store that caches share."""
    if not path.is_symlink():
        return None
    # `resolve` would follow the link to the store, if there is one.
    blob = Path(os.path.normpath(path.parent / path.readlink()))
    if blob.parent.resolve() != cache_of(repo_id) / "blobs" or not is_digest(blob.name):
        return None
    return blob
