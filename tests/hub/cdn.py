"""The CDN: LFS objects, uploaded and downloaded under `/{sha256}`, also in ranges.

It does not authenticate requests: real addresses are signed, so clients should send no credentials, and the log shows
any that they do send.
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
