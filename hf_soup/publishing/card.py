"""The model card of a soup, made from its recipe and comparison, whether there is a gain or not."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.checkpoint import MEMORY, PRIVATE
from ..checkpoints.companion_files import CARD
from ..checkpoints.hub import fetch, resolve, split_revision, split_source
from ..checkpoints.labels import label_names
from ..comparison.comparison import Comparison
from ..display.tables import align, escape
from ..errors import IngredientError
from ..formats.recipe_file import dump_recipe
from ..plugins import is_code, is_in_memory
from ..types import Ingredient, Recipe, Selection
from ..untrusted import as_error, encodable, one_line, read_file
from .bases import ModelTree, model_tree_of
from .facts import Facts
from .markdown import commit_cell, fence_for, ingredient_link, inline_code, repository_link, trial_row
from .results import Result, model_index, result_of
from .usage import architecture_of, pipeline_of, usage_of, usage_of_adapter, usage_of_sentences


if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

TAGS = ("merge", "model-soup", "hf_soup")
OUT_OF_REACH = (MEMORY, PRIVATE)  # sources that cannot be downloaded
SENTENCE_PIPELINES = {
    "SentenceTransformer": "sentence-similarity",
    "CrossEncoder": "text-ranking",
    "SparseEncoder": "feature-extraction",
}
HERE = "FOLDER_OR_HUB_ID"  # placeholder in code for a soup that is not on the Hub
SHOWN = 12  # maximum number of labels


@dataclass(frozen=True)
class CardContent:
    """The values that the template of a card shows.

    Args:
        recipe ([`Recipe`]):
            Recipe, with the digests of the written weights.
        config (`Mapping`):
            Configuration of the soup.
        comparison ([`Comparison`], *optional*):
            Scores of the soup.
        pictures (`Mapping[str, str]`, *optional*):
            Files of the pictures beside the card, by what they show.
        facts ([`Facts`], *optional*):
            Facts from the cards of the ingredients.
        findings (`Sequence[str]`, *optional*):
            Findings of an analysis.
        model_tree ([`ModelTree`]):
            Place of the soup in the Hub's model tree.
        repo_id (`str`, *optional*):
            Repository that the soup will be pushed to.
        sentence_class (`str`, *optional*):
            Class of sentence-transformers, if the soup is of one.
    """

    recipe: Recipe
    config: Mapping[str, Any]
    model_tree: ModelTree
    comparison: Comparison | None = None
    pictures: Mapping[str, str] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    findings: Sequence[str] = ()
    repo_id: str | None = None
    sentence_class: str | None = None

    @cached_property
    def result(self) -> Result | None:
        """The scores of this soup in the comparison."""
        return result_of(self.recipe, self.comparison)

    @cached_property
    def selection(self) -> Selection | None:
        """How the recipe was found."""
        return self.recipe.selection

    @property
    def place(self) -> str:
        """The name that code in the card loads."""
        return self.repo_id or HERE

    @property
    def usage(self) -> str:
        """Code that runs the model."""
        if self.sentence_class is not None:
            return usage_of_sentences(self.sentence_class, self.place)
        if self.recipe.adapter is not None:
            return usage_of_adapter(self.config, self.place)
        return usage_of(self.config, self.place)

    @property
    def adapter(self) -> str | None:
        """What kind of adapter the soup is, as a sentence; `None` for a whole model."""
        record = self.recipe.adapter
        if record is None:
            return None
        if record.kind != "LORA":
            return f"It is an adapter of the type {record.kind}, whose vectors are the means of its ingredients'."
        if record.rank is None:
            return "It is a LoRA adapter whose rank is the sum of those of its ingredients, so that the mean is exact."
        return (
            f"It is a LoRA adapter of rank {record.rank}: the mean of the changes was cut off there, with an error of "
            f"{record.error:.2%} of its norm."
        )

    @property
    def architecture(self) -> str:
        """The class of the model."""
        return architecture_of(self.config) or "a model"

    @property
    def average(self) -> str:
        """How the weights were combined, such as "weighted mean", as Markdown."""
        if self.recipe.method != "linear":
            return f"{inline_code(self.recipe.method)} merge"
        if self.recipe.params.get("normalize", True):
            return "weighted mean"
        return "weighted sum"

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names of the model."""
        return label_names(self.config)

    @property
    def batchnorm_examples(self) -> int | None:
        """Number of examples on which BatchNorm was estimated, if the recipe says so."""
        record = self.recipe.batchnorm
        if record is None:
            return None
        return record.dataset.rows

    @cached_property
    def recipe_text(self) -> str:
        """The recipe without trials, which are in the file beside the card."""
        return dump_recipe(_without_trials(self.recipe))

    @property
    def fine_tuned(self) -> list[Ingredient]:
        """The ingredients without the base model."""
        return [item for item in self.recipe.ingredients if item.name != self.recipe.base_inside]

    @property
    def local(self) -> list[str]:
        """Names of ingredients that are folders on the machine that made the soup."""
        return [item.name for item in self._needed if not item.revision and item.source not in OUT_OF_REACH]

    @property
    def in_memory(self) -> list[str]:
        """Names of ingredients from memory, and the method if no module defines it."""
        names = [item.name for item in self._needed if item.source == MEMORY]
        if is_in_memory(self.recipe.method):
            names.append(f"the method {self.recipe.method}")
        return names

    @property
    def allowed(self) -> str:
        """The option that is needed to cook the recipe, if its method is code from outside of this package."""
        return " --allow-code" if is_code(self.recipe.method) else ""

    @property
    def hidden(self) -> list[str]:
        """Aliases of private ingredients."""
        return [item.name for item in self._needed if item.source == PRIVATE]

    @property
    def _needed(self) -> list[Ingredient]:
        """The ingredients that are needed to cook the soup again, with the base model."""
        base = self.recipe.base_model
        if base is None or self.recipe.base_inside:
            return list(self.recipe.ingredients)
        return [*self.recipe.ingredients, base]


