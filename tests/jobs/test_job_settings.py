"""The command of a job, and what jobs cost at most."""

import json
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from hf_soup.errors import RecipeError
from hf_soup.jobs import settings
from hf_soup.jobs.settings import JobSettings, job_costs
from hf_soup.version import __version__


def test_a_job_has_the_versions_of_this_machine():
    """Python and each library, because what is pickled here is read there; nothing that only developers need."""
    command = JobSettings(package="hf-soup==1.0").command("a", "b")
    assert command[:4] == ["uv", "run", "--no-project", f"--python={sys.version_info.major}.{sys.version_info.minor}"]
    assert command[-5:] == ["python", "-m", "hf_soup.jobs", "a", "b"]
    requirements = [Requirement(word.removeprefix("--with=")) for word in command if word.startswith("--with=")]
    versions = {requirement.name: str(requirement.specifier) for requirement in requirements}
    assert versions.pop("hf-soup") == "==1.0"
    assert {"torch", "transformers", "datasets", "cloudpickle"} <= set(versions)
    assert not {"ray", "pytest", "mypy", "mkdocs", "matplotlib", "hf-soup"} & set(versions)
    for name, version in versions.items():
        assert version == f"=={metadata.version(name).partition('+')[0]}"


def test_hf_soup_can_come_from_elsewhere():
    """From a repository, or in an image, in which nothing is installed."""
    source = "hf-soup @ git+https://github.com/user/hf_soup"
    assert f"--with={source}" in JobSettings(package=source).command()
    assert JobSettings(image="user/soup").command("a") == ["python", "-m", "hf_soup.jobs", "a"]


@pytest.mark.parametrize(
    ("origin", "requirement"),
    [
        (None, f"hf-soup=={__version__}"),
        (
            {"url": "https://github.com/user/hf_soup", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "hf-soup @ git+https://github.com/user/hf_soup@abc",
        ),
        ({"url": "file:///home/user/hf_soup", "dir_info": {"editable": True}}, None),
    ],
)
def test_jobs_install_what_is_installed_here(monkeypatch, origin, requirement):
    """A release or a commit of a repository; a folder of this machine is refused before anything is started."""
    text = None if origin is None else json.dumps(origin)
    monkeypatch.setattr(metadata.PathDistribution, "read_text", lambda *_: text)
    monkeypatch.setattr(settings, "_is_installed", lambda: True)
    monkeypatch.setattr(settings, "_same_libraries", lambda: ())
    if requirement is None:
        with pytest.raises(RecipeError, match="from a folder of this machine"):
            JobSettings().command()
    else:
        assert f"--with={requirement}" in JobSettings().command()


@pytest.mark.parametrize(("timeout", "seconds"), [("90s", 90), (90, 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400)])
def test_times_are_those_of_the_hub(timeout, seconds):
    """A number of seconds, or with a unit."""
    assert JobSettings(timeout=timeout).seconds == seconds


def test_costs_are_those_of_the_time_limit(hub):
    """The price of the Hub, for as long as all jobs may run."""
    costs = job_costs({"flavor": "t4-small", "timeout": "30m", "image": "soup"}, 8)
    assert costs.hourly == pytest.approx(0.40, abs=0.001)
    assert costs.most == pytest.approx(1.60, abs=0.001)
    assert costs.summary() == "8 jobs on t4-small ($0.40 an hour), stopped after 30m: at most $1.60"
    one = job_costs({"timeout": 900, "image": "soup"}, 1)
    assert one.summary() == "1 job on cpu-basic ($0.01 an hour), stopped after 900 s: at most $0.01"
    of_each = job_costs({"flavor": "t4-small", "timeout": "1h", "image": "soup"})
    assert of_each.summary().endswith("at most $0.40 for each")
