"""Routes for the history of a repository: its commits, branches and tags."""

from typing import TYPE_CHECKING

from .access import User
from .info import iso
from .paging import page_reply
from .store import Repository, StoreError
from .wire import Reply, Request, json_reply


if TYPE_CHECKING:
    from . import HubServer


def commits(hub: "HubServer", user: User | None, request: Request, repository: Repository, revision: str) -> Reply:
    """The commits up to a revision, newest first."""
    rows = [
        {
            "id": commit.oid,
            "title": commit.title,
            "message": commit.message,
            "authors": [{"user": commit.author}] if commit.author else [],
            "date": iso(commit.date),
        }
        for commit in repository.history(revision)
    ]
    return page_reply(request, rows, hub.page_size, origin=hub.url)


def refs(hub: "HubServer", user: User | None, request: Request, repository: Repository) -> Reply:
    """All branches and tags and, on request, pull requests."""
    kinds = {
        "branches": ("refs/heads/", repository.branches),
        "converts": ("", {}),
        "tags": ("refs/tags/", repository.tags),
    }
    if "include_prs" in request.query:
        kinds["pullRequests"] = ("", repository.pulls)
    return json_reply(
        {
            kind: [{"name": name, "ref": prefix + name, "targetCommit": oid} for name, oid in sorted(names.items())]
            for kind, (prefix, names) in kinds.items()
        }
    )


def add_branch(hub: "HubServer", user: User | None, request: Request, repository: Repository, name: str) -> Reply:
    """Create a branch from main or the given starting point."""
    repository.point(repository.branches, name, request.json().get("startingPoint", "main"))
    return Reply()


def add_tag(hub: "HubServer", user: User | None, request: Request, repository: Repository, revision: str) -> Reply:
    """Create a tag on a revision."""
    repository.point(repository.tags, request.json()["tag"], revision)
    return Reply()


def remove_branch(hub: "HubServer", user: User | None, request: Request, repository: Repository, name: str) -> Reply:
    """Delete a branch; its commits are kept."""
    return _remove(repository.branches, name)


def remove_tag(hub: "HubServer", user: User | None, request: Request, repository: Repository, name: str) -> Reply:
    """Delete a tag."""
    return _remove(repository.tags, name)


def _remove(names: dict[str, str], name: str) -> Reply:
    if names.pop(name, None) is None:
        raise StoreError("RevisionNotFound", f"Invalid rev id: {name}")
    return Reply()
