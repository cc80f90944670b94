"""Answers for the CDN: LFS objects, put and got under `/{sha256}`, in ranges too.

It does not check who asks: real addresses are signed, so no credentials belong here, and the log shows any that come.
"""

from . import lfs
from .store import Store
from .wire import Reply, Request, content_reply


def answer(store: Store, request: Request) -> Reply:
    """The reply to any request to the CDN."""
    oid = request.path.removeprefix("/")
    if request.method == "PUT":
        return lfs.put(store, oid, request)
    if request.method not in ("GET", "HEAD") or oid not in store.objects:
        return Reply(404)
    return content_reply(request, store.objects[oid], {"ETag": f'"{oid}"'})
