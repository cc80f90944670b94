"""Uploads of single weight files: to the Hub, before a commit adds them to a repository, or to an object store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..checkpoints.hub_errors import client, patiently, refusals
from ..checkpoints.store import Store
from ..progress import library_bars


if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd


@dataclass(frozen=True)
class Uploaded:
    """A file that was uploaded.

    Args:
        file (`str`):
            Its name in the repository or folder.
        size (`int`):
            Its size in bytes.
        digest (`str`):
            What tells that it is still the same: its sha256 as hexadecimal digits, or the ETag that a store gave it.
        sample (`str`, *optional*):
            Its first bytes, as hexadecimal digits, by which the Hub decides how it is kept.
    """

    file: str
    size: int
    digest: str
    sample: str = ""

    def operation(self) -> CommitOperationAdd:
        """A file that the Hub has as a part of a commit, which does not send it again."""
        from huggingface_hub import CommitOperationAdd
        from huggingface_hub.lfs import UploadInfo

        operation = CommitOperationAdd(self.file, b"")
        operation.upload_info = UploadInfo(
            sha256=bytes.fromhex(self.digest), size=self.size, sample=bytes.fromhex(self.sample)
        )
        operation._upload_mode = "lfs"
        operation._is_uploaded = True
        return operation


class Upload(Protocol):
    """Where weight files are uploaded to."""

    def send(self, path: Path, name: str) -> Uploaded:
        """Upload one file; nothing is sent if it is there."""

    def has(self, uploaded: Uploaded) -> bool:
        """Whether a file is still there."""


@dataclass(frozen=True)
class HubUpload:
    """Uploads to a repository of the Hub.

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
        return Uploaded(name, info.size, info.sha256.hex(), info.sample.hex())

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


@dataclass(frozen=True)
class StoreUpload:
    """Uploads to a folder on an object store.

    Args:
        store ([`Store`]):
            The folder.
    """

    store: Store

    def send(self, path: Path, name: str) -> Uploaded:
        """Upload one file.

        Raises:
            [`OutputError`]: if the store refuses it.
        """
        self.store.upload(path, name)
        return Uploaded(name, path.stat().st_size, self.store.state(name))

    def has(self, uploaded: Uploaded) -> bool:
        """Whether a file is still there as it was uploaded.

        Raises:
            [`OutputError`]: if the store does not answer.
        """
        return self.store.state(uploaded.file) == uploaded.digest
