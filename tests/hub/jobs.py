"""Routes for Jobs, which really run: each is a process of this machine, in a folder of its own and with its own cache.

Its image is this Python with what is installed here; what `uv run` would install is ignored. There are no volumes,
schedules, ports or metrics. A job ends with the hub.
"""

import os
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .access import User, check_namespace, require_user
from .environment import environment
from .errors import error_reply
from .wire import Reply, Request, json_reply


if TYPE_CHECKING:
    from . import HubServer


HARDWARE = (  # as the Hub lists it, with two of its flavors
    {
        "name": "cpu-basic",
        "prettyName": "CPU Basic",
        "cpu": "2 vCPU",
        "ram": "16 GB",
        "ephemeralStorage": "20 GB",
        "accelerator": None,
        "unitCostMicroUSD": 167,
        "unitCostUSD": 0.000167,
        "unitLabel": "minute",
    },
    {
        "name": "t4-small",
        "prettyName": "Nvidia T4 - small",
        "cpu": "4 vCPU",
        "ram": "15 GB",
        "ephemeralStorage": "50 GB",
        "accelerator": {"type": "gpu", "model": "T4", "quantity": "1", "vram": "16 GB", "manufacturer": "Nvidia"},
        "unitCostMicroUSD": 6667,
        "unitCostUSD": 0.006667,
        "unitLabel": "minute",
    },
)
LONGEST = 120.0  # seconds after which any job is ended, so that none outlives a test


@dataclass
class Job:
    """A job and its process."""

    id: str
    namespace: str
    spec: Mapping[str, Any]
    folder: tempfile.TemporaryDirectory
    stage: str = "SCHEDULING"
    message: str | None = None
    lines: list[str] = field(default_factory=list)
    process: subprocess.Popen | None = None

    def described(self) -> dict[str, Any]:
        """The job as the Hub describes it, without its secrets."""
        return {
            "id": self.id,
            "createdAt": "2026-01-01T00:00:00.000Z",
            "dockerImage": self.spec.get("dockerImage"),
            "spaceId": self.spec.get("spaceId"),
            "owner": {"id": self.namespace, "name": self.namespace, "type": "user"},
            "command": self.spec["command"],
            "environment": self.spec.get("environment", {}),
            "flavor": self.spec["flavor"],
            "labels": self.spec.get("labels", {}),
            "status": {"stage": self.stage, "message": self.message},
        }


class Jobs:
    """All jobs, in the order in which they were started; `hold` keeps new ones from starting."""

    def __init__(self) -> None:
        self.all: dict[str, Job] = {}
        self.hold = threading.Event()
        self.hold.set()  # until a test clears it

    def start(self, hub: "HubServer", namespace: str, spec: Mapping[str, Any]) -> Job:
        """Start the process of a job in a thread."""
        job = Job(uuid.uuid4().hex[:24], namespace, spec, tempfile.TemporaryDirectory())
        self.all[job.id] = job
        threading.Thread(target=self._run, args=(hub, job), daemon=True).start()
        return job

    def _run(self, hub: "HubServer", job: Job) -> None:
        self.hold.wait(LONGEST)
        if job.stage != "SCHEDULING":  # cancelled before it ran
            return
        command = list(job.spec["command"])
        if command[:2] == ["uv", "run"]:
            command = command[command.index("python") :]
        command = [sys.executable if word == "python" else word for word in command]
        home = Path(job.folder.name)
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        given = {**environment(hub, home / "cache"), **job.spec.get("environment", {}), **job.spec.get("secrets", {})}
        work = home / "work"
        work.mkdir()
        job.stage = "RUNNING"
        job.process = subprocess.Popen(
            command,
            cwd=work,
            env={**inherited, **given, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        timer = threading.Timer(min(job.spec.get("timeoutSeconds", LONGEST), LONGEST), self._time_out, (job,))
        timer.start()
        job.lines.extend(job.process.stdout or ())
        status = job.process.wait()
        timer.cancel()
        if job.stage == "RUNNING":
            job.stage = "COMPLETED" if status == 0 else "ERROR"
            job.message = None if status == 0 else f"Job failed with exit code: {status}"
        job.folder.cleanup()

    def _time_out(self, job: Job) -> None:
        job.stage, job.message = "ERROR", "Job timeout"
        self._end(job)

    def cancel(self, job: Job) -> None:
        """Cancel a job that has not ended."""
        if job.stage in ("SCHEDULING", "RUNNING"):
            job.stage = "CANCELED"
            self._end(job)

    def _end(self, job: Job) -> None:
        if job.process is not None:
            job.process.kill()

    def stop(self) -> None:
        """End all processes."""
        for job in self.all.values():
            self.cancel(job)


def hardware(hub: "HubServer", user: User | None, request: Request) -> Reply:
    """The flavors and their prices."""
    return json_reply(HARDWARE)


def start(hub: "HubServer", user: User | None, request: Request, namespace: str) -> Reply:
    """Start a job."""
    check_namespace(require_user(user), namespace, "start a job")
    spec = request.json()
    if spec["flavor"] not in {item["name"] for item in HARDWARE}:
        return error_reply(400, f"Invalid flavor: {spec['flavor']}")
    return json_reply(hub.jobs.start(hub, namespace, spec).described())


def listing(hub: "HubServer", user: User | None, request: Request, namespace: str) -> Reply:
    """The jobs with all the labels that the request names, newest first."""
    check_namespace(require_user(user), namespace, "list jobs")
    labels = dict(label.split("=", 1) for label in request.query.get("label", []))
    found = []
    for job in reversed(hub.jobs.all.values()):
        if job.namespace == namespace and labels.items() <= job.spec.get("labels", {}).items():
            found.append(job.described())
    return json_reply(found)


def inspect(hub: "HubServer", user: User | None, request: Request, namespace: str, job_id: str) -> Reply:
    """One job."""
    check_namespace(require_user(user), namespace, "see a job")
    job = hub.jobs.all.get(job_id)
    return error_reply(404, "Job not found") if job is None else json_reply(job.described())


def logs(hub: "HubServer", user: User | None, request: Request, namespace: str, job_id: str) -> Reply:
    """What a job has written, as events."""
    check_namespace(require_user(user), namespace, "see a job")
    events = []
    for line in hub.jobs.all[job_id].lines:
        events.append({"data": line.rstrip("\n"), "timestamp": "2026-01-01T00:00:00.000Z"})
    body = "".join(f"data: {json_reply(event).body.decode()}\n\n" for event in events)
    return Reply(200, body.encode(), {"Content-Type": "text/event-stream"})


def cancel(hub: "HubServer", user: User | None, request: Request, namespace: str, job_id: str) -> Reply:
    """Cancel a job."""
    check_namespace(require_user(user), namespace, "cancel a job")
    hub.jobs.cancel(hub.jobs.all[job_id])
    return json_reply({})
