"""Runs on the Hub, each in its own repository: to publish them, and for workers without shared storage."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints import hub
from ..checkpoints.hub import split_revision
from ..checkpoints.hub_cache import digest_of
from ..checkpoints.hub_errors import client, our_errors, patiently, read_errors, refusals
from ..checkpoints.other_contents import ADAPTER
from ..checkpoints.pushed import PUSHED_FILE
from ..checkpoints.staging import staged_folder, temporary_folder, write_json
from ..errors import IngredientError, OutputError, warn
from ..progress import library_bars
from ..publishing.bases import RUN_FILE, bases_in_card
from ..publishing.privacy import is_private
from ..publishing.push import open_target, push_folder
from ..untrusted import read_json
from ..version import __version__
from .adapters import copy_for_hub
from .processes import is_main, wait
from .records import plain_settings


if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


@dataclass(frozen=True)
class Publisher:
    """The repositories on the Hub that the runs of a sweep are pushed to.

    Args:
        prefix (`str`):
            Prefix of the repositories: `user/sweep` gives `user/sweep-start` and `user/sweep-run-0`.
        private (`bool`, *optional*):
            Whether the repositories are private.
        start (`tuple[str, str]`, *optional*):
            Repository and commit of the start, once it is pushed.
    """

    prefix: str
    private: bool | None = None
    start: tuple[str, str] | None = None

    def with_start(self, folder: Path) -> Publisher:
        """Push the start to the Hub, from which workers download it."""
        return replace(self, start=self.publish(folder))

    def fetch_start(self, folder: Path) -> None:
        """Download the start, if it is not in the folder."""
        if not folder.is_dir() and self.start is not None:
            _fetch(*self.start, folder)

    def publish(self, folder: Path) -> tuple[str, str]:
        """Push the folder of a complete run, unless it was pushed already.

        Returns:
            `tuple[str, str]`: repository and commit, which are also saved in `pushed.json`.

        Raises:
            [`OutputError`]: if the Hub refuses the push, or the repository has other weights.
        """
        try:
            if is_main() and not (folder / PUSHED_FILE).is_file():
                repo_id = open_target(f"{self.prefix}-{folder.name}", private=self.private).repo_id
                _refuse_others(repo_id, folder)
                done = self._push(folder, repo_id)
                write_json(folder / PUSHED_FILE, {"repo_id": repo_id, "revision": done.oid})
        finally:
            wait()  # the other processes read the file that this one has written
        pushed = read_json(folder / PUSHED_FILE)
        return pushed["repo_id"], pushed["revision"]

    def _push(self, folder: Path, repo_id: str) -> CommitInfo:
        """Push a folder; an adapter names the repository of the start as its base model."""
        message = f"Run {folder.name}"
        if self.start is None or not (folder / ADAPTER).is_file():
            return push_folder(folder, repo_id, commit_message=message)
        with temporary_folder() as copy:
            copy_for_hub(folder, copy, self.start)
            return push_folder(copy, repo_id, commit_message=message)

    def has_run(self, folder: Path, expected: Mapping[str, Any]) -> bool:
        """Whether the repository of a run has it already; false for one that is absent or empty.

        Args:
            folder (`Path`):
                Folder of the run, which names its repository.
            expected (`Mapping[str, Any]`):
                Entries of its `run.json`, and under `settings` the settings of the run with the shared ones.

        Raises:
            [`OutputError`]: if it has something else, which the push of the run would have to overwrite.
        """
        repo_id = f"{self.prefix}-{folder.name}"
        names = _files_there(repo_id)
        if names <= {".gitattributes"}:  # the Hub adds this file to a new repository
            return False
        if RUN_FILE in names:
            record = read_json(hub.fetch(repo_id, hub.resolve(repo_id, None), [RUN_FILE]) / RUN_FILE)
            settings = {**record.get("training_args", {}), **record.get("params", {})}
            if {**{name: record.get(name) for name in expected}, "settings": settings} == plain_settings(expected):
                return True
        raise OutputError(
            f"{repo_id} has something else than {folder.name} of this sweep, so it is not overwritten. Give push_runs "
            "another prefix, or delete the repository."
        )

    def collect(self, folder: Path) -> None:
        """Download a run that a worker on another machine has pushed.

        Raises:
            [`IngredientError`]: if the run is not on the Hub.
        """
        try:
            if is_main() and not (folder / RUN_FILE).is_file():
                repo_id = f"{self.prefix}-{folder.name}"
                revision = hub.resolve(repo_id, None)
                _fetch(repo_id, revision, folder)
                write_json(folder / PUSHED_FILE, {"repo_id": repo_id, "revision": revision})
        finally:
            wait()


def publisher_for(
    push_runs: bool | str,
    folder: Path,
    *,
    private: bool | None = None,
    about: Mapping[str, Any] | None = None,
    base_card: Mapping[str, Any] | None = None,
) -> Publisher | None:
    """The publisher of the runs: `True` names repositories after the user and the folder, a string is their prefix.

    Args:
        push_runs (`bool` or `str`), private (`bool`, *optional*):
            Options, as for [`hf_soup.sweep`].
        folder (`Path`):
            Folder of the sweep.
        about (`Mapping`, *optional*):
            Base model and data of the sweep. If one of them is private, so are the runs, unless `private` is given.
        base_card (`Mapping`, *optional*):
            Metadata of the base model's card. If the base model is a folder, the runs name the model that it was
            fine-tuned from.

    Raises:
        [`OutputError`]: if the user is not logged in.
    """
    if not push_runs:
        return None
    if about and not private:
        private = _as_private_as(_private_origins(about, base_card or {}), private)
    if isinstance(push_runs, str) and "/" in push_runs:
        return Publisher(push_runs, private)
    with read_errors(OutputError, "push_runs needs a login (`hf auth login`)"):
        user = patiently(lambda: client().whoami()["name"])
    name = push_runs if isinstance(push_runs, str) else folder.name
    return Publisher(f"{user}/{name}", private)


def _as_private_as(origins: Sequence[str], private: bool | None) -> bool | None:
    """Whether runs with a private base model or data set are private, with a warning; the user's choice is kept."""
    if not origins:
        return private
    consequence = "so the runs are private too. private=False makes them public, and names it"
    if private is False:
        consequence = "and the cards of the runs, which are public, name it"
    warn(f"{' and '.join(origins)} is private, {consequence}.")
    return private is None  # an explicit False is kept


