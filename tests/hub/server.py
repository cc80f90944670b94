"""Answers for the Hub itself: the routes of its API and of its files, over a store.

It does not send LFS bytes (it redirects to the CDN), page its listings, read `.gitignore`, parse the YAML of cards (it
finds lines that cannot be YAML), or put cards' data and dates into model infos.
"""

import base64
import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from urllib.parse import quote, unquote

from .store import LFS_SUFFIXES, MAX_REGULAR_SIZE, Blob, Repository, Store, StoreError
from .wire import Reply, Request, content_reply, json_reply


NOT_FOUND = ("RepoNotFound", "RevisionNotFound", "EntryNotFound")
STATUS = {**dict.fromkeys(NOT_FOUND, 404), "Denied": 401, "Exists": 409, "Stale": 412, "Invalid": 400}


@dataclass(frozen=True)
class Site:
    """What the routes need: the store, whom `token` belongs to, and where LFS bytes are."""

    store: Store
    user: str
    token: str
    cdn_url: str


def answer(site: Site, request: Request) -> Reply:
    """The reply to any request to the Hub; what the store refuses becomes a status and an error code."""
    anonymous = "Authorization" not in request.headers
    try:
        if not anonymous and request.headers["Authorization"] != f"Bearer {site.token}":
            raise StoreError("Denied", "Invalid credentials in Authorization header")
        return _route(site, request, anonymous)
    except StoreError as error:
        # To a stranger a missing repository is not told apart from a private one
        status = 401 if anonymous and error.reason == "RepoNotFound" else STATUS[error.reason]
        code = {"X-Error-Code": error.reason} if error.reason in NOT_FOUND else {}
        seen = {"X-Repo-Commit": error.commit} if error.commit else {}
        return json_reply({"error": str(error)}, status=status, headers={**code, **seen})


def _route(site: Site, request: Request, anonymous: bool) -> Reply:
    method = "GET" if request.method == "HEAD" else request.method
    if anonymous and (method, request.path) in PERSONAL:
        raise StoreError("Denied", "Invalid username or password.")
    if (method, request.path) in SITE_ROUTES:
        return SITE_ROUTES[method, request.path](site, request)
    folder, path = _kind(request.path)
    for verb, pattern, route in MODEL_ROUTES:
        if verb == method and (match := re.fullmatch(pattern, path)):
            repo_id, *rest = map(unquote, match.groups(""))
            repository = site.store.repositories.get(f"{folder}{repo_id}")
            if repository is None or (anonymous and repository.private):
                raise StoreError("RepoNotFound", "Repository not found")
            if anonymous and method != "GET":
                raise StoreError("Denied", "Invalid username or password.")
            return route(site, request, repository, *rest)
    return json_reply({"error": f"The test hub has no {request.method} {request.path}"}, status=404)


def _kind(path: str) -> tuple[str, str]:
    """Data sets have the routes of models, under `datasets/`: where they are kept, and the route of a model."""
    for start, of_models in (("/api/datasets/", "/api/models/"), ("/datasets/", "/")):
        if path.startswith(start):
            return "datasets/", of_models + path.removeprefix(start)
    return "", path


def _whoami(site: Site, request: Request) -> Reply:
    token = {"displayName": "test", "role": "write"}
    return json_reply({"type": "user", "name": site.user, "orgs": [], "auth": {"accessToken": token}})


def _create_repo(site: Site, request: Request) -> Reply:
    payload = request.json()
    if payload.get("type", "model") not in ("model", "dataset"):
        raise StoreError("Invalid", f"The test hub keeps models and data sets, not a {payload['type']}")
    folder = "datasets/" if payload.get("type") == "dataset" else ""
    repo_id = f"{folder}{payload.get('organization') or site.user}/{payload['name']}"
    url = {"url": _url(request, repo_id)}
    try:
        site.store.create(repo_id, private=payload.get("visibility") == "private")
    except StoreError as error:
        return json_reply({"error": str(error), **url}, status=409)  # clients with `exist_ok` read the url
    return json_reply(url)


