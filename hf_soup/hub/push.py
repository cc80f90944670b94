"""A folder -> one commit on the Hub: no repository ever has the weights of one soup and the card of another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OutputError
from ..version import __version__


if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

# Files of which a soup may have others, or fewer, than the soup before it.
OURS = (
    r"(model(-\d{5}-of-\d{5})?|soup_batchnorm)\.safetensors|model\.safetensors\.index\.json|comparison\.(md|json)|"
    r"(comparison|shifts|reliability)\.png"
)


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    commit_message: str,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_description: str | None = None,
) -> CommitInfo:
    """Commit every file of a folder at once, and delete what an earlier soup left there under other names.

    The repository is made where it is missing.

    Raises:
        [`OutputError`]: if the Hub refuses; the files there are as they were.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, errors

    api = HfApi(token=token, library_name="hf_soup", library_version=__version__)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        there = api.list_repo_files(repo_id, revision=None if create_pr else revision)
        old = [name for name in there if name not in files and re.fullmatch(OURS, name)]
        return api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, path) for name, path in files.items()),
                *(CommitOperationDelete(name) for name in old),
            ],
            commit_message=commit_message,
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )
    except (errors.HTTPError, errors.HFValidationError, OSError, ValueError) as error:
        why = "Are you logged in (`hf auth login`) and allowed to?"
        raise OutputError(f"the Hub did not take {repo_id}: {error}. {why}") from error
