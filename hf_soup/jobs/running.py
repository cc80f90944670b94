"""Starts a job for each item, waits for the jobs, and takes their answers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from ..checkpoints.hub_errors import client, patiently
from ..checkpoints.staging import temporary_folder
from ..errors import OutputError, SoupError, warn
from ..untrusted import one_line
from .answers import Answer
from .packing import import_cloudpickle, pack
from .settings import UV_IMAGE, JobSettings, job_costs, job_settings
from .storage import FUNCTION, ITEMS, JobStorage, JobsUnreachableError, reaching_hub


if TYPE_CHECKING:
    from huggingface_hub import JobInfo

POLL = 10.0  # seconds between two looks at the jobs
AWAY = 1800.0  # seconds for which the Hub may be unreachable while jobs run
ENDED = ("COMPLETED", "CANCELED", "ERROR", "DELETED")  # stages of jobs
CALL, ITEM = "hf-soup", "hf-soup-item"  # labels of a job: the name of its repository, and the item
TOO_MANY = 429  # status of the only refusal after which starting a job is tried again
DIGITS = 16  # of a digest in a name on the Hub
LINES = 20  # of a log that are looked at
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
    job_costs(resources)  # asks the Hub whether there is such a flavor


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
    key: str | None = None,
) -> Generator[tuple[int, R]]:
    """The index and result of each item, as jobs finish; each is called in a Hugging Face Job of its own.

    The function, its data and the items are uploaded to a private repository, from which jobs read them and to which
    they write their answers; it is deleted at the end. If an error ends the call, or the caller stops early, jobs are
    cancelled. If the Hub cannot be reached, or this process is killed, they keep running, and a call with the same key
    waits for them.

    Args:
        function (`Callable`), items (`Sequence`):
            As for [`run_all`].
        resources (`Mapping[str, Any]`, *optional*):
            How jobs run, the fields of [`JobSettings`].
        lost (`Callable`, *optional*):
            The result of an item that has none, of the item and the reason: its job was stopped, or the function
            raised an error. By default both are raised.
        key (`str`, *optional*):
            What the function is, in words, by which a later call finds its jobs again; items are then told apart by
            their values as JSON. Two calls with one key may not run at the same time.

    Raises:
        [`Exception`]: what the function raises.
        [`OutputError`]: if the Hub cannot be reached, or refuses.
        [`SoupError`]: if a job ends without a result.
    """
    token, settings = check_login(), job_settings(resources)
    namespace = settings.namespace or _user()
    names = list(map(str, range(len(items))))
    if key is not None:
        names = [_digest(json.dumps(item, sort_keys=True, default=repr)) for item in items]
    storage = JobStorage(f"{namespace}/hf-soup-jobs-{_digest(key or uuid.uuid4().hex)}", token)
    queue = JobQueue(storage, settings, namespace)
    if not items:
        if key is not None:  # an earlier call may have been killed when its last job had ended
            queue.clear()
        return
    with temporary_folder() as stage:
        (stage / FUNCTION).write_bytes(pack(function, stage))
        (stage / ITEMS).mkdir()
        for name, item in zip(names, items, strict=True):
            (stage / ITEMS / name).write_bytes(pack(item, stage))
        try:
            commit = storage.upload(stage)
        except BaseException:
            if key is None:  # nobody else has a repository of that name
                storage.clear()
            raise
    places = {name: place for place, name in enumerate(names)}
    try:
        for name, answer in queue.answers(names, commit):
            yield places[name], _result(answer, items[places[name]], lost)
    except JobsUnreachableError as error:
        if key is not None:
            raise OutputError(f"{error} Jobs that run keep running: the same call waits for them.") from error
        queue.cancel()  # no later call would find them
        storage.clear()
        raise
    except BaseException:  # also Ctrl-C, and a caller that stops early
        queue.cancel()
        storage.clear()
        raise
    queue.clear(names)


def _digest(text: str) -> str:
    """The beginning of a digest, for names on the Hub."""
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _user() -> str:
    with reaching_hub("the Hub does not say who you are"):
        return str(patiently(lambda: client().whoami()["name"]))


def _result(answer: Answer | str, item: T, lost: Callable[[T, str], R] | None) -> R:
    """The result of a job; if it has none, what `lost` makes of the reason, or an error."""
    if isinstance(answer, str):
        if lost is None:
            raise SoupError(answer)
        return lost(item, answer)
    if answer.error is not None:
        if lost is None:
            raise answer.error
        return lost(item, f"{type(answer.error).__name__}: {one_line(answer.error)}")
    result: R = answer.value
    return result


@dataclass
class JobQueue:
    """Jobs that wait, run and end.

    Args:
        storage ([`JobStorage`]):
            Repository of the function and of the answers.
        settings ([`JobSettings`]):
            How jobs run.
        namespace (`str`):
            User or organization that runs them.
        running (`dict[str, JobInfo]`):
            Item -> the job that is running for it.
        uncertain (`set[str]`):
            Items whose job may have been started although the Hub did not answer.
    """

    storage: JobStorage
    settings: JobSettings
    namespace: str
    running: dict[str, JobInfo] = field(default_factory=dict)
    uncertain: set[str] = field(default_factory=set)

    def answers(self, items: Sequence[str], commit: str) -> Iterator[tuple[str, Answer | str]]:
        """The answer of each item as its job ends; for a job without one, the reason.

        Jobs of an earlier call with the same items are waited for, and their answers are taken.

        Args:
            items (`Sequence[str]`):
                Names of the items in the repository.
            commit (`str`):
                Commit of the repository that has the function.
        """
        active = self._active()
        self.running = {item: active[item] for item in items if item in active}
        there = self.storage.answered()
        answered = [item for item in items if item in there]
        waiting = [item for item in items if item not in (*self.running, *answered)]
        for item in answered:
            self.running.pop(item, None)  # it has answered, and is about to end
            yield item, self.storage.read_answer(item) or "its answer has disappeared from the Hub"
        seen = time.monotonic()  # when the Hub last answered
        while waiting or self.running:
            ended: list[tuple[str, Answer | str]] = []
            try:
                while waiting and len(self.running) < self.settings.n_jobs:
                    self.running[waiting[0]] = self._start(waiting[0], commit)
                    waiting.pop(0)
                for job in self._ended():
                    ended.append((_item_of(job), self.storage.read_answer(_item_of(job)) or self._reason(job)))
                seen = time.monotonic()
            except JobsUnreachableError:
                if time.monotonic() > seen + AWAY:
                    raise
            for item, answer in ended:
                del self.running[item]
                yield item, answer
            if self.running or waiting:
                time.sleep(POLL)

    def cancel(self) -> None:
        """Cancel all jobs of this call that have not ended."""
        jobs = {job.id: job for job in self.running.values()}
        try:  # those of which this call does not know, such as one just started
            jobs |= {job.id: job for job in self._jobs() if not _has_ended(job)}
        except OutputError as error:
            warn(f"{error} Jobs with the label {CALL}={self._label} may be running, and cost money: `hf jobs ps`.")
        for job in jobs.values():
            try:
                with reaching_hub(f"a job could not be cancelled, and costs money: {job.url}"):
                    _cancel(job.id, self.namespace)
            except OutputError as error:
                warn(str(error))
        self.running.clear()

    def clear(self, items: Sequence[str] = ()) -> None:
        """Delete the repository, unless jobs of other items need it, those of an earlier call.

        Args:
            items (`Sequence[str]`, *optional*):
                Names of the items that have answered, whose jobs may be about to end.
        """
        try:
            others = [job for job in self._jobs() if not _has_ended(job) and _item_of(job) not in items]
        except OutputError as error:
            warn(str(error))
            return
        if others:
            warn(f"{len(others)} jobs of an earlier call are still running, such as {others[0].url}")
        else:
            self.storage.clear()

    @property
    def _label(self) -> str:
        """The label of all jobs of this call."""
        return self.storage.repo_id.rpartition("/")[2]

    def _start(self, item: str, commit: str) -> JobInfo:
        """Start the job of an item, unless the answer to an earlier attempt was lost and it is there."""
        job = self._active().get(item) if item in self.uncertain else None
        if job is None:
            self.uncertain.add(item)
            job = self._start_once(item, commit)
        self.uncertain.discard(item)
        return job

    def _start_once(self, item: str, commit: str) -> JobInfo:
        from huggingface_hub import constants

        with reaching_hub("no job could be started"):
            return patiently(
                lambda: client().run_job(
                    image=self.settings.image or UV_IMAGE,
                    command=self.settings.command(self.storage.repo_id, commit, item),
                    env={"HF_ENDPOINT": constants.ENDPOINT},
                    secrets={"HF_TOKEN": self.storage.token},
                    flavor=self.settings.flavor,
                    timeout=self.settings.seconds,
                    labels={CALL: self._label, ITEM: item},
                    namespace=self.namespace,
                ),
                again=(TOO_MANY,),
                if_lost=False,  # a job whose answer was lost may be running
            )

    def _jobs(self) -> list[JobInfo]:
        """All jobs of this call that the Hub lists, newest first."""
        with reaching_hub("the Hub does not list the jobs"):
            return patiently(lambda: list(client().list_jobs(labels={CALL: self._label}, namespace=self.namespace)))

    def _active(self) -> dict[str, JobInfo]:
        """The jobs that have not ended, by item."""
        return {_item_of(job): job for job in self._jobs() if not _has_ended(job)}

    def _ended(self) -> list[JobInfo]:
        """The running jobs that have ended since."""
        listed = {job.id: job for job in self._jobs()}
        current = [listed.get(job.id) or self._look_at(job) for job in self.running.values()]
        return [job for job in current if _has_ended(job)]

    def _look_at(self, job: JobInfo) -> JobInfo:
        """One job that is not in the list, perhaps because it is new."""
        with reaching_hub(f"the Hub does not find the job {job.url}"):
            return patiently(lambda: client().inspect_job(job_id=job.id, namespace=self.namespace))

    def _reason(self, job: JobInfo) -> str:
        """Why a job has no answer: how it ended, and the last line that it wrote."""
        how = str(job.status.stage)
        if job.status.message:
            how = f"{how}, {one_line(job.status.message)}"
        last = ""
        with contextlib.suppress(Exception):  # logs are of help, but not needed
            logs = client().fetch_job_logs(job_id=job.id, namespace=self.namespace, tail=LINES)
            last = one_line(next(filter(str.strip, reversed(list(logs))), "").strip())
        ending = f", after {last!r}" if last else ""
        return f"its job ended without a result ({how}){ending}: {job.url}"


def _cancel(job_id: str, namespace: str) -> None:
    patiently(lambda: client().cancel_job(job_id=job_id, namespace=namespace))


def _item_of(job: JobInfo) -> str:
    return str((job.labels or {}).get(ITEM))


def _has_ended(job: JobInfo) -> bool:
    return job.status.stage in ENDED
