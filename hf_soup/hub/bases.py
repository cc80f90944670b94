"""What the ingredients of a soup were fine-tuned from, as repositories of the Hub: its place in the model tree.

It reads what lies beside the weights, and asks the Hub nothing.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoints.checkpoint import Checkpoint, read_card
from ..checkpoints.files_beside import CONFIG
from ..checkpoints.hub import split_revision, split_source
from ..checkpoints.other_contents import CHECKPOINT
from ..errors import SoupError
from ..types import Recipe
from ..untrusted import read_json


RUN_FILE = "run.json"  # beside a whole run of a sweep, written last: its settings, and what it was fine-tuned from
START = "start"  # beside the runs of a sweep: what all of them started from
HUB_URL = r"https?://(www\.)?(huggingface\.co|hf\.co)/"
# Models that the Hub has without an owner. A configuration holds what was loaded, which may as well be a folder that
# is not here any more, so that other names without an owner are not taken from it.
CANONICAL = (
    "(bert|distilbert|roberta|distilroberta|xlm-roberta|albert|camembert|xlnet)-(base|large|xlarge|xxlarge)(-.*)?"
    "|(distil)?gpt2(-medium|-large|-xl)?|openai-gpt|t5-(small|base|large|3b|11b)"
)


def find_bases(recipe: Recipe, checkpoints: Sequence[Checkpoint]) -> list[tuple[str, ...]]:
    """What each ingredient was fine-tuned from, as far as anything says so; nothing where nothing does.

    Of each ingredient the first of these that names a repository counts: the `base_model` of its card; `run.json` of a
    sweep; the card of that sweep's start; the recipe's own base model, or what that was fine-tuned from; and the
    `_name_or_path` of its configuration. A name without an owner (`distilbert-base-uncased`) is a repository too; in a
    configuration only if it is one of a family of models that the Hub has so.

    Args:
        recipe ([`Recipe`]):
            Of the soup.
        checkpoints (`Sequence[Checkpoint]`):
            Its ingredients, opened, in recipe order.
    """
    own = _bases_of_recipe(recipe)
    return [_bases_of_folder(item.folder) or own or _bases_of_config(item.config, item.folder) for item in checkpoints]


def bases_in_card(card: Mapping[str, Any], folder: Path | None = None) -> tuple[str, ...]:
    """The repositories that the metadata of a card name under `base_model`; paths are none.

    Args:
        card (`Mapping[str, Any]`):
            Its metadata.
        folder (`Path`, *optional*):
            Where it lies: a path may be relative to it, or to a folder above it.
    """
    named = card.get("base_model")
    named = named if isinstance(named, list) else [named]
    found = [_repository(name, folder) for name in named if isinstance(name, str)]
    return tuple(dict.fromkeys(filter(None, found)))


def bases_of_folder(folder: Path) -> tuple[str, ...]:
    """What a model in a folder was fine-tuned from, as its card, its record or its configuration says.

    Args:
        folder (`Path`):
            That holds `config.json`.
    """
    try:
        config = read_json(folder / CONFIG)
    except (OSError, SoupError):
        config = None
    return _bases_of_folder(folder) or _bases_of_config(config if isinstance(config, dict) else {}, folder)


def _bases_of_folder(folder: Path | None) -> tuple[str, ...]:
    if folder is None:
        return ()
    places = [folder]
    if CHECKPOINT.fullmatch(folder.name):  # what it belongs to is one folder up
        places.append(folder.parent)
    found = itertools.chain.from_iterable(_bases_told(place) for place in places)
    return next(filter(None, found), ())


def _bases_told(folder: Path) -> Iterator[tuple[str, ...]]:
    """What a folder says in its card, in the record of its run, and in the card of its sweep's start."""
    yield bases_in_card(read_card(folder), folder)
    try:
        run = read_json(folder / RUN_FILE)
    except (OSError, ValueError, SoupError):
        return
    base = run.get("base_model") if isinstance(run, dict) else None
    if isinstance(base, str) and run.get("base_commit"):  # without a commit it is the name of a folder
        source = split_source(split_revision(base)[0])
        yield (source[0],) if source and _is_valid(source[0]) else ()
    yield bases_in_card(read_card(folder.parent / START), folder.parent / START)


def _bases_of_recipe(recipe: Recipe) -> tuple[str, ...]:
    base = recipe.base_model
    if base is None:
        return ()
    source = split_source(base.source)
    if base.revision:
        return (source[0],) if source and _is_valid(source[0]) else ()
    return _bases_of_folder(Path(base.source)) if os.path.isabs(base.source) else ()


def _bases_of_config(config: Mapping[str, Any], folder: Path | None) -> tuple[str, ...]:
    name = config.get("_name_or_path")
    found = _repository(name, folder) if isinstance(name, str) else None
    if found is None or ("/" not in found and not re.fullmatch(CANONICAL, found)):
        return ()
    return (found,)


def _repository(text: str, folder: Path | None) -> str | None:
    """The `owner/name` or `name` that a text names on the Hub, without the revision and the address of the Hub; `None`
    if it is a path seen from here or from a folder, or cannot be a repository.
    """
    name = split_revision(re.sub(HUB_URL, "", text).removesuffix("/"))[0]
    if name.count("/") > 1 or split_source(name) is None or not _is_valid(name) or CHECKPOINT.fullmatch(name):
        return None
    above = [] if folder is None else [folder, *folder.resolve().parents]
    there = any(os.path.exists(path) for path in (text, name, *(place / name for place in above)))
    return None if there else name


def _is_valid(repo_id: str) -> bool:
    """Whether the Hub takes it as the id of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        return False
    return True
