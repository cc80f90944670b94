"""Uploads of LFS files: which are needed and where to send them, in one piece or in parts, and verification.

The bytes go to the CDN, which keeps parts until the Hub joins them. Anyone who may propose a change may upload, since
bytes that no commit refers to are in no repository.
"""

import hashlib
from typing import TYPE_CHECKING

from .access import User
from .store import Repository, Store, StoreError
from .wire import Reply, Request, json_reply


if TYPE_CHECKING:
    from . import HubServer


def batch(hub: "HubServer", user: User | None, request: Request, repository: Repository) -> Reply:
    """The actions for each object; no actions means that there is nothing to upload."""
    objects = [{"oid": item["oid"], "size": item["size"]} for item in request.json()["objects"]]
    for item in objects:
        if item["oid"] not in hub.store.objects:
            verify = {"href": f"{hub.url}/{repository.id}.git/info/lfs/objects/verify"}
            item["actions"] = {"upload": _upload(hub, item["oid"], item["size"]), "verify": verify}
    return json_reply({"transfer": "basic", "objects": objects})


def _upload(hub: "HubServer", oid: str, size: int) -> dict[str, object]:
    chunk = hub.multipart_size
    if chunk is None or size <= chunk:
        return {"href": f"{hub.cdn_url}/{oid}"}
    count = -(-size // chunk)  # rounded up
    parts = {str(number): f"{hub.cdn_url}/{oid}?partNumber={number}" for number in range(1, count + 1)}
    return {"href": f"{hub.url}/api/complete_multipart", "header": {"chunk_size": str(chunk), **parts}}


def verify(hub: "HubServer", user: User | None, request: Request, repository: Repository) -> Reply:
    """Check that an object has been uploaded."""
    payload = request.json()
    hub.store.lfs_blob(payload["oid"], payload["size"])
    return json_reply({"success": True})


def complete(hub: "HubServer", user: User | None, request: Request) -> Reply:
    """Join the parts of an object. A repeated request, after a lost answer, has no effect."""
    oid, store = request.json()["oid"], hub.store
    if oid not in store.objects:
        kept = store.parts.get(oid, {})
        listed = {part["partNumber"]: part["etag"] for part in request.json()["parts"]}
        if listed != {number: etag(content) for number, content in kept.items()}:
            raise StoreError("Invalid", f"These are not the parts of {oid} that were uploaded.")
        store.put_object(oid, b"".join(kept[number] for number in sorted(kept)))
        store.parts.pop(oid, None)
    return json_reply({"success": True})


def put(store: Store, oid: str, request: Request) -> Reply:
    """The CDN's side: store an object or a part of one."""
    if "partNumber" in request.query:
        store.parts.setdefault(oid, {})[int(request.query["partNumber"][0])] = request.body
        return Reply(headers={"ETag": etag(request.body)})
    try:
        store.put_object(oid, request.body)
    except StoreError as error:
        return Reply(400, str(error).encode(), {"Content-Type": "text/plain"})
    return Reply(headers={"ETag": f'"{oid}"'})


def etag(part: bytes) -> str:
    """The ETag of a part on the CDN."""
    return f'"{hashlib.md5(part).hexdigest()}"'
