"""The base models of the ingredients of a soup, as repositories on the Hub: its place in the model tree.

Only files beside the weights are read, and the Hub is not asked. `lineage.py` follows models on the Hub to their
base models.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..checkpoints.checkpoint import PRIVATE, Checkpoint, read_card
from ..checkpoints.companion_files import CONFIG
from ..checkpoints.hub import split_revision, split_source
from ..checkpoints.other_contents import CHECKPOINT
from ..errors import SoupError
from ..types import Recipe
from ..untrusted import read_json


RUN_FILE = "run.json"  # beside a complete run of a sweep, written last: its settings and its base model
START = "start"  # beside the runs of a sweep: the start of all runs
HUB_URL = r"https?://(www\.)?(huggingface\.co|hf\.co)/"
# Models on the Hub without an owner. A configuration has the name that was loaded, which may also be that of a folder
# that no longer exists, so other names without an owner are not taken from it.
CANONICAL = (
    "(bert|distilbert|roberta|distilroberta|xlm-roberta|albert|camembert|xlnet)-(base|large|xlarge|xxlarge)(-.*)?"
    "|(distil)?gpt2(-medium|-large|-xl)?|openai-gpt|t5-(small|base|large|3b|11b)"
)


def find_bases(recipe: Recipe, checkpoints: Sequence[Checkpoint]) -> list[tuple[str, ...]]:
    """The base models of each ingredient, as far as they are known.

    For each ingredient the first of these that names a repository is used: the `base_model` of its card; `run.json` of
    a sweep; the card of that sweep's start; the recipe's base model, or the base model of that; and the
    `_name_or_path` of its configuration. A name without an owner (`distilbert-base-uncased`) is a repository too, but
    in a configuration only if the Hub has a family of such models.

    Args:
        recipe ([`Recipe`]):
            Recipe of the soup.
        checkpoints (`Sequence[Checkpoint]`):
            Opened ingredients in the order of the recipe.
    """
    bases_in_recipe = _bases_in_recipe(recipe)
    bases = []
    for checkpoint in checkpoints:
        bases.append(
            _bases_beside(checkpoint.folder)
            or bases_in_recipe
            or _bases_in_config(checkpoint.config, checkpoint.folder)
        )
    return bases


def bases_in_card(card: Mapping[str, Any], folder: Path | None = None) -> tuple[str, ...]:
    """The repositories that the metadata of a card name under `base_model`, without paths.

    Args:
        card (`Mapping[str, Any]`):
            Metadata of the card.
        folder (`Path`, *optional*):
            Folder of the card; paths may be relative to it, or to a folder above it.
    """
    repositories = []
    for name in names_in_card(card):
        repo_id = _repository(name, folder)
        if repo_id is not None:
            repositories.append(repo_id)
    return tuple(dict.fromkeys(repositories))


def names_in_card(card: Mapping[str, Any]) -> list[str]:
    """The names under `base_model` in the metadata of a card, whether they are repositories or not."""
    value = card.get("base_model")
    names = value if isinstance(value, list) else [value]
    return [name for name in names if isinstance(name, str)]


def bases_of_folder(folder: Path) -> tuple[str, ...]:
    """The base models of a model in a folder, according to its card, its record or its configuration.

    Args:
        folder (`Path`):
            Folder with `config.json`.
    """
    try:
        config = read_json(folder / CONFIG)
    except (OSError, SoupError):
        config = None
    if not isinstance(config, dict):
        config = {}
    return _bases_beside(folder) or _bases_in_config(config, folder)


def _bases_beside(folder: Path | None) -> tuple[str, ...]:
    """The base models named by the first of the files beside the weights that names any."""
    if folder is None:
        return ()
    places = [folder]
    if CHECKPOINT.fullmatch(folder.name):  # the run of such a checkpoint is one folder up
        places.append(folder.parent)
    for place in places:
        for bases in _statements_of_bases(place):
            if bases:
                return bases
    return ()


def _statements_of_bases(folder: Path) -> Iterator[tuple[str, ...]]:
    """The base models in the card of a folder, in the record of its run, and in the card of its sweep's start."""
    yield bases_in_card(read_card(folder), folder)
    try:
        run = read_json(folder / RUN_FILE)
    except (OSError, ValueError, SoupError):
        return
    if isinstance(run, dict):
        base = run.get("base_model")
        if isinstance(base, str) and run.get("base_commit"):  # without a commit, this is the name of a folder
            yield _valid_repository(split_revision(base)[0])
    yield bases_in_card(read_card(folder.parent / START), folder.parent / START)


