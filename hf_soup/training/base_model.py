"""The base model of a sweep: its commit, its card, and what tells it from others. It loads no weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..checkpoints import hub
from ..checkpoints.checkpoint import read_card
from ..checkpoints.companion_files import CARD
from ..errors import IngredientError, TrainingError
from ..publishing.bases import bases_of_folder


BLOCK = 1 << 24  # bytes that are read at once


class BaseModel(NamedTuple):
    """A base model as transformers loads it.

    Args:
        source (`str`):
            Hub id or folder.
        commit (`str`, *optional*):
            Of a Hub id.
        card (`Mapping[str, Any]`):
            The metadata of its model card; of a folder, whatever else says what it was fine-tuned from counts as its
            `base_model`.
    """

    source: str
    commit: str | None
    card: Mapping[str, Any]


def pin_base_model(base_model: str | os.PathLike[str], manifest: Mapping[str, Any] | None) -> BaseModel:
    """A folder as it is; a Hub id at the commit that the sweep began with, or at the newest one.

    Args:
        base_model (`str` or `os.PathLike`):
            As of [`hf_soup.sweep`].
        manifest (`Mapping[str, Any]`, *optional*):
            What `sweep.json` holds, if the sweep has begun.

    Raises:
        [`TrainingError`]: if it is neither a folder nor a Hub id.
    """
    if os.path.isdir(base_model):
        source = str(base_model)
        bases = bases_of_folder(Path(source).resolve())
        return BaseModel(source, None, {**read_card(Path(source)), "base_model": list(bases)})
    source, revision = hub.split_revision(base_model)
    if manifest and manifest.get("base_commit"):  # runs of one sweep have one start, whatever was pushed since
        commit: str = manifest["base_commit"]
    elif os.path.isabs(source) or hub.split_source(source) is None:
        raise TrainingError(f"{source} does not exist, and is not a Hub id (owner/name, owner/name@revision) either.")
    else:
        commit = hub.resolve(source, revision)
    return BaseModel(source, commit, _card_on_hub(source, commit))


def _card_on_hub(source: str, commit: str) -> dict[str, Any]:
    """The metadata of a card; nothing where there is none, or where the Hub cannot be asked."""
    try:
        return read_card(hub.fetch(source, commit, [CARD]))
    except IngredientError:
        return {}


def base_identity(base_model: str | os.PathLike[str]) -> str:
    """A Hub id as it is; a folder by the content of its weights, wherever it lies."""
    import xxhash

    if not os.path.isdir(base_model):
        return str(base_model)
    digest = xxhash.xxh3_128()
    for path in sorted(Path(base_model).glob("*")):
        if path.suffix in (".safetensors", ".bin"):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
    return "xxh3-128:" + digest.hexdigest()
