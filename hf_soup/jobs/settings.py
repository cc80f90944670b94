"""What a job runs on, for how long, and what it costs at most."""

from __future__ import annotations

import json
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement

from ..checkpoints.hub_errors import client, patiently, read_errors
from ..errors import RecipeError, did_you_mean
from ..version import __version__


if TYPE_CHECKING:
    from huggingface_hub import JobHardwareInfo

UV_IMAGE = "ghcr.io/astral-sh/uv:python3.12-bookworm"  # that of `hf jobs uv run`; uv installs other Pythons itself
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}  # seconds
DURATION = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>[smhd]?)")
PERIODS = {"second": 3600, "minute": 60, "hour": 1}  # in an hour
NOT_IN_JOBS = ("bench", "dev", "docs", "plot", "ray", "s3", "search")  # extras of this package


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """How jobs run, the `resources` of `executor="jobs"`.

    Args:
        flavor (`str`, *optional*, defaults to `"cpu-basic"`):
            Hardware of a job, as `hf jobs hardware` lists it.
        timeout (`int` or `str`, *optional*, defaults to `"30m"`):
            Time after which a job is stopped: seconds, or a number with `s`, `m`, `h` or `d`.
        n_jobs (`int`, *optional*, defaults to 8):
            Number of jobs at a time.
        namespace (`str`, *optional*):
            User or organization that runs the jobs and keeps their files; by default the user.
        image (`str`, *optional*):
            Docker image, or Space (`hf.co/spaces/user/name`), in which hf_soup is installed, with the same versions of
            Python and of the libraries as here. By default an image with uv, which installs them.
        package (`str`, *optional*):
            Requirement by which uv installs hf_soup, such as `hf-soup @ git+https://...`; by default what is installed
            here, if that is a release or a commit of a repository.
    """

    flavor: str = "cpu-basic"
    timeout: int | str = "30m"
    n_jobs: int = 8
    namespace: str | None = None
    image: str | None = None
    package: str | None = None

    @property
    def seconds(self) -> int:
        """The time-out in seconds.

        Raises:
            [`RecipeError`]: if it is none.
        """
        match = DURATION.fullmatch(str(self.timeout))
        seconds = 0 if match is None else int(float(match["number"]) * UNITS[match["unit"] or "s"])
        if seconds < 1:
            raise RecipeError(f'resources: timeout is a time such as "90m" or "2h", not {self.timeout!r}.')
        return seconds

    def command(self, *arguments: str) -> list[str]:
        """The command of a job: the part of this package that runs in jobs, with the libraries it needs.

        Raises:
            [`RecipeError`]: if uv cannot install what is installed here.
        """
        run = ["python", "-m", "hf_soup.jobs", *arguments]
        if self.image is not None:
            return run
        packages = [f"--with={name}" for name in (self.package or _this_package(), *_same_libraries())]
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return ["uv", "run", "--no-project", f"--python={version}", *packages, *run]


