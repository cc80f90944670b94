"""Tests of faults of the test Hub: requests of the real client fail where, how and as often as requested.

Reactions of the client are tested only where they show what the server did.
"""

import hashlib
import json
import math
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hub import HubServer
from hub.faults import KINDS, MESSAGES, STEPS
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import http_backoff


REPO = "tester/faulty"
WEIGHTS = bytes(range(256)) * 400


@pytest.fixture(autouse=True)
def repository(hub: HubServer) -> Iterator[None]:
    """A model with a small file and an LFS file, without faults before or after the test."""
    HfApi().create_repo(REPO, exist_ok=True)
    add = [CommitOperationAdd("config.json", b'{"a": 1}'), CommitOperationAdd("model.safetensors", WEIGHTS)]
    HfApi().create_commit(REPO, add, commit_message="files")
    hub.faults.clear()
    yield
    hub.faults.clear()


def commit(name: str, content: bytes) -> str:
    """Commit one file; returns the id of the commit."""
    change = CommitOperationAdd(name, content)
    return HfApi().create_commit(REPO, [change], commit_message=f"add {name}").oid


def ask(method: str, url: str, body: bytes | None = None) -> tuple[int, bytes]:
    """The status and the body of a plain request with the token."""
    headers = {"Authorization": "Bearer hf_loopback"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method)) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def calls(hub: HubServer) -> dict[str, Callable[[], object]]:
    """A request for each step, without the client's own retries."""
    api, oid = f"{hub.url}/api/models/{REPO}", hashlib.sha256(WEIGHTS).hexdigest()
    files = json.dumps({"files": []}).encode()
    change = b'{"key": "header", "value": {"summary": "nothing"}}\n'
    return {
        "whoami": partial(ask, "GET", f"{hub.url}/api/whoami-v2"),
        "create": partial(ask, "POST", f"{hub.url}/api/repos/create", b'{"name": "made"}'),
        "yaml": partial(ask, "POST", f"{hub.url}/api/validate-yaml", b'{"content": ""}'),
        "preupload": partial(ask, "POST", f"{api}/preupload/main", files),
        "lfs-batch": partial(ask, "POST", f"{hub.url}/{REPO}.git/info/lfs/objects/batch", b'{"objects": []}'),
        "lfs-upload": partial(ask, "PUT", f"{hub.cdn_url}/{oid}", WEIGHTS),
        "lfs-verify": partial(ask, "POST", f"{hub.url}/{REPO}.git/info/lfs/objects/verify", b'{"oid": "", "size": 0}'),
        "lfs-complete": partial(ask, "POST", f"{hub.url}/api/complete_multipart", b'{"oid": "", "parts": []}'),
        "commit": partial(ask, "POST", f"{api}/commit/main", change),
        "info": partial(ask, "GET", f"{api}/revision/main"),
        "tree": partial(ask, "GET", f"{api}/tree/main"),
        "list": partial(ask, "GET", f"{hub.url}/api/models"),
        "metadata": partial(ask, "HEAD", f"{hub.url}/{REPO}/resolve/main/config.json"),
        "download": partial(ask, "GET", f"{hub.url}/{REPO}/resolve/main/config.json"),
    }


@pytest.mark.parametrize("step", STEPS)
def test_every_step_can_fail(hub: HubServer, step: str) -> None:
    """The next requests of a step fail the given number of times, while other steps work, and then succeed."""
    requests = calls(hub)
    before = requests[step]()[0]
    hub.faults.add(step, 503, times=2)
    others = [requests[other]()[0] for other in STEPS if other != step]
    assert 503 not in others
    assert [requests[step]()[0] for _ in range(3)] == [503, 503, before]
    assert hub.faults.hits == [(step, 503)] * 2


@pytest.mark.parametrize("status", MESSAGES)
def test_a_status_comes_as_the_hub_sends_it(hub: HubServer, status: int) -> None:
    """The client raises an error for the status, with the message of the JSON body."""
    with hub.faults.on("info", status), pytest.raises(HfHubHTTPError) as caught:
        HfApi().model_info(REPO)
    assert (caught.value.response.status_code, caught.value.server_message) == (status, MESSAGES[status])


