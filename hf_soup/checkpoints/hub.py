"""Repositories of the Hub: pinned to a commit, their headers read by range requests, their files fetched when needed.

It talks through `huggingface_hub` alone and turns its errors into ours.
"""

from __future__ import annotations

import glob
import os
import re
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm.auto import tqdm

from ..errors import IngredientError
from ..progress import progress_bar
from ..threads import side_by_side
from ..untrusted import one_line
from ..version import __version__
from .files_beside import CARD, CONFIG, Beside, sizes_in, sort_out
from .folder import read_specs
from .hub_answers import BadAnswerError, is_commit, is_revision
from .hub_cache import blob_of, cache_of, digest_of, refuse_damaged
from .hub_errors import client, our_errors, patiently, unsaid
from .other_contents import has_no_weights
from .reader import PICKLED_WEIGHTS, SAFE_WEIGHTS, TensorSpec, check_length, parse_header
from .shards import shard_files


if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile


SIZES: dict[tuple[str, str], dict[str, int]] = {}  # repository and commit -> file -> bytes, of those that were listed
FIRST = 100_000  # bytes that are asked for at once: nearly all headers are shorter
_SOURCE = re.compile(r"(?P<repo_id>[\w.-]+(/[\w.-]+)?)(?P<subfolder>(/[\w.-]+)*)")


class Pin(NamedTuple):
    """What a repository, or a subfolder of one, has at one commit.

    Args:
        commit (`str`):
            40 hexadecimal digits.
        files (`dict[str, str]`):
            Weight file -> its digest as the Hub reports it; pickles if there is nothing else.
        specs (`dict[str, dict[str, TensorSpec]]`):
            Part (`""` is the model itself, others are sub-folders) -> its tensors. None of pickles.
        beside ([`Beside`]):
            What else there is.
        small (`tuple[str, ...]`):
            Configuration and card, of those that are there.
    """

    commit: str
    files: dict[str, str]
    specs: dict[str, dict[str, TensorSpec]]
    beside: Beside
    small: tuple[str, ...]


def split_source(source: str) -> tuple[str, str] | None:
    """`owner/name/sub/folder` as the id of a repository and the folder in it; `None` if it cannot be one."""
    match = _SOURCE.fullmatch(source)
    if match is None or source.startswith(".") or ".." in source.split("/"):
        return None
    return match["repo_id"], match["subfolder"].removeprefix("/")


def split_revision(name: str | os.PathLike) -> tuple[str, str | None]:
    """`owner/name@v1` as a source and a revision, which is `None` where none is named."""
    source, _, revision = os.fspath(name).partition("@")
    return source, revision or None


def is_hub_id(name: str | None) -> bool:
    """Whether what names data or a model is `owner/name` on the Hub, and not a file or folder here."""
    return bool(name) and "/" in name and split_source(name) is not None and not os.path.exists(name)


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
    from huggingface_hub import constants

    commit = resolve(source, revision)
    with our_errors(source, revision):
        if constants.HF_HUB_OFFLINE:
            return _from_cache(source, commit)
        inside = _listed(source, commit)
        sizes = {name: item.size for name, item in inside.items()}
        beside, files = _weights_of(source, commit, sizes)
        digests = {name: _digest(inside[name]) for name in files}
        specs: dict[str, dict[str, TensorSpec]] = {}
        readable = [name for name in files if name.endswith(".safetensors")]
        headers = side_by_side(lambda name: _read_header(source, name, inside[name].size, commit), readable)
        for name, found in zip(readable, headers, strict=True):
            part = os.path.dirname(name)
            tensors = {key: spec._replace(file=name, part=part) for key, spec in found.items()}
            specs.setdefault(part, {}).update(tensors)
        if readable and not any(specs.values()):
            raise IngredientError(f"{source} holds no tensors.")
        specs = {part: dict(sorted(of_part.items())) for part, of_part in specs.items()}
        return Pin(commit, digests, specs, beside, _small(sizes))


def _small(names: Collection[str]) -> tuple[str, ...]:
    """Configuration and card."""
    return tuple(name for name in (CONFIG, CARD) if name in names)


def _weights_of(source: str, commit: str, sizes: Mapping[str, int]) -> tuple[Beside, list[str]]:
    """What lies beside the weights of a repository, and the files that hold the weights, those of parts included."""
    beside = sort_out(sizes)
    files = []
    if not beside.parts and not _formats(sizes):
        raise IngredientError(has_no_weights(sizes, source))
    if _formats(sizes):
        files += _weight_files(source, commit, [name for name in sizes if "/" not in name])
    for part in beside.parts:
        within = [name.removeprefix(f"{part}/") for name in sizes if os.path.dirname(name) == part]
        files += [f"{part}/{name}" for name in _weight_files(f"{source}/{part}", commit, within)]
    return beside, files