def _validate_yaml(site: Site, request: Request) -> Reply:
    match = re.match(r"---\r?\n(.*?)^---\s*$", request.json()["content"], re.DOTALL | re.MULTILINE)
    if match is None:
        return json_reply({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    bad = [line for line in match[1].splitlines() if line and not re.match(r"[\s#-]|[^:]+:(\s|$)", line)]
    errors = [{"message": f"not a YAML key and value: {line}"} for line in bad]
    return json_reply({"errors": errors, "warnings": []}, status=400 if errors else 200)


def _model_info(site: Site, request: Request, repository: Repository, revision: str) -> Reply:
    commit = repository.resolve(revision or "main")
    siblings = [{"rfilename": path} for path in sorted(commit.files)]
    state = {"private": repository.private, "gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0}
    return json_reply(
        {"id": repository.id.removeprefix("datasets/"), "sha": commit.oid, "siblings": siblings, **state}
    )


def _tree(site: Site, request: Request, repository: Repository, revision: str, folder: str) -> Reply:
    commit = repository.resolve(revision)
    prefix = f"{folder}/" if folder else ""
    rows = {path: _file_row(path, blob) for path, blob in commit.files.items()}
    for parent in {str(parent) for path in commit.files for parent in PurePosixPath(path).parents} - {"."}:
        rows[parent] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": parent}
    inside = [path for path in sorted(rows) if path.startswith(prefix)]
    if folder and not inside:
        raise StoreError("EntryNotFound", f"{folder} does not exist on {revision}", commit=commit.oid)
    recursive = request.query.get("recursive") == ["true"]
    return json_reply([rows[path] for path in inside if recursive or "/" not in path[len(prefix) :]])


def _file_row(path: str, blob: Blob) -> dict[str, object]:
    row = {"type": "file", "oid": blob.oid, "size": len(blob.content), "path": path}
    lfs = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": len(blob.pointer)}
    return {**row, "lfs": lfs} if blob.lfs else row


def _resolve(site: Site, request: Request, repository: Repository, revision: str, path: str) -> Reply:
    commit = repository.resolve(revision)
    if path not in commit.files:
        raise StoreError("EntryNotFound", "Entry not found", commit=commit.oid)
    blob = commit.files[path]
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.etag}"'}
    if not blob.lfs:
        return content_reply(request, blob.content, headers)
    linked = {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
    return Reply(302, headers={**headers, **linked, "Location": f"{site.cdn_url}/{blob.sha256}"})


def _preupload(site: Site, request: Request, repository: Repository, revision: str) -> Reply:
    stored = repository.resolve(revision).files
    return json_reply({"files": [_upload_mode(item, stored.get(item["path"])) for item in request.json()["files"]]})


def _upload_mode(item: dict, stored: Blob | None) -> dict[str, object]:
    binary = item["path"].endswith(LFS_SUFFIXES) or b"\0" in base64.b64decode(item["sample"])
    mode = "lfs" if binary or item["size"] > MAX_REGULAR_SIZE else "regular"
    known = {"oid": stored.etag} if stored else {}  # the client leaves a file out that still has this oid
    return {"path": item["path"], "uploadMode": mode, "shouldIgnore": False, **known}


def _lfs_batch(site: Site, request: Request, repository: Repository) -> Reply:
    verify = {"href": f"{_url(request, repository.id)}.git/info/lfs/objects/verify"}
    objects = [{"oid": item["oid"], "size": item["size"]} for item in request.json()["objects"]]
    for item in objects:
        if item["oid"] not in site.store.objects:  # no actions means nothing to upload
            item["actions"] = {"upload": {"href": f"{site.cdn_url}/{item['oid']}"}, "verify": verify}
    return json_reply({"transfer": "basic", "objects": objects})


def _lfs_verify(site: Site, request: Request, repository: Repository) -> Reply:
    site.store.lfs_blob(**request.json())
    return json_reply({"success": True})


def _commit(site: Site, request: Request, repository: Repository, branch: str) -> Reply:
    if "create_pr" in request.query:
        raise StoreError("Invalid", "The test hub has no pull requests")
    header, *operations = map(json.loads, request.body.splitlines())
    title, parent = header["value"]["summary"], header["value"].get("parentCommit", "")
    made = repository.commit(branch, title, partial(_apply, site.store, operations), parent=parent)
    return json_reply({"commitUrl": f"{_url(request, repository.id)}/commit/{made.oid}", "commitOid": made.oid})


def _apply(store: Store, operations: list[dict], files: dict[str, Blob]) -> None:
    for key, value in ((operation["key"], operation["value"]) for operation in operations):
        if key == "file":
            files[value["path"]] = Blob(base64.b64decode(value["content"]))
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


def _branch(site: Site, request: Request, repository: Repository, name: str) -> Reply:
    repository.point(repository.branches, name, request.json().get("startingPoint", "main"))
    return Reply()


def _tag(site: Site, request: Request, repository: Repository, revision: str) -> Reply:
    repository.point(repository.tags, request.json()["tag"], revision)
    return Reply()


def _url(request: Request, repo_id: str) -> str:
    return f"http://{request.headers['Host']}/{quote(repo_id)}"


SITE_ROUTES = {
    ("GET", "/api/whoami-v2"): _whoami,
    ("POST", "/api/repos/create"): _create_repo,
    ("POST", "/api/validate-yaml"): _validate_yaml,
}
PERSONAL = (("GET", "/api/whoami-v2"), ("POST", "/api/repos/create"))  # without a model, but only with a token
ID, REVISION, PATH = r"([^/]+(?:/[^/]+)?)", r"([^/]+)", r"(.+)"  # clients quote the slashes of a revision
MODEL_ROUTES = (
    ("GET", f"/api/models/{ID}(?:/revision/{REVISION})?", _model_info),
    ("GET", f"/api/models/{ID}/tree/{REVISION}(?:/{PATH})?", _tree),
    ("GET", f"/{ID}/resolve/{REVISION}/{PATH}", _resolve),
    ("POST", f"/api/models/{ID}/preupload/{REVISION}", _preupload),
    ("POST", rf"/{ID}\.git/info/lfs/objects/batch", _lfs_batch),
    ("POST", rf"/{ID}\.git/info/lfs/objects/verify", _lfs_verify),
    ("POST", f"/api/models/{ID}/commit/{REVISION}", _commit),
    ("POST", f"/api/models/{ID}/branch/{REVISION}", _branch),
    ("POST", f"/api/models/{ID}/tag/{REVISION}", _tag),
)
