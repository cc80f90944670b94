"""Of the site: links of the pages that lead out of this folder, to files of the repository, become plain text."""

from __future__ import annotations

import re
from typing import Any


OUTSIDE = re.compile(r"(?<!!)\[([^\]\[]+)\]\(\.\./[^)\s]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The site has the pages alone; on a code host the links work as they are."""
    return OUTSIDE.sub(r"\1", markdown)