@dataclass(frozen=True)
class JobCosts:
    """What jobs cost at most, since each is stopped after its time-out.

    Args:
        settings ([`JobSettings`]):
            How they run.
        hourly (`float`):
            Price of one of them in US dollars an hour.
        count (`int`, *optional*):
            Number of jobs, if it is known.
    """

    settings: JobSettings
    hourly: float
    count: int | None = None

    @property
    def most(self) -> float:
        """The price of all of them in US dollars, or of one of them if their number is not known."""
        return self.hourly * self.settings.seconds / 3600 * (1 if self.count is None else self.count)

    def summary(self) -> str:
        """The jobs and their price in one line."""
        timeout = self.settings.timeout if isinstance(self.settings.timeout, str) else f"{self.settings.timeout} s"
        of_each = f"on {self.settings.flavor} (${self.hourly:.2f} an hour), stopped after {timeout}"
        most = f"at most ${max(self.most, 0.01):.2f}"
        if self.count is None:
            return f"each trial is a job {of_each}: {most} for each"
        jobs = "1 job" if self.count == 1 else f"{self.count} jobs"
        return f"{jobs} {of_each}: {most}"

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON types."""
        return {
            "flavor": self.settings.flavor,
            "timeout": self.settings.seconds,
            "usd_per_hour": self.hourly,
            "jobs": self.count,
            "usd_at_most": self.most,
        }


def job_settings(resources: Mapping[str, Any] | None) -> JobSettings:
    """Settings from the `resources` of a call.

    Raises:
        [`RecipeError`]: if there is no setting of a name, or a value is wrong.
    """
    known = [item.name for item in fields(JobSettings)]
    for name in resources or {}:
        if name not in known:
            raise RecipeError(f'resources: jobs have no setting "{name}"{did_you_mean(name, known)}')
    settings = JobSettings(**(resources or {}))
    _ = settings.seconds, settings.command()  # raise errors
    if not isinstance(settings.n_jobs, int) or settings.n_jobs < 1:
        raise RecipeError(f"resources: n_jobs is a number of jobs, 1 or more, not {settings.n_jobs!r}.")
    return settings


def job_costs(resources: Mapping[str, Any] | None, count: int | None = None) -> JobCosts:
    """What jobs cost at most, by the prices that the Hub tells.

    Args:
        resources (`Mapping[str, Any]`, *optional*):
            Settings of the jobs.
        count (`int`, *optional*):
            Number of jobs, if it is known.

    Raises:
        [`RecipeError`]: if a setting is wrong, the Hub has no such flavor, or does not answer.
    """
    settings = job_settings(resources)
    with read_errors(RecipeError, "the hardware of jobs cannot be listed"):
        hardware = {item.name: item for item in patiently(client().list_jobs_hardware)}
    if settings.flavor not in hardware:
        raise RecipeError(
            f'resources: there is no flavor "{settings.flavor}" among those that `hf jobs hardware` lists'
            f"{did_you_mean(settings.flavor, hardware)}"
        )
    return JobCosts(settings, _hourly(hardware[settings.flavor]), count)


def _hourly(hardware: JobHardwareInfo) -> float:
    """The price of hardware in US dollars an hour."""
    if hardware.unit_label not in PERIODS:
        raise RecipeError(f"the Hub tells the price of {hardware.name} by the {hardware.unit_label}.")
    return hardware.unit_cost_usd * PERIODS[hardware.unit_label]


def _this_package() -> str:
    """The requirement by which others install what is installed here.

    Raises:
        [`RecipeError`]: if it was installed from a folder, which nobody else has.
    """
    found = [distribution.read_text("direct_url.json") for distribution in metadata.distributions(name="hf-soup")]
    origin = json.loads(next(filter(None, found), "{}"))  # PEP 610
    if not origin and _is_installed():  # from a registry
        return f"hf-soup=={__version__}"
    commit = origin.get("vcs_info", {}).get("commit_id")
    if commit is None:
        raise RecipeError(
            "hf_soup was installed from a folder of this machine, which jobs do not have. Name a requirement "
            '(resources={"package": "hf-soup @ git+https://..."}) or an image in which it is installed '
            '(resources={"image": ...}).'
        )
    return f"hf-soup @ {origin['vcs_info']['vcs']}+{origin['url']}@{commit}"


def _is_installed() -> bool:
    """Whether this package lies where packages are installed, and not in a folder with its source."""
    here = Path(__file__)
    return any(here.is_relative_to(sysconfig.get_path(kind)) for kind in ("purelib", "platlib"))


def _same_libraries() -> Iterator[str]:
    """The libraries of this package, in the versions that are installed here: what is pickled belongs to them."""
    distribution = metadata.distribution("hf-soup")
    extras = [name for name in distribution.metadata.get_all("Provides-Extra") or () if name not in NOT_IN_JOBS]
    names: dict[str, None] = {}  # unique, in order
    for requirement in map(Requirement, distribution.requires or ()):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            names[requirement.name] = None
    for name in names:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:  # an extra that is not installed
            continue
        yield f"{name}=={version.partition('+')[0]}"  # without a local version, such as torch's for CPUs


def versions_here() -> dict[str, str]:
    """The versions that a job has to share with this machine, because values are pickled between them."""
    libraries = ("hf-soup", "torch", "transformers", "datasets", "numpy")
    return {
        "Python": f"{sys.version_info.major}.{sys.version_info.minor}",
        **{name: metadata.version(name).partition("+")[0] for name in libraries},
    }
