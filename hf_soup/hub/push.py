"""A folder -> one commit on the Hub: no repository ever has the weights of one soup and the card of another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..checkpoints.hub_errors import BUSY, RACE, client, patiently, refusals, unsaid
from ..errors import OutputError
from ..progress import library_bars
from ..untrusted import one_line
from .stale import stale_files


if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


class Target(NamedTuple):
    """A repository that is there and may be written to.

    Args:
        repo_id (`str`):
            With its owner.
        private (`bool`):
            Whether only some may see it.
    """

    repo_id: str
    private: bool


def open_target(
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> Target:
    """Make a repository, and its branch, where they are missing.

    Raises:
        [`OutputError`]: if the Hub refuses, or a pull request is asked for on a branch.
    """
    if create_pr and revision is not None:
        raise OutputError("a pull request is against the main branch: give either create_pr=True or a revision.")
    api = client(token)
    with refusals(repo_id):
        asked, repo_id = repo_id, patiently(lambda: api.create_repo(repo_id, private=private, exist_ok=True)).repo_id
        if repo_id != asked and repo_id.rpartition("/")[2] != asked:  # without an owner it is in your name
            raise OutputError(f"the Hub was asked for {asked}, and made {one_line(repo_id, 80)}.")
        if revision is not None and not revision.startswith("refs/"):
            patiently(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True))
        return Target(repo_id, bool(patiently(lambda: api.model_info(repo_id)).private))


@library_bars("huggingface_hub.utils")
def push_folder(
    folder: Path,
    repo_id: str,
    *,
    commit_message: str,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_description: str | None = None,
) -> CommitInfo:
    """Commit every file of a folder at once, and delete what would be loaded instead of it or on top of it: adapters,
    weights of other formats, what an earlier soup left. The commit's description names what was deleted.

    Files that the Hub has already, from an attempt that was cut short or from the soup before, are not sent again.
    Where somebody else commits in the meantime it is done again on top of that.

    Raises:
        [`OutputError`]: if the Hub refuses; the files there are as they were.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api = client(token)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}

    def commit() -> CommitInfo:
        head = api.model_info(repo_id, revision=revision)
        gone = stale_files([sibling.rfilename for sibling in head.siblings], files)
        told = [commit_description] if commit_description else []
        if gone:
            told.append(
                f"Deleted, since it would be loaded instead of these files or on top of them: {', '.join(gone)}"
            )
        return api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, path) for name, path in files.items()),
                *(CommitOperationDelete(name) for name in gone),
            ],
            commit_message=commit_message,
            commit_description="\n\n".join(told) or None,
            revision=revision,
            create_pr=create_pr,
            parent_commit=head.sha,
        )

    with refusals(repo_id), unsaid("hf_api", "No files have been modified"):
        if create_pr:  # which may be there although its answer was lost, and would be there twice
            return patiently(commit, again=(429, *RACE), if_lost=False)
        return patiently(commit, again=(*BUSY, *RACE))
