"""Where ingredients are on the Hub, and whether a stranger may know: before a soup is published."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoints import hub
from ..checkpoints.checkpoint import PRIVATE
from ..checkpoints.hub_cache import digest_of
from ..checkpoints.hub_errors import client, patiently, refusals
from ..errors import SoupError
from ..evaluation.comparison import SINGLE, Comparison
from ..types import Ingredient, Recipe, plain
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
    for place, inside in ((folder, ""), (folder.parent, f"/{folder.name}")):
        try:
            found = read_json(place / PUSHED_FILE)
            source, commit = found["repo_id"] + inside, found["revision"]
            there = hub.files_at(source, commit, token=token)
            files = {name: there[name] for name in item.files}
            if all(digest_of(folder / name, digest) == digest for name, digest in files.items()):
                return replace(item, source=source, revision=commit, files=files)
        except (OSError, ValueError, KeyError, TypeError, SoupError):
            continue
    return item


def with_repositories(recipe: Recipe, token: str | bool | None = None) -> Recipe:
    """The recipe with repositories instead of folders, where a sweep has pushed a run that is as it was."""
    base = recipe.base_model
    items = tuple(on_hub(item, token) for item in recipe.ingredients)
    return replace(recipe, ingredients=items, base_model=base and on_hub(base, token))


def private_ones(items: Iterable[Ingredient], token: str | bool | None = None) -> list[Ingredient]:
    """Those whose repositories not everybody sees.

    Raises:
        [`OutputError`]: if the Hub does not tell.
    """
    pinned = [item for item in items if item.revision]
    private = {source: is_private(source, token=token) for source in dict.fromkeys(item.source for item in pinned)}
    return [item for item in pinned if private[item.source]]


def is_private(source: str, *, kind: str = "model", token: str | bool | None = None) -> bool:
    """Whether not everybody sees a repository; one that is gone, or not for the eyes of whoever asks, is private.

    Args:
        source (`str`):
            A Hub id, a folder behind it if need be.
        kind (`str`, *optional*, defaults to `"model"`):
            Or `"dataset"`.
        token (`str` or `bool`, *optional*):
            By default the one that a login stored.

    Raises:
        [`OutputError`]: if the Hub does not tell.
    """
    from huggingface_hub import errors

    repo_id, _ = hub.split_source(source)
    with refusals(repo_id):
        try:
            return bool(patiently(lambda: client(token).repo_info(repo_id, repo_type=kind)).private)
        except errors.RepositoryNotFoundError:
            return True


class Veil:
    """Takes private ingredients out of all that is published: their names, their repositories, and sentences.

    Args:
        private (`Iterable[Ingredient]`):
            The private ones.
        named (`Iterable[Ingredient]`):
            The others, whose names are not taken for something else.
        bases (`Iterable[str]`, *optional*):
            Private repositories that ingredients were fine-tuned from.
    """

    def __init__(self, private: Iterable[Ingredient], named: Iterable[Ingredient] = (), *, bases: Iterable[str] = ()):
        taken = {item.name for item in named}
        free = (alias for alias in (f"private-{n}" for n in itertools.count(1)) if alias not in taken)
        keys = dict.fromkeys((item.name, item.source) for item in private)
        self.aliases = dict(zip(keys, free))  # noqa: B905 - there are always more
        self.bases = tuple(bases)
        repositories = {*self.bases, *(hub.split_source(source)[0] for _, source in keys)}
        self.repositories = sorted(repositories, key=len, reverse=True)
        self._names = {name: alias for (name, _), alias in self.aliases.items()}
        words = {name: alias for name, alias in self._names.items() if name not in taken}
        words |= {source: alias for (_, source), alias in self.aliases.items()}
        words |= {repo_id: PRIVATE for repo_id in self.repositories if repo_id not in words}
        longest_first = sorted(map(re.escape, words), key=len, reverse=True)
        self._words = words
        self._pattern = re.compile(rf"(?<![\w-])({'|'.join(longest_first)})(?![\w-])")

    def text(self, text: str) -> str:
        """A text without the names."""
        return self._pattern.sub(lambda match: self._words[match[0]], text)

    def recipe(self, recipe: Recipe) -> Recipe:
        """The recipe, in which private ingredients have the digests of their weights alone."""

        def veiled(item: Ingredient) -> Ingredient:
            alias = self.aliases.get((item.name, item.source))
            return Ingredient(alias, PRIVATE, files=item.files) if alias else item

        names = {item.name: veiled(item).name for item in recipe.ingredients}
        selection = plain(recipe.selection)
        if isinstance(selection.get("trials"), list):
            selection["trials"] = [self._trial(trial, names) for trial in selection["trials"]]
        for key in ("why", "reference", "params"):
            if key in selection:
                selection[key] = self._value(selection[key])
        base = recipe.base_model
        return replace(
            recipe,
            ingredients=tuple(map(veiled, recipe.ingredients)),
            base_model=base and veiled(base),
            alignments={names[name]: order for name, order in recipe.alignments.items()},
            take_from=recipe.take_from and names[recipe.take_from],
            selection=selection,
        )

    def comparison(self, comparison: Comparison) -> Comparison:
        """The comparison, in which private models are called otherwise."""

        def renamed(found: Mapping[str, Any]) -> dict[str, Any]:
            return {self._names.get(name, name): value for name, value in found.items()}

        rows = tuple(
            replace(
                row,
                name=self._names.get(row.name, row.name) if row.kind in SINGLE else row.name,
                weights=renamed(row.weights),
            )
            for row in comparison.rows
        )
        summary = self.text(comparison.summary)
        return replace(comparison, rows=rows, summary=summary, curves=renamed(comparison.curves))

    def file(self, content: bytes) -> bytes:
        """A file without the ids of private repositories; names alone may be words of a vocabulary."""
        for repo_id in self.repositories:
            content = content.replace(repo_id.encode(), PRIVATE.encode())
        return content

    def _trial(self, trial: Any, names: Mapping[str, str]) -> Any:
        if not isinstance(trial, dict):
            return trial
        texts = {key: self.text(trial[key]) for key in ("tried", "why") if isinstance(trial.get(key), str)}
        who = trial.get("ingredient")
        aliases = {**self._names, **names}
        return {**trial, **texts, **({"ingredient": aliases.get(who, who)} if who else {})}

    def _value(self, value: Any) -> Any:
        """Plain values without the names, in keys too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(key): self._value(item) for key, item in value.items()}
        return [self._value(item) for item in value] if isinstance(value, (list, tuple)) else value
