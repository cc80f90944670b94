"""Tests of pull requests, refs and commits of the test Hub, and of creating, deleting and moving repositories."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub import HubServer
from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError


REPO = "ann/soup"


@pytest.fixture
def site() -> Iterator[HubServer]:
    """A Hub with a model of ann, and another user."""
    with HubServer(user="ann", token="hf_ann") as hub:
        hub.add_user("eve", "hf_eve")
        api(hub).create_repo(REPO)
        commit(hub, b"main")
        yield hub


def api(site: HubServer, who: str = "ann") -> HfApi:
    """The client of a user."""
    return HfApi(endpoint=site.url, token=f"hf_{who}")


def commit(site: HubServer, content: bytes, *, who: str = "ann", **how: Any) -> CommitInfo:
    """Commit one version of the file."""
    change = CommitOperationAdd("file.txt", content)
    return api(site, who).create_commit(REPO, [change], commit_message=f"say {content.decode()}", **how)


def read(site: HubServer, folder: Path, revision: str = "main", repo_id: str = REPO) -> bytes:
    """The content of the file at a revision."""
    path = api(site).hf_hub_download(repo_id, "file.txt", revision=revision, cache_dir=folder)
    return Path(path).read_bytes()


@pytest.mark.parametrize("who", ["ann", "eve"])
def test_a_pull_request_is_apart_from_main(site: HubServer, tmp_path: Path, who: str) -> None:
    """Anyone may open a pull request, with a number and a revision with its files, and main is unchanged."""
    head = api(site).model_info(REPO).sha
    made = [commit(site, content, who=who, create_pr=True) for content in (b"one", b"two")]
    assert [(each.pr_num, each.pr_revision) for each in made] == [(1, "refs/pr/1"), (2, "refs/pr/2")]
    assert made[0].pr_url == f"{site.url}/{REPO}/discussions/1"
    assert made[0].repo_url.repo_id == REPO
    found = [read(site, tmp_path, revision) for revision in ("refs/pr/1", "refs/pr/2", "main")]
    assert found == [b"one", b"two", b"main"]
    assert api(site).model_info(REPO).sha == head
    assert api(site).model_info(REPO, revision="refs/pr/1").sha == made[0].oid


def test_a_pull_request_takes_more_commits(site: HubServer, tmp_path: Path) -> None:
    """A pull request takes more commits from its author and from the owner of the model, and not from others."""
    site.add_user("bob", "hf_bob")
    commit(site, b"one", who="eve", create_pr=True)
    for who in ("eve", "ann", "eve"):
        last = commit(site, f"by {who}, again".encode(), who=who, revision="refs/pr/1")
        commit(site, b"between", who="ann", revision="refs/pr/1")
    with pytest.raises(HfHubHTTPError, match="403"):
        commit(site, b"bob's", who="bob", revision="refs/pr/1")
    assert last.pr_url is None
    assert read(site, tmp_path, "refs/pr/1") == b"between"
    assert read(site, tmp_path) == b"main"


def test_a_pull_request_starts_at_its_parent(site: HubServer) -> None:
    """A pull request with a parent commit starts from that commit, however old it is."""
    old = api(site).model_info(REPO).sha
    commit(site, b"newer")
    made = commit(site, b"from old", create_pr=True, parent_commit=old)
    history = api(site).list_repo_commits(REPO, revision=made.pr_revision)
    assert [each.commit_id for each in history[:2]] == [made.oid, old]


def test_a_refused_pull_request_is_none(site: HubServer) -> None:
    """A refused pull request uses no number."""
    bad = CommitOperationAdd("README.md", b"---\nlicense: none-such\n---\n")
    with pytest.raises(ValueError, match="license"):
        api(site).create_commit(REPO, [bad], commit_message="bad", create_pr=True)
    assert commit(site, b"good", create_pr=True).pr_num == 1


def test_refs_are_listed(site: HubServer) -> None:
    """Branches, tags and, on request, pull requests are listed with their commits."""
    head = api(site).model_info(REPO).sha
    api(site).create_branch(REPO, branch="try/it")
    api(site).create_tag(REPO, tag="v1")
    made = commit(site, b"one", create_pr=True)
    refs = api(site).list_repo_refs(REPO, include_pull_requests=True)
    assert [(ref.name, ref.ref, ref.target_commit) for ref in refs.branches] == [
        ("main", "refs/heads/main", head),
        ("try/it", "refs/heads/try/it", head),
    ]
    assert [(ref.name, ref.ref) for ref in refs.tags] == [("v1", "refs/tags/v1")]
    assert [(ref.ref, ref.target_commit) for ref in refs.pull_requests] == [("refs/pr/1", made.oid)]
    assert api(site).list_repo_refs(REPO).pull_requests is None


def test_names_can_be_taken_away(site: HubServer) -> None:
    """A branch and a tag can be deleted, and a second deletion is an error."""
    api(site).create_branch(REPO, branch="b")
    api(site).create_tag(REPO, tag="v1")
    api(site).delete_branch(REPO, branch="b")
    api(site).delete_tag(REPO, tag="v1")
    with pytest.raises(RevisionNotFoundError):
        api(site).delete_tag(REPO, tag="v1")
    assert [ref.name for ref in api(site).list_repo_refs(REPO).branches] == ["main"]


def test_history_tells_who_and_what(site: HubServer) -> None:
    """Commits are listed back from a revision, with title, description, author and date."""
    commit(site, b"second", commit_description="For a reason.")
    commits = api(site).list_repo_commits(REPO)
    assert [each.title for each in commits] == ["say second", "say main", "initial commit"]
    assert (commits[0].message, commits[0].authors) == ("For a reason.", ["ann"])
    assert commits[0].created_at >= commits[1].created_at >= commits[2].created_at
    older = api(site).list_repo_commits(REPO, revision=commits[1].commit_id)
    assert [each.title for each in older] == ["say main", "initial commit"]


def test_a_deleted_repository_is_gone(site: HubServer, tmp_path: Path) -> None:
    """A deleted repository is not found, a second deletion needs `missing_ok`, and its name can be used again."""
    api(site).delete_repo(REPO)
    with pytest.raises(RepositoryNotFoundError):
        read(site, tmp_path)
    with pytest.raises(RepositoryNotFoundError):
        api(site).delete_repo(REPO)
    api(site).delete_repo(REPO, missing_ok=True)
    api(site).create_repo(REPO)
    assert api(site).list_repo_files(REPO) == [".gitattributes"]


def test_a_moved_repository_is_found_by_both_names(site: HubServer, tmp_path: Path) -> None:
    """The old name of a moved repository redirects to the new one, until another repository takes it."""
    api(site).move_repo(REPO, "ann/stew")
    assert api(site).model_info(REPO).id == api(site).model_info("ann/stew").id == "ann/stew"
    assert read(site, tmp_path / "old") == read(site, tmp_path / "new", repo_id="ann/stew") == b"main"
    commit(site, b"by the old name")
    assert read(site, tmp_path / "new", repo_id="ann/stew") == b"by the old name"
    api(site).create_repo(REPO)
    assert api(site).model_info(REPO).id == REPO
    with pytest.raises(HfHubHTTPError, match="409"):
        api(site).move_repo("ann/stew", REPO)


def test_both_words_for_private_are_known(site: HubServer) -> None:
    """The Hub understands `private` of older clients and `visibility` of newer ones."""
    for name, words in (("old", {"private": True}), ("new", {"visibility": "private"}), ("open", {"private": False})):
        body = json.dumps({"name": name, **words}).encode()
        headers = {"Authorization": "Bearer hf_ann"}
        urllib.request.urlopen(urllib.request.Request(f"{site.url}/api/repos/create", body, headers)).close()
    assert [site.store.repositories[f"ann/{name}"].private for name in ("old", "new", "open")] == [True, True, False]
