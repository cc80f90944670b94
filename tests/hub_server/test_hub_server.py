"""Tests of the test Hub with the real client, since other tests rely on its replies.

hf_soup itself, and how the client reacts to failures, are not tested here.
"""

import hashlib
import json
import os
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest
from hub import Exchange, HubServer, environment
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError


def safetensors(value: int, *, size: int = 1_000_000) -> bytes:
    """A file with one tensor `w` of `size` bytes, more than the 100 kB that readers of metadata always request."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes([value]) * size


FILES = {
    "README.md": b"---\nlicense: mit\ntags:\n- merge\n---\n\n# A soup\n",
    "config.json": b'{"hidden_size": 4}',
    "tokens/words.txt": "naïve\n".encode(),
    "model.safetensors": safetensors(1),
}


def push(name: str, files: Mapping[str, bytes], folder: Path, *, private: bool = False) -> str:
    """Write `files` to `folder` and upload it to tester/`name`; returns the id of the commit."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    HfApi().create_repo(f"tester/{name}", private=private, exist_ok=True)
    return HfApi().upload_folder(repo_id=f"tester/{name}", folder_path=folder).oid


def download(name: str, revision: str, cache: Path) -> dict[str, bytes]:
    """Every file of tester/`name` at `revision`, except the one that the Hub itself adds."""
    root = Path(snapshot_download(f"tester/{name}", revision=revision, cache_dir=cache))
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    del files[".gitattributes"]
    return files


def weights_traffic(hub: HubServer, weights: bytes) -> list[Exchange]:
    """The exchanges of the CDN about `weights`."""
    path = f"/{hashlib.sha256(weights).hexdigest()}"
    return [line for line in hub.log if line.path == path]


def test_same_bytes_at_branch_tag_and_commit(hub: HubServer, tmp_path: Path) -> None:
    """Small and LFS files are downloaded byte for byte, and a tag and a commit keep theirs when the branch moves."""
    old = push("history", FILES, tmp_path / "model")
    HfApi().create_tag("tester/history", tag="v1")
    newer = FILES | {"config.json": b"{}", "model.safetensors": safetensors(2)}
    new = push("history", newer, tmp_path / "model")
    found = {revision: download("history", revision, tmp_path / "cache") for revision in ("main", "v1", old, new)}
    assert found == {"main": newer, "v1": FILES, old: FILES, new: newer}


def test_one_file_by_revision(hub: HubServer, tmp_path: Path) -> None:
    """A single file can be downloaded by branch, tag or commit."""
    old = push("single", FILES, tmp_path / "model")
    HfApi().create_tag("tester/single", tag="v1", revision=old)
    push("single", FILES | {"config.json": b"{}"}, tmp_path / "model")
    for revision, content in (("main", b"{}"), ("v1", FILES["config.json"]), (old, FILES["config.json"])):
        path = hf_hub_download("tester/single", "config.json", revision=revision, cache_dir=tmp_path / "cache")
        assert Path(path).read_bytes() == content


def test_revisions_resolve_to_commits(hub: HubServer, tmp_path: Path) -> None:
    """A branch, a tag and the default resolve to the commit that the upload reported."""
    commit = push("resolved", FILES, tmp_path / "model")
    HfApi().create_tag("tester/resolved", tag="v/1")
    names = (None, "main", "v/1")
    resolved = [HfApi().resolve_revision("tester/resolved", revision=r, cache_dir=tmp_path).resolved for r in names]
    infos = [HfApi().model_info("tester/resolved", revision=r).sha for r in (*names, commit)]
    assert {*resolved, *infos} == {commit}


def test_branches_are_apart(hub: HubServer, tmp_path: Path) -> None:
    """A commit on a branch does not change main."""
    main = push("branched", FILES, tmp_path / "model")
    HfApi().create_branch("tester/branched", branch="try", revision=main)
    change = CommitOperationAdd("config.json", b"{}")
    HfApi().create_commit("tester/branched", [change], commit_message="try", revision="try")
    assert HfApi().model_info("tester/branched").sha == main
    assert download("branched", "try", tmp_path / "cache") == FILES | {"config.json": b"{}"}


def test_metadata_without_the_weights(hub: HubServer, tmp_path: Path) -> None:
    """The metadata of safetensors are read by range requests, without downloading the weights."""
    weights = safetensors(3)
    push("metadata", {"model.safetensors": weights}, tmp_path / "model")
    metadata = HfApi().get_safetensors_metadata("tester/metadata")
    assert metadata.files_metadata["model.safetensors"].tensors["w"].shape == [1_000_000]
    reads = [line for line in weights_traffic(hub, weights) if line.method == "GET"]
    assert [(line.status, line.range, line.sent) for line in reads] == [(206, "bytes=0-100000", 100_001)]


