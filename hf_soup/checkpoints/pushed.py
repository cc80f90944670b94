"""Runs that a sweep has pushed to the Hub: the file beside them that names their repository and commit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..errors import SoupError
from ..types import Ingredient
from ..untrusted import read_json
from . import hub
from .hub_cache import digest_of
from .other_contents import ADAPTER


PUSHED_FILE = "pushed.json"  # beside a run that a sweep has pushed: its repository and commit


class Pushed(NamedTuple):
    """Where a folder is on the Hub.

    Args:
        source (`str`):
            Repository, perhaps with a folder in it.
        commit (`str`):
            Its commit.
    """

    source: str
    commit: str


def pushed_as(folder: Path) -> Pushed | None:
    """Where the folder of a run, or a checkpoint in it, was pushed to; `None` if it was not."""
    # A checkpoint in the folder of a run is a subfolder of its repository.
    for run, subfolder in ((folder, ""), (folder.parent, f"/{folder.name}")):
        try:
            pushed = read_json(run / PUSHED_FILE)
            return Pushed(str(pushed["repo_id"]) + subfolder, str(pushed["revision"]))
        except (OSError, ValueError, KeyError, TypeError, SoupError):
            continue
    return None


def on_hub(item: Ingredient, token: str | bool | None = None) -> Ingredient:
    """Refer to a pushed and unchanged run of a sweep by its repository instead of its folder; other ingredients are
    returned unchanged.

    Args:
        item ([`Ingredient`]):
            Reference to an ingredient.
        token (`str` or `bool`, *optional*):
            Access token for the Hub; by default the stored one.
    """
    folder = Path(item.source)
    if item.revision or not folder.is_dir():
        return item
    pushed = pushed_as(folder)
    if pushed is None:
        return item
    try:
        digests_there = hub.files_at(pushed.source, pushed.commit, token=token)
        files = {name: digests_there[name] for name in item.files}
        compared = [name for name in files if name != ADAPTER]  # which names the repository of the start there
        if any(digest_of(folder / name, files[name]) != files[name] for name in compared):
            return item
    except (OSError, KeyError, SoupError):  # changed on either side
        return item
    return replace(item, source=pushed.source, revision=pushed.commit, files=files)
