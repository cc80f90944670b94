"""A function is called in Hugging Face Jobs, which a Hub on loopback runs as processes."""

import contextlib
import time
import warnings

import pytest
from hub import Reply
from huggingface_hub import HfApi

from hf_soup.errors import DataError, OutputError, RecipeError, SoupError, SoupWarning
from hf_soup.jobs import running
from hf_soup.jobs.settings import versions_here
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


def in_jobs(function, items, *, key=None, **resources):
    """The results in the order of the items, in an image in which hf_soup is installed."""
    resources = {"image": "soup", **resources}
    return [result for _, result in sorted(run_all(function, items, executor="jobs", resources=resources, key=key))]


def test_each_item_is_processed_in_a_job_of_its_own(hub, jobs, monkeypatch):
    """Results belong to their places; at most `n_jobs` run at once; nothing is left behind."""
    at_once, start = [], jobs.start

    def counted(*args):
        at_once.append(sum(job.stage in ("SCHEDULING", "RUNNING") for job in jobs.all.values()) + 1)
        return start(*args)

    def tell(item):
        import os

        return item * 2, os.getpid()

    monkeypatch.setattr(jobs, "start", counted)
    results = in_jobs(tell, ["a", "b", "a"], n_jobs=2, flavor="t4-small", timeout="90s")
    assert [double for double, _ in results] == ["aa", "bb", "aa"]
    assert len({process for _, process in results}) == 3
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
    resources = {"timeout": "4s", "image": "soup"}
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

    results = run_all(wait, [0, 1, 2], executor="jobs", resources={"image": "soup"})
    assert next(results) == (0, None)
    results.close()
    assert sorted(job.stage for job in jobs.all.values()) == ["CANCELED", "CANCELED", "COMPLETED"]
    assert repositories(hub) == []


@pytest.fixture
def double_here():
    """A function that is pickled with its code."""

    def double(item):
        return item * 2

    return double


def listing_fails(hub, jobs, *, status=500):
    """A lie: once jobs are there, the Hub does not list them."""

    def lie(request, reply):
        if request.path == f"/api/jobs/{hub.user}" and request.method == "GET" and jobs.all:
            return Reply(status)
        return reply

    return lie


def test_jobs_keep_running_if_the_hub_is_away(hub, jobs, waits, monkeypatch, double_here):
    """The error says so; a call with the same key waits for those jobs, takes their answers, and starts no others."""
    monkeypatch.setattr(running, "AWAY", 0)
    jobs.hold.clear()
    with (
        hub.lying(listing_fails(hub, jobs)),
        pytest.raises(OutputError, match="keep running: the same call waits for them"),
    ):
        in_jobs(double_here, ["a", "b", "c"], key="work")
    assert len(jobs.all) == 3
    assert len(repositories(hub)) == 1
    jobs.hold.set()
    first = next(iter(jobs.all.values()))
    until = time.monotonic() + 60
    while first.stage != "COMPLETED" and time.monotonic() < until:  # before the call
        pass
    assert in_jobs(double_here, ["b", "a", "d"], key="work") == ["bb", "aa", "dd"]
    assert len(jobs.all) == 4
    assert repositories(hub) == []


def test_jobs_of_other_items_keep_their_repository(hub, jobs, waits, monkeypatch, double_here):
    """A call with fewer items, or none, leaves what the jobs of an earlier one need, and tells of them."""
    monkeypatch.setattr(running, "AWAY", 0)
    jobs.hold.clear()
    with hub.lying(listing_fails(hub, jobs)), pytest.raises(OutputError, match="keep running"):
        in_jobs(double_here, ["a"], key="fewer")
    with pytest.warns(SoupWarning, match="1 jobs of an earlier call are still running"):
        assert in_jobs(double_here, [], key="fewer") == []
    assert len(repositories(hub)) == 1
    jobs.hold.set()
    assert in_jobs(double_here, ["a"], key="fewer") == ["aa"]
    assert len(jobs.all) == 1
    assert repositories(hub) == []


def test_jobs_that_no_call_would_find_are_cancelled(hub, jobs, waits, monkeypatch, double_here):
    """If the Hub is away for too long, those without a key would run to their end for nothing."""
    monkeypatch.setattr(running, "AWAY", 0)
    jobs.hold.clear()
    lie, failures = listing_fails(hub, jobs), []

    def fail_for_a_while(request, reply):
        answer = lie(request, reply)
        failures.extend([request] * (answer.status == 500))
        return answer if len(failures) < 40 else reply

    with hub.lying(fail_for_a_while), warnings.catch_warnings():
        warnings.simplefilter("ignore", SoupWarning)  # the list of jobs may still fail
        with pytest.raises(OutputError) as caught:
            in_jobs(double_here, ["a", "b"])
    assert "the same call" not in str(caught.value)
    assert [job.stage for job in jobs.all.values()] == ["CANCELED", "CANCELED"]
    assert repositories(hub) == []


