"""Routes for the content of a repository: the tree of its files, and each file.

LFS files are redirected to the CDN.
"""

from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

from .access import User
from .paging import page_reply
from .store import Blob, Repository, StoreError
from .wire import Reply, Request, content_reply


if TYPE_CHECKING:
    from . import HubServer


def tree(
    hub: "HubServer", user: User | None, request: Request, repository: Repository, revision: str, folder: str
) -> Reply:
    """Files and folders below a folder, or only those directly in it."""
    commit = repository.resolve(revision)
    prefix = f"{folder}/" if folder else ""
    rows = {path: _file_row(path, blob) for path, blob in commit.files.items()}
    for parent in {str(parent) for path in commit.files for parent in PurePosixPath(path).parents} - {"."}:
        rows[parent] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": parent}
    inside = [path for path in sorted(rows) if path.startswith(prefix)]
    if folder and not inside:
        raise StoreError("EntryNotFound", f"{folder} does not exist on {revision}", commit=commit.oid)
    recursive = request.query.get("recursive") == ["true"]
    listed = [rows[path] for path in inside if recursive or "/" not in path[len(prefix) :]]
    return page_reply(request, listed, hub.page_size, origin=hub.url)


def _file_row(path: str, blob: Blob) -> dict[str, object]:
    row = {"type": "file", "oid": blob.oid, "size": len(blob.content), "path": path}
    lfs = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": len(blob.pointer)}
    return {**row, "lfs": lfs} if blob.lfs else row


def resolve(
    hub: "HubServer", user: User | None, request: Request, repository: Repository, revision: str, path: str
) -> Reply:
    """A small file, or a redirect to an LFS file."""
    commit = repository.resolve(revision)
    if path not in commit.files:
        raise StoreError("EntryNotFound", "Entry not found", commit=commit.oid)
    blob = commit.files[path]
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.etag}"'}
    if not blob.lfs:
        return content_reply(request, blob.content, headers)
    linked = {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
    location = f"{hub.cdn_url}/{blob.sha256}?filename={quote(path)}"  # the name is for `match` of a fault
    return Reply(302, headers={**headers, **linked, "Location": location})
