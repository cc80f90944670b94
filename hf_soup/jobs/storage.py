"""The private repository that holds what jobs need and what they answer, while a call waits for them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.hub_errors import client, patiently, read_errors, unsaid
from ..checkpoints.staging import temporary_folder
from ..errors import OutputError, warn
from ..progress import library_bars
from .answers import Answer, read_answer, write_answer
from .packing import DATA, unpack


FUNCTION, ITEMS, ANSWERS = "function", "items", "answers"  # a file, and folders of files named by item


class JobsUnreachableError(OutputError):
    """The Hub does not answer while jobs run, which go on."""


@dataclass(frozen=True)
class JobStorage:
    """The repository of one function.

    Args:
        repo_id (`str`):
            Id of the repository, a data set.
        token (`str`):
            Token of the user.
    """

    repo_id: str
    token: str

    @library_bars("huggingface_hub.utils")
    def upload(self, folder: Path) -> str:
        """Create the repository if necessary, put the files of a folder into it, and return the commit."""
        api = client(self.token)
        with reaching_hub(f"{self.repo_id} cannot be written"), unsaid("hf_api", "No files have been modified"):
            patiently(lambda: api.create_repo(self.repo_id, repo_type="dataset", private=True, exist_ok=True))
            if not patiently(lambda: api.dataset_info(self.repo_id)).private:
                raise OutputError(f"{self.repo_id} is public, and jobs need a private repository: delete it.")
            commit = patiently(
                lambda: api.upload_folder(
                    repo_id=self.repo_id,
                    folder_path=folder,
                    repo_type="dataset",
                    commit_message="Function, data and items of jobs",
                )
            )
            return str(commit.oid)

    def call(self, commit: str, item: str) -> Answer:
        """In a job: call the function on an item. Everything that it raises is part of the answer."""
        with temporary_folder() as folder:
            with reaching_hub(f"{self.repo_id} cannot be read"):
                self._download(folder, commit, [FUNCTION, f"{ITEMS}/{item}", f"{DATA}/**"])
            try:
                function, value = (_unpacked(folder, name) for name in (FUNCTION, f"{ITEMS}/{item}"))
                return Answer(function(value))
            except Exception as error:
                return Answer(error=error)

    def write_answer(self, item: str, answer: Answer) -> None:
        """In a job: put the answer into the repository."""
        content = write_answer(answer)
        with reaching_hub(f"the answer cannot be written to {self.repo_id}"):
            patiently(
                lambda: client(self.token).upload_file(
                    path_or_fileobj=io.BytesIO(content),
                    path_in_repo=f"{ANSWERS}/{item}",
                    repo_id=self.repo_id,
                    repo_type="dataset",
                    commit_message=f"Answer {item}",
                )
            )

    def read_answer(self, item: str) -> Answer | None:
        """The answer of a job; `None` if it has none.

        Raises:
            [`OutputError`]: if it is something else than an answer.
        """
        with temporary_folder() as folder, reaching_hub(f"the answers in {self.repo_id} cannot be read"):
            self._download(folder, "main", [f"{ANSWERS}/{item}"])
            path = folder / ANSWERS / item
            if not path.is_file():
                return None
            return read_answer(path.read_bytes())

    def answered(self) -> set[str]:
        """The items that have an answer."""
        with reaching_hub(f"{self.repo_id} cannot be read"):
            names = patiently(lambda: client(self.token).list_repo_files(self.repo_id, repo_type="dataset"))
        return {name.removeprefix(f"{ANSWERS}/") for name in names if name.startswith(f"{ANSWERS}/")}

    def clear(self) -> None:
        """Delete the repository, or warn that it could not be deleted."""
        try:
            with reaching_hub(f"{self.repo_id} is not needed any more, and could not be deleted"):
                patiently(lambda: client(self.token).delete_repo(self.repo_id, repo_type="dataset", missing_ok=True))
        except JobsUnreachableError as error:  # the results are there
            warn(str(error))

    @library_bars("huggingface_hub.utils")
    def _download(self, folder: Path, revision: str, patterns: list[str]) -> None:
        """Download the files that exist."""
        with unsaid("_snapshot_download", "No files matched"):
            patiently(
                lambda: client(self.token).snapshot_download(
                    self.repo_id, repo_type="dataset", revision=revision, local_dir=folder, allow_patterns=patterns
                )
            )


def _unpacked(folder: Path, name: str) -> Any:
    with (folder / name).open("rb") as file:
        return unpack(file, folder)


@contextmanager
def reaching_hub(what: str) -> Iterator[None]:
    """Convert errors of the client.

    Raises:
        [`JobsUnreachableError`]: instead of them.
    """
    with read_errors(JobsUnreachableError, what):
        yield