def _formats(names: Collection[str]) -> list[str]:
    """Which formats of weights there are."""
    return [single for single in (SAFE_WEIGHTS, PICKLED_WEIGHTS) if {single, f"{single}.index.json"} & set(names)]


def resolve(source: str, revision: str | None) -> str:
    """The commit that a branch or tag of a repository is at.

    Raises:
        [`IngredientError`]: if there is no such repository or revision, or it is not open to you.
    """
    repo_id, _ = split_source(source)
    if revision is not None and not is_revision(revision):
        raise IngredientError(f"{one_line(revision, 80)!r} of {source} cannot be a branch, a tag or a commit.")
    with our_errors(source, revision):
        commit = patiently(lambda: client().resolve_revision(repo_id, revision=revision)).resolved
        if not is_commit(commit):  # it may come from the cache
            raise BadAnswerError(f"{revision or 'main'} is said to be at {one_line(commit, 80)!r}, which is no commit")
        return commit


def files_at(source: str, revision: str | None, *, token: str | bool | None = None) -> dict[str, str]:
    """The files of a repository, or of a folder in one, relative to it, and their digests.

    Args:
        source (`str`), revision (`str`, *optional*):
            As of [`pin`].
        token (`str` or `bool`, *optional*):
            By default the one that a login stored.

    Raises:
        [`IngredientError`]: as of [`pin`].
    """
    with our_errors(source, revision):
        return {name: _digest(item) for name, item in _listed(source, revision, token).items()}


def _listed(source: str, revision: str | None, token: str | bool | None = None) -> dict[str, RepoFile]:
    repo_id, subfolder = split_source(source)
    options = {"recursive": True, "revision": revision}
    tree = patiently(lambda: list(client(token).list_repo_tree(repo_id, subfolder or None, **options)))
    files = [item for item in tree if hasattr(item, "blob_id")]  # no folders
    if subfolder and any(not item.path.startswith(f"{subfolder}/") for item in files):
        raise BadAnswerError(f"the listing of {subfolder} has files that are not in it")
    if is_commit(revision):
        SIZES[repo_id, revision] = SIZES.get((repo_id, revision), {}) | {item.path: item.size for item in files}
    return {item.path.removeprefix(f"{subfolder}/"): item for item in files}


def sizes_at(repo_id: str, commit: str, names: Collection[str] | None = None) -> dict[str, int]:
    """How large files of one commit are, as its listing says, by their addresses.

    Args:
        repo_id (`str`), commit (`str`):
            The repository.
        names (`Collection[str]`, *optional*):
            Of which files; by default of all.

    Raises:
        [`IngredientError`]: if there is no such file, or as of [`pin`].
    """
    from huggingface_hub import hf_hub_url

    with our_errors(repo_id, commit):
        if names is None or not set(names) <= set(SIZES.get((repo_id, commit), {})):
            _listed(repo_id, commit)
    sizes = SIZES.get((repo_id, commit), {})
    absent = [name for name in names or () if name not in sizes]
    if absent:
        raise IngredientError(f"{repo_id} has no {', '.join(absent)} at {commit}.")
    return {hf_hub_url(repo_id, name, revision=commit): sizes[name] for name in names or sizes}


def confirm(source: str, revision: str) -> None:
    """See that a commit is still there for whoever asks, and not in the cache alone; offline the cache has to do.

    Raises:
        [`IngredientError`]: if it is not.
    """
    from huggingface_hub import constants

    repo_id, _ = split_source(source)
    with our_errors(source, revision):
        if not constants.HF_HUB_OFFLINE:
            patiently(lambda: client().model_info(repo_id, revision=revision))


def fetch(source: str, revision: str, files: list[str]) -> Path:
    """Bring small files of one commit here, those that exist, and return the folder that holds them.

    Raises:
        [`IngredientError`]: if the Hub does not give them.
    """
    from huggingface_hub import hf_hub_url, snapshot_download

    repo_id, subfolder = split_source(source)
    options = {"library_name": "hf_soup", "library_version": __version__, "tqdm_class": _Silent}
    patterns = [glob.escape(_inside(subfolder, name)) for name in files]
    options |= {"revision": revision, "allow_patterns": patterns}
    if not is_commit(revision):
        raise IngredientError(f"{one_line(revision, 80)!r} of {source} is no commit.")
    small = hf_hub_url(repo_id, "", revision=revision)
    with our_errors(source, revision, small=small), unsaid("_snapshot_download", "No files matched"):
        folder = Path(patiently(lambda: snapshot_download(repo_id, **options))) / subfolder
        blobs = {folder / name: blob_of(folder / name, repo_id) for name in files}
    refuse_damaged({path: blob for path, blob in blobs.items() if blob is not None}, repo_id)
    return folder


