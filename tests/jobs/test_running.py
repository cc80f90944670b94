"""A function is called in Hugging Face Jobs, which a Hub on loopback runs as processes."""

import contextlib
import time

import pytest
from huggingface_hub import HfApi

from hf_soup.errors import DataError, OutputError, RecipeError, SoupError
from hf_soup.jobs import running
from hf_soup.parallel import check_executor, run_all


@pytest.fixture(autouse=True)
def jobs(faulty, monkeypatch):
    """The jobs of the local Hub, of which none is there before; they are looked at ten times a second."""
    monkeypatch.setattr(running, "POLL", 0.1)
    faulty.jobs.all.clear()
    yield faulty.jobs
    faulty.jobs.hold.set()
    faulty.jobs.stop()


def repositories(hub):
    """The repositories of jobs that exist."""
    return [name for name in hub.store.repositories if "hf-soup-jobs" in name]


def in_jobs(function, items, **resources):
    """The results in the order of the items."""
    return [result for _, result in sorted(run_all(function, items, executor="jobs", resources=resources))]


def test_each_item_is_processed_in_a_job_of_its_own(hub, jobs, monkeypatch):
    """Results, also of equal items, belong to their places; at most `n_jobs` run at once; nothing is left behind."""
    at_once, start = [], jobs.start

    def counted(*args):
        at_once.append(sum(job.stage in ("SCHEDULING", "RUNNING") for job in jobs.all.values()) + 1)
        return start(*args)

    def tell(item):
        import os

        return item * 2, os.getpid()

    monkeypatch.setattr(jobs, "start", counted)
    results = in_jobs(tell, ["a", "b", "a", "c"], n_jobs=2, flavor="t4-small", timeout="90s")
    assert [double for double, _ in results] == ["aa", "bb", "aa", "cc"]
    assert len({process for _, process in results}) == 3  # the equal items share a job
    assert max(at_once) == 2
    assert repositories(hub) == []
    for job in jobs.all.values():
        assert job.stage == "COMPLETED"
        assert job.spec["flavor"] == "t4-small"
        assert job.spec["timeoutSeconds"] == 90
        assert hub.token not in str(job.described())  # it is a secret of the job


def test_an_error_in_a_job_is_raised_here_and_ends_the_others(hub, jobs):
    """As without jobs: its class and text; jobs that run are cancelled, and their files are deleted."""

    def fail(item):
        import time

        if item == "slow":
            time.sleep(60)
        raise DataError(f"{item} is no good")

    with pytest.raises(DataError, match=r"^fast is no good$"):
        in_jobs(fail, ["slow", "fast"])
    assert sorted(job.stage for job in jobs.all.values()) == ["CANCELED", "ERROR"]
    assert repositories(hub) == []


def test_an_error_that_cannot_be_pickled_is_told(jobs):
    """Its class and text are raised as an error of this package."""

    def fail(item):
        import threading

        raise ValueError("no good", threading.Lock())

    with pytest.raises(SoupError, match=r"ValueError: .'no good'"):
        in_jobs(fail, ["a"])


def test_a_job_that_dies_or_takes_too_long_is_lost(jobs):
    """The reason tells how the job ended, what it wrote last, and where it is; others are not affected."""

    def end(item):
        import os
        import time

        print(f"working on {item}", flush=True)
        if item == "dies":
            os._exit(3)
        if item == "sleeps":
            time.sleep(60)
        return item

    items = ["dies", "sleeps", "works"]
    resources = {"timeout": "4s"}
    with contextlib.closing(
        run_all(end, items, executor="jobs", resources=resources, lost=lambda item, reason: (item, reason))
    ) as results:
        answers = dict(results)
    assert answers[2] == "works"
    (died, why), (slept, how) = answers[0], answers[1]
    assert (died, slept) == ("dies", "sleeps")
    assert why.startswith(
        "its job ended without a result (ERROR, Job failed with exit code: 3), after 'working on dies'"
    )
    assert how.startswith("its job ended without a result (ERROR, Job timeout), after 'working on sleeps'")
    assert "/jobs/tester/" in why
    with pytest.raises(SoupError, match="exit code: 3"):
        in_jobs(end, ["dies"])


