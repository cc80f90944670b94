"""Repositories of the Hub: their names, their contents at a commit, and the download of their files.

All requests go through `huggingface_hub`, whose errors are converted to those of this package. `hub_pins.py` makes
ingredients from repositories.
"""

from __future__ import annotations

import glob
import os
import re
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from tqdm.auto import tqdm

from ..errors import IngredientError
from ..progress import progress_bar
from ..threads import side_by_side
from ..untrusted import one_line
from ..version import __version__
from .hub_answers import BadAnswerError, is_commit, is_revision
from .hub_cache import blob_of, refuse_damaged
from .hub_errors import LIBRARY, client, our_errors, patiently, unsaid


if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

SIZES: dict[tuple[str, str], dict[str, int]] = {}  # repository and commit -> file -> bytes, once listed
_SOURCE = re.compile(r"(?P<repo_id>[\w.-]+(/[\w.-]+)?)(?P<subfolder>(/[\w.-]+)*)")


class HubPath(NamedTuple):
    """A repository of the Hub and a folder in it, which is empty for the complete repository."""

    repo_id: str
    subfolder: str

    def file(self, name: str) -> str:
        """The path of a file of the folder within the repository."""
        return f"{self.subfolder}/{name}".removeprefix("/")


def split_source(source: str) -> HubPath | None:
    """Split `owner/name/sub/folder` into a repository and a folder in it; `None` if it cannot be one."""
    match = _SOURCE.fullmatch(source)
    if match is None or source.startswith(".") or ".." in source.split("/"):
        return None
    return HubPath(match["repo_id"], match["subfolder"].removeprefix("/"))


def hub_path(source: str) -> HubPath:
    """The same for a source that has to be a repository.

    Raises:
        [`IngredientError`]: if it cannot be one.
    """
    path = split_source(source)
    if path is None:
        raise IngredientError(f"{one_line(source)} is not a Hub id.")
    return path


def split_revision(name: str | os.PathLike[str]) -> tuple[str, str | None]:
    """Split `owner/name@v1` into a source and a revision, which is `None` if there is none."""
    source, _, revision = os.fspath(name).partition("@")
    return source, revision or None


def is_hub_id(name: str | None) -> bool:
    """Whether the name of a model or data set is `owner/name` on the Hub, and not a local file or folder."""
    if not name or "/" not in name or os.path.exists(name):
        return False
    return split_source(name) is not None


def resolve(source: str, revision: str | None) -> str:
    """The commit that a branch or tag of a repository points to.

    Raises:
        [`IngredientError`]: if there is no such repository or revision, or it is not open to you.
    """
    repo_id = hub_path(source).repo_id
    if revision is not None and not is_revision(revision):
        raise IngredientError(f"{one_line(revision, 80)!r} of {source} cannot be a branch, a tag or a commit.")
    with our_errors(source, revision):
        commit = patiently(lambda: client().resolve_revision(repo_id, revision=revision)).resolved
        if not is_commit(commit):  # the answer may come from the cache, which the hooks do not see
            raise BadAnswerError(
                f"{revision or 'main'} is reported to be at {one_line(commit, 80)!r}, which is not a commit"
            )
        return commit


def files_at(source: str, revision: str | None, *, token: str | bool | None = None) -> dict[str, str]:
    """The files of a repository, or of a folder in one, by relative name, with their digests.

    Args:
        source (`str`):
            Id of a repository, a subfolder behind it if need be.
        revision (`str`, *optional*):
            The branch, tag or commit.
        token (`str` or `bool`, *optional*):
            Token for the Hub; by default the one that a login stored.

    Raises:
        [`IngredientError`]: if there is no such repository, revision or folder, or it is not open to you.
    """
    with our_errors(source, revision):
        return {name: digest_at_hub(file) for name, file in list_files(source, revision, token).items()}


def list_files(source: str, revision: str | None, token: str | bool | None = None) -> dict[str, RepoFile]:
    """The entries of the files of a repository, or of a folder in one, by relative name.

    Raises:
        [`Exception`]: of the client; callers convert it with [`our_errors`].
    """
    from huggingface_hub.hf_api import RepoFile

    repo_id, subfolder = hub_path(source)
    entries = patiently(
        lambda: list(client(token).list_repo_tree(repo_id, subfolder or None, recursive=True, revision=revision))
    )
    files = [entry for entry in entries if isinstance(entry, RepoFile)]  # the others are folders
    if subfolder and any(not file.path.startswith(f"{subfolder}/") for file in files):
        raise BadAnswerError(f"the listing of {subfolder} has files that are not in it")
    if revision is not None and is_commit(revision):  # a branch may move on, whereas a commit never changes
        sizes = SIZES.setdefault((repo_id, revision), {})
        for file in files:
            sizes[file.path] = file.size
    return {file.path.removeprefix(f"{subfolder}/"): file for file in files}


def sizes_at(repo_id: str, commit: str, names: Collection[str] | None = None) -> dict[str, int]:
    """The sizes of files at one commit according to its listing, by their addresses.

    Args:
        repo_id (`str`), commit (`str`):
            The repository.
        names (`Collection[str]`, *optional*):
            Names of the files to look up; all of them by default.

    Raises:
        [`IngredientError`]: if there is no such file or commit, or it is not open to you.
    """
    from huggingface_hub import hf_hub_url

    with our_errors(repo_id, commit):
        if names is None or not set(names) <= SIZES.get((repo_id, commit), {}).keys():
            list_files(repo_id, commit)
    sizes = SIZES.get((repo_id, commit), {})
    wanted = sizes if names is None else names
    absent = [name for name in wanted if name not in sizes]
    if absent:
        raise IngredientError(f"{repo_id} has no {', '.join(absent)} at {commit}.")
    return {hf_hub_url(repo_id, name, revision=commit): sizes[name] for name in wanted}


