"""Tests of lists (models, trees, commits) and infos of the test Hub, with the real client."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hub import HubServer
from huggingface_hub import CommitOperationAdd, HfApi


NAMES = ("ann/bert-soup", "ann/secret-soup", "ann/vit", "lab/Soup-large", "lab/vit")
CARD = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-classification
tags: [merge, model-soup]
datasets: [glue, lab/words]
base_model: [ann/a, lab/b]
base_model_relation: merge
---
# A soup
"""


@pytest.fixture
def site() -> Iterator[HubServer]:
    """A Hub with models of two owners, one of them private, and a data set."""
    with HubServer(user="ann", token="hf_ann") as hub:
        hub.add_user("ann", "hf_ann", orgs=["lab"])
        hub.add_user("eve", "hf_eve")
        for name in NAMES:
            api(hub).create_repo(name, private="secret" in name)
        api(hub).create_repo("ann/soup-words", repo_type="dataset")
        yield hub


def api(site: HubServer, token: str | bool = "hf_ann") -> HfApi:
    """A client of the Hub."""
    return HfApi(endpoint=site.url, token=token)


def names(site: HubServer, token: str | bool = "hf_ann", **query: object) -> list[str]:
    """The ids of the models in a list."""
    return [model.id for model in api(site, token).list_models(**query)]


def test_models_are_found_by_author_and_name(site: HubServer) -> None:
    """Models can be filtered by author and by name, regardless of case."""
    assert names(site) == sorted(NAMES)
    assert names(site, author="ann") == ["ann/bert-soup", "ann/secret-soup", "ann/vit"]
    assert names(site, search="soup") == ["ann/bert-soup", "ann/secret-soup", "lab/Soup-large"]
    assert names(site, author="lab", search="soup") == ["lab/Soup-large"]
    assert names(site, search="nothing") == []
    assert [each.id for each in api(site).list_datasets(author="ann")] == ["ann/soup-words"]


@pytest.mark.parametrize("token", ["hf_eve", False])
def test_lists_have_what_the_asker_may_see(site: HubServer, token: str | bool) -> None:
    """A private model is listed only for its owner, a gated one for everyone."""
    site.store.repositories["ann/vit"].gated = True
    assert names(site, token, author="ann") == ["ann/bert-soup", "ann/vit"]


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_pages_make_one_list(site: HubServer, size: int) -> None:
    """The list does not depend on the page size, and a limit is respected."""
    site.page_size = size
    before = len(site.log)
    assert names(site) == sorted(NAMES)
    assert len(site.log) - before == -(-len(NAMES) // size)
    assert names(site, search="soup", limit=2) == ["ann/bert-soup", "ann/secret-soup"]


def test_trees_and_commits_come_in_pages(site: HubServer) -> None:
    """A tree and a history of several pages are listed completely."""
    site.page_size = 2
    for number in range(5):
        change = CommitOperationAdd(f"folder/file {number}.txt", b"x")
        api(site).create_commit("ann/vit", [change], commit_message=f"file {number}")
    wanted = [".gitattributes", *(f"folder/file {number}.txt" for number in range(5))]
    assert sorted(api(site).list_repo_files("ann/vit")) == wanted
    titles = [commit.title for commit in api(site).list_repo_commits("ann/vit")]
    assert titles == [f"file {number}" for number in reversed(range(5))] + ["initial commit"]


def test_an_info_has_what_the_card_says(site: HubServer) -> None:
    """Licence, tags and other metadata come from README.md at that commit, and are absent before it."""
    first = api(site).model_info("ann/vit").sha
    change = CommitOperationAdd("README.md", CARD.encode())
    api(site).create_commit("ann/vit", [change], commit_message="card")
    info = api(site).model_info("ann/vit")
    assert (info.card_data.license, info.card_data.base_model) == ("apache-2.0", ["ann/a", "lab/b"])
    assert (info.pipeline_tag, info.library_name) == ("text-classification", "transformers")
    shown = {"merge", "en", "license:apache-2.0", "dataset:glue", "base_model:ann/a", "base_model:merge:lab/b"}
    assert shown <= set(info.tags)
    assert api(site).model_info("ann/vit", revision=first).card_data is None
    assert names(site, filter=["merge", "license:apache-2.0"]) == ["ann/vit"]
    assert names(site, pipeline_tag="image-classification") == []


def test_results_of_a_card_are_read_back(site: HubServer) -> None:
    """The model index of a card is returned separately from its other metadata."""
    result = "[{task: {type: t}, dataset: {type: d, name: D}, metrics: [{type: accuracy, value: 0.5}]}]"
    card = f"---\nlicense: mit\nmodel-index: [{{name: m, results: {result}}}]\n---\n"
    change = CommitOperationAdd("README.md", card.encode())
    api(site).create_commit("ann/vit", [change], commit_message="card")
    index = api(site).model_info("ann/vit").model_index
    assert index[0]["results"][0]["metrics"] == [{"type": "accuracy", "value": 0.5}]


def test_an_info_has_dates_and_sizes(site: HubServer) -> None:
    """An info has the dates of creation and last change and, on request, the sizes of the files."""
    change = CommitOperationAdd("model.safetensors", b"\0" * 10)
    oid = api(site).create_commit("ann/vit", [change], commit_message="weights").oid
    info = api(site).model_info("ann/vit", files_metadata=True)
    assert datetime.now(UTC) - timedelta(minutes=1) < info.created_at <= info.last_modified <= datetime.now(UTC)
    assert (info.sha, info.author) == (oid, "ann")
    sizes = {file.rfilename: (file.size, file.lfs and file.lfs.size) for file in info.siblings}
    assert sizes["model.safetensors"] == (10, 10)
    assert names(site, sort="last_modified")[0] == "ann/vit"
