"""Routes for the account and for complete repositories: create, settings, move, delete."""

from typing import TYPE_CHECKING
from urllib.parse import quote

from .access import SEE, User, check, check_namespace, require_user
from .store import Repository, StoreError
from .wire import Reply, Request, json_reply


if TYPE_CHECKING:
    from . import HubServer


FOLDERS = {"model": "", "dataset": "datasets/"}  # in ids and addresses


def whoami(hub: "HubServer", user: User | None, request: Request) -> Reply:
    """The owner and the role of the token."""
    user = require_user(user)
    orgs = [{"type": "org", "name": name, "roleInOrg": "write"} for name in user.orgs]
    token = {"displayName": "test", "role": user.role}
    auth = {"type": "access_token", "accessToken": token}
    return json_reply({"type": "user", "name": user.name, "orgs": orgs, "auth": auth})


def create(hub: "HubServer", user: User | None, request: Request) -> Reply:
    """Create a repository; for an existing one, return a 409 with its address, which clients with `exist_ok` use."""
    payload, user = request.json(), require_user(user)
    repo_id, namespace, kind = _named(payload, user)
    check_namespace(user, namespace, f"create a {kind}")
    url = {"url": f"{hub.url}/{quote(repo_id)}"}
    private = payload.get("visibility") == "private" or payload.get("private") is True
    try:
        hub.store.create(repo_id, private=private, author=user.name)
    except StoreError as error:
        return json_reply({"error": str(error), **url}, status=409)
    return json_reply(url)


def delete(hub: "HubServer", user: User | None, request: Request) -> Reply:
    """Delete a repository."""
    repo_id, namespace, kind = _named(request.json(), require_user(user))
    repository = hub.store.repositories.get(repo_id)
    if repository is None:
        raise StoreError("RepoNotFound", "Repository not found")
    check(user, repository, SEE)
    check_namespace(user, namespace, f"delete a {kind}")
    hub.store.delete(repo_id)
    return Reply()


def move(hub: "HubServer", user: User | None, request: Request) -> Reply:
    """Rename a repository, or move it to another namespace of the same user."""
    payload = request.json()
    folder = _folder(payload)
    repository = hub.store.repositories.get(folder + payload["fromRepo"])
    if repository is None:
        raise StoreError("RepoNotFound", "Repository not found")
    check(user, repository, SEE)
    for namespace in (repository.namespace, payload["toRepo"].split("/")[0]):
        check_namespace(user, namespace, f"move a {repository.kind}")
    hub.store.move(repository, folder + payload["toRepo"])
    return json_reply({"url": f"{hub.url}/{quote(repository.id)}"})


def settings(hub: "HubServer", user: User | None, request: Request, repository: Repository) -> Reply:
    """Change who may see the repository and read its files."""
    payload = request.json()
    if "visibility" in payload or "private" in payload:
        repository.private = payload.get("visibility") == "private" or payload.get("private") is True
    repository.gated = payload.get("gated", repository.gated)
    return json_reply({"private": repository.private, "gated": repository.gated})


def allowed(hub: "HubServer", user: User | None, request: Request, repository: Repository) -> Reply:
    """Return an empty reply, because the route has already checked the right."""
    return json_reply({})


def _folder(payload: dict) -> str:
    kind = payload.get("type") or "model"
    if kind not in FOLDERS:
        raise StoreError("Invalid", f"The test hub keeps models and data sets, not a {kind}")
    return FOLDERS[kind]


def _named(payload: dict, user: User) -> tuple[str, str, str]:
    """The id, the namespace and the kind of the repository in a payload."""
    folder, namespace = _folder(payload), payload.get("organization") or user.name
    return f"{folder}{namespace}/{payload['name']}", namespace, payload.get("type") or "model"
