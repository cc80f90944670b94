"""The base model of a sweep: its commit, its card and its identity. No weights are loaded."""

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


BLOCK = 1 << 24  # number of bytes read at once


class BaseModel(NamedTuple):
    """A base model, as transformers loads it.

    Args:
        source (`str`):
            Hub id or folder.
        commit (`str`, *optional*):
            Commit of a Hub id.
        card (`Mapping[str, Any]`):
            Metadata of its model card. For a folder, other records of what it was fine-tuned from count as its
            `base_model` too.
    """

    source: str
    commit: str | None
    card: Mapping[str, Any]


def pin_base_model(base_model: str | os.PathLike[str], manifest: Mapping[str, Any] | None) -> BaseModel:
    """Pin a Hub id to the commit that the sweep started with, or else to the newest one; a folder is left unchanged.

    Args:
        base_model (`str` or `os.PathLike`):
            Base model, as for [`hf_soup.sweep`].
        manifest (`Mapping[str, Any]`, *optional*):
            Content of `sweep.json`, if the sweep has started.

    Raises:
        [`TrainingError`]: if `base_model` is neither a folder nor a Hub id.
    """
    if os.path.isdir(base_model):
        source = str(base_model)
        bases = bases_of_folder(Path(source).resolve())
        return BaseModel(source, None, {**read_card(Path(source)), "base_model": list(bases)})
    source, revision = hub.split_revision(base_model)
    if manifest and manifest.get("base_commit"):  # all runs share one start, even if the repository has changed since
        commit: str = manifest["base_commit"]
    elif os.path.isabs(source) or hub.split_source(source) is None:
        raise TrainingError(f"{source} does not exist, and is not a Hub id (owner/name, owner/name@revision) either.")
    else:
        commit = hub.resolve(source, revision)
    return BaseModel(source, commit, _card_on_hub(source, commit))


def _card_on_hub(source: str, commit: str) -> dict[str, Any]:
    """The metadata of a card; empty if there is none or the Hub cannot be reached."""
    try:
        return read_card(hub.fetch(source, commit, [CARD]))
    except IngredientError:
        return {}


def base_identity(base_model: str | os.PathLike[str]) -> str:
    """The identity of a base model: the Hub id, or for a folder a digest of its weights, wherever it is."""
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
