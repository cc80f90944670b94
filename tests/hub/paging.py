"""Long listings in pages; the address of the next page is in the `Link` header."""

from collections.abc import Sequence
from urllib.parse import urlencode

from .wire import Reply, Request, json_reply


def page_reply(request: Request, rows: Sequence[object], size: int, *, origin: str) -> Reply:
    """At most `size` rows from `cursor` on, and the address of the next page if there are more."""
    start = int(request.query.get("cursor", ["0"])[0])
    end = start + size
    if end >= len(rows):
        return json_reply(rows[start:])
    query = urlencode({**request.query, "cursor": [str(end)]}, doseq=True)
    return json_reply(rows[start:end], headers={"Link": f'<{origin}{request.path}?{query}>; rel="next"'})
