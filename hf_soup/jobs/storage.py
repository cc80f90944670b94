"""The private repository that holds what jobs need and what they answer, while a call waits for them."""

from __future__ import annotations

import io
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..checkpoints.hub_errors import RACE, client, is_temporary, patiently, read_errors, unsaid
from ..checkpoints.hub_watch import BUSY
from ..checkpoints.staging import temporary_folder
from ..errors import OutputError, RecipeError, warn
from ..progress import library_bars
from .answers import Answer, read_answer, write_answer
from .packing import DATA, TOKENIZERS, unpack
from .settings import versions_here


FUNCTION, VERSIONS = "function", "versions.json"
ITEMS, ANSWERS = "items", "answers"  # folders of files that are named by item
IN_TURN = 1800.0  # seconds in which a job tries to write its answer, since a repository takes one commit at a time
LONGEST_TURN = 30.0  # seconds between two attempts, at most
T = TypeVar("T")


class JobsUnreachableError(OutputError):
    """The Hub does not answer while jobs run, which go on."""


@dataclass(frozen=True)
class JobStorage:
    """The repository of the jobs of one call.

    Args:
        repo_id (`str`):
            Id of the repository, a data set.
        token (`str`):
            Token of the user.
    """

    repo_id: str
    token: str = field(repr=False)

    @library_bars("huggingface_hub.utils")
    def upload(self, folder: Path) -> str:
        """Create the repository if necessary, put the files of a folder into it, and return the commit.

        Raises:
            [`OutputError`]: if the Hub refuses it, or the repository is public.
        """
        (folder / VERSIONS).write_text(json.dumps(versions_here()))
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
                ),
                again=(*BUSY, *RACE),
            )
            return str(commit.oid)

    def call(self, commit: str, item: str) -> Answer:
        """In a job: call the function on an item. Everything that it raises is part of the answer."""
        from huggingface_hub import snapshot_download

        files = [FUNCTION, VERSIONS, f"{ITEMS}/{item}", f"{DATA}/**", f"{TOKENIZERS}/**"]
        with temporary_folder() as folder:
            with reaching_hub(f"{self.repo_id} cannot be read"):
                patiently(
                    lambda: snapshot_download(
                        self.repo_id, repo_type="dataset", revision=commit, local_dir=folder, allow_patterns=files
                    )
                )
            try:
                _refuse_other_versions(json.loads((folder / VERSIONS).read_text()))
                function, value = (_unpacked(folder, name) for name in (FUNCTION, f"{ITEMS}/{item}"))
                return Answer(function(value))
            except Exception as error:
                return Answer(error=error)

    def write_answer(self, item: str, answer: Answer) -> None:
        """In a job: put the answer into the repository, when it is its turn."""
        content = write_answer(answer)

        def upload() -> None:
            client(self.token).upload_file(
                path_or_fileobj=io.BytesIO(content),
                path_in_repo=f"{ANSWERS}/{item}",
                repo_id=self.repo_id,
                repo_type="dataset",
                commit_message=f"Answer {item}",
            )

        with reaching_hub(f"the answer cannot be written to {self.repo_id}"):
            _in_turn(upload)

    def read_answer(self, item: str) -> Answer | None:
        """The answer of a job; `None` if it has none.

        Raises:
            [`OutputError`]: if it is something else than an answer.
        """
        from huggingface_hub import errors, hf_hub_download

        with temporary_folder() as folder, reaching_hub(f"the answers in {self.repo_id} cannot be read"):
            try:
                path = patiently(
                    lambda: hf_hub_download(
                        self.repo_id, f"{ANSWERS}/{item}", repo_type="dataset", local_dir=folder, token=self.token
                    )
                )
            except errors.LocalEntryNotFoundError:  # the Hub was not reached
                raise
            except errors.EntryNotFoundError:
                return None
            content = Path(path).read_bytes()
        return read_answer(content)

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
        except OutputError as error:  # the results are there
            warn(str(error))


def _unpacked(folder: Path, name: str) -> Any:
    with (folder / name).open("rb") as file:
        return unpack(file, folder)


def _refuse_other_versions(there: dict[str, str]) -> None:
    """In a job: raise an error if libraries differ from those of the machine that has pickled the function.

    Raises:
        [`RecipeError`]: naming them.
    """
    here = versions_here()
    differing = [f"{name} {here[name]} instead of {there[name]}" for name in here if here[name] != there[name]]
    if differing:
        raise RecipeError(f"the job has {', '.join(differing)}: take an image with the versions of your machine.")


def _in_turn(commit: Callable[[], T]) -> T:
    """Repeat a commit while others are made to the same repository, after waits of random length."""
    wait, deadline = 1.0, time.monotonic() + IN_TURN
    while True:
        try:
            return patiently(commit, again=(*BUSY, *RACE))
        except Exception as error:
            if time.monotonic() > deadline or not is_temporary(error):
                raise
        time.sleep(wait * random.uniform(0.5, 1.5))
        wait = min(2 * wait, LONGEST_TURN)


@contextmanager
def reaching_hub(what: str) -> Iterator[None]:
    """Convert errors of the client.

    Raises:
        [`JobsUnreachableError`]: if the Hub did not answer, or was busy.
        [`OutputError`]: if it refused.
    """
    try:
        with read_errors(OutputError, what):
            yield
    except OutputError as error:
        if is_temporary(error.__context__ or error):
            raise JobsUnreachableError(str(error)) from None
        raise