def fetch_weights(wanted: Sequence[tuple[str, str, Mapping[str, str]]]) -> None:
    """Bring weight files here that are not in the cache, side by side below one bar, each compared with its digest.

    Args:
        wanted (`Sequence[tuple[str, str, Mapping[str, str]]]`):
            Source, commit, and {file: digest as the Hub reports it}.

    Raises:
        [`IngredientError`]: if the Hub does not give one, or gives other bytes than it said.
    """
    from huggingface_hub import try_to_load_from_cache

    missing = []
    for source, commit, files in wanted:
        repo_id, subfolder = split_source(source)
        names = {_inside(subfolder, name): digest for name, digest in files.items()}
        missing += [
            (repo_id, commit, name, digest)
            for name, digest in names.items()
            if not isinstance(try_to_load_from_cache(repo_id, name, revision=commit), str)
        ]
    if not missing:
        return
    bar = progress_bar(desc="Fetching weights", total=0, unit="B", unit_scale=True)
    with bar:
        part = _part_of(bar)
        side_by_side(lambda item: _download(*item, part), dict.fromkeys(missing))


def _download(repo_id: str, commit: str, name: str, digest: str, part: type) -> None:
    from huggingface_hub import hf_hub_download

    options = {"library_name": "hf_soup", "library_version": __version__, "tqdm_class": part}
    with our_errors(repo_id, commit, sizes=sizes_at(repo_id, commit, [name])):
        path = Path(patiently(lambda: hf_hub_download(repo_id, name, revision=commit, **options)))
    refuse_damaged({path: digest}, repo_id)


class _Silent(tqdm):
    """No bar, for files that are there at once."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{**kwargs, "disable": True})


def _part_of(bar: tqdm) -> type:
    """What the client shows the progress of one file with: it only moves the bar of all."""
    lock = threading.Lock()

    class Part:
        def __init__(self, *_: Any, total: float | None = None, initial: float = 0, **__: Any):
            with lock:
                bar.total += total or 0
            self.update(initial)

        def __enter__(self) -> Part:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, n: float | None = 1) -> None:
            with lock:
                bar.update(n)

        def close(self) -> None:
            pass

    return Part


def _inside(subfolder: str, name: str) -> str:
    return f"{subfolder}/{name}".removeprefix("/")


def _weight_files(source: str, commit: str, inside: Collection[str]) -> list[str]:
    """The files that hold the weights: safetensors, single or those that an index names, else pickles."""
    for single in (SAFE_WEIGHTS, PICKLED_WEIGHTS):
        if single in inside:
            return [single]
        index = f"{single}.index.json"
        if index in inside:
            files = shard_files(fetch(source, commit, [index]), single, inside)
            return files if single == SAFE_WEIGHTS else [*files, index]
    raise IngredientError(has_no_weights(inside, source))


def _digest(item: RepoFile) -> str:
    return f"sha256:{item.lfs.sha256}" if item.lfs else f"sha1:{item.blob_id}"


def _read_header(source: str, name: str, size: int, commit: str) -> dict[str, TensorSpec]:
    """The tensors of one safetensors file, by range requests; its header is checked as that of a local file is."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    repo_id, subfolder = split_source(source)
    url = hf_hub_url(repo_id, _inside(subfolder, name), revision=commit)
    headers = build_hf_headers(library_name="hf_soup", library_version=__version__) | {"Accept-Encoding": "identity"}

    def part(start: int, stop: int) -> bytes:
        asked = {**headers, "range": f"bytes={start}-{stop - 1}"}
        with get_session().stream("GET", url, headers=asked, timeout=30) as response:
            hf_raise_for_status(response)
            skipped = 0 if response.status_code == 206 else start  # all of it came
            content = b""
            for chunk in response.iter_bytes(FIRST):
                content += chunk
                if len(content) >= skipped + stop - start:
                    break
        return content[skipped : skipped + stop - start]

    begin = patiently(lambda: part(0, FIRST))
    length = int.from_bytes(begin[:8], "little")
    check_length(length, size, f"{source}/{name}")
    header = begin[8 : 8 + length] if 8 + length <= FIRST else begin[8:] + patiently(lambda: part(FIRST, 8 + length))
    return parse_header(header, size, name, f"{source}/{name}")


def _from_cache(source: str, commit: str) -> Pin:
    """The same without network, from the cache alone, where a blob is called by its digest."""
    repo_id, subfolder = split_source(source)
    folder = cache_of(repo_id) / "snapshots" / commit / subfolder
    sizes = sizes_in(folder) if folder.is_dir() else {}
    beside, files = _weights_of(source, commit, sizes)
    blobs = {file: blob_of(folder / file, repo_id) for file in files}
    digests = {file: blob or digest_of(folder / file, "sha256") for file, blob in blobs.items()}
    specs = {}
    if all(file.endswith((".safetensors", ".json")) for file in files):
        specs, _ = read_specs(folder, beside.parts)
    return Pin(commit, digests, specs, beside, _small(sizes))
