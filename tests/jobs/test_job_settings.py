"""The command of a job, and what jobs cost at most."""

import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from hf_soup.jobs.settings import JobSettings, job_costs
from hf_soup.version import __version__


def test_a_job_has_the_versions_of_this_machine():
    """Python and each library, because what is pickled here is read there; nothing that only developers need."""
    command = JobSettings().command("a", "b")
    assert command[:4] == ["uv", "run", "--no-project", f"--python={sys.version_info.major}.{sys.version_info.minor}"]
    assert command[-5:] == ["python", "-m", "hf_soup.jobs", "a", "b"]
    requirements = [Requirement(word.removeprefix("--with=")) for word in command if word.startswith("--with=")]
    versions = {requirement.name: str(requirement.specifier) for requirement in requirements}
    assert versions.pop("hf-soup") == f"=={__version__}"
    assert {"torch", "transformers", "datasets", "cloudpickle"} <= set(versions)
    assert not {"ray", "pytest", "mypy", "mkdocs", "hf-soup"} & set(versions)
    for name, version in versions.items():
        assert version == f"=={metadata.version(name).partition('+')[0]}"


def test_hf_soup_can_come_from_elsewhere():
    """From a repository, or in an image, in which nothing is installed."""
    source = "hf-soup @ git+https://github.com/user/hf_soup"
    assert f"--with={source}" in JobSettings(package=source).command()
    assert JobSettings(image="user/soup").command("a") == ["python", "-m", "hf_soup.jobs", "a"]


@pytest.mark.parametrize(("timeout", "seconds"), [("90s", 90), (90, 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400)])
def test_times_are_those_of_the_hub(timeout, seconds):
    """A number of seconds, or with a unit."""
    assert JobSettings(timeout=timeout).seconds == seconds


def test_costs_are_those_of_the_time_limit(hub):
    """The price of the Hub, for as long as all jobs may run."""
    costs = job_costs({"flavor": "t4-small", "timeout": "30m"}, 8)
    assert costs.hourly == pytest.approx(0.40, abs=0.001)
    assert costs.most == pytest.approx(1.60, abs=0.001)
    assert costs.summary() == "8 jobs on t4-small ($0.40 an hour), stopped after 30m: at most $1.60"
    assert job_costs({}, 1).summary().startswith("1 job on cpu-basic ($0.01 an hour)")
    assert job_costs({"flavor": "t4-small"}).summary().endswith("at most $0.20 for each")