def test_an_outage_is_waited_out(hub, jobs, waits, double_here):
    """A Hub that does not answer for a while does not end the call."""
    lie, failures = listing_fails(hub, jobs), []

    def fail_first(request, reply):
        answer = lie(request, reply)
        if answer.status == 500 and len(failures) < 12:
            failures.append(request)
            return answer
        return reply

    with hub.lying(fail_first):
        assert in_jobs(double_here, ["a"]) == ["aa"]
    assert len(failures) == 12


def test_a_refusal_ends_the_call_and_the_jobs(hub, jobs, double_here):
    """Such as that of a token, which no other attempt changes."""
    jobs.hold.clear()
    with (
        hub.lying(listing_fails(hub, jobs, status=403)),
        pytest.warns(SoupWarning, match="may be running, and cost money"),
        pytest.raises(OutputError, match="may not do this"),
    ):
        in_jobs(double_here, ["a", "b"])
    assert [job.stage for job in jobs.all.values()] == ["CANCELED", "CANCELED"]
    assert repositories(hub) == []


def test_a_job_whose_start_is_uncertain_is_not_started_twice(hub, jobs, waits, double_here):
    """If the answer is lost, the call looks whether the job is there."""
    lost = []

    def lose_answer(request, reply):
        if request.path == f"/api/jobs/{hub.user}" and request.method == "POST" and not lost:
            lost.append(request)
            return Reply(502)
        return reply

    with hub.lying(lose_answer):
        assert in_jobs(double_here, ["a", "b"]) == ["aa", "bb"]
    assert len(lost) == 1
    assert len(jobs.all) == 2


def test_answers_of_many_jobs_are_written_in_turn(hub, jobs, monkeypatch, double_here):
    """A repository takes one commit at a time: others are refused, and repeated by the job."""
    start = jobs.start

    def refuse_commits(*args):
        if not jobs.all:
            hub.faults.add("commit", 409, times=4, match="hf-soup-jobs")
        return start(*args)

    monkeypatch.setattr(jobs, "start", refuse_commits)
    assert in_jobs(double_here, ["a", "b"]) == ["aa", "bb"]
    assert hub.faults.hits.count(("commit", 409)) == 4


def test_a_job_with_other_libraries_says_so(hub, jobs, monkeypatch, double_here):
    """Values are pickled between them, so nothing is called."""
    versions = {**versions_here(), "Python": "3.0", "torch": "1.0"}
    monkeypatch.setattr("hf_soup.jobs.storage.versions_here", lambda: versions)
    with pytest.raises(RecipeError, match=r"Python 3\.\d+ instead of 3\.0, torch .* instead of 1\.0"):
        in_jobs(double_here, ["a"])


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


def test_a_public_repository_is_not_used(hub, jobs, double_here):
    """What jobs read, such as private data, is not published in a repository that happens to be there."""
    commits = []

    def make_public(request, reply):
        if request.path == "/api/repos/create":
            for name in repositories(hub):
                hub.store.repositories[name].private = False
        commits.extend([request] * ("/commit/" in request.path))
        return reply

    with hub.lying(make_public), pytest.raises(OutputError, match="is public"):
        in_jobs(double_here, ["a"])
    assert not commits
    assert not jobs.all
    assert repositories(hub) == []  # which this call had made


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"flavour": "t4-small"}, 'no setting "flavour"; did you mean "flavor"'),
        ({"flavor": "t4-smal"}, 'no flavor "t4-smal" .*; did you mean "t4-small"'),
        ({"timeout": "soon"}, 'timeout is a time such as "90m"'),
        ({"timeout": 0}, 'timeout is a time such as "90m"'),
        ({"timeout": "0.5s"}, 'timeout is a time such as "90m"'),
        ({"n_jobs": 0}, "1 or more"),
    ],
)
def test_wrong_resources_are_refused(resources, message):
    """Before anything is started, with what is known."""
    with pytest.raises(RecipeError, match=message):
        check_executor("jobs", {"image": "soup", **resources})


def test_jobs_need_a_login(monkeypatch):
    """Without a token nothing can be started."""
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(OutputError, match="hf auth login"):
        check_executor("jobs")


def test_what_cannot_be_sent_is_refused(hub):
    """Before a repository is made."""
    import threading

    lock = threading.Lock()

    def hold(item):
        return lock

    created = len(hub.log)
    with pytest.raises(RecipeError, match="cannot be sent"):
        in_jobs(hold, ["a"])
    assert not [exchange for exchange in hub.log[created:] if exchange.path == "/api/repos/create"]
