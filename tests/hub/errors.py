"""Error replies of the Hub: JSON for people, and headers that tell the client which exception to raise.

The decisions are made in `store`, `access` and `faults`.
"""

from collections.abc import Mapping

from .store import StoreError
from .wire import Reply, json_reply


STATUS = {
    "Invalid": 400,
    "Denied": 401,
    "Forbidden": 403,
    "GatedRepo": 403,
    "RepoNotFound": 404,
    "RevisionNotFound": 404,
    "EntryNotFound": 404,
    "Exists": 409,
    "Stale": 412,
}
CODES = ("GatedRepo", "RepoNotFound", "RevisionNotFound", "EntryNotFound")  # those that the client knows
HIDDEN = ("GatedRepo", "RepoNotFound")  # both are a 401 for anonymous requests, where a token may help


def error_reply(status: int, message: str, headers: Mapping[str, str] | None = None) -> Reply:
    """An error with its message in the body and, on one line, in the header that the client prints for a 403."""
    line = " ".join(message.split()).encode("ascii", "replace").decode()
    return json_reply({"error": message}, status=status, headers={"X-Error-Message": line, **(headers or {})})


def refusal(error: StoreError, *, anonymous: bool) -> Reply:
    """The reply to a request that was refused by the store or for lack of rights."""
    status = 401 if anonymous and error.reason in HIDDEN else STATUS[error.reason]
    code = {"X-Error-Code": error.reason} if error.reason in CODES else {}
    seen = {"X-Repo-Commit": error.commit} if error.commit else {}
    return error_reply(status, str(error), {**code, **seen})
