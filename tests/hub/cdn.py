"""Answers for the CDN: LFS objects, put and got under `/{sha256}`, in ranges too.

It does not check who asks: real addresses are signed, so no credentials belong here, and the log shows any that come.
"""

from .store import Store, StoreError
from .wire import Reply, Request, content_reply


def answer(store: Store, request: Request) -> Reply:
    """The reply to any request to the CDN."""
    oid = request.path.removeprefix("/")
    if request.method == "PUT":
        try:
            store.put_object(oid, request.body)
        except StoreError as error:
            return Reply(400, str(error).encode(), {"Content-Type": "text/plain"})
        return Reply(headers={"ETag": f'"{oid}"'})
    if request.method not in ("GET", "HEAD") or oid not in store.objects:
        return Reply(404)
    return content_reply(request, store.objects[oid], {"ETag": f'"{oid}"'})
