"""Tests of failures between the client and the Hub, step by step: they are retried or reported with advice.

Waits are cut short, and tests look at the requested length.
"""

import itertools
import math

import pytest
from huggingface_hub import HfApi

import hf_soup
from hf_soup import testing
from hf_soup.errors import IngredientError, OutputError


LOG_IN, RIGHTS, BUSY, ASK = "hf auth login", "Your token may not", "The Hub is busy", "is gated: ask for access"
NUMBERS = itertools.count(1000)


@pytest.fixture
def soup(tmp_path):
    """A soup that no other test has pushed, so that all its files have to be uploaded."""
    seeds = [next(NUMBERS), next(NUMBERS)]
    runs = [testing.save_text_model(testing.tiny_text_model(seed), tmp_path / f"run-{seed}") for seed in seeds]
    return hf_soup.merge(runs)


def files(hub, repo_id):
    """The files of a repository; an empty list if it does not exist."""
    repository = hub.store.repositories.get(repo_id)
    return sorted(repository.resolve("main").files) if repository else []


def commits(hub, repo_id):
    """The titles of a repository's commits, except the first, which is empty."""
    return [commit.title for commit in list(hub.store.repositories[repo_id].commits.values())[1:]]


PUSH = [
    # step, fault, message if the fault persists
    ("create", 401, LOG_IN),
    ("create", 403, RIGHTS),
    ("create", 404, "Check the name"),
    ("preupload", 401, LOG_IN),
    ("preupload", 403, RIGHTS),
    ("preupload", "gated", "Access to model is restricted"),
    ("preupload", 404, "Check the name"),
    ("lfs-batch", 403, RIGHTS),
    ("lfs-upload", 403, RIGHTS),
    ("lfs-verify", 404, "Check the name"),
    ("commit", 401, LOG_IN),
    ("commit", 403, RIGHTS),
    ("commit", 404, "Check the name"),
    ("info", 403, RIGHTS),
    *((step, 503, BUSY) for step in ("create", "preupload", "lfs-batch", "lfs-upload", "info", "commit")),
    ("commit", 412, "commit has happened since"),
]
RETRIED = [
    (step, fault)
    for step in ("create", "yaml", "preupload", "lfs-batch", "lfs-upload", "lfs-verify", "commit", "info")
    for fault in (429, 500, 503, "drop")
]


@pytest.mark.parametrize(("step", "fault", "advice"), PUSH)
def test_a_push_that_fails_leaves_everything_as_it_was(faulty, waits, soup, tmp_path, step, fault, advice):
    """A failed push raises an OutputError with advice and changes no file, and a second call succeeds."""
    repo_id = f"{faulty.user}/{tmp_path.name}"
    with faulty.faults.on(step, fault, times=math.inf), pytest.raises(OutputError, match=advice):
        soup.push_to_hub(repo_id)
    assert (step, fault) in faulty.faults.hits
    assert files(faulty, repo_id) in ([], [".gitattributes"])
    assert soup.push_to_hub(repo_id).oid == HfApi().model_info(repo_id).sha
    assert commits(faulty, repo_id) == ["Upload soup"]


@pytest.mark.parametrize(("step", "fault"), RETRIED)
def test_a_push_waits_and_tries_again(faulty, waits, soup, tmp_path, step, fault):
    """If the Hub is busy or drops the connection twice, a third request succeeds, and there is one commit."""
    repo_id = f"{faulty.user}/{tmp_path.name}"
    faulty.faults.add(step, fault, times=2, retry_after=7 if fault == 429 else None)
    soup.push_to_hub(repo_id)
    assert faulty.faults.hits == [(step, fault)] * 2
    assert commits(faulty, repo_id) == ["Upload soup"]
    assert "model.safetensors" in files(faulty, repo_id)
    longest = max(waits)
    assert longest >= 7 if fault == 429 else 2 <= longest <= 8


