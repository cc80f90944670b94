"""Routes that change files: upload modes, and commits to a branch, as a new pull request, or to an open one.

Anyone may propose a change to a repository they can see; a pull request can be changed by those who may write and by
its author. There are no discussions, and pull requests are never merged.
"""

import base64
import json
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

from .access import User, require_user
from .cards import require_valid
from .store import LFS_SUFFIXES, MAX_REGULAR_SIZE, Blob, Repository, Store, StoreError
from .wire import Reply, Request, json_reply


if TYPE_CHECKING:
    from . import HubServer


def preupload(hub: "HubServer", user: User | None, request: Request, repository: Repository, revision: str) -> Reply:
    """Whether each file goes to LFS, and the stored oid, so that the client leaves out unchanged files."""
    _require_open(user, request, repository, revision)
    stored = repository.resolve(revision).files
    return json_reply({"files": [_upload_mode(item, stored.get(item["path"])) for item in request.json()["files"]]})


def _upload_mode(item: dict, stored: Blob | None) -> dict[str, object]:
    binary = item["path"].endswith(LFS_SUFFIXES) or b"\0" in base64.b64decode(item["sample"])
    mode = "lfs" if binary or item["size"] > MAX_REGULAR_SIZE else "regular"
    known = {"oid": stored.etag} if stored else {}  # the client leaves out a file that still has this oid
    return {"path": item["path"], "uploadMode": mode, "shouldIgnore": False, **known}


def commit(hub: "HubServer", user: User | None, request: Request, repository: Repository, branch: str) -> Reply:
    """Apply all operations or none."""
    _require_open(user, request, repository, branch)
    header, *operations = map(json.loads, request.body.splitlines())
    title, parent = header["value"]["summary"], header["value"].get("parentCommit", "")
    edit = partial(_apply, hub.store, repository.kind, operations)
    note = {"author": require_user(user).name, "message": header["value"].get("description", "")}
    url, opened = f"{hub.url}/{quote(repository.id)}", {}
    if "create_pr" in request.query:
        number, made = repository.propose(parent or branch, title, edit, **note)
        opened = {"pullRequestUrl": f"{url}/discussions/{number}"}
    else:
        made = repository.commit(branch, title, edit, parent=parent, **note)
    return json_reply({"success": True, "commitUrl": f"{url}/commit/{made.oid}", "commitOid": made.oid, **opened})


def _require_open(user: User | None, request: Request, repository: Repository, revision: str) -> None:
    """Raise unless `user` may commit here: to a pull request of their own, or to a repository of their namespace."""
    author = require_user(user)
    if "create_pr" in request.query or repository.openers.get(revision) == author.name:
        return
    if not author.belongs_to(repository.namespace):
        raise StoreError("Forbidden", "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")


def _apply(store: Store, kind: str, operations: list[dict], files: dict[str, Blob]) -> None:
    for key, value in ((operation["key"], operation["value"]) for operation in operations):
        if key == "file":
            files[value["path"]] = Blob(base64.b64decode(value["content"]))
            if value["path"] == "README.md":
                require_valid(files["README.md"].content, kind)
        elif key == "lfsFile":
            files[value["path"]] = store.lfs_blob(value["oid"], value["size"])
        elif key in ("deletedFile", "deletedFolder"):
            _delete(files, value["path"].rstrip("/"), folder=key == "deletedFolder")
        else:
            raise StoreError("Invalid", f"Unknown commit operation: {key}")


def _delete(files: dict[str, Blob], target: str, *, folder: bool) -> None:
    gone = [path for path in files if (path.startswith(f"{target}/") if folder else path == target)]
    if not gone:
        raise StoreError("EntryNotFound", f"A file with this name doesn't exist: {target}")
    for path in gone:
        del files[path]
