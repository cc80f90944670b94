"""Runs on the Hub, a repository for each: to publish them, and for workers that share no storage."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoints import hub
from ..checkpoints.hub import split_revision
from ..checkpoints.hub_cache import digest_of
from ..checkpoints.hub_errors import client, our_errors, patiently, read_errors
from ..checkpoints.staging import staged_folder, write_json
from ..errors import IngredientError, OutputError, warn
from ..progress import library_bars
from ..publishing.bases import RUN_FILE, bases_in_card
from ..publishing.privacy import PUSHED_FILE, is_private
from ..publishing.push import open_target, push_folder
from ..untrusted import read_json
from ..version import __version__
from .processes import is_main, wait


@dataclass(frozen=True)
class Publisher:
    """Where the runs of a sweep go on the Hub.

    Args:
        prefix (`str`):
            Of the repositories: `user/sweep` makes `user/sweep-start` and `user/sweep-run-0`.
        private (`bool`, *optional*):
            Whether they are private.
        start (`tuple[str, str]`, *optional*):
            Repository and commit of the start, once it is there.
    """

    prefix: str
    private: bool | None = None
    start: tuple[str, str] | None = None

    def with_start(self, folder: Path) -> Publisher:
        """Put the start on the Hub, where workers find it."""
        return replace(self, start=self.publish(folder))

    def fetch_start(self, folder: Path) -> None:
        """Bring the start here, if it is not."""
        if not folder.is_dir() and self.start is not None:
            _fetch(*self.start, folder)

    def publish(self, folder: Path) -> tuple[str, str]:
        """Push the folder of a whole run, unless that was done.

        Returns:
            `tuple[str, str]`: repository and commit, which `pushed.json` holds as well.

        Raises:
            [`OutputError`]: if the Hub refuses, or the repository has other weights already.
        """
        try:
            if is_main() and not (folder / PUSHED_FILE).is_file():
                repo_id = open_target(f"{self.prefix}-{folder.name}", private=self.private).repo_id
                _refuse_others(repo_id, folder)
                done = push_folder(folder, repo_id, commit_message=f"Run {folder.name}")
                write_json(folder / PUSHED_FILE, {"repo_id": repo_id, "revision": done.oid})
        finally:
            wait()  # the other processes read what this one has written
        pushed = read_json(folder / PUSHED_FILE)
        return pushed["repo_id"], pushed["revision"]

    def collect(self, folder: Path) -> None:
        """Bring a run here that a worker elsewhere has put on the Hub.

        Raises:
            [`IngredientError`]: if it is not there.
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
    """Where the runs go: `True` names the repositories after you and the folder, a string is their prefix.

    Args:
        push_runs (`bool` or `str`), private (`bool`, *optional*):
            As of [`hf_soup.sweep`].
        folder (`Path`):
            Of the sweep.
        about (`Mapping`, *optional*):
            Base model and data of the sweep: runs of a private one are private unless you say otherwise.
        base_card (`Mapping`, *optional*):
            The metadata of the card of the base model: of a folder the runs name what that was fine-tuned from.

    Raises:
        [`OutputError`]: if you are not logged in.
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
    """Whether runs are private that come from something private, with a warning; what the user says holds."""
    if not origins:
        return private
    consequence = "so the runs are private too. private=False makes them public, and names it"
    if private is False:
        consequence = "and the cards of the runs, which are public, name it"
    warn(f"{' and '.join(origins)} is private, {consequence}.")
    return private is None  # an explicit False holds


def _private_origins(about: Mapping[str, Any], base_card: Mapping[str, Any]) -> list[str]:
    """The base models and the data set that cards of runs name, where these are private on the Hub."""
    bases = bases_in_card(base_card)
    if about["base_commit"]:  # the base model itself is on the Hub
        bases = (split_revision(about["base_model"])[0],)
    hidden = [base for base in bases if is_private(base)]
    data = about["data"].get("path")
    if data and is_private(data, repo_type="dataset"):
        hidden.append(data)
    return hidden


def _refuse_others(repo_id: str, folder: Path) -> None:
    """A repository of that name may be of another sweep, or no run at all."""
    try:
        digests = hub.files_at(repo_id, None)
    except IngredientError as error:
        raise OutputError(f"nobody can tell what {repo_id} has already: {error}") from None
    if set(digests) <= {".gitattributes"}:  # which the Hub puts into a new repository
        return
    weights = [name for name in digests if name.endswith(".safetensors") and (folder / name).is_file()]
    if not weights or not all(digest_of(folder / name, digests[name]) == digests[name] for name in weights):
        raise OutputError(
            f"{repo_id} has something else than {folder}, so it is not overwritten. Give push_runs another prefix, or "
            "delete the repository."
        )


@library_bars("huggingface_hub.utils")
def _fetch(repo_id: str, revision: str, folder: Path) -> None:
    """Bring a repository here; what is there already is not whole, unless another worker has just brought it."""
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
                    library_name="hf_soup",  # by which the Hub knows our requests
                    library_version=__version__,
                )
            )
    except OutputError:
        # another worker has put the same folder there first, which is moved in whole
        if not (folder / "config.json").is_file():
            raise
