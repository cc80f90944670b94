"""The family tree of a soup: its ingredients, their base models, and soups within soups. No weights are fetched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..checkpoints import hub
from ..checkpoints.checkpoint import ELSEWHERE, MEMORY, PRIVATE, read_card
from ..checkpoints.files_beside import CARD
from ..errors import IngredientError, SoupError
from ..recipes import RECIPE_FILE, load_hub_recipe, load_recipe
from ..types import Ingredient, Recipe
from ..untrusted import one_line, printable


DEPTH = 20  # of soups within soups; more is a circle, or nobody's business
MOST = 1000  # models that are looked at, each of which is a request to the Hub or a file to read
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
        return printable("\n".join(self._lines("", "")))

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

    Recipes say it of soups, model cards (`base_model`) of other models. What a model was made from is told once, where
    it comes first. Nothing that a recipe names is run.

    Args:
        soup (`str` or `os.PathLike`):
            The Hub id of a soup or of any model (`user/soup`, `user/soup@v1`), or a folder.

    Returns:
        [`Node`]: the tree; `.table()` draws it.

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
    return _look(Node(source, INGREDIENT, revision), source, (), {})


def _look(node: Node, source: str, above: tuple[str, ...], known: dict[str, Node]) -> Node:
    """A model that is there, and what it says of where it comes from.

    Args:
        node ([`Node`]):
            What is known of it.
        source (`str`):
            A folder, or with a commit a Hub id.
        above (`tuple[str, ...]`):
            What was made from it.
        known (`dict[str, Node]`):
            What was looked at already.
    """
    place = _place(source, node.revision)
    folder = hub.fetch(source, node.revision, [RECIPE_FILE, CARD]) if node.revision else Path(source)
    above = (*above, place)
    if (folder / RECIPE_FILE).is_file():
        if node.revision:
            recipe = load_hub_recipe(source, node.revision, allow_code=True)  # nothing of it is called here
        else:
            recipe = load_recipe(folder, allow_code=True)
        note = f"{recipe.title}, {recipe.method}"
        found = node._replace(kind=SOUP, note=note, children=_members(recipe, above, known))
    else:
        bases = read_card(folder).get("base_model")
        bases = [base for base in (bases if isinstance(bases, list) else [bases]) if isinstance(base, str)]
        on_hub = [Node(base, BASE) for base in bases if hub.split_source(base)]
        found = node._replace(children=tuple(_try(base, base.name, above, known) for base in on_hub))
    known[place] = found
    return found


def _place(source: str, revision: str | None) -> str:
    return os.path.realpath(source) if os.path.isabs(source) else f"{source}@{revision}"


def _members(recipe: Recipe, above: tuple[str, ...], known: dict[str, Node]) -> tuple[Node, ...]:
    rows = list(recipe.rows.values())
    members = []
    for at, item in enumerate(recipe.ingredients):
        kind = BASE if item.name == recipe.base_inside else INGREDIENT
        members.append(_member(item, kind, tuple(row[at] for row in rows), above, known))
    if recipe.base_model and not recipe.base_inside:
        members.append(_member(recipe.base_model, BASE, (), above, known))
    return tuple(members)


def _member(
    item: Ingredient, kind: str, weights: tuple[float, ...], above: tuple[str, ...], known: dict[str, Node]
) -> Node:
    node = Node(item.source if item.revision else item.name, kind, item.revision, weights)
    notes = {MEMORY: "a model in memory", PRIVATE: "private, not named", ELSEWHERE: "a folder elsewhere"}
    if item.source in notes:
        return node._replace(note=notes[item.source])
    return _try(node, item.source, above, known)


def _try(node: Node, source: str, above: tuple[str, ...], known: dict[str, Node]) -> Node:
    """The same of a model that may be gone, private, or on another machine."""
    asked = _place(source, node.revision)
    if asked in known:
        return _again(node, known[asked])
    if len(known) >= MOST:
        return node._replace(note=f"is not looked at: {MOST:,} models are")
    try:
        if not os.path.isabs(source):  # folders of a recipe that is here are absolute, the rest is on the Hub
            if hub.split_source(source) is None:
                return node._replace(note="cannot be looked at: it is no folder here and no Hub id")
            node = node._replace(revision=node.revision or hub.resolve(source, None))
            hub.confirm(source, node.revision)
        elif not os.path.isdir(source):
            return node._replace(note="cannot be looked at: the folder is gone")
        place = _place(source, node.revision)
        if place in above:
            return node._replace(note="is above already")
        if len(above) > DEPTH:
            return node._replace(note=f"is not looked at: {DEPTH} models are above it")
        found = _again(node, known[place]) if place in known else _look(node, source, above, known)
    except SoupError as error:
        found = node._replace(note=f"cannot be looked at: {one_line(str(error).split(':')[0].split('. ')[0])}")
    known[asked] = found
    return found


def _again(node: Node, found: Node) -> Node:
    """A model that was looked at already: what it was made from is told there."""
    note = "see above" if found.children else found.note
    return node._replace(kind=SOUP if found.kind == SOUP else node.kind, revision=found.revision, note=note)
