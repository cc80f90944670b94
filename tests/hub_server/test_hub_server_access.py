"""Tests of rights on the test Hub, with the real client and tokens of several users.

Each test has its own Hub, reached by `HfApi(endpoint=...)`.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import HubServer
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError


@pytest.fixture
def site() -> Iterator[HubServer]:
    """A Hub with an owner, a colleague in her organization, an outsider, and a read-only token of the owner."""
    with HubServer(user="ann", token="hf_ann") as hub:
        hub.add_user("ann", "hf_ann", orgs=["lab"])
        hub.add_user("ann", "hf_ann_read", role="read", orgs=["lab"])
        hub.add_user("ben", "hf_ben", orgs=("lab",))
        hub.add_user("eve", "hf_eve")
        yield hub


def client(site: HubServer, who: str | None) -> HfApi:
    """The client with the token of a user, or without a token for None."""
    return HfApi(endpoint=site.url, token=f"hf_{who}" if who else False)


def publish(site: HubServer, repo_id: str, *, private: bool = False, gated: bool = False) -> None:
    """Publish a model of ann with one file."""
    api = client(site, "ann")
    api.create_repo(repo_id, private=private)
    api.create_commit(repo_id, [CommitOperationAdd("config.json", b"{}")], commit_message="config")
    site.store.repositories[repo_id].gated = gated


def status(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    """The status for which the client raised an error."""
    return error.value.response.status_code


def test_whoami_tells_name_role_and_organizations(site: HubServer) -> None:
    """Each token identifies its user, and has its own role."""
    told = {who: client(site, who).whoami() for who in ("ann", "ann_read", "eve")}
    assert {who: answer["name"] for who, answer in told.items()} == {"ann": "ann", "ann_read": "ann", "eve": "eve"}
    roles = {who: answer["auth"]["accessToken"]["role"] for who, answer in told.items()}
    assert roles == {"ann": "write", "ann_read": "read", "eve": "write"}
    assert [org["name"] for org in told["ann"]["orgs"]] == ["lab"]


@pytest.mark.parametrize(("who", "code"), [("eve", 404), (None, 401)])
def test_private_is_seen_by_members_only(site: HubServer, who: str | None, code: int) -> None:
    """A private model is a 404 for other users and a 401 without a token, which are one error of the client."""
    publish(site, "lab/secret", private=True)
    assert [client(site, friend).repo_exists("lab/secret") for friend in ("ann", "ann_read", "ben")] == [True] * 3
    for ask in (HfApi.model_info, HfApi.list_repo_files, HfApi.list_repo_refs, HfApi.list_repo_commits):
        with pytest.raises(RepositoryNotFoundError) as caught:
            ask(client(site, who), "lab/secret")
        assert status(caught) == code
    assert client(site, who).repo_exists("lab/missing") is False


def test_visibility_is_a_setting(site: HubServer) -> None:
    """A private model can be made public, and private again."""
    publish(site, "ann/shy", private=True)
    seen = []
    for private in (False, True):
        client(site, "ann").update_repo_settings("ann/shy", private=private)
        seen.append(client(site, None).repo_exists("ann/shy"))
    assert seen == [True, False]


@pytest.mark.parametrize(("who", "code"), [("eve", 403), ("ben", 403), (None, 401)])
def test_gated_shows_names_and_keeps_contents(site: HubServer, tmp_path: Path, who: str | None, code: int) -> None:
    """Without a grant, everything about a gated model can be read except the content of its files."""
    publish(site, "ann/gate", gated=True)
    api = client(site, who)
    info = api.model_info("ann/gate")
    assert (info.gated, [file.rfilename for file in info.siblings]) == ("manual", [".gitattributes", "config.json"])
    assert "config.json" in api.list_repo_files("ann/gate")
    for ask in (api.hf_hub_download, lambda *_, **where: api.snapshot_download("ann/gate", **where)):
        with pytest.raises(GatedRepoError, match="restricted") as caught:
            ask("ann/gate", "config.json", cache_dir=tmp_path)
        assert status(caught) == code
    with pytest.raises(GatedRepoError):
        api.auth_check("ann/gate")


def test_gated_opens_to_owner_and_granted(site: HubServer, tmp_path: Path) -> None:
    """A gated model is open to its owner and to users with a grant, and to all when it is no longer gated."""
    publish(site, "ann/gate")
    client(site, "ann").update_repo_settings("ann/gate", gated="auto")
    site.store.repositories["ann/gate"].granted.add("ben")
    assert client(site, None).model_info("ann/gate").gated == "auto"
    for who in ("ann", "ann_read", "ben"):
        path = client(site, who).hf_hub_download("ann/gate", "config.json", cache_dir=tmp_path / who)
        assert Path(path).read_bytes() == b"{}"
    client(site, "ann").update_repo_settings("ann/gate", gated=False)
    client(site, "eve").hf_hub_download("ann/gate", "config.json", cache_dir=tmp_path / "eve")


@pytest.mark.parametrize(
    ("who", "message"),
    [("eve", "pass `create_pr=1` as a query parameter"), ("ann_read", "you must use a write token")],
)
def test_writing_needs_a_member_and_a_write_token(site: HubServer, who: str, message: str) -> None:
    """A change by an outsider, or with a read-only token, is a 403 with the reason, and nothing is changed."""
    publish(site, "ann/mine")
    head = client(site, None).model_info("ann/mine").sha
    change = CommitOperationAdd("config.json", b'{"bad": 1}')
    with pytest.raises(HfHubHTTPError, match=message) as caught:
        client(site, who).create_commit("ann/mine", [change], commit_message="bad")
    assert status(caught) == 403
    for deed in (
        lambda api: api.create_tag("ann/mine", tag="v1"),
        lambda api: api.create_branch("ann/mine", branch="b"),
        lambda api: api.update_repo_settings("ann/mine", private=True),
        lambda api: api.delete_repo("ann/mine"),
        lambda api: api.move_repo("ann/mine", "eve/mine"),
    ):
        with pytest.raises(HfHubHTTPError) as caught:
            deed(client(site, who))
        assert status(caught) == 403
    assert client(site, None).model_info("ann/mine").sha == head


def test_colleagues_write_together(site: HubServer) -> None:
    """All members of an organization may write to its repositories."""
    publish(site, "lab/ours", private=True)
    change = CommitOperationAdd("config.json", b'{"by": "ben"}')
    client(site, "ben").create_commit("lab/ours", [change], commit_message="ben's")
    assert client(site, "ann").list_repo_commits("lab/ours")[0].authors == ["ben"]


@pytest.mark.parametrize(
    ("who", "repo_id", "code"),
    [("eve", "lab/new", 403), ("eve", "ann/new", 403), ("ann_read", "ann/new", 403), (None, "ann/new", 401)],
)
def test_creating_needs_rights_to_the_namespace(site: HubServer, who: str | None, repo_id: str, code: int) -> None:
    """A model can be created only in the user's own namespaces, and with a write token."""
    with pytest.raises(HfHubHTTPError) as caught:
        client(site, who).create_repo(repo_id)
    assert status(caught) == code
    if code == 403:
        owner = repo_id.split("/")[0]
        assert f'You don\'t have the rights to create a model under the namespace "{owner}"' in str(caught.value)
    assert repo_id not in site.store.repositories


def test_exist_ok_is_enough_to_read(site: HubServer) -> None:
    """`create_repo` with `exist_ok` succeeds for an existing model that the user may read but not create."""
    publish(site, "ann/there")
    assert client(site, "eve").create_repo("ann/there", exist_ok=True).repo_id == "ann/there"


def test_an_unknown_token_is_refused_everywhere(site: HubServer) -> None:
    """An unknown token is a 401 even where no token is needed."""
    publish(site, "ann/open")
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as caught:
        client(site, "nobody").model_info("ann/open")
    assert status(caught) == 401


def test_roles_are_known(site: HubServer) -> None:
    """An unknown role of a token is a ValueError."""
    with pytest.raises(ValueError, match="role='admin'"):
        site.add_user("x", "hf_x", role="admin")
