"""Single weight files uploaded to the Hub before the commit that adds them to a repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.hub_errors import client, patiently, refusals
from ..progress import library_bars


if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd


@dataclass(frozen=True)
class Uploaded:
    """A file that the Hub has, but that no commit may refer to yet.

    Args:
        file (`str`):
            Its name in the repository.
        sha256 (`str`):
            Its digest, as hexadecimal digits.
        size (`int`):
            Its size in bytes.
        sample (`str`):
            Its first bytes, as hexadecimal digits.
    """

    file: str
    sha256: str
    size: int
    sample: str

    def operation(self) -> CommitOperationAdd:
        """The file as a part of a commit, which does not send it again."""
        from huggingface_hub import CommitOperationAdd
        from huggingface_hub.lfs import UploadInfo

        operation = CommitOperationAdd(self.file, b"")
        operation.upload_info = UploadInfo(
            sha256=bytes.fromhex(self.sha256), size=self.size, sample=bytes.fromhex(self.sample)
        )
        operation._upload_mode = "lfs"
        operation._is_uploaded = True
        return operation


@dataclass(frozen=True)
class Upload:
    """Where files are uploaded to.

    Args:
        repo_id (`str`):
            Repository, opened by [`open_target`].
        token (`str` or `bool`, *optional*), revision (`str`, *optional*), create_pr (`bool`, *optional*):
            As for [`open_target`].
    """

    repo_id: str
    token: str | bool | None = None
    revision: str | None = None
    create_pr: bool = False

    @library_bars("huggingface_hub.utils")
    def send(self, path: Path, name: str) -> Uploaded:
        """Upload one weight file; nothing is sent if the Hub has it.

        Raises:
            [`OutputError`]: if the Hub refuses it.
        """
        from huggingface_hub import CommitOperationAdd

        operation = CommitOperationAdd(name, path)
        operation._upload_mode = "lfs"  # weights are never small files, whatever their size
        api = client(self.token)
        with refusals(self.repo_id):
            patiently(
                lambda: api.preupload_lfs_files(
                    self.repo_id, [operation], revision=self.revision, create_pr=self.create_pr
                )
            )
        info = operation.upload_info
        return Uploaded(name, info.sha256.hex(), info.size, info.sample.hex())

    def has(self, uploaded: Uploaded) -> bool:
        """Whether the Hub still has a file: it deletes those that no commit refers to after a while.

        Raises:
            [`OutputError`]: if the Hub does not answer.
        """
        from huggingface_hub.lfs import post_lfs_batch_info

        api = client(self.token)
        with refusals(self.repo_id):
            objects, errors, _ = patiently(
                lambda: post_lfs_batch_info(
                    [uploaded.operation().upload_info],
                    token=None,
                    repo_type="model",
                    repo_id=self.repo_id,
                    headers=api._build_hf_headers(),
                )
            )
        return not errors and not any(item.get("actions") for item in objects)