def _private_origins(about: Mapping[str, Any], base_card: Mapping[str, Any]) -> list[str]:
    """The base models and the data set that cards of runs name and that are private on the Hub."""
    bases = bases_in_card(base_card)
    if about["base_commit"]:  # the base model itself is on the Hub
        bases = (split_revision(about["base_model"])[0],)
    hidden = [base for base in bases if is_private(base)]
    data = about["data"].get("path")
    if data and is_private(data, repo_type="dataset"):
        hidden.append(data)
    return hidden


def _files_there(repo_id: str) -> set[str]:
    """The files of a repository; none if it does not exist."""
    from huggingface_hub import errors

    with refusals(repo_id):
        try:
            return set(patiently(lambda: client().list_repo_files(repo_id)))
        except errors.RepositoryNotFoundError:
            return set()


def _refuse_others(repo_id: str, folder: Path) -> None:
    """Raise an error if the repository holds another sweep's run or something else."""
    try:
        digests = hub.files_at(repo_id, None)
    except IngredientError as error:
        raise OutputError(f"the content of {repo_id} cannot be read: {error}") from None
    if set(digests) <= {".gitattributes"}:  # the Hub adds this file to a new repository
        return
    weights = [name for name in digests if name.endswith(".safetensors") and (folder / name).is_file()]
    if not weights or not all(digest_of(folder / name, digests[name]) == digests[name] for name in weights):
        raise OutputError(
            f"{repo_id} has something else than {folder}, so it is not overwritten. Give push_runs another prefix, or "
            "delete the repository."
        )


@library_bars("huggingface_hub.utils")
def _fetch(repo_id: str, revision: str, folder: Path) -> None:
    """Download a repository into a folder, replacing an incomplete copy but not one that another worker just made."""
    from huggingface_hub import snapshot_download

    shutil.rmtree(folder, ignore_errors=True)
    sizes = hub.sizes_at(repo_id, revision)
    try:
        with our_errors(repo_id, revision, sizes=sizes), staged_folder(folder) as stage:
            patiently(
                lambda: snapshot_download(
                    repo_id,
                    revision=revision,
                    local_dir=stage,
                    library_name="hf_soup",  # identifies these requests to the Hub
                    library_version=__version__,
                )
            )
    except OutputError:
        # another worker was first with the same folder, which is complete once it is moved
        if not any((folder / name).is_file() for name in ("config.json", ADAPTER)):
            raise