@pytest.mark.parametrize(
    ("wanted", "part"), [("0-7", slice(0, 8)), ("999990-", slice(999_990, None)), ("-5", slice(-5, None))]
)
def test_ranges_of_small_and_lfs_files(hub: HubServer, tmp_path: Path, wanted: str, part: slice) -> None:
    """A range request gets exactly these bytes, on the Hub and, after the redirect, on the CDN."""
    files = {"text.txt": b"0123456789" * 100_000, "model.safetensors": safetensors(4)}
    push("ranges", files, tmp_path / "model")
    for name, content in files.items():
        url = f"{hub.url}/tester/ranges/resolve/main/{name}"
        request = urllib.request.Request(url, headers={"Range": f"bytes={wanted}"})
        with urllib.request.urlopen(request) as reply:
            assert (reply.status, reply.read()) == (206, content[part])


def test_no_credentials_reach_the_cdn(hub: HubServer, tmp_path: Path) -> None:
    """Upload, download and metadata of a private model send the token to the Hub and never to the CDN."""
    weights = safetensors(5)
    push("secret", FILES | {"model.safetensors": weights}, tmp_path / "model", private=True)
    download("secret", "main", tmp_path / "cache")
    HfApi().get_safetensors_metadata("tester/secret")
    at_cdn = weights_traffic(hub, weights)
    at_hub = [line for line in hub.log if line.origin == "hub" and line.path.startswith("/tester/secret/resolve/")]
    assert [line.method for line in at_cdn] == ["PUT", "GET", "GET"]
    assert {line.authorization for line in at_cdn} == {None}
    assert {line.authorization for line in at_hub} == {f"Bearer {hub.token}"}


def test_stale_parent_is_refused(hub: HubServer, tmp_path: Path) -> None:
    """A commit on a parent that is no longer the head is refused with a 412, and the branch is unchanged."""
    old = push("raced", FILES, tmp_path / "model")
    new = push("raced", FILES | {"config.json": b"{}"}, tmp_path / "model")
    change = [CommitOperationAdd("config.json", b'{"late": 1}')]
    with pytest.raises(HfHubHTTPError, match=old) as caught:
        HfApi().create_commit("tester/raced", change, commit_message="late", parent_commit=old)
    assert caught.value.response.status_code == 412
    assert HfApi().model_info("tester/raced").sha == new


def test_unchanged_files_are_not_sent_again(hub: HubServer, tmp_path: Path) -> None:
    """Uploading the same folder twice makes one commit and sends the weights once."""
    files = FILES | {"model.safetensors": safetensors(6)}
    first, second = (push("repeated", files, tmp_path / "model") for _ in range(2))
    assert first == second
    assert [line.method for line in weights_traffic(hub, files["model.safetensors"])] == ["PUT"]


def test_deleted_files_are_gone_from_then_on(hub: HubServer, tmp_path: Path) -> None:
    """A commit can delete a file and a folder, and earlier commits keep them."""
    old = push("deleted", FILES, tmp_path / "model")
    operations = [CommitOperationDelete("config.json"), CommitOperationDelete("tokens/")]
    HfApi().create_commit("tester/deleted", operations, commit_message="less")
    kept = {path: FILES[path] for path in ("README.md", "model.safetensors")}
    assert download("deleted", "main", tmp_path / "cache") == kept
    assert download("deleted", old, tmp_path / "cache") == FILES


@pytest.mark.parametrize(
    ("repo", "revision", "filename", "error"),
    [
        ("nothing", "main", "config.json", RepositoryNotFoundError),
        ("known", "nothing", "config.json", RevisionNotFoundError),
        ("known", "0" * 40, "config.json", RevisionNotFoundError),
        ("known", "main", "nothing.json", EntryNotFoundError),
    ],
)
def test_what_is_missing_has_its_own_error(
    hub: HubServer, tmp_path: Path, repo: str, revision: str, filename: str, error: type[Exception]
) -> None:
    """An unknown repository, revision or file raises the client's error for just that."""
    push("known", FILES, tmp_path / "model")
    with pytest.raises(error):
        hf_hub_download(f"tester/{repo}", filename, revision=revision, cache_dir=tmp_path / "cache")
    assert not HfApi().file_exists(f"tester/{repo}", filename, revision=revision)


def test_missing_folder_is_a_missing_entry(hub: HubServer, tmp_path: Path) -> None:
    """Listing a missing folder raises EntryNotFoundError, as transformers expects."""
    push("folders", FILES, tmp_path / "model")
    with pytest.raises(EntryNotFoundError):
        list(HfApi().list_repo_tree("tester/folders", "additional_chat_templates"))


