"""Replies of the Hub itself: finds the route of a request, and checks the right that the route requires.

The routes are in the files of their concerns.
"""

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlencode

from . import cards, commits, files, history, info, jobs, lfs, repos
from .access import PROPOSE, READ, SEE, WRITE, User, check
from .errors import error_reply, refusal
from .store import StoreError
from .wire import Reply, Request


if TYPE_CHECKING:
    from . import HubServer


def answer(hub: "HubServer", request: Request) -> Reply:
    """The reply to any request to the Hub; a refusal becomes a status and an error code."""
    try:
        return _route(hub, hub.accounts.identify(request.headers), request)
    except StoreError as error:
        return refusal(error, anonymous="Authorization" not in request.headers)


def _route(hub: "HubServer", user: User | None, request: Request) -> Reply:
    method = "GET" if request.method == "HEAD" else request.method
    if (method, request.path) in SITE_ROUTES:
        return SITE_ROUTES[method, request.path](hub, user, request)
    for verb, pattern, site_route in JOB_ROUTES:
        if verb == method and (match := re.fullmatch(pattern, request.path)):
            return site_route(hub, user, request, *map(unquote, match.groups()))
    folder, path = _kind(request.path)
    for verb, pattern, right, route in MODEL_ROUTES:
        if verb == method and (match := re.fullmatch(pattern, path)):
            name, *rest = map(unquote, match.groups(""))
            repo_id = folder + name
            if repo_id in hub.store.moved:
                here = request.path.replace(match[1], hub.store.moved[repo_id].removeprefix(folder), 1)
                query = urlencode(request.query, doseq=True)
                return Reply(307, headers={"Location": f"{hub.url}{here}?{query}"})
            repository = hub.store.repositories.get(repo_id)
            if repository is None:
                raise StoreError("RepoNotFound", "Repository not found")
            check(user, repository, right)
            return route(hub, user, request, repository, *rest)
    return error_reply(404, f"The test hub has no {request.method} {request.path}")


def _kind(path: str) -> tuple[str, str]:
    """The prefix of ids, "datasets/" or "", and the path as the corresponding route of models."""
    for start, of_models in (("/api/datasets/", "/api/models/"), ("/datasets/", "/")):
        if path.startswith(start):
            return "datasets/", of_models + path.removeprefix(start)
    return "", path


SITE_ROUTES = {
    ("GET", "/api/whoami-v2"): repos.whoami,
    ("GET", "/api/models"): info.list_repositories,
    ("GET", "/api/datasets"): info.list_repositories,
    ("POST", "/api/repos/create"): repos.create,
    ("POST", "/api/repos/move"): repos.move,
    ("DELETE", "/api/repos/delete"): repos.delete,
    ("POST", "/api/validate-yaml"): cards.validate_yaml,
    ("GET", "/api/jobs/hardware"): jobs.hardware,
    ("POST", "/api/complete_multipart"): lfs.complete,  # real addresses are signed: clients send no token here
}
JOB_ROUTES = (
    ("POST", "/api/jobs/([^/]+)", jobs.start),
    ("GET", "/api/jobs/([^/]+)", jobs.listing),
    ("GET", "/api/jobs/([^/]+)/([^/]+)", jobs.inspect),
    ("GET", "/api/jobs/([^/]+)/([^/]+)/logs", jobs.logs),
    ("POST", "/api/jobs/([^/]+)/([^/]+)/cancel", jobs.cancel),
)
ID, REVISION, PATH = r"([^/]+(?:/[^/]+)?)", r"([^/]+)", r"(.+)"  # clients quote the slashes of a revision
MODEL_ROUTES = (
    ("GET", f"/api/models/{ID}(?:/revision/{REVISION})?", SEE, info.repository_info),
    ("GET", f"/api/models/{ID}/tree/{REVISION}(?:/{PATH})?", SEE, files.tree),
    ("GET", f"/api/models/{ID}/refs", SEE, history.refs),
    ("GET", f"/api/models/{ID}/commits/{REVISION}", SEE, history.commits),
    ("GET", f"/api/models/{ID}/auth-check", READ, repos.allowed),
    ("GET", f"/api/models/{ID}/auth-check/write", WRITE, repos.allowed),
    ("GET", f"/{ID}/resolve/{REVISION}/{PATH}", READ, files.resolve),
    ("POST", f"/api/models/{ID}/preupload/{REVISION}", PROPOSE, commits.preupload),
    ("POST", rf"/{ID}\.git/info/lfs/objects/batch", PROPOSE, lfs.batch),
    ("POST", rf"/{ID}\.git/info/lfs/objects/verify", PROPOSE, lfs.verify),
    ("POST", f"/api/models/{ID}/commit/{REVISION}", PROPOSE, commits.commit),
    ("POST", f"/api/models/{ID}/branch/{REVISION}", WRITE, history.add_branch),
    ("DELETE", f"/api/models/{ID}/branch/{REVISION}", WRITE, history.remove_branch),
    ("POST", f"/api/models/{ID}/tag/{REVISION}", WRITE, history.add_tag),
    ("DELETE", f"/api/models/{ID}/tag/{REVISION}", WRITE, history.remove_tag),
    ("PUT", f"/api/models/{ID}/settings", WRITE, repos.settings),
)
