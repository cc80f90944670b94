"""The family tree of a soup: its ingredients, their base models, and soups within soups. No weights are fetched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..checkpoints import hub
from ..checkpoints.checkpoint import CARD, MEMORY, PRIVATE, read_card
from ..errors import IngredientError, SoupError
from ..recipes import RECIPE_FILE, load_recipe
from ..types import Ingredient, Recipe


DEPTH = 20  # more is a circle, or nobody's business
SOUP, INGREDIENT, BASE = "soup", "ingredient", "base model"


class Node(NamedTuple):
    """One model and what it was made from.

    Args:
        name (`str`):
            A Hub id, or what a recipe calls it.
        kind (`str`):
            `"soup"`, `"ingredient"` or `"base model"`.
        revision (`str`, *optional*):
            The commit, where it is known.
        weights (`tuple[float, ...]`, *optional*):
            In the soup above it, one for each row of weights.
        note (`str`, *optional*):
            What is to be said of it: how it was made, or why it cannot be looked at.
        children (`tuple[Node, ...]`, *optional*):
            What it was made from.
    """

    name: str
    kind: str
    revision: str | None = None
    weights: tuple[float, ...] = ()
    note: str = ""
    children: tuple[Node, ...] = ()

    def table(self) -> str:
        """The tree, a line for each model."""
        return "\n".join(self._lines("", ""))

    def to_dict(self) -> dict[str, Any]:
        """The tree as plain values."""
        return {**self._asdict(), "children": [child.to_dict() for child in self.children]}

    def _lines(self, first: str, rest: str) -> Iterator[str]:
        parts = [self.name + (f"@{self.revision[:7]}" if self.revision else "")]
        parts += [f"weight {', '.join(f'{weight:.4g}' for weight in self.weights)}"] if self.weights else []
        parts += [self.kind] if self.kind != INGREDIENT else []
        parts += [self.note] if self.note else []
        yield first + "  ".join(parts)
        for at, child in enumerate(self.children, start=1):
            last = at == len(self.children)
            yield from child._lines(rest + ("└── " if last else "├── "), rest + ("    " if last else "│   "))


def tree(soup: str | os.PathLike) -> Node:
    """Find out what a soup was made from, down to the base models, soups of soups included.

    Recipes say it of soups, model cards (`base_model`) of other models.

    Args:
        soup (`str` or `os.PathLike`):
            The Hub id of a soup or of any model (`user/soup`, `user/soup@v1`), or a folder.

    Returns:
        [`Node`]: the tree; `.table()` draws it.

    Raises:
        [`IngredientError`]: if it is neither a folder here nor a repository that you may see.
        [`RecipeError`]: if its recipe cannot be read.
    """
    source = os.fspath(soup)
    if os.path.isdir(source):
        return _look(source, source, None, INGREDIENT, (), ())
    repo_id, _, revision = source.partition("@")
    if hub.split_source(repo_id) is None:
        raise IngredientError(f"{source} is neither a folder here nor a Hub id.")
    return _look(repo_id, repo_id, hub.resolve(repo_id, revision or None), INGREDIENT, (), ())


def _look(
    name: str, source: str, revision: str | None, kind: str, weights: tuple[float, ...], above: tuple[str, ...]
) -> Node:
    """A model that is there, and what it says of where it comes from."""
    folder = hub.fetch(source, revision, [RECIPE_FILE, CARD]) if revision else Path(source)
    above = (*above, f"{source}@{revision}")
    if (folder / RECIPE_FILE).is_file():
        recipe = load_recipe(f"{source}@{revision}" if revision else folder)
        return Node(name, SOUP, revision, weights, f"{recipe.title}, {recipe.method}", _members(recipe, above))
    bases = read_card(folder).get("base_model")
    bases = [base for base in (bases if isinstance(bases, list) else [bases]) if isinstance(base, str)]
    children = tuple(_try(base, base, None, BASE, (), above) for base in bases if hub.split_source(base))
    return Node(name, kind, revision, weights, "", children)


def _members(recipe: Recipe, above: tuple[str, ...]) -> tuple[Node, ...]:
    rows = list(recipe.rows.values())
    members = [
        _member(item, BASE if item.name == recipe.base_inside else INGREDIENT, tuple(row[at] for row in rows), above)
        for at, item in enumerate(recipe.ingredients)
    ]
    if recipe.base_model and not recipe.base_inside:
        members.append(_member(recipe.base_model, BASE, (), above))
    return tuple(members)


def _member(item: Ingredient, kind: str, weights: tuple[float, ...], above: tuple[str, ...]) -> Node:
    if item.source in (MEMORY, PRIVATE):
        note = "a model in memory" if item.source == MEMORY else "private, not named"
        return Node(item.name, kind, None, weights, note)
    return _try(item.source if item.revision else item.name, item.source, item.revision, kind, weights, above)


def _try(
    name: str, source: str, revision: str | None, kind: str, weights: tuple[float, ...], above: tuple[str, ...]
) -> Node:
    """The same of a model that may be gone, private, or on another machine."""
    try:
        if revision is None and not os.path.isdir(source):
            revision = hub.resolve(source, None)
        if f"{source}@{revision}" in above or len(above) > DEPTH:
            return Node(name, kind, revision, weights, "is above already")
        if revision is not None:
            hub.confirm(source, revision)
        return _look(name, source, revision, kind, weights, above)
    except SoupError as error:
        return Node(name, kind, revision, weights, f"cannot be looked at: {_short(error)}")


def _short(error: Exception) -> str:
    return str(error).split(":")[0].split(". ")[0]
