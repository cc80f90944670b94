"""Where ingredients are on the Hub, and whether a stranger may know: before a soup is published."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..checkpoints import hub
from ..checkpoints.checkpoint import PRIVATE
from ..checkpoints.hub_errors import client, patiently, refusals
from ..errors import SoupError
from ..types import Ingredient, Recipe, plain


PUSHED_FILE = "pushed.json"  # beside a run that a sweep has put on the Hub: its repository and commit


def with_repositories(recipe: Recipe) -> Recipe:
    """The recipe with repositories instead of folders, where a sweep has pushed a run that is as it was."""
    base = recipe.base_model
    return replace(
        recipe, ingredients=tuple(map(_published, recipe.ingredients)), base_model=base and _published(base)
    )


def private_ones(items: Iterable[Ingredient], token: str | bool | None = None) -> list[Ingredient]:
    """Those whose repositories not everybody sees.

    Raises:
        [`OutputError`]: if the Hub does not tell.
    """
    on_hub = [item for item in items if item.revision]
    private = {source: _is_private(source, token) for source in dict.fromkeys(item.source for item in on_hub)}
    return [item for item in on_hub if private[item.source]]


def _is_private(source: str, token: str | bool | None) -> bool:
    from huggingface_hub import errors

    repo_id, _ = hub.split_source(source)
    with refusals(repo_id):
        try:
            return bool(patiently(lambda: client(token).model_info(repo_id)).private)
        except errors.RepositoryNotFoundError:  # gone, or not for the eyes of whoever publishes
            return True


def _published(item: Ingredient) -> Ingredient:
    folder = Path(item.source)
    if item.revision or not folder.is_dir():
        return item
    for place, inside in ((folder, ""), (folder.parent, f"/{folder.name}")):
        try:
            found = json.loads((place / PUSHED_FILE).read_text(encoding="utf-8"))
            source, commit = found["repo_id"] + inside, found["revision"]
            files = hub.pin(source, commit).files
        except (OSError, ValueError, KeyError, TypeError, SoupError):
            continue
        if all(hub.digest_of(folder / file, digest) == digest for file, digest in files.items()):
            return replace(item, source=source, revision=commit, files=files)
    return item


class Veil:
    """Takes the names of private ingredients out of all that is published: names, sources, and sentences.

    Args:
        items (`Iterable[Ingredient]`):
            The private ones.
    """

    def __init__(self, items: Iterable[Ingredient]):
        items = list(items)
        names = dict.fromkeys(item.name for item in items)
        self.aliases = {name: f"private-{index}" for index, name in enumerate(names, start=1)}
        self._words = self.aliases | {item.source: self.aliases[item.name] for item in items}
        longest_first = sorted(map(re.escape, self._words), key=len, reverse=True)
        self._pattern = re.compile(rf"(?<![\w-])({'|'.join(longest_first)})(?![\w-])")

    def text(self, text: str) -> str:
        """A text without the names."""
        return self._pattern.sub(lambda match: self._words[match[0]], text)

    def value(self, value: Any) -> Any:
        """Plain values without the names, in keys too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(key): self.value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        return value

    def recipe(self, recipe: Recipe) -> Recipe:
        """The recipe, in which private ingredients have the digests of their weights alone."""

        def veiled(item: Ingredient) -> Ingredient:
            alias = self.aliases.get(item.name) if item.source in self._words else None
            return Ingredient(alias, PRIVATE, files=item.files) if alias else item

        base = recipe.base_model
        return replace(
            recipe,
            ingredients=tuple(map(veiled, recipe.ingredients)),
            base_model=base and veiled(base),
            alignments=self.value(plain(recipe.alignments)),
            selection=self.value(plain(recipe.selection)),
        )

    def file(self, name: str, content: bytes) -> bytes:
        """A text file without the names of their repositories; what is no text is left as it is."""
        if not name.endswith(".json"):
            return content
        text = content.decode("utf-8", errors="surrogateescape")
        for word, alias in self._words.items():
            text = text.replace(f'"{word}"', f'"{alias}"') if "/" in word else text
        return text.encode("utf-8", errors="surrogateescape")

    def comparison(self, comparison: Any) -> Any:
        """The comparison, in which private ingredients are called otherwise."""
        return type(comparison).from_dict(self.value(plain(asdict(comparison))))
