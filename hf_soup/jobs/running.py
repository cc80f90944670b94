"""Starts a job for each item, waits for the jobs, and takes their answers."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from ..checkpoints.hub_errors import client, patiently
from ..checkpoints.staging import temporary_folder
from ..errors import OutputError, SoupError, warn
from .answers import Answer
from .packing import import_cloudpickle, pack
from .settings import UV_IMAGE, JobSettings, job_costs, job_settings
from .storage import FUNCTION, ITEMS, JobStorage, JobsUnreachableError, reaching_hub


if TYPE_CHECKING:
    from huggingface_hub import JobInfo

POLL = 10.0  # seconds between two looks at the jobs
ENDED = ("COMPLETED", "CANCELED", "ERROR", "DELETED")  # stages of jobs
OURS, ITEM = "hf-soup", "hf-soup-item"  # labels of a job: the name of its repository, and the item
TOO_MANY = 429  # status of the only refusal after which starting a job is tried again
NAME = 12  # characters of a digest in the name of a repository
T = TypeVar("T")
R = TypeVar("R")


def check_jobs(resources: Mapping[str, Any] | None) -> None:
    """Raise an error if jobs cannot be started: a library or a login is missing, or a setting is wrong.

    Args:
        resources (`Mapping[str, Any]`, *optional*):
            Settings of the jobs.

    Raises:
        [`MissingExtraError`], [`OutputError`], [`RecipeError`]: if so.
    """
    import_cloudpickle()
    check_login()
    job_costs(resources)  # knows whether there is such a flavor


def check_login() -> str:
    """The token of the user, without which no job can be started.

    Raises:
        [`OutputError`]: if there is none.
    """
    from huggingface_hub import get_token

    token = get_token()
    if token is None:
        raise OutputError('executor="jobs" starts Hugging Face Jobs, which need a login: `hf auth login`.')
    return token


def call_in_jobs(
    function: Callable[[T], R],
    items: Sequence[T],
    resources: Mapping[str, Any] | None = None,
    lost: Callable[[T, str], R] | None = None,
) -> Generator[tuple[int, R]]:
    """The index and result of each item, as jobs finish; each is called in a Hugging Face Job of its own.

    The function, its data and the items are uploaded to a private repository, from which jobs read them and to which
    they write their results; it is deleted at the end. If the caller stops early, jobs are cancelled. If the Hub
    cannot be reached, or this process is killed, jobs go on, and the same call waits for them.

    Args:
        function (`Callable`), items (`Sequence`), lost (`Callable`, *optional*):
            As for [`run_all`].
        resources (`Mapping[str, Any]`, *optional*):
            How jobs run, the fields of [`JobSettings`].

    Raises:
        [`Exception`]: what the function raises.
        [`OutputError`]: if the Hub cannot be reached.
        [`SoupError`]: if a job ends without a result.
    """
    token, settings = check_login(), job_settings(resources)
    with temporary_folder() as stage:
        (stage / ITEMS).mkdir()
        packed = pack(function, stage)
        (stage / FUNCTION).write_bytes(packed)
        places: dict[str, list[int]] = {}  # name of an item -> its places, several if it is there twice
        for place, item in enumerate(items):
            content = pack(item, stage)
            name = hashlib.sha256(content).hexdigest()
            (stage / ITEMS / name).write_bytes(content)
            places.setdefault(name, []).append(place)
        namespace = settings.namespace or _user()
        digest = hashlib.sha256(packed).hexdigest()
        storage = JobStorage(f"{namespace}/hf-soup-jobs-{digest[:NAME]}", token)
        queue = JobQueue(storage, storage.upload(stage), settings, namespace)
    try:
        for name, answer in queue.answers(list(places)):
            for place in places[name]:
                yield place, _result(answer, items[place], lost)
    except JobsUnreachableError as error:
        raise OutputError(f"{error} Jobs that are running go on: the same call waits for them.") from error
    except BaseException:  # also Ctrl-C, and a caller that stops early
        queue.cancel()
        storage.clear()
        raise
    storage.clear()


def _user() -> str:
    with reaching_hub("the Hub does not tell who you are"):
        return str(patiently(lambda: client().whoami()["name"]))


def _result(answer: Answer | str, item: T, lost: Callable[[T, str], R] | None) -> R:
    """The result of a job, of which `lost` makes one if there is none; errors are raised."""
    if isinstance(answer, str):
        if lost is None:
            raise SoupError(answer)
        return lost(item, answer)
    if answer.error is not None:
        raise answer.error
    result: R = answer.value
    return result


@dataclass
class JobQueue:
    """Jobs that wait, run and end.

    Args:
        storage ([`JobStorage`]):
            Files of the function and of its answers.
        commit (`str`):
            Commit of the function.
        settings ([`JobSettings`]):
            How jobs run.
        namespace (`str`):
            User or organization that runs them.
    """

    storage: JobStorage
    commit: str
    settings: JobSettings
    namespace: str
    running: dict[str, JobInfo] = field(default_factory=dict)  # by the name of the item

    def answers(self, names: Sequence[str]) -> Iterator[tuple[str, Answer | str]]:
        """The answer of each item as its job ends; for a job without one, the reason.

        Jobs of an earlier call of the same function that was killed are waited for, and their answers are taken.
        """
        answered = self.storage.answered()
        waiting = []
        active = self._active()
        for name in names:
            earlier = self.storage.read_answer(name) if name in answered else None
            if earlier is not None:
                yield name, earlier
            elif name in active:
                self.running[name] = active[name]
            else:
                waiting.append(name)
        while waiting or self.running:
            while waiting and len(self.running) < self.settings.n_jobs:
                name = waiting.pop(0)
                self.running[name] = self._start(name)
            for job in self._ended():
                name = self._item_of(job)
                answer = self.storage.read_answer(name) or self._reason(job)
                del self.running[name]
                yield name, answer
            if self.running:
                time.sleep(POLL)

    def cancel(self) -> None:
        """Cancel the jobs that run."""
        for name, job in self.running.items():
            try:
                client().cancel_job(job_id=job.id, namespace=self.namespace)
            except Exception as error:
                warn(f"the job of item {name} could not be cancelled, and costs money ({job.url}): {error}")
        self.running.clear()

    @property
    def _label(self) -> str:
        """The label of all jobs of this function."""
        return self.storage.repo_id.rpartition("/")[2]

    def _start(self, name: str) -> JobInfo:
        """Start the job of an item."""
        from huggingface_hub import constants

        with reaching_hub("no job could be started"):
            return patiently(
                lambda: client().run_job(
                    image=self.settings.image or UV_IMAGE,
                    command=self.settings.command(self.storage.repo_id, self.commit, name),
                    env={"HF_ENDPOINT": constants.ENDPOINT},
                    secrets={"HF_TOKEN": self.storage.token},
                    flavor=self.settings.flavor,
                    timeout=self.settings.timeout,
                    labels={OURS: self._label, ITEM: name},
                    namespace=self.namespace,
                ),
                again=(TOO_MANY,),
                if_lost=False,  # a job whose answer was lost is running
            )

    def _jobs(self) -> list[JobInfo]:
        """All jobs of this function that the Hub lists."""
        with reaching_hub("the Hub does not list the jobs"):
            return patiently(lambda: list(client().list_jobs(labels={OURS: self._label}, namespace=self.namespace)))

    def _active(self) -> dict[str, JobInfo]:
        """The jobs that are running already, by item."""
        return {self._item_of(job): job for job in self._jobs() if not _has_ended(job)}

    def _ended(self) -> list[JobInfo]:
        """The running jobs that have ended since."""
        listed = {job.id: job for job in self._jobs()}
        ended = []
        for job in self.running.values():
            current = listed.get(job.id) or self._look_at(job)
            if _has_ended(current):
                ended.append(current)
        return ended

    def _look_at(self, job: JobInfo) -> JobInfo:
        """One job that the list does not have, perhaps because it is new."""
        with reaching_hub(f"the Hub does not find the job {job.url}"):
            return patiently(lambda: client().inspect_job(job_id=job.id, namespace=self.namespace))

    def _item_of(self, job: JobInfo) -> str:
        return str((job.labels or {}).get(ITEM))

    def _reason(self, job: JobInfo) -> str:
        """Why a job has no answer: how it ended, and the last line that it wrote."""
        status = job.status
        parts = [f"its job ended without a result ({status.stage}"]
        if status.message:
            parts.append(f", {status.message}")
        last = ""
        with contextlib.suppress(Exception):  # logs are of help, but not needed
            logs = client().fetch_job_logs(job_id=job.id, namespace=self.namespace, tail=20)
            last = next(filter(str.strip, reversed(list(logs))), "").strip()
        ending = f", after {last!r}" if last else ""
        return f"{''.join(parts)}){ending}: {job.url}"


def _has_ended(job: JobInfo) -> bool:
    return job.status.stage in ENDED