def render_card(
    recipe: Recipe,
    config: Mapping[str, Any],
    comparison: Comparison | None = None,
    *,
    pictures: Mapping[str, str] | None = None,
    facts: Facts | None = None,
    findings: Sequence[str] = (),
    bases: Sequence[Sequence[str]] = (),
    repo_id: str | None = None,
    tags: Sequence[str] = (),
    sentence_class: str | None = None,
) -> str:
    """Render the model card (README.md) of a soup.

    Args:
        recipe ([`Recipe`]):
            Recipe, with the digests of the written weights.
        config (`Mapping`):
            Configuration of the soup.
        comparison ([`Comparison`], *optional*):
            Scores of the soup; without them the card says that it was not evaluated.
        pictures (`Mapping[str, str]`, *optional*):
            Files of the pictures beside the card, by what they show.
        facts ([`Facts`], *optional*):
            Facts from the cards of the ingredients.
        findings (`Sequence[str]`, *optional*):
            Main findings of an analysis; `analysis.md` beside the card has all of them.
        bases (`Sequence[Sequence[str]]`, *optional*):
            Base models of each ingredient, which represent it if it is not on the Hub; `"private"` for one that is not
            named.
        repo_id (`str`, *optional*):
            Repository that the soup will be pushed to.
        tags (`Sequence[str]`, *optional*):
            Additional tags for the metadata.
        sentence_class (`str`, *optional*):
            Class of sentence-transformers, if the soup is of one.

    Returns:
        `str`: the card, with metadata and Markdown.
    """
    from huggingface_hub import ModelCard

    if architecture_of(config) is None:  # another value than a list of names would break the search for a task
        config = {key: value for key, value in config.items() if key != "architectures"}
    content = CardContent(
        recipe,
        config,
        model_tree_of(recipe, bases),
        comparison=comparison,
        pictures=pictures or {},
        facts=facts or Facts(),
        findings=findings,
        repo_id=repo_id,
        sentence_class=sentence_class,
    )
    card = ModelCard.from_template(
        card_data=_metadata(content, tags),
        template_str=_template(),
        card=content,
        shown=SHOWN,
        md=escape,
        code=inline_code,
        fence=fence_for(content.recipe_text),
        link=ingredient_link,
        commit=commit_cell,
        trial_row=trial_row,
        repository=repository_link,
        table=partial(align, escape=escape),
    )
    return encodable(str(card))


def load_card(soup: str | os.PathLike[str]) -> str:
    """Load the card of a saved or published soup.

    Args:
        soup (`str` or `os.PathLike`):
            Folder or Hub id (`user/soup`, `user/soup@v1`) of the soup.

    Raises:
        [`IngredientError`]: if the soup does not exist or has no card.
    """
    folder = Path(soup)
    repo_id, revision = split_revision(soup)
    if not folder.is_dir() and split_source(repo_id):
        folder = fetch(repo_id, resolve(repo_id, revision), [CARD])
    problem = f"{one_line(soup)} has no model card ({CARD}) that can be read"
    with as_error(IngredientError, problem):
        return read_file(folder / CARD).decode("utf-8")


def _metadata(content: CardContent, tags: Sequence[str]) -> ModelCardData:
    """The metadata of a card, in the Hub's format."""
    from huggingface_hub import ModelCardData

    facts, parents, result = content.facts, content.model_tree.parents, content.result
    relation = "merge"
    base = content.recipe.base_model
    if content.recipe.adapter is not None:
        parents, relation = () if base is None or not base.revision else (base.source,), "adapter"
    library, pipeline = "transformers", pipeline_of(content.config)
    if content.sentence_class is not None:
        library, pipeline = "sentence-transformers", SENTENCE_PIPELINES[content.sentence_class]
    elif content.recipe.adapter is not None:
        library = "peft"
    metrics: list[str] | None = None
    eval_results = None
    model_name = None
    if result is not None:
        metrics = list(result.comparison.metrics)
        eval_results = model_index(result, pipeline or "other") or None
    if eval_results:  # the metadata lists results by model
        model_name = (content.repo_id or "soup").rpartition("/")[2]
    # `None` leaves a key out, but an empty list would be written.
    return ModelCardData(
        license=facts.license.id,
        license_name=facts.license.name,
        license_link=facts.license.link,
        language=list(facts.language) or None,
        library_name=library,
        pipeline_tag=pipeline,
        tags=list(dict.fromkeys([*TAGS, *tags])),
        base_model=list(parents) or None,
        base_model_relation=relation if parents else None,
        datasets=list(facts.datasets) or None,
        metrics=metrics,
        model_name=model_name,
        eval_results=eval_results,
    )


def _without_trials(recipe: Recipe) -> Recipe:
    """The recipe without trials: there may be hundreds, and the card has a table of them."""
    if recipe.selection is None:
        return recipe
    return replace(recipe, selection=replace(recipe.selection, trials=()))


def _template() -> str:
    """The Jinja template, a data file of the package."""
    from importlib.resources import files

    return (files("hf_soup.publishing") / "templates" / "card.md").read_text(encoding="utf-8")
