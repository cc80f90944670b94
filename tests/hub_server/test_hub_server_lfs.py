"""Tests of LFS uploads in parts to the test Hub, with the real client."""

import hashlib
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from hub import HubServer
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError


REPO = "tester/parts"
SIZE = 1000


@pytest.fixture(autouse=True)
def parts(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model, and a Hub that requires uploads of more than a thousand bytes to be in parts."""
    HfApi().create_repo(REPO, exist_ok=True)
    monkeypatch.setattr(hub, "multipart_size", SIZE)


def content(start: int, size: int) -> bytes:
    """Bytes that no other test uploads, and of which no two parts are equal."""
    return b"".join(f"{start + place:09}\n".encode() for place in range(size))[:size]


def upload(data: bytes, name: str = "model.safetensors") -> None:
    """Commit one LFS file."""
    HfApi().create_commit(REPO, [CommitOperationAdd(name, data)], commit_message="weights")


@pytest.mark.parametrize(("size", "count"), [(2500, 3), (3000, 3), (1001, 2), (1000, 1), (10, 1)])
def test_a_file_comes_in_parts_and_is_whole(hub: HubServer, tmp_path: Path, size: int, count: int) -> None:
    """A file above the limit is uploaded in parts of that size, and downloaded byte for byte."""
    data, before = content(size, size), len(hub.log)
    upload(data)
    puts = [line for line in hub.log[before:] if line.method == "PUT"]
    assert {line.path for line in puts} == {f"/{hashlib.sha256(data).hexdigest()}"}
    assert len(puts) == count
    assert Path(hf_hub_download(REPO, "model.safetensors", cache_dir=tmp_path)).read_bytes() == data


def test_a_file_from_the_disk_comes_in_parts(hub: HubServer, tmp_path: Path) -> None:
    """A file on disk is uploaded in parts too."""
    (tmp_path / "model.safetensors").write_bytes(content(9, 3210))
    HfApi().upload_folder(repo_id=REPO, folder_path=tmp_path)
    oid = hashlib.sha256(content(9, 3210)).hexdigest()
    assert hub.store.objects[oid] == content(9, 3210)
    assert oid not in hub.store.parts


def test_no_credentials_go_with_parts(hub: HubServer) -> None:
    """Neither the CDN nor the address that joins the parts, both signed on the real Hub, receives the token."""
    before = len(hub.log)
    upload(content(10**6, 2500))
    seen = [line for line in hub.log[before:] if line.origin == "cdn" or line.path == "/api/complete_multipart"]
    assert [line.authorization for line in seen] == [None] * 4


def test_parts_must_be_those_that_were_put(hub: HubServer) -> None:
    """Joining parts other than those uploaded, or into other bytes than named, is a 400 and creates no object."""
    oid = "0" * 64
    put = urllib.request.Request(f"{hub.cdn_url}/{oid}?partNumber=1", data=b"bytes", method="PUT")
    with urllib.request.urlopen(put) as reply:
        etag = reply.headers["ETag"]
    for given, message in (('"other"', "not the parts"), (etag, "do not have that sha256")):
        quoted = given.replace('"', '\\"')
        body = f'{{"oid": "{oid}", "parts": [{{"partNumber": 1, "etag": "{quoted}"}}]}}'.encode()
        with pytest.raises(urllib.error.HTTPError, match="400") as caught:
            urllib.request.urlopen(f"{hub.url}/api/complete_multipart", body)
        assert message in caught.value.read().decode()
    assert oid not in hub.store.objects


def test_a_lost_completion_can_be_repeated(hub: HubServer) -> None:
    """The client repeats a completion whose answer was lost, and the upload succeeds."""
    data = content(2 * 10**6, 1500)
    with hub.faults.on("lfs-complete", "lost"):
        upload(data, "lost.bin")
    assert hub.store.objects[hashlib.sha256(data).hexdigest()] == data


def test_a_failed_part_fails_the_upload(hub: HubServer) -> None:
    """A part that is refused makes the upload fail, without an object or a commit."""
    data, head = content(3 * 10**6, 1500), HfApi().model_info(REPO).sha
    with hub.faults.on("lfs-upload", 403), pytest.raises(RuntimeError, match="Error while uploading") as caught:
        upload(data, "failed.bin")
    assert isinstance(caught.value.__cause__, HfHubHTTPError)
    assert hashlib.sha256(data).hexdigest() not in hub.store.objects
    assert HfApi().model_info(REPO).sha == head
