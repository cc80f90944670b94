"""Routes that describe repositories: a single one by its id, and lists of those that the user may see.

Numbers of downloads and likes are zero. A list has the fields of a single info except for the files; it can be
filtered by author, name and tags, and sorted by date.
"""

from datetime import datetime
from typing import TYPE_CHECKING

from . import cards
from .access import User, may_see
from .paging import page_reply
from .store import Blob, Commit, Repository
from .wire import Reply, Request, json_reply


if TYPE_CHECKING:
    from . import HubServer


def repository_info(
    hub: "HubServer", user: User | None, request: Request, repository: Repository, revision: str
) -> Reply:
    """The info on a repository at a revision; of a gated one, only the content of files is protected."""
    commit = repository.resolve(revision or "main")
    sizes = "blobs" in request.query
    siblings = [{"rfilename": path, **(_sizes(blob) if sizes else {})} for path, blob in sorted(commit.files.items())]
    return json_reply({**_row(repository, commit), "siblings": siblings})


def list_repositories(hub: "HubServer", user: User | None, request: Request) -> Reply:
    """The repositories of a kind that match the query, by id or, with `sort`, newest first."""
    kind = "dataset" if request.path == "/api/datasets" else "model"
    author, search, sort = (request.query.get(name, [""])[0] for name in ("author", "search", "sort"))
    wanted = {*request.query.get("filter", []), *request.query.get("pipeline_tag", [])}
    found = [
        repository
        for repository in list(hub.store.repositories.values())
        if repository.kind == kind and may_see(user, repository) and author in ("", repository.namespace)
        if search.lower() in repository.full_name.lower()
    ]
    rows = [_row(repository, repository.resolve("main")) for repository in found]
    rows = sorted((row for row in rows if wanted <= set(row["tags"])), key=lambda row: row["id"])
    if sort in ("createdAt", "lastModified"):
        rows.sort(key=lambda row: row[sort], reverse=True)
    limit = int(request.query.get("limit", [hub.page_size])[0])
    return page_reply(request, rows, min(limit, hub.page_size), origin=hub.url)


def iso(date: datetime) -> str:
    """A date in the format that the client parses."""
    return date.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _row(repository: Repository, commit: Commit) -> dict:
    dates = [each.date for each in repository.history(commit.oid)]
    return {
        "id": repository.full_name,
        "modelId": repository.full_name,
        "author": repository.namespace or None,
        "sha": commit.oid,
        "createdAt": iso(dates[-1]),
        "lastModified": iso(dates[0]),
        "private": repository.private,
        "gated": "manual" if repository.gated is True else repository.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        **cards.shown(cards.card_of(commit)),
    }


def _sizes(blob: Blob) -> dict:
    size = len(blob.content)
    lfs = {"size": size, "sha256": blob.sha256, "pointerSize": len(blob.pointer)}
    return {"blobId": blob.oid, "size": size, **({"lfs": lfs} if blob.lfs else {})}
