"""A folder -> one commit on the Hub: no repository ever has the weights of one soup and the card of another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OutputError
from ..version import __version__


if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


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
    """Commit every file of a folder at once; the repository is made where it is missing.

    Raises:
        [`OutputError`]: if the Hub refuses; nothing was changed then.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, errors

    api = HfApi(token=token, library_name="hf_soup", library_version=__version__)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    try:
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        return api.create_commit(
            repo.repo_id,
            [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files],
            commit_message=commit_message,
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, ValueError) as error:
        raise OutputError(
            f"the Hub did not take {repo_id}: {error}. Are you logged in (`hf auth login`) and allowed to?"
        ) from error
