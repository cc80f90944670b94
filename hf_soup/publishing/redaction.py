"""Removes private models from a published soup: from its recipe, comparison, files and texts.

`privacy.py` finds out whether a model is private.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ..checkpoints.checkpoint import PRIVATE, Checkpoint
from ..checkpoints.pushed import on_hub
from ..comparison.comparison import SINGLE, Comparison, ModelScores
from ..errors import warn
from ..types import Ingredient, Recipe, Selection, Trial
from .privacy import is_private, private_ones, repository_of


T = TypeVar("T")


class Redaction:
    """Replaces the names and repositories of private models in everything that is published, including texts.

    Without private models nothing is changed.

    Args:
        private (`Iterable[Ingredient]`, *optional*):
            Private ingredients, which are called `private-1`, `private-2`, ...
        named (`Iterable[Ingredient]`, *optional*):
            Other ingredients, whose names are kept.
        bases (`Iterable[str]`, *optional*):
            Private base models of ingredients.
    """

    def __init__(
        self, private: Iterable[Ingredient] = (), named: Iterable[Ingredient] = (), *, bases: Iterable[str] = ()
    ):
        names_in_use = {item.name for item in named}
        numbers = itertools.count(1)
        self.aliases: dict[tuple[str, str], str] = {}  # name and source of an ingredient -> alias
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
        # Whole words only, and the longest of several: `run-1` must not match in `run-10`.
        longest_first = sorted(map(re.escape, self._words), key=len, reverse=True)
        self._pattern = re.compile(rf"(?<![\w-])({'|'.join(longest_first)})(?![\w-])")

    def _replacements(self, names_in_use: set[str]) -> dict[str, str]:
        """The replacement in texts for each name, source and repository; names of public models are kept."""
        words = {name: alias for name, alias in self._names.items() if name not in names_in_use}
        for (_, source), alias in self.aliases.items():
            words[source] = alias
        for repo_id in self.repositories:
            words.setdefault(repo_id, PRIVATE)
        return words

    @property
    def is_empty(self) -> bool:
        """Whether nothing has to be hidden."""
        return not self.repositories

    def text(self, text: str) -> str:
        """A text without private names."""
        if self.is_empty:  # a pattern without words would match anywhere
            return text
        return self._pattern.sub(lambda match: self._words[match[0]], text)

    def file(self, content: bytes) -> bytes:
        """A file without the ids of private repositories; names are kept, since they may be words of a vocabulary."""
        for repo_id in self.repositories:
            content = content.replace(repo_id.encode(), PRIVATE.encode())
        return content

    def recipe(self, recipe: Recipe) -> Recipe:
        """The recipe, in which private ingredients only have the digests of their weights."""
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
            vocabulary=names.get(recipe.vocabulary, recipe.vocabulary) if recipe.vocabulary else None,
            importance={names[name]: record for name, record in recipe.importance.items()},
            selection=self._selection(recipe.selection, names),
        )

    def comparison(self, comparison: Comparison) -> Comparison:
        """The comparison, with aliases for private models."""
        return replace(
            comparison,
            models=tuple(map(self._model, comparison.models)),
            summary=self.text(comparison.summary),
            curves=self._renamed(comparison.curves),
        )

    def base(self, repo_id: str) -> str:
        """The base model of an ingredient; `"private"` for a private one."""
        return PRIVATE if repo_id in self.bases else repo_id

    def _ingredient(self, item: Ingredient) -> Ingredient:
        """An ingredient, redacted for the recipe."""
        alias = self.aliases.get((item.name, item.source))
        if alias is None:
            return item
        return Ingredient(alias, PRIVATE, files=item.files, tensors=item.tensors)

    def _model(self, model: ModelScores) -> ModelScores:
        """A row of the comparison."""
        name = model.name
        if model.role in SINGLE:  # soups and ensembles may have the name of a private model
            name = self._names.get(name, name)
        return replace(model, name=name, weights=self._renamed(model.weights))

    def _renamed(self, values: Mapping[str, T]) -> dict[str, T]:
        """A mapping by names of ingredients, with aliases."""
        return {self._names.get(name, name): value for name, value in values.items()}

    def _selection(self, selection: Selection | None, names: Mapping[str, str]) -> Selection | None:
        """The redacted selection; `names` maps the names of the recipe's ingredients."""
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
        """A redacted trial."""
        ingredient = trial.ingredient
        if ingredient is not None:
            # Candidates that were not chosen are not in the recipe, so their aliases are looked up by name only.
            ingredient = names.get(ingredient, self._names.get(ingredient, ingredient))
        return replace(trial, tried=self.text(trial.tried), why=self.text(trial.why), ingredient=ingredient)

    def _value(self, value: Any) -> Any:
        """Plain values without private names, including keys."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(key): self._value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._value(item) for item in value]
        return value


def _next_alias(numbers: Iterator[int], names_in_use: set[str]) -> str:
    """The next alias that is not the name of a public model."""
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
    """Ask the Hub which of the models named by a soup are private.

    Args:
        recipe ([`Recipe`]):
            Recipe of the soup, with repositories as sources if there are any.
        candidates (`Sequence[Checkpoint]`):
            Candidates of the strategy; tables and trials also name those that were left out.
        bases (`Sequence[Sequence[str]]`):
            Base models of each ingredient.
        token (`str` or `bool`, *optional*):
            Access token for the Hub; by default the stored one.

    Returns:
        [`Redaction`]: of all private models; empty if everything is public.

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
    # The card only names the base model of an ingredient if it does not name the ingredient itself.
    bases_in_card: list[str] = []
    for item, repositories in zip(recipe.ingredients, bases, strict=True):
        if not item.revision or item in private:
            bases_in_card += repositories
    hidden_bases = [base for base in dict.fromkeys(bases_in_card) if is_private(base, token=token)]
    public = [item for item in named if item not in private]
    return Redaction(private, public, bases=hidden_bases)


def warn_of_redaction(redaction: Redaction, repo_id: str) -> None:
    """Warn of the models that a public soup does not name.

    Args:
        redaction ([`Redaction`]):
            Redaction of the soup.
        repo_id (`str`):
            Repository of the soup.
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
