"""A folder -> one commit on the Hub: no repository ever has the weights of one soup and the card of another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..checkpoints.hub_errors import RACE, client, patiently, refusals, unsaid
from ..checkpoints.hub_watch import BUSY
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

    Args:
        repo_id (`str`):
            With its owner, or without one in the name of the user.
        private (`bool`, *optional*):
            Whether a new repository is private.
        token (`str` or `bool`, *optional*):
            By default the one that a login stored.
        revision (`str`, *optional*):
            The branch.
        create_pr (`bool`, *optional*, defaults to `False`):
            Whether what comes is a pull request.

    Returns:
        [`Target`]: with the owner, and whether the repository is private.

    Raises:
        [`OutputError`]: if the Hub refuses, or a pull request is asked for on a branch.
    """
    if create_pr and revision is not None:
        raise OutputError("a pull request is against the main branch: give either create_pr=True or a revision.")
    api = client(token)
    with refusals(repo_id):
        made = patiently(lambda: api.create_repo(repo_id, private=private, exist_ok=True)).repo_id
        if made != repo_id and made.rpartition("/")[2] != repo_id:  # a name without an owner is made in the user's
            raise OutputError(f"the Hub was asked for {repo_id}, and made {one_line(made, 80)}.")
        if revision is not None and not revision.startswith("refs/"):
            patiently(lambda: api.create_branch(made, branch=revision, exist_ok=True))
        return Target(made, bool(patiently(lambda: api.model_info(made)).private))


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

    Args:
        folder (`Path`):
            All of its files are sent, those of folders in it too.
        repo_id (`str`):
            That [`open_target`] has opened.
        commit_message (`str`), commit_description (`str`, *optional*):
            Of the commit.
        token (`str` or `bool`, *optional*), revision (`str`, *optional*), create_pr (`bool`, *optional*):
            As of [`open_target`].

    Raises:
        [`OutputError`]: if the Hub refuses; the files there are as they were.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api = client(token)
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = path

    def commit() -> CommitInfo:
        # Asked again at each attempt: what is stale depends on the commit that this one is to follow.
        head = api.model_info(repo_id, revision=revision)
        stale = stale_files([sibling.rfilename for sibling in head.siblings or ()], files)
        paragraphs = [commit_description] if commit_description else []
        if stale:
            names = ", ".join(stale)
            paragraphs.append(f"Deleted, since it would be loaded instead of these files or on top of them: {names}")
        additions = [CommitOperationAdd(name, path) for name, path in files.items()]
        deletions = [CommitOperationDelete(name) for name in stale]
        return api.create_commit(
            repo_id,
            [*additions, *deletions],
            commit_message=commit_message,
            commit_description="\n\n".join(paragraphs) or None,
            revision=revision,
            create_pr=create_pr,
            parent_commit=head.sha,
        )

    with refusals(repo_id), unsaid("hf_api", "No files have been modified"):
        if create_pr:  # it may have been opened although the answer was lost, and would be opened twice
            return patiently(commit, again=(429, *RACE), if_lost=False)
        return patiently(commit, again=(*BUSY, *RACE))
