"""The lineage of a soup: its ingredients, their base models, and soups within soups. No weights are downloaded."""

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


DEPTH = 20  # maximum depth of soups within soups, against circles and malicious recipes
MOST = 1000  # maximum number of models to read, each with a request to the Hub or a file
SOUP, INGREDIENT, BASE = "soup", "ingredient", "base model"


@dataclass(frozen=True, repr=False)
class Lineage(Result):
    """A model and the models that it was made from.

    Args:
        name (`str`):
            Hub id of the model, or its name in a recipe.
        role (`str`):
            Role of the model: `"soup"`, `"ingredient"` or `"base model"`.
        revision (`str`, *optional*):
            Commit, if it is known.
        weights (`tuple[float, ...]`, *optional*):
            Weights in the soup above it, one for each row of weights.
        note (`str`, *optional*):
            Note on the model: how it was made, or why it cannot be read.
        children (`tuple[Lineage, ...]`, *optional*):
            Models that it was made from.
    """

    name: str
    role: str
    revision: str | None = None
    weights: tuple[float, ...] = ()
    note: str = ""
    children: tuple[Lineage, ...] = ()

    def table(self) -> str:
        """The lineage as a tree, with a line for each model."""
        return printable("\n".join(self._lines("", "")))

    def to_dict(self) -> dict[str, Any]:
        """The tree as plain values."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {**values, "children": [child.to_dict() for child in self.children]}

    def _lines(self, first: str, rest: str) -> Iterator[str]:
        """The line of a model and the lines of the models that it was made from.

        Args:
            first (`str`), rest (`str`):
                Prefix of its own line, and prefix of the lines below.
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
    """Find the models that a soup was made from, down to the base models, including soups of soups.

    The sources are the recipes of soups and the model cards (`base_model`) of other models. If a model appears several
    times, its own sources are listed at the first place only. No code that a recipe names is run.

    Args:
        soup (`str` or `os.PathLike`):
            Hub id (`user/soup`, `user/soup@v1`) or folder of a soup or any other model.

    Returns:
        [`Lineage`]: the tree, which `print` shows.

    Raises:
        [`IngredientError`]: if the soup is neither a folder nor a repository that you can access.
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
    """Read the recipe or card of an existing model, and follow it to the models that it was made from.

    Args:
        node ([`Lineage`]):
            Node of the model.
        source (`str`):
            Folder, or Hub id if the node has a commit.
        above (`tuple[str, ...]`):
            Places of the models that were made from it.
        visited (`dict[str, Lineage]`):
            Nodes that were read already, by place; this model is added.
    """
    place = _place(source, node.revision)
    folder = hub.fetch(source, node.revision, [RECIPE_FILE, CARD]) if node.revision else Path(source)
    above = (*above, place)
    if (folder / RECIPE_FILE).is_file():
        if node.revision:
            recipe = load_hub_recipe(source, node.revision, allow_code=True)  # its code is not called
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
    """The identity of a model, because a folder may have several paths."""
    if os.path.isabs(source):
        return os.path.realpath(source)
    return f"{source}@{revision}"


def _members(recipe: Recipe, above: tuple[str, ...], visited: dict[str, Lineage]) -> tuple[Lineage, ...]:
    """The ingredients of a soup, and its base model if that is not one of them."""
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
    """An ingredient or base model of a soup, with the models that it was made from if they can be read."""
    name = item.source if item.revision else item.name
    node = Lineage(name, role, item.revision, weights)
    notes = {MEMORY: "a model in memory", PRIVATE: "private, not named", ELSEWHERE: "a folder elsewhere"}
    if item.source in notes:
        return replace(node, note=notes[item.source])
    return _visit(node, item.source, above, visited)


def _visit(node: Lineage, source: str, above: tuple[str, ...], visited: dict[str, Lineage]) -> Lineage:
    """Read a model that may be missing, private, or on another machine, which a note says.

    The arguments are those of [`_read_origin`].
    """
    asked_for = _place(source, node.revision)  # for a repository without a commit, this differs from its final place
    if asked_for in visited:
        return _seen_before(node, visited[asked_for])
    if len(visited) >= MOST:
        return replace(node, note=f"not read: the limit is {MOST:,} models")
    try:
        if not os.path.isabs(source):  # folders in a local recipe are absolute, other sources are on the Hub
            if hub.split_source(source) is None:
                return replace(node, note="cannot be read: it is neither a folder here nor a Hub id")
            revision = node.revision or hub.resolve(source, None)
            node = replace(node, revision=revision)
            hub.confirm(source, revision)
        elif not os.path.isdir(source):
            return replace(node, note="cannot be read: the folder does not exist")
        place = _place(source, node.revision)
        if place in above:
            return replace(node, note="already listed above")
        if len(above) > DEPTH:
            return replace(node, note=f"not read: the limit is {DEPTH} levels")
        if place in visited:
            node = _seen_before(node, visited[place])
        else:
            node = _read_origin(node, source, above, visited)
    except SoupError as error:
        reason = str(error).split(":")[0].split(". ")[0]  # without details and without what to do
        node = replace(node, note=f"cannot be read: {one_line(reason)}")
    visited[asked_for] = node
    return node


def _seen_before(node: Lineage, earlier: Lineage) -> Lineage:
    """A model that was read already, whose own sources are listed at the first place."""
    note = "see above" if earlier.children else earlier.note
    role = SOUP if earlier.role == SOUP else node.role
    return replace(node, role=role, revision=earlier.revision, note=note)
