"""Where ingredients are on the Hub, and whether others may see them there: before a soup is published."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..checkpoints import hub
from ..checkpoints.hub_cache import digest_of
from ..checkpoints.hub_errors import client, patiently, refusals
from ..errors import SoupError
from ..types import Ingredient, Recipe
from ..untrusted import read_json


PUSHED_FILE = "pushed.json"  # beside a run that a sweep has put on the Hub: its repository and commit


def on_hub(item: Ingredient, token: str | bool | None = None) -> Ingredient:
    """A run of a sweep that was pushed, and not changed since, by its repository instead of its folder; others as they
    are.

    Args:
        item ([`Ingredient`]):
            A reference.
        token (`str` or `bool`, *optional*):
            By default the one that a login stored.
    """
    folder = Path(item.source)
    if item.revision or not folder.is_dir():
        return item
    # An ingredient is a run itself, or a checkpoint in the folder of one, which is a subfolder of its repository.
    for run, subfolder in ((folder, ""), (folder.parent, f"/{folder.name}")):
        try:
            pushed = read_json(run / PUSHED_FILE)
            source, commit = pushed["repo_id"] + subfolder, pushed["revision"]
            digests_there = hub.files_at(source, commit, token=token)
            files = {name: digests_there[name] for name in item.files}
            if all(digest_of(folder / name, digest) == digest for name, digest in files.items()):
                return replace(item, source=source, revision=commit, files=files)
        except (OSError, ValueError, KeyError, TypeError, SoupError):  # not pushed, or changed on either side
            continue
    return item


def with_repositories(recipe: Recipe, token: str | bool | None = None) -> Recipe:
    """The recipe with repositories instead of folders, where a sweep has pushed a run that is as it was."""
    ingredients = tuple(on_hub(item, token) for item in recipe.ingredients)
    base = recipe.base_model
    if base is not None:
        base = on_hub(base, token)
    return replace(recipe, ingredients=ingredients, base_model=base)


def private_ones(items: Iterable[Ingredient], token: str | bool | None = None) -> list[Ingredient]:
    """Those whose repositories are not public; folders and models in memory are not among them.

    Raises:
        [`OutputError`]: if the Hub does not tell.
    """
    visibility: dict[str, bool] = {}
    private = []
    for item in items:
        if not item.revision:
            continue
        if item.source not in visibility:
            visibility[item.source] = is_private(item.source, token=token)
        if visibility[item.source]:
            private.append(item)
    return private


def is_private(source: str, *, repo_type: str = "model", token: str | bool | None = None) -> bool:
    """Whether a repository is not public; one that is gone, or that the user may not see, counts as private.

    Args:
        source (`str`):
            A Hub id, a folder behind it if need be.
        repo_type (`str`, *optional*, defaults to `"model"`):
            Or `"dataset"`.
        token (`str` or `bool`, *optional*):
            By default the one that a login stored.

    Raises:
        [`OutputError`]: if the Hub does not tell.
    """
    from huggingface_hub import errors

    repo_id = repository_of(source)
    with refusals(repo_id):
        try:
            return bool(patiently(lambda: client(token).repo_info(repo_id, repo_type=repo_type)).private)
        except errors.RepositoryNotFoundError:
            return True


def repository_of(source: str) -> str:
    """The repository of a source that is known to be on the Hub, without the folder behind it."""
    parts = hub.split_source(source)
    if parts is None:
        raise ValueError(f"{source!r} is no Hub id")
    return parts[0]
