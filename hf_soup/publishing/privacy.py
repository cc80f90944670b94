"""The repositories of ingredients on the Hub, and whether they are private, before a soup is published."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..checkpoints import hub
from ..checkpoints.hub_errors import client, patiently, refusals
from ..checkpoints.pushed import on_hub
from ..types import Ingredient, Recipe


def with_repositories(recipe: Recipe, token: str | bool | None = None) -> Recipe:
    """The recipe with repositories instead of the folders of pushed and unchanged runs."""
    ingredients = tuple(on_hub(item, token) for item in recipe.ingredients)
    base = recipe.base_model
    if base is not None:
        base = on_hub(base, token)
    return replace(recipe, ingredients=ingredients, base_model=base)


def private_ones(items: Iterable[Ingredient], token: str | bool | None = None) -> list[Ingredient]:
    """The ingredients whose repositories are not public, without folders and models in memory.

    Raises:
        [`OutputError`]: if the Hub does not answer.
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
    """Whether a repository is not public; one that is missing or not accessible counts as private.

    Args:
        source (`str`):
            Hub id, possibly followed by a subfolder.
        repo_type (`str`, *optional*, defaults to `"model"`):
            Type of the repository: `"model"` or `"dataset"`.
        token (`str` or `bool`, *optional*):
            Access token for the Hub; by default the stored one.

    Raises:
        [`OutputError`]: if the Hub does not answer.
    """
    from huggingface_hub import errors

    repo_id = repository_of(source)
    with refusals(repo_id):
        try:
            return bool(patiently(lambda: client(token).repo_info(repo_id, repo_type=repo_type)).private)
        except errors.RepositoryNotFoundError:
            return True


def repository_of(source: str) -> str:
    """The repository of a source that is on the Hub, without the subfolder."""
    parts = hub.split_source(source)
    if parts is None:
        raise ValueError(f"{source!r} is no Hub id")
    return parts[0]
