"""Which ingredients on the Hub are streamed: read by ranges of bytes as the merge goes on, instead of downloaded."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace

from ..errors import RecipeError, warn
from .adapter import AdapterCheckpoint
from .checkpoint import Checkpoint
from .hub import bytes_to_fetch
from .hub_cache import cache_folder
from .hub_ranges import HubRanges
from .remote_files import RemoteFiles
from .targets import nearest


SPARE = 2 * 2**30  # bytes of the disk that downloads leave free


def stream_weights(checkpoints: Sequence[Checkpoint], stream: bool | None) -> tuple[Checkpoint, ...]:
    """The same ingredients, of which those on the Hub are streamed. Weights that are in the cache are read there.

    Args:
        checkpoints (`Sequence[Checkpoint]`):
            Opened ingredients, and the base model if it is read.
        stream (`bool`, *optional*):
            Whether weights are streamed; `None` if only where the disk does not suffice for a download, which a
            warning says.

    Raises:
        [`RecipeError`]: if it is something else.
        [`IngredientError`]: if the Hub does not tell the sizes of the files.
    """
    if stream is not None and not isinstance(stream, bool):
        raise RecipeError(f"stream is True, False or None, not {stream!r}.")
    if stream is False:
        return tuple(checkpoints)
    missing: dict[tuple[str, str], int] = {}  # repository and commit -> bytes
    for item in checkpoints:
        missing |= _missing(item)
    needed = sum(missing.values())
    if not needed or (stream is None and _fits(needed, len(missing))):
        return tuple(checkpoints)
    remotes: dict[tuple[str, str], RemoteFiles] = {}  # several adapters may have one base model
    return tuple(_streamed(item, missing, remotes) for item in checkpoints)


def _missing(item: Checkpoint) -> dict[tuple[str, str], int]:
    """Repository and commit -> bytes of its weights that are not in the cache; without those that are."""
    if isinstance(item, AdapterCheckpoint):
        return _missing(item.base)
    commit = item.ingredient.revision
    if item.in_memory or item.is_streamed or commit is None:
        return {}
    size = bytes_to_fetch(item.ingredient.source, commit, item.ingredient.files)
    return {(item.ingredient.source, commit): size} if size else {}


def _fits(needed: int, count: int) -> bool:
    """Whether downloads fit on the disk of the cache; warns if they do not."""
    folder = cache_folder()
    free = shutil.disk_usage(nearest(folder)).free
    if needed + SPARE <= free:
        return True
    warn(
        f"the weights of {count} models on the Hub take {needed / 1e9:,.1f} GB, and {folder} has {free / 1e9:,.1f} GB "
        "left: they are streamed and not kept. With stream=False they are downloaded."
    )
    return False


def _streamed(
    item: Checkpoint, missing: dict[tuple[str, str], int], remotes: dict[tuple[str, str], RemoteFiles]
) -> Checkpoint:
    """One ingredient, streamed if something of it is missing in the cache."""
    if isinstance(item, AdapterCheckpoint):
        return replace(item, base=_streamed(item.base, missing, remotes))
    source, commit = item.ingredient.source, item.ingredient.revision
    if item.in_memory or commit is None or (source, commit) not in missing:
        return item
    if (source, commit) not in remotes:
        files = item.ingredient.files
        ranges = HubRanges(source, commit, files)
        remotes[source, commit] = RemoteFiles(item.name, ranges.sizes, files, ranges)
    return replace(item, remote=remotes[source, commit])
