"""Pushes a folder to the Hub in one commit, so that weights and card in a repository always belong together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..checkpoints.hub_errors import RACE, client, patiently, refusals, unsaid
from ..checkpoints.hub_watch import BUSY
from ..errors import OutputError
from ..progress import library_bars
from ..untrusted import one_line
from .stale import stale_files
from .upload import Uploaded


if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


class Target(NamedTuple):
    """A repository that exists and can be written to.

    Args:
        repo_id (`str`):
            Id of the repository, with its owner.
        private (`bool`):
            Whether the repository is private.
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
    """Create a repository and its branch, if they do not exist.

    Args:
        repo_id (`str`):
            Id of the repository; without an owner it belongs to the user.
        private (`bool`, *optional*):
            Whether a new repository is private.
        token (`str` or `bool`, *optional*):
            Access token for the Hub; by default the stored one.
        revision (`str`, *optional*):
            Branch to push to.
        create_pr (`bool`, *optional*, defaults to `False`):
            Whether a pull request will be opened.

    Returns:
        [`Target`]: the repository with its owner, and whether it is private.

    Raises:
        [`OutputError`]: if the Hub refuses, or a pull request is requested for a branch.
    """
    if create_pr and revision is not None:
        raise OutputError("a pull request is against the main branch: give either create_pr=True or a revision.")
    api = client(token)
    with refusals(repo_id):
        made = patiently(lambda: api.create_repo(repo_id, private=private, exist_ok=True)).repo_id
        if made != repo_id and made.rpartition("/")[2] != repo_id:  # a name without an owner gets that of the user
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
    uploaded: Sequence[Uploaded] = (),
) -> CommitInfo:
    """Commit all files of a folder at once, and delete files that would be loaded instead of them or in addition:
    adapters, weights of other formats, files of an earlier soup. The commit's description names the deleted files.

    Files that the Hub already has, from an interrupted attempt or an earlier soup, are not sent again. If another
    commit is made in the meantime, the push is repeated on top of it.

    Args:
        folder (`Path`):
            Folder whose files are pushed, including those in subfolders.
        repo_id (`str`):
            Repository opened by [`open_target`].
        commit_message (`str`), commit_description (`str`, *optional*):
            Message and description of the commit.
        token (`str` or `bool`, *optional*), revision (`str`, *optional*), create_pr (`bool`, *optional*):
            Options, as for [`open_target`].
        uploaded (`Sequence[Uploaded]`, *optional*):
            Files that the Hub has already, which the commit adds.

    Raises:
        [`OutputError`]: if the Hub refuses the push; the repository is left unchanged.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api = client(token)
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = path

    def commit() -> CommitInfo:
        # Read again at each attempt, because the files to delete depend on the parent commit.
        head = api.model_info(repo_id, revision=revision)
        names = {*files, *(item.file for item in uploaded)}
        stale = stale_files([sibling.rfilename for sibling in head.siblings or ()], names)
        paragraphs = [commit_description] if commit_description else []
        if stale:
            deleted = ", ".join(stale)
            paragraphs.append(f"Deleted, because it would be loaded instead of these files or in addition: {deleted}")
        additions = [CommitOperationAdd(name, path) for name, path in files.items()]
        additions += [item.operation() for item in uploaded]
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
        if create_pr:  # not repeated: the request may have been opened although the answer was lost
            return patiently(commit, again=(429, *RACE), if_lost=False)
        return patiently(commit, again=(*BUSY, *RACE))