def test_private_is_unseen_without_token(hub: HubServer, tmp_path: Path) -> None:
    """Without a token a private model seems to be missing; with the token it can be read."""
    push("hidden", FILES, tmp_path / "model", private=True)
    assert HfApi().model_info("tester/hidden").private
    assert not HfApi().repo_exists("tester/hidden", token=False)
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("tester/hidden", "config.json", token=False, cache_dir=tmp_path / "cache")
    with pytest.raises(RepositoryNotFoundError):
        snapshot_download("tester/hidden", token=False, cache_dir=tmp_path / "cache")


def test_public_is_read_only_without_token(hub: HubServer, tmp_path: Path) -> None:
    """Without a token a public model can be read but not changed."""
    commit = push("shown", FILES, tmp_path / "model")
    assert HfApi().model_info("tester/shown", token=False).sha == commit
    with pytest.raises(HfHubHTTPError) as caught:
        HfApi().create_tag("tester/shown", tag="v1", token=False)
    assert caught.value.response.status_code == 401


def test_tree_tells_sizes_and_digests(hub: HubServer, tmp_path: Path) -> None:
    """The tree lists folders by level, and files with git's sha1 and, for LFS, sha256."""
    push("listed", FILES, tmp_path / "model")
    top = {row.path for row in HfApi().list_repo_tree("tester/listed")}
    assert top == {".gitattributes", "README.md", "config.json", "model.safetensors", "tokens"}
    assert [row.path for row in HfApi().list_repo_tree("tester/listed", "tokens")] == ["tokens/words.txt"]
    rows = {row.path: row for row in HfApi().list_repo_tree("tester/listed", recursive=True)}
    assert rows["tokens/words.txt"].blob_id == hashlib.sha1(b"blob 7\0" + FILES["tokens/words.txt"]).hexdigest()
    assert rows["model.safetensors"].lfs.sha256 == hashlib.sha256(FILES["model.safetensors"]).hexdigest()
    assert {path: rows[path].size for path in FILES} == {path: len(content) for path, content in FILES.items()}


def test_a_name_is_taken_once(hub: HubServer) -> None:
    """Creating a model or a tag twice is a 409, which `exist_ok` accepts."""
    url = HfApi().create_repo("named")
    assert url.repo_id == "tester/named" == HfApi().create_repo("tester/named", exist_ok=True).repo_id
    HfApi().create_tag("tester/named", tag="v1")
    HfApi().create_tag("tester/named", tag="v1", exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="already created"):
        HfApi().create_repo("tester/named")
    with pytest.raises(HfHubHTTPError, match="already exists"):
        HfApi().create_tag("tester/named", tag="v1")


def test_card_is_loaded_and_validated(hub: HubServer, tmp_path: Path) -> None:
    """A card is read as it was pushed; one with invalid YAML is refused before anything is uploaded."""
    commit = push("carded", FILES, tmp_path / "model")
    card = ModelCard.load("tester/carded")
    card.validate()
    assert (card.data.license, card.data.tags, card.content) == ("mit", ["merge"], FILES["README.md"].decode())
    with pytest.raises(ValueError, match="license mit"):
        push("carded", {"README.md": b"---\nlicense mit\n---\n"}, tmp_path / "model")
    assert HfApi().model_info("tester/carded").sha == commit


def test_whoami_wants_the_token(hub: HubServer) -> None:
    """The token identifies its user, and an unknown token is refused."""
    assert HfApi().whoami()["name"] == hub.user
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi(token="hf_other").whoami()


def test_lfs_bytes_must_be_what_they_are_called(hub: HubServer) -> None:
    """The CDN refuses bytes whose sha256 differs from their address."""
    request = urllib.request.Request(f"{hub.cdn_url}/{'0' * 64}", data=b"bytes", method="PUT")
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request)
    assert "0" * 64 not in hub.store.objects


def test_server_ends_with_its_block() -> None:
    """After the `with` block, neither port answers."""
    with HubServer() as short:
        urls = [f"{short.url}/api/models/tester/none", f"{short.cdn_url}/none"]
        for url in urls:
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(url)
    for url in urls:
        with pytest.raises(urllib.error.URLError, match="refused"):
            urllib.request.urlopen(url)


def test_environment_is_enough_for_another_process(hub: HubServer, tmp_path: Path) -> None:
    """A process with these variables, whatever it inherits, uses the test Hub and keeps its files in its own home."""
    inherited = {"HF_HUB_CACHE": "/nonexistent", "HF_HUB_OFFLINE": "1", "HTTP_PROXY": "http://127.0.0.1:9"}
    code = "from huggingface_hub import constants, whoami; print(whoami()['name'], constants.HF_HUB_CACHE)"
    variables = {**os.environ, **inherited, **environment(hub, tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
    assert ran.stdout.split() == [hub.user, str(tmp_path / "hub")], ran.stderr