def confirm(source: str, revision: str) -> None:
    """Check that the Hub still grants this user access to a commit; offline, a cached copy is enough.

    Raises:
        [`IngredientError`]: if it does not.
    """
    from huggingface_hub import constants

    repo_id = hub_path(source).repo_id
    with our_errors(source, revision):
        if not constants.HF_HUB_OFFLINE:
            patiently(lambda: client().model_info(repo_id, revision=revision))


def fetch(source: str, revision: str, files: list[str]) -> Path:
    """Download the small files of one commit that exist, and return the folder that holds them.

    Raises:
        [`IngredientError`]: if the Hub does not give them.
    """
    from huggingface_hub import hf_hub_url, snapshot_download

    path = hub_path(source)
    repo_id = path.repo_id
    if not is_commit(revision):
        raise IngredientError(f"{one_line(revision, 80)!r} of {source} is not a commit.")
    patterns = [glob.escape(path.file(name)) for name in files]  # a name may contain `[` or `*`

    def download() -> str:
        return snapshot_download(
            repo_id,
            revision=revision,
            allow_patterns=patterns,
            library_name=LIBRARY,
            library_version=__version__,
            tqdm_class=_NoBar,
        )

    base_address = hf_hub_url(repo_id, "", revision=revision)
    with our_errors(source, revision, small=base_address), unsaid("_snapshot_download", "No files matched"):
        folder = Path(patiently(download)) / path.subfolder
        digests: dict[Path, str] = {}
        for name in files:
            digest = blob_of(folder / name, repo_id)
            if digest is not None:
                digests[folder / name] = digest
    # The client does not compare digests itself.
    refuse_damaged(digests, repo_id)
    return folder


class _WeightFile(NamedTuple):
    """A weight file at a commit, and its digest as the Hub reports it."""

    repo_id: str
    commit: str
    name: str
    digest: str


def fetch_weights(wanted: Sequence[tuple[str, str, Mapping[str, str]]]) -> None:
    """Download weight files that are not in the cache, in parallel with one progress bar, and verify their digests.

    Args:
        wanted (`Sequence[tuple[str, str, Mapping[str, str]]]`):
            Source, commit, and {file: digest as the Hub reports it}.

    Raises:
        [`IngredientError`]: if the Hub does not give one, or gives other bytes than it said.
    """
    missing: dict[_WeightFile, None] = {}  # unique, in order
    for source, commit, files in wanted:
        missing |= dict.fromkeys(_not_in_cache(source, commit, files))
    if not missing:
        return
    with progress_bar(desc="Fetching weights", total=0, unit="B", unit_scale=True) as bar:
        file_progress = _progress_of_files(bar)
        side_by_side(lambda file: _download(file, file_progress), missing)


def bytes_to_fetch(source: str, commit: str, files: Mapping[str, str]) -> int:
    """The total size of the weight files of a commit that are not in the cache.

    Args:
        source (`str`), commit (`str`), files (`Mapping[str, str]`):
            The repository, perhaps with a folder in it, and its files with their digests.

    Raises:
        [`IngredientError`]: if the Hub does not tell the sizes.
    """
    missing = _not_in_cache(source, commit, files)
    if not missing:
        return 0
    return sum(sizes_at(missing[0].repo_id, commit, [file.name for file in missing]).values())


def _not_in_cache(source: str, commit: str, files: Mapping[str, str]) -> list[_WeightFile]:
    """The weight files of a commit that are not in the cache."""
    from huggingface_hub import try_to_load_from_cache

    path = hub_path(source)
    missing = []
    for name, digest in files.items():
        file = _WeightFile(path.repo_id, commit, path.file(name), digest)
        if not isinstance(try_to_load_from_cache(file.repo_id, file.name, revision=commit), str):
            missing.append(file)
    return missing


def _download(file: _WeightFile, file_progress: type[tqdm[Any]]) -> None:
    """Download one weight file, and verify its digest."""
    from huggingface_hub import hf_hub_download

    def download() -> str:
        return hf_hub_download(
            file.repo_id,
            file.name,
            revision=file.commit,
            library_name=LIBRARY,
            library_version=__version__,
            tqdm_class=file_progress,
        )

    with our_errors(file.repo_id, file.commit, sizes=sizes_at(file.repo_id, file.commit, [file.name])):
        path = Path(patiently(download))
    refuse_damaged({path: file.digest}, file.repo_id)


class _NoBar(tqdm):  # type: ignore[type-arg]  # tqdm is generic for type checkers alone
    """A progress bar that is never shown, for files that are already in the cache."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{**kwargs, "disable": True})


def _progress_of_files(bar: tqdm[Any]) -> type[tqdm[Any]]:
    """The progress class that the client uses for one file: it only updates the common bar."""
    lock = threading.Lock()

    class FileProgress:
        def __init__(self, *_: Any, total: float | None = None, initial: float = 0, **__: Any):
            with lock:
                bar.total = (bar.total or 0) + (total or 0)
            self.update(initial)

        def __enter__(self) -> FileProgress:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, n: float | None = 1) -> None:
            with lock:
                bar.update(n)

        def close(self) -> None:
            pass

    return cast("type[tqdm[Any]]", FileProgress)  # the client uses only these methods


def digest_at_hub(file: RepoFile) -> str:
    """The digest of a file as the Hub reports it; for small files, git's own."""
    if file.lfs:
        return f"sha256:{file.lfs.sha256}"
    return f"sha1:{file.blob_id}"
