"""The family tree of a soup: its ingredients, their base models, and soups within soups. No weights are fetched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..checkpoints import hub
from ..checkpoints.checkpoint import ELSEWHERE, MEMORY, PRIVATE, read_card
from ..checkpoints.companion_files import CARD
from ..display.results import Result
from ..errors import IngredientError, SoupError
from ..formats.recipe_file import RECIPE_FILE, load_hub_recipe, load_recipe
from ..types import Ingredient, Recipe
from ..untrusted import one_line, printable
from .bases import names_in_card


DEPTH = 20  # of soups within soups; what is deeper is a circle, or was built to keep readers busy
MOST = 1000  # models that are looked at, each of which is a request to the Hub or a file to read
SOUP, INGREDIENT, BASE = "soup", "ingredient", "base model"


@dataclass(frozen=True, repr=False)
class Lineage(Result):
    """One model and what it was made from.

    Args:
        name (`str`):
            A Hub id, or what a recipe calls it.
        role (`str`):
            `"soup"`, `"ingredient"` or `"base model"`.
        revision (`str`, *optional*):
            The commit, where it is known.
        weights (`tuple[float, ...]`, *optional*):
            In the soup above it, one for each row of weights.
        note (`str`, *optional*):
            What is to be said of it: how it was made, or why it cannot be looked at.
        children (`tuple[Lineage, ...]`, *optional*):
            What it was made from.
    """

    name: str
    role: str
    revision: str | None = None
    weights: tuple[float, ...] = ()
    note: str = ""
    children: tuple[Lineage, ...] = ()

    def table(self) -> str:
        """The lineage, a line for each model."""
        return printable("\n".join(self._lines("", "")))

    def to_dict(self) -> dict[str, Any]:
        """The tree as plain values."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {**values, "children": [child.to_dict() for child in self.children]}

    def _lines(self, first: str, rest: str) -> Iterator[str]:
        """The line of a model and those of what it was made from.

        Args:
            first (`str`), rest (`str`):
                What stands before its own line, and before the lines below.
        """
        cells = [f"{self.name}@{self.revision[:7]}" if self.revision else self.name]
        if self.weights:
            weights = [f"{weight:.4g}" for weight in self.weights]
            cells.append(f"weight {', '.join(weights)}")
        if self.role != INGREDIENT:
            cells.append(self.role)
        if self.note:
            cells.append(self.note)
        yield first + "  ".join(cells)
        for child in self.children[:-1]:
            yield from child._lines(f"{rest}├── ", f"{rest}│   ")
        for child in self.children[-1:]:
            yield from child._lines(f"{rest}└── ", f"{rest}    ")


def lineage(soup: str | os.PathLike[str]) -> Lineage:
    """Find out what a soup was made from, down to the base models, soups of soups included.

    Recipes say it of soups, model cards (`base_model`) of other models. What a model was made from is told once, where
    it comes first. Nothing that a recipe names is run.

    Args:
        soup (`str` or `os.PathLike`):
            The Hub id of a soup or of any model (`user/soup`, `user/soup@v1`), or a folder.

    Returns:
        [`Lineage`]: the tree; `.table()` draws it.

    Raises:
        [`IngredientError`]: if it is neither a folder here nor a repository that you may see.
        [`RecipeError`]: if its recipe cannot be read.
    """
    source, revision = os.fspath(soup), None
    if not os.path.isdir(source):
        source, revision = hub.split_revision(source)
        if hub.split_source(source) is None:
            raise IngredientError(f"{one_line(soup)} is neither a folder here nor a Hub id.")
        revision = hub.resolve(source, revision)
    return _read_origin(Lineage(source, INGREDIENT, revision), source, (), {})