@pytest.mark.parametrize("fault", ["lost", 412, 409])
def test_a_commit_is_made_once(faulty, waits, soup, tmp_path, fault):
    """If the answer to a commit is lost or another commit came first, the push still makes exactly one commit."""
    repo_id = f"{faulty.user}/{tmp_path.name}"
    faulty.faults.add("commit", fault)
    soup.push_to_hub(repo_id)
    assert faulty.faults.hits == [("commit", fault)]
    assert commits(faulty, repo_id) == ["Upload soup"]


def test_a_race_is_run_again_on_the_new_head(faulty, waits, soup, tmp_path):
    """If another commit comes between reading the head and committing, both commits are kept, in order."""
    repo_id = f"{faulty.user}/{tmp_path.name}"
    HfApi().create_repo(repo_id)
    original, once = faulty.store.repositories[repo_id].commit, []

    def commit(*args, **options):
        if not once:
            once.append(1)
            HfApi().upload_file(repo_id=repo_id, path_or_fileobj=b"theirs", path_in_repo="notes.txt")
        return original(*args, **options)

    faulty.store.repositories[repo_id].commit = commit
    soup.push_to_hub(repo_id)
    assert commits(faulty, repo_id)[1:] == ["Upload soup"]
    assert {"notes.txt", "model.safetensors"} <= set(files(faulty, repo_id))


def test_a_lost_pull_request_is_not_opened_twice(faulty, waits, soup, tmp_path):
    """A commit that opens a pull request is not repeated if its answer is lost, because it would open a second one."""
    repo_id = f"{faulty.user}/{tmp_path.name}"
    faulty.faults.add("commit", "lost")
    with pytest.raises(OutputError, match="did not accept"):
        soup.push_to_hub(repo_id, create_pr=True)
    assert len(faulty.store.repositories[repo_id].commits) == 2
    assert files(faulty, repo_id) == [".gitattributes"]


def test_what_was_sent_is_not_sent_again(faulty, waits, soup, tmp_path):
    """After a failed push, shards already on the Hub are not uploaded again."""
    repo_id = f"{faulty.user}/{tmp_path.name}"
    faulty.faults.add("commit", 403)
    with pytest.raises(OutputError):
        soup.push_to_hub(repo_id, max_shard_size="20KB")
    uploads = [line for line in faulty.log if line.method == "PUT"]
    before = len(faulty.log)
    soup.push_to_hub(repo_id, max_shard_size="20KB")
    assert len(uploads) > 2
    assert [line for line in faulty.log[before:] if line.method == "PUT"] == []


@pytest.fixture
def run(hub, tmp_path):
    """A model on the Hub that is not in the cache, since no other test uses it."""
    folder = testing.save_text_model(testing.tiny_text_model(next(NUMBERS)), tmp_path / "published")
    (folder / "vocab.txt").write_text(f"{next(NUMBERS)}\n")
    repo_id = f"{hub.user}/{tmp_path.name}"
    HfApi().create_repo(repo_id)
    HfApi().upload_folder(repo_id=repo_id, folder_path=folder)
    return repo_id


READ = [
    # step, fault, message if the fault persists
    ("info", 401, LOG_IN),
    ("info", 403, RIGHTS),
    ("tree", 403, RIGHTS),
    ("metadata", "gated", ASK),
    ("download", "gated", ASK),
    ("download", 403, RIGHTS),
    ("download", 404, "404"),
    ("info", 503, BUSY),
    ("tree", 503, BUSY),
    ("metadata", 503, BUSY),
    ("download", 503, BUSY),
    ("download", "corrupt", "other contents than the Hub announced"),
]


@pytest.mark.parametrize(("step", "fault", "advice"), READ)
def test_a_merge_that_fails_can_be_called_again(faulty, waits, run, tmp_path, step, fault, advice):
    """A failed merge raises an error with the repository and advice, and a second call succeeds."""
    with (
        faulty.faults.on(step, fault, times=math.inf),
        pytest.raises(IngredientError, match=advice) as caught,
    ):
        hf_soup.merge([run]).save_pretrained(tmp_path / "soup")
    assert run.rpartition("/")[2] in str(caught.value)
    assert not (tmp_path / "soup").exists()
    assert hf_soup.merge([run]).save_pretrained(tmp_path / "soup").is_dir()