def test_a_caller_that_stops_early_cancels_the_jobs(hub, jobs):
    """No job is left that costs money."""

    def wait(item):
        import time

        time.sleep(60 if item else 0)

    results = run_all(wait, [0, 1, 2], executor="jobs")
    assert next(results) == (0, None)
    results.close()
    assert sorted(job.stage for job in jobs.all.values()) == ["CANCELED", "CANCELED", "COMPLETED"]
    assert repositories(hub) == []


def test_jobs_go_on_if_the_hub_is_away(hub, jobs, waits):
    """The error says so; the same call waits for the jobs that run, takes answers that are there, and starts none."""

    def double(item):
        return item * 2

    jobs.hold.clear()
    results = run_all(double, ["a", "b"], executor="jobs")
    listing = f"/api/jobs/{hub.user}"

    def refuse_listing_of_running(request, reply):
        from hub import Reply

        return Reply(500) if request.path == listing and request.method == "GET" and jobs.all else reply

    with hub.lying(refuse_listing_of_running), pytest.raises(OutputError, match="the same call waits for them"):
        next(results)
    assert len(jobs.all) == 2
    assert len(repositories(hub)) == 1
    jobs.hold.set()
    first = next(iter(jobs.all.values()))
    until = time.monotonic() + 60
    while first.stage != "COMPLETED" and time.monotonic() < until:  # before the call
        pass
    assert in_jobs(double, ["a", "b"]) == ["aa", "bb"]
    assert len(jobs.all) == 2
    assert repositories(hub) == []


def test_an_answer_of_another_kind_ends_the_call(hub, jobs, monkeypatch):
    """Whoever can write to the repository cannot make this machine run anything."""
    start = jobs.start

    def answer_first(*args):
        api, (name,) = HfApi(), [repo.removeprefix("datasets/") for repo in repositories(hub)]
        (item,) = [path for path in api.list_repo_files(name, repo_type="dataset") if path.startswith("items/")]
        attack = b"cos\nsystem\n(S'false'\ntR."
        path = item.replace("items", "answers")
        api.upload_file(path_or_fileobj=attack, path_in_repo=path, repo_id=name, repo_type="dataset")
        return start(*args)

    def die(item):
        import os

        os._exit(1)

    monkeypatch.setattr(jobs, "start", answer_first)
    with pytest.raises(OutputError, match=r"system is not read"):
        in_jobs(die, ["a"])
    assert repositories(hub) == []


def test_a_public_repository_is_not_used(hub, jobs):
    """What jobs read, such as private data, is not published in a repository that happens to be there."""

    def double(item):
        return item * 2

    def make_public(request, reply):
        if request.path == "/api/repos/create":
            for name in repositories(hub):
                hub.store.repositories[name].private = False
        return reply

    with hub.lying(make_public), pytest.raises(OutputError, match="is public"):
        in_jobs(double, ["a"])
    HfApi().delete_repo(repositories(hub)[0].removeprefix("datasets/"), repo_type="dataset")


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"flavour": "t4-small"}, 'no setting "flavour"; did you mean "flavor"'),
        ({"flavor": "t4-smal"}, 'no flavor "t4-smal" .*; did you mean "t4-small"'),
        ({"timeout": "soon"}, 'timeout is a time such as "90m"'),
        ({"timeout": 0}, "more than nothing"),
        ({"n_jobs": 0}, "1 or more"),
    ],
)
def test_wrong_resources_are_refused(resources, message):
    """Before anything is started, with what is known."""
    with pytest.raises(RecipeError, match=message):
        check_executor("jobs", resources)


def test_jobs_need_a_login(monkeypatch):
    """Without a token nothing can be started."""
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(OutputError, match="hf auth login"):
        check_executor("jobs")


def test_what_cannot_be_sent_is_refused():
    """Before a repository is made."""
    import threading

    lock = threading.Lock()

    def hold(item):
        return lock

    with pytest.raises(RecipeError, match="cannot be sent to a job"):
        in_jobs(hold, ["a"])
