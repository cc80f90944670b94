"""What takes private models out of a soup that is published: out of its recipe, comparison, files and sentences.

Whether a model is private is asked in `privacy.py`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ..checkpoints.checkpoint import PRIVATE, Checkpoint
from ..comparison.comparison import SINGLE, Comparison, ModelScores
from ..errors import warn
from ..types import Ingredient, Recipe, Selection, Trial
from .privacy import is_private, on_hub, private_ones, repository_of


T = TypeVar("T")


class Redaction:
    """Replaces private models in everything that is published: their names, their repositories, and both in sentences.

    Without any private model it changes nothing.

    Args:
        private (`Iterable[Ingredient]`, *optional*):
            The private ones, which are called `private-1`, `private-2`, ...
        named (`Iterable[Ingredient]`, *optional*):
            The others, whose names are not taken for something else.
        bases (`Iterable[str]`, *optional*):
            Private repositories that ingredients were fine-tuned from.
    """

    def __init__(
        self, private: Iterable[Ingredient] = (), named: Iterable[Ingredient] = (), *, bases: Iterable[str] = ()
    ):
        names_in_use = {item.name for item in named}
        numbers = itertools.count(1)
        self.aliases: dict[tuple[str, str], str] = {}  # name and source of an ingredient -> what it is called
        for item in private:
            key = (item.name, item.source)
            if key not in self.aliases:
                self.aliases[key] = _next_alias(numbers, names_in_use)
        self.bases = tuple(bases)
        repositories = {*self.bases, *(repository_of(source) for _, source in self.aliases)}
        # The longest first: `a/bert-large` would otherwise lose its beginning to `a/bert`.
        self.repositories = sorted(repositories, key=lambda repo_id: (-len(repo_id), repo_id))
        self._names = {name: alias for (name, _), alias in self.aliases.items()}
        self._words = self._replacements(names_in_use)
        # Whole words alone, and of several that begin alike the longest: `run-1` is no part of `run-10`.
        longest_first = sorted(map(re.escape, self._words), key=len, reverse=True)
        self._pattern = re.compile(rf"(?<![\w-])({'|'.join(longest_first)})(?![\w-])")

    def _replacements(self, names_in_use: set[str]) -> dict[str, str]:
        """What stands in a sentence for each name, source and repository; names of public models too are kept."""
        words = {name: alias for name, alias in self._names.items() if name not in names_in_use}
        for (_, source), alias in self.aliases.items():
            words[source] = alias
        for repo_id in self.repositories:
            words.setdefault(repo_id, PRIVATE)
        return words

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to hide."""
        return not self.repositories

    def text(self, text: str) -> str:
        """A text without the names."""
        if self.is_empty:  # the pattern of no words matches anywhere
            return text
        return self._pattern.sub(lambda match: self._words[match[0]], text)

    def file(self, content: bytes) -> bytes:
        """A file without the ids of private repositories; names alone may be words of a vocabulary."""
        for repo_id in self.repositories:
            content = content.replace(repo_id.encode(), PRIVATE.encode())
        return content

    def recipe(self, recipe: Recipe) -> Recipe:
        """The recipe, in which private ingredients have the digests of their weights alone."""
        if self.is_empty:
            return recipe
        names = {item.name: self._ingredient(item).name for item in recipe.ingredients}
        base = recipe.base_model
        if base is not None:
            base = self._ingredient(base)
        take_from = names[recipe.take_from] if recipe.take_from else None
        return replace(
            recipe,
            ingredients=tuple(map(self._ingredient, recipe.ingredients)),
            base_model=base,
            alignments={names[name]: order for name, order in recipe.alignments.items()},
            take_from=take_from,
            selection=self._selection(recipe.selection, names),
        )

    def comparison(self, comparison: Comparison) -> Comparison:
        """The comparison, in which private models have their aliases."""
        return replace(
            comparison,
            models=tuple(map(self._model, comparison.models)),
            summary=self.text(comparison.summary),
            curves=self._renamed(comparison.curves),
        )

    def base(self, repo_id: str) -> str:
        """A repository that an ingredient was fine-tuned from; `"private"` for a private one."""
        return PRIVATE if repo_id in self.bases else repo_id

    def _ingredient(self, item: Ingredient) -> Ingredient:
        """An ingredient as the recipe may name it."""
        alias = self.aliases.get((item.name, item.source))
        if alias is None:
            return item
        return Ingredient(alias, PRIVATE, files=item.files)

    def _model(self, model: ModelScores) -> ModelScores:
        """A line of the comparison."""
        name = model.name
        if model.role in SINGLE:  # soups and ensembles may be called like a private model, and are none
            name = self._names.get(name, name)
        return replace(model, name=name, weights=self._renamed(model.weights))

    def _renamed(self, values: Mapping[str, T]) -> dict[str, T]:
        """A mapping from names of ingredients, with aliases."""
        return {self._names.get(name, name): value for name, value in values.items()}

    def _selection(self, selection: Selection | None, names: Mapping[str, str]) -> Selection | None:
        """How the recipe was found; `names` has those of the ingredients that the recipe still has."""
        if selection is None:
            return None
        return replace(
            selection,
            params=self._value(selection.params),
            trials=tuple(self._trial(trial, names) for trial in selection.trials),
            reference=self._value(selection.reference),
            why=self.text(selection.why),
        )

    def _trial(self, trial: Trial, names: Mapping[str, str]) -> Trial:
        """A row of the table of trials."""
        ingredient = trial.ingredient
        if ingredient is not None:
            # Candidates that were not chosen are not in the recipe, so their aliases are looked up by name alone.
            ingredient = names.get(ingredient, self._names.get(ingredient, ingredient))
        return replace(trial, tried=self.text(trial.tried), why=self.text(trial.why), ingredient=ingredient)

    def _value(self, value: Any) -> Any:
        """Plain values without the names, in keys too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(key): self._value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._value(item) for item in value]
        return value


def _next_alias(numbers: Iterator[int], names_in_use: set[str]) -> str:
    """The next alias that no public model is called by."""
    while True:
        alias = f"private-{next(numbers)}"
        if alias not in names_in_use:
            return alias


def find_private(
    recipe: Recipe,
    candidates: Sequence[Checkpoint],
    bases: Sequence[Sequence[str]],
    token: str | bool | None = None,
) -> Redaction:
    """Ask the Hub which of the models that a soup would name are private.

    Args:
        recipe ([`Recipe`]):
            Of the soup, with repositories as sources where there are any.
        candidates (`Sequence[Checkpoint]`):
            All that a strategy chose from: tables and trials name those that it left out as well.
        bases (`Sequence[Sequence[str]]`):
            For each ingredient the repositories that it was fine-tuned from.
        token (`str` or `bool`, *optional*):
            By default the one that a login stored.

    Returns:
        [`Redaction`]: of all of them; empty where everything is public.

    Raises:
        [`OutputError`]: if the Hub does not tell.
    """
    named = list(recipe.ingredients)
    if recipe.base_model is not None:
        named.append(recipe.base_model)
    for candidate in candidates:
        if candidate.name not in recipe.names:
            named.append(on_hub(candidate.ingredient, token))
    private = private_ones(named, token)
    # The card names what an ingredient was fine-tuned from only where it does not name the ingredient itself.
    bases_in_card: list[str] = []
    for item, repositories in zip(recipe.ingredients, bases, strict=True):
        if not item.revision or item in private:
            bases_in_card += repositories
    hidden_bases = [base for base in dict.fromkeys(bases_in_card) if is_private(base, token=token)]
    public = [item for item in named if item not in private]
    return Redaction(private, public, bases=hidden_bases)


def warn_of_redaction(redaction: Redaction, repo_id: str) -> None:
    """Say which models a public soup does not name.

    Args:
        redaction ([`Redaction`]):
            What hides them.
        repo_id (`str`):
            Where the soup is published.
    """
    if redaction.aliases:
        names = ", ".join(name for name, _ in redaction.aliases)
        warn(
            f"{repo_id} is public and {names} private: what is private is not named, so only those who have it can "
            "cook the soup again. name_private=True names it."
        )
    if redaction.bases:
        warn(
            f"{repo_id} is public and {', '.join(redaction.bases)}, which ingredients were fine-tuned from, private "
            "or gone: it is not named. name_private=True names it."
        )