def _read_origin(node: Lineage, source: str, above: tuple[str, ...], visited: dict[str, Lineage]) -> Lineage:
    """A model that is there, and what its recipe or its card says of where it comes from.

    Args:
        node ([`Lineage`]):
            What is known of it.
        source (`str`):
            A folder, or with a commit a Hub id.
        above (`tuple[str, ...]`):
            Places of what was made from it.
        visited (`dict[str, Lineage]`):
            Place -> what was found there already; this model is added.
    """
    place = _place(source, node.revision)
    folder = hub.fetch(source, node.revision, [RECIPE_FILE, CARD]) if node.revision else Path(source)
    above = (*above, place)
    if (folder / RECIPE_FILE).is_file():
        if node.revision:
            recipe = load_hub_recipe(source, node.revision, allow_code=True)  # nothing of it is called here
        else:
            recipe = load_recipe(folder, allow_code=True)
        members = _members(recipe, above, visited)
        node = replace(node, role=SOUP, note=f"{recipe.title}, {recipe.method}", children=members)
    else:
        bases = []
        for name in names_in_card(read_card(folder)):
            if hub.split_source(name):
                bases.append(_visit(Lineage(name, BASE), name, above, visited))
        node = replace(node, children=tuple(bases))
    visited[place] = node
    return node


def _place(source: str, revision: str | None) -> str:
    """What a model is known by: one folder may have several paths."""
    if os.path.isabs(source):
        return os.path.realpath(source)
    return f"{source}@{revision}"


def _members(recipe: Recipe, above: tuple[str, ...], visited: dict[str, Lineage]) -> tuple[Lineage, ...]:
    """The ingredients of a soup, and its base model where that is not one of them."""
    members = []
    for index, item in enumerate(recipe.ingredients):
        role = BASE if item.name == recipe.base_inside else INGREDIENT
        weights = tuple(row[index] for row in recipe.weights_by_module.values())
        members.append(_member(item, role, weights, above, visited))
    if recipe.base_model and not recipe.base_inside:
        members.append(_member(recipe.base_model, BASE, (), above, visited))
    return tuple(members)


def _member(
    item: Ingredient, role: str, weights: tuple[float, ...], above: tuple[str, ...], visited: dict[str, Lineage]
) -> Lineage:
    """An ingredient or base model of a soup, with what it was made from where that can be looked at."""
    name = item.source if item.revision else item.name
    node = Lineage(name, role, item.revision, weights)
    notes = {MEMORY: "a model in memory", PRIVATE: "private, not named", ELSEWHERE: "a folder elsewhere"}
    if item.source in notes:
        return replace(node, note=notes[item.source])
    return _visit(node, item.source, above, visited)


def _visit(node: Lineage, source: str, above: tuple[str, ...], visited: dict[str, Lineage]) -> Lineage:
    """A model that may be gone, private, or on another machine: a note says so, and the tree goes on beside it.

    Arguments are those of [`_read_origin`].
    """
    asked_for = _place(source, node.revision)  # of a repository without a commit, another place than the one it has
    if asked_for in visited:
        return _seen_before(node, visited[asked_for])
    if len(visited) >= MOST:
        return replace(node, note=f"is not looked at: {MOST:,} models are")
    try:
        if not os.path.isabs(source):  # folders of a recipe that is here are absolute, the rest is on the Hub
            if hub.split_source(source) is None:
                return replace(node, note="cannot be looked at: it is no folder here and no Hub id")
            revision = node.revision or hub.resolve(source, None)
            node = replace(node, revision=revision)
            hub.confirm(source, revision)
        elif not os.path.isdir(source):
            return replace(node, note="cannot be looked at: the folder is gone")
        place = _place(source, node.revision)
        if place in above:
            return replace(node, note="is above already")
        if len(above) > DEPTH:
            return replace(node, note=f"is not looked at: {DEPTH} models are above it")
        if place in visited:
            node = _seen_before(node, visited[place])
        else:
            node = _read_origin(node, source, above, visited)
    except SoupError as error:
        reason = str(error).split(":")[0].split(". ")[0]  # without details and without what to do
        node = replace(node, note=f"cannot be looked at: {one_line(reason)}")
    visited[asked_for] = node
    return node


def _seen_before(node: Lineage, earlier: Lineage) -> Lineage:
    """A model that was looked at already: what it was made from is told there."""
    note = "see above" if earlier.children else earlier.note
    role = SOUP if earlier.role == SOUP else node.role
    return replace(node, role=role, revision=earlier.revision, note=note)