def _bases_in_recipe(recipe: Recipe) -> tuple[str, ...]:
    """The recipe's base model, or the base model of that if it is a folder."""
    base = recipe.base_model
    if base is None:
        return ()
    if base.revision:
        return _valid_repository(base.source)
    if not os.path.isabs(base.source):  # not a folder of this machine but a source such as "memory"
        return ()
    return _bases_beside(Path(base.source))


def _valid_repository(source: str) -> tuple[str, ...]:
    """The repository of a source, if it has one."""
    parts = split_source(source)
    if parts is None or not _is_valid(parts[0]):
        return ()
    return (parts[0],)


def _bases_in_config(config: Mapping[str, Any], folder: Path | None) -> tuple[str, ...]:
    """The repository that a configuration was loaded from, as recorded by transformers."""
    name = config.get("_name_or_path")
    if not isinstance(name, str):
        return ()
    repo_id = _repository(name, folder)
    if repo_id is None or ("/" not in repo_id and not re.fullmatch(CANONICAL, repo_id)):
        return ()
    return (repo_id,)


def _repository(text: str, folder: Path | None) -> str | None:
    """The repository `owner/name` or `name` in a text, without a revision and the address of the Hub.

    `None` if the text is a path, relative to here or to a folder, or cannot be a repository.
    """
    name, _ = split_revision(re.sub(HUB_URL, "", text).removesuffix("/"))
    if name.count("/") > 1 or split_source(name) is None or not _is_valid(name) or CHECKPOINT.fullmatch(name):
        return None
    paths: list[str | Path] = [text, name]
    if folder is not None:
        paths += [place / name for place in (folder, *folder.resolve().parents)]
    if any(map(os.path.exists, paths)):
        return None
    return name


def _is_valid(repo_id: str) -> bool:
    """Whether this is a valid id of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # documented, not in its __all__

    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        return False
    return True


class ModelTree(NamedTuple):
    """The place of a soup in the Hub's model tree.

    Args:
        parents (`tuple[str, ...]`):
            Repositories that it was made from: ingredients, and base models of ingredients that are not on the Hub.
        bases (`tuple[str, ...]`):
            The base models among these.
        withheld (`tuple[str, ...]`):
            Names of ingredients with a private base model.
        unknown (`tuple[str, ...]`):
            Names of ingredients that are not on the Hub and whose base model is not known.
    """

    parents: tuple[str, ...]
    bases: tuple[str, ...]
    withheld: tuple[str, ...]
    unknown: tuple[str, ...]


def model_tree_of(recipe: Recipe, bases: Sequence[Sequence[str]]) -> ModelTree:
    """The place of a soup in the model tree, for its card.

    Args:
        recipe ([`Recipe`]):
            Recipe of the soup.
        bases (`Sequence[Sequence[str]]`):
            Base models of each ingredient, `"private"` for one that is not named; empty if none are known.
    """
    parents: list[str] = []
    followed: list[str] = []
    withheld, unknown = [], []
    bases = bases or [()] * len(recipe.ingredients)
    for item, repositories in zip(recipe.ingredients, bases, strict=True):
        source = split_source(item.source) if item.revision else None
        if source is not None:
            parents.append(source[0])
            continue
        named = [base for base in repositories if base != PRIVATE]
        parents += named
        followed += named
        if len(named) < len(repositories):
            withheld.append(item.name)
        elif not repositories:
            unknown.append(item.name)
    return ModelTree(_unique(parents), _unique(followed), tuple(withheld), tuple(unknown))


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """The names without duplicates, in order."""
    return tuple(dict.fromkeys(names))