@pytest.mark.parametrize("step", ["info", "tree", "metadata", "download"])
@pytest.mark.parametrize("fault", [429, 500, 503, "drop", "cut"])
def test_a_merge_waits_and_tries_again(faulty, waits, run, tmp_path, step, fault):
    """If the Hub is busy, drops the connection or cuts off an answer, the request is repeated."""
    if (step, fault) == ("metadata", "cut"):
        pytest.skip("nothing is sent that could be cut")
    faulty.faults.add(step, fault, times=2, retry_after=7 if fault == 429 else None)
    folder = hf_soup.merge([run]).save_pretrained(tmp_path / "soup")
    assert faulty.faults.hits == [(step, fault)] * 2
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "published" / "model.safetensors").read_bytes()
    if step != "metadata":  # the client repeats this request at once
        assert max(waits) >= 7 if fault == 429 else waits


@pytest.mark.parametrize("name", ["model.safetensors", "vocab.txt"])
def test_wrong_bytes_are_refused(faulty, waits, run, tmp_path, name):
    """Downloaded bytes of the right length but with the wrong digest raise an IngredientError."""
    stored = faulty.store.repositories[run].resolve("main").files[name]
    match = stored.sha256 if stored.lfs else name
    soup = hf_soup.merge([run]) if stored.lfs else None  # its header is read before the fault
    faulty.faults.add("download", "corrupt", match=match)
    with pytest.raises(IngredientError, match=f"{name} of .* other contents"):
        (soup or hf_soup.merge([run])).save_pretrained(tmp_path / "soup")
    assert faulty.faults.hits == [("download", "corrupt")]
    assert hf_soup.merge([run]).save_pretrained(tmp_path / "soup").is_dir()


def test_a_cut_download_is_repeated(faulty, waits, tmp_path):
    """A download that is cut off is repeated, with a second request, and its file is complete."""
    folder = testing.save_text_model(testing.tiny_text_model(next(NUMBERS), hidden_size=512), tmp_path / "large")
    repo_id = f"{faulty.user}/{tmp_path.name}"
    HfApi().create_repo(repo_id)
    HfApi().upload_folder(repo_id=repo_id, folder_path=folder)
    soup = hf_soup.merge([repo_id])
    digest = faulty.store.repositories[repo_id].resolve("main").files["model.safetensors"].sha256
    faulty.faults.add("download", "cut", match=digest)
    before = len(faulty.log)
    saved = soup.save_pretrained(tmp_path / "soup")
    requests = [line for line in faulty.log[before:] if (line.origin, line.method) == ("cdn", "GET")]
    assert len(requests) == 2
    assert (saved / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("written", "meant"), [("{user}/bert-soop", "{user}/bert-soup"), ("somebody/bert-soup", "{user}/bert-soup")]
)
def test_a_name_that_is_nearly_right(faulty, written, meant):
    """The error for a repository that does not exist suggests existing ones with similar names."""
    HfApi().create_repo(f"{faulty.user}/bert-soup", exist_ok=True)
    written, meant = written.format(user=faulty.user), meant.format(user=faulty.user)
    with pytest.raises(IngredientError, match=f"did you mean .*{meant}"):
        hf_soup.merge([written])


def test_a_gated_model_is_told_as_such(faulty, run):
    """Without access to a gated model the error says to ask for it; with access the model can be merged."""
    theirs = faulty.store.create("somebody/gated")
    mine = faulty.store.repositories[run]
    theirs.commits.update(mine.commits)
    theirs.branches.update(mine.branches)
    theirs.gated = True
    try:
        with pytest.raises(IngredientError, match=ASK):
            hf_soup.merge(["somebody/gated"])
        theirs.granted.add(faulty.user)
        assert hf_soup.merge(["somebody/gated"]).model
    finally:
        del faulty.store.repositories["somebody/gated"]