def test_gated_is_its_own_error(hub: HubServer, tmp_path: Path) -> None:
    """The fault "gated" makes the client raise GatedRepoError."""
    with hub.faults.on("metadata", "gated"), pytest.raises(GatedRepoError):
        hf_hub_download(REPO, "config.json", cache_dir=tmp_path)


def test_retry_after_is_in_the_header(hub: HubServer) -> None:
    """A rate limit has a `Retry-After` header if requested."""
    headers = []
    for seconds in (7, None):
        with hub.faults.on("info", 429, retry_after=seconds), pytest.raises(HfHubHTTPError) as caught:
            HfApi().model_info(REPO)
        headers.append(caught.value.response.headers.get("Retry-After"))
    assert headers == ["7", None]


def test_drop_comes_before_the_effect(hub: HubServer) -> None:
    """A dropped commit is not made, and the log has the request with status 0."""
    head = HfApi().model_info(REPO).sha
    hub.faults.add("commit", "drop")
    with pytest.raises(Exception, match="disconnected without sending a response"):
        commit("dropped.txt", b"1")
    assert HfApi().model_info(REPO).sha == head
    assert [line.status for line in hub.log if line.path.endswith(f"{REPO}/commit/main")][-1] == 0


def test_lost_comes_after_the_effect(hub: HubServer) -> None:
    """A commit whose answer is lost is made."""
    hub.faults.add("commit", "lost")
    with pytest.raises(Exception, match="disconnected without sending a response"):
        commit("lost.txt", b"1")
    assert HfApi().list_repo_commits(REPO)[0].title == "add lost.txt"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_cut_download_ends_halfway(hub: HubServer, name: str) -> None:
    """Of a small file or an LFS file half of the announced bytes are sent."""
    size = {"config.json": 8, "model.safetensors": len(WEIGHTS)}[name]
    hub.faults.add("download", "cut", match=name)
    with pytest.raises(Exception, match="IncompleteRead") as caught:
        ask("GET", f"{hub.url}/{REPO}/resolve/main/{name}")
    assert (len(caught.value.partial), caught.value.expected) == (size // 2, size - size // 2)
    assert hub.log[-1].sent == size // 2


def test_a_corrupt_download_differs_in_its_last_byte(hub: HubServer) -> None:
    """A corrupt download has the right length and a different last byte."""
    hub.faults.add("download", "corrupt")
    status, body = ask("GET", f"{hub.url}/{REPO}/resolve/main/model.safetensors")
    assert (status, len(body), body[:-1]) == (200, len(WEIGHTS), WEIGHTS[:-1])
    assert body != WEIGHTS


def test_slow_waits_and_is_normal(hub: HubServer) -> None:
    """A slow answer is the usual one after a delay."""
    hub.faults.add("whoami", "slow", seconds=0.3)
    start = time.monotonic()
    assert HfApi().whoami()["name"] == hub.user
    assert time.monotonic() - start >= 0.3


def test_match_chooses_by_address(hub: HubServer, tmp_path: Path) -> None:
    """Only requests whose address contains the text fail; the address of LFS bytes contains the name of the file."""
    hub.faults.add("download", 503, match="model.safetensors")
    get = partial(hf_hub_download, REPO, cache_dir=tmp_path)
    get("config.json")
    with pytest.raises(HfHubHTTPError, match="503"):
        get("model.safetensors")
    assert Path(get("model.safetensors")).read_bytes() == WEIGHTS


def test_a_redirect_is_no_download(hub: HubServer) -> None:
    """A redirect to the CDN does not use up a download fault; the request for the bytes does."""
    hub.faults.add("download", 503, times=5)
    before = len(hub.log)
    ask("GET", f"{hub.url}/{REPO}/resolve/main/model.safetensors")
    assert [(line.origin, line.status) for line in hub.log[before:]] == [("hub", 302), ("cdn", 503)]
    assert hub.faults.hits == [("download", 503)]


def test_a_block_takes_its_fault_away(hub: HubServer) -> None:
    """After the `with` block the rest of its fault is removed, and other faults are kept."""
    hub.faults.add("info", 500)
    with hub.faults.on("whoami", 500, times=math.inf):
        for _ in range(3):
            with pytest.raises(HfHubHTTPError):
                HfApi().whoami()
    HfApi().whoami()
    with pytest.raises(HfHubHTTPError):
        HfApi().model_info(REPO)
    assert hub.faults.hits == [*[("whoami", 500)] * 3, ("info", 500)]


def test_faults_of_a_step_come_in_order(hub: HubServer) -> None:
    """Faults of a step apply in the order in which they were added, and `clear` removes faults and hits."""
    for kind in (500, 401, 503):
        hub.faults.add("whoami", kind)
    url = f"{hub.url}/api/whoami-v2"
    assert [ask("GET", url)[0] for _ in range(2)] == [500, 401]
    hub.faults.clear()
    assert (ask("GET", url)[0], hub.faults.hits) == (200, [])


def test_faults_count_across_threads(hub: HubServer) -> None:
    """Of many concurrent requests exactly `times` fail."""
    hub.faults.add("whoami", 503, times=10)
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(ask("GET", f"{hub.url}/api/whoami-v2")[0])) for _ in range(30)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (statuses.count(503), statuses.count(200)) == (10, 20)


@pytest.mark.parametrize(("step", "kind"), [("nothing", 500), ("info", 418), ("info", "broken")])
def test_unknown_faults_are_refused(hub: HubServer, step: str, kind: int | str) -> None:
    """An unknown step or kind raises a ValueError that lists the known ones."""
    with pytest.raises(ValueError, match="is not one of") as caught:
        hub.faults.add(step, kind)
    assert ("whoami" if step == "nothing" else str(KINDS[-1])) in str(caught.value)


def test_the_client_comes_back_by_itself(hub: HubServer) -> None:
    """The client retries every step of an upload except the commit."""
    content = WEIGHTS + b"again"
    for step, kind in (("preupload", "drop"), ("lfs-batch", 503), ("lfs-upload", 500), ("lfs-verify", "lost")):
        hub.faults.add(step, kind)
    commit("again.bin", content)
    assert [step for step, _ in hub.faults.hits] == ["preupload", "lfs-batch", "lfs-upload", "lfs-verify"]
    assert ask("GET", f"{hub.url}/{REPO}/resolve/main/again.bin")[1] == content


@pytest.mark.parametrize(("size", "rest"), [(102_400, None), (24 * 2**20, "bytes=10485760-")])
def test_the_client_goes_on_after_a_cut(hub: HubServer, tmp_path: Path, size: int, rest: str | None) -> None:
    """After a cut the client starts again, or resumes after the last full 10 MiB, and gets the complete file."""
    content = bytes(range(256)) * (size // 256)
    commit("model.safetensors", content)
    hub.faults.add("download", "cut")
    before = len(hub.log)
    path = hf_hub_download(REPO, "model.safetensors", cache_dir=tmp_path)
    assert Path(path).read_bytes() == content
    gets = [(line.range, line.sent) for line in hub.log[before:] if line.method == "GET"]
    assert gets == [(None, size // 2), (rest, size - 10 * 2**20 if rest else size)]


def test_the_client_does_not_compare_digests(hub: HubServer, tmp_path: Path) -> None:
    """The client keeps wrong bytes of the right length in its cache, under the digest of the right ones."""
    hub.faults.add("download", "corrupt")
    path = Path(hf_hub_download(REPO, "model.safetensors", cache_dir=tmp_path))
    assert path.read_bytes() != WEIGHTS
    assert path.resolve().name == hashlib.sha256(WEIGHTS).hexdigest()


def test_without_metadata_the_client_blames_the_connection(hub: HubServer, tmp_path: Path) -> None:
    """With an empty cache, a 403 without an error code makes the client raise LocalEntryNotFoundError."""
    with hub.faults.on("metadata", 403), pytest.raises(LocalEntryNotFoundError):
        hf_hub_download(REPO, "config.json", cache_dir=tmp_path)


def test_retry_after_is_honoured(hub: HubServer) -> None:
    """With a `Retry-After` of 0 the client waits for the second that it adds."""
    hub.faults.add("list", 429, retry_after=0)
    start = time.monotonic()
    assert http_backoff("GET", f"{hub.url}/api/models", base_wait_time=5).status_code == 200
    assert 1 <= time.monotonic() - start < 3
