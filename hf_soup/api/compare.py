"""`compare`: opens what it was given and hands it to `hf_soup.comparison`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..analysis.relation import unrelated_heads
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.companions import in_order
from ..checkpoints.hub import fetch
from ..checkpoints.source import open_all, open_checkpoint
from ..comparison.comparison import TEST, VALIDATION, Comparison
from ..comparison.measure import Entry, compare_models
from ..errors import RecipeError, warn
from ..evaluation.binding import batchnorm_record, bind_evaluator, bind_training
from ..evaluation.evaluator import Evaluator
from ..evaluation.model_maker import ModelMaker
from ..evaluation.running_statistics import read_statistics
from ..formats.recipe_file import RECIPE_FILE, load_hub_recipe, load_recipe
from ..merging.agreement import Agreement, agree
from ..merging.setup import MergeSetup, set_up
from ..options import answers_keywords
from ..types import UNIFORM, Ingredient, Mixture, Recipe, Score
from .ingredients import read_ingredients
from .soup import Soup


if TYPE_CHECKING:
    from ..evaluation.binding import Evaluation


@answers_keywords
def compare(
    soups: Soup | Mapping[str, Any] | Any,
    *,
    test: Evaluation,
    shifted: Mapping[str, Evaluation] | None = None,
    validation: Evaluation | None = None,
    ingredients: Iterable[Any] | str | os.PathLike[str] | None = None,
    batchnorm_data: Any = None,
    take_from: str | None = None,
    allow_pickle: bool = False,
    ensembles: Sequence[str] | None = None,
) -> Comparison:
    """Score ingredients, the uniform soup, the given soups and ensembles on data that selection has not seen.

    Args:
        soups ([`Soup`], `str`, `os.PathLike`, `Iterable` or `Mapping[str, Soup | str | os.PathLike]`):
            One soup, several, or several by name: as [`merge`] made them, or folders and Hub ids of saved ones.
        test ([`Evaluator`], `datasets.Dataset`, `str` or `Callable`):
            What is reported. Of a function of a model only its score is known: no interval, no ensemble.
        shifted (`Mapping[str, Evaluator | Dataset | str | Callable]`, *optional*):
            More test sets, by name.
        validation ([`Evaluator`], `datasets.Dataset`, `str` or `Callable`, *optional*):
            What selected: it decides which single model is the one to beat, and fits temperatures and the mixture.
        ingredients (`Iterable`, `str` or `os.PathLike`, *optional*):
            As for [`merge`]; by default what the soups were chosen from, of saved ones what went into them.
        batchnorm_data ([`Evaluator`], `datasets.Dataset` or `str`, *optional*):
            As for [`merge`], for the uniform soup that is added; by default that of the given soups.
        take_from (`str`, *optional*):
            As for [`merge`], for the uniform soup that is added; by default that of the given soups.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            As for [`merge`].
        ensembles (`Sequence[str]`, *optional*):
            Of `"logits"`, `"probabilities"`, `"vote"` and `"mixture"`; by default all that the models allow.

    Returns:
        [`Comparison`]: `.table()`, `.to_pandas()`, `.plot()`, `.save(folder)`.

    Raises:
        [`EvaluationError`]: if the test set is the one that selected.
        [`RecipeError`]: if there is no soup, no ingredient, or a set cannot be scored on.
    """
    named = _soups_by_name(soups)
    if not named:
        raise RecipeError("there is nothing to compare: give at least one soup.")
    opened = {name: _open_soup(soup, name, allow_pickle) for name, soup in named.items()}
    if ingredients is None:
        candidates = _candidates(opened.values(), allow_pickle)
    else:
        candidates = open_all(read_ingredients(ingredients), allow_pickle=allow_pickle)
    data_by_set = _sets_by_name(test, shifted or {}, validation)
    _refuse_twice("models", [*(candidate.name for candidate in candidates), *opened])
    agreement = _agreement(opened.values(), candidates, take_from)
    doubts = unrelated_heads(candidates, agreement.alignments)
    for doubt in doubts:
        warn(doubt)
    for item in opened.values():
        item.soup.warn_of_doubts(heads=not doubts)  # of which the same was said already
    like_soup = in_order(candidates, agreement.settings)
    sets = {}
    for name, data in data_by_set.items():
        split = _split_of(name, data)
        sets[name] = bind_evaluator(data, like_soup, split=split)
    training = bind_training(batchnorm_data, like_soup) or _batchnorm_data_of(opened.values())
    return compare_models(
        _entries(opened, candidates, agreement, training),
        sets,
        task=_task_of(sets.values()),
        ensembles=ensembles,
        selected_on=_fingerprints_seen(opened.values()),
        single_scores=_single_scores(opened.values()),
    )


def _sets_by_name(
    test: Evaluation, shifted: Mapping[str, Evaluation], validation: Evaluation | None
) -> dict[str, Evaluation]:
    """The sets to score on, in the order of the table.

    Raises:
        [`RecipeError`]: if a shifted set is called like another.
    """
    _refuse_twice("sets", [VALIDATION, TEST, *shifted])
    sets = {TEST: test, **shifted}
    return sets if validation is None else {VALIDATION: validation, **sets}


class OpenedSoup(NamedTuple):
    """A soup; a saved one is a single model with what its recipe says of how it was chosen and made.

    Args:
        soup ([`Soup`]):
            The soup.
        members (`tuple[Ingredient, ...]`):
            Its ingredients.
        take_from (`str`, *optional*):
            The ingredient that gives it its settings, if its recipe names one.
        labels (`tuple[str, ...]`, *optional*):
            The names of its classes, if its recipe says them.
    """

    soup: Soup
    members: tuple[Ingredient, ...]
    take_from: str | None = None
    labels: tuple[str, ...] = ()


def _open_soup(soup: Any, name: str, allow_pickle: bool) -> OpenedSoup:
    if isinstance(soup, Soup):
        return OpenedSoup(soup, soup.recipe.ingredients, soup.recipe.take_from, soup.recipe.labels)
    checkpoint = open_checkpoint(soup, name=name, allow_pickle=allow_pickle)
    setup = set_up([checkpoint], Agreement())
    own_recipe = setup.recipe(Mixture.equal([checkpoint.ingredient]))
    made_by = _saved_recipe(checkpoint)
    if made_by is None:
        return OpenedSoup(Soup(own_recipe, setup), (checkpoint.ingredient,))
    soup = Soup(replace(own_recipe, selection=made_by.selection), setup)
    # A base model that is an ingredient is where the soup starts from, and no fine-tune to compare it with.
    members = tuple(item for item in made_by.ingredients if item.name != made_by.base_inside)
    return OpenedSoup(soup, members, made_by.take_from, made_by.labels)


def _saved_recipe(checkpoint: Checkpoint) -> Recipe | None:
    """The recipe that a saved soup was made by, if one lies in its folder or repository."""
    source, commit = checkpoint.ingredient.source, checkpoint.ingredient.revision
    if commit:
        fetch(source, commit, [RECIPE_FILE])
    if checkpoint.folder is None or not (checkpoint.folder / RECIPE_FILE).is_file():
        return None
    # A method of the user's own is allowed, because it is never called: the soup is scored as it was saved.
    if commit:
        return load_hub_recipe(source, commit, allow_code=True)
    return load_recipe(checkpoint.folder, allow_code=True)


def _candidates(opened: Iterable[OpenedSoup], allow_pickle: bool) -> tuple[Checkpoint, ...]:
    """What the soups were chosen from, each once; of saved soups their ingredients."""
    candidates: list[Checkpoint] = []
    for item in opened:
        made_here = item.soup.recipe.ingredients == item.members
        checkpoints = item.soup.candidates if made_here else open_all(item.members, allow_pickle=allow_pickle)
        there = [candidate.ingredient for candidate in candidates]
        candidates += [checkpoint for checkpoint in checkpoints if checkpoint.ingredient not in there]
    return tuple(candidates)


def _agreement(opened: Iterable[OpenedSoup], candidates: Sequence[Checkpoint], take_from: str | None) -> Agreement:
    """The settings and classes of the candidates: those of the soups, where nothing else is asked for."""
    soups = list(opened)
    if take_from is None:
        names = {item.take_from for item in soups}
        take_from = next((candidate.name for candidate in candidates if candidate.name in names), None)
    labels = next((item.labels for item in soups if item.labels), ())
    return agree(candidates, take_from=take_from, align_labels=True, labels=labels)


def _batchnorm_data_of(opened: Iterable[OpenedSoup]) -> Evaluator | None:
    """The examples with which the first soup that has some re-estimates BatchNorm."""
    for item in opened:
        if item.soup.batchnorm is not None:
            return item.soup.batchnorm
    return None


def _split_of(name: str, given: Evaluation) -> str:
    """The split of a set: a path or Hub id of a shifted set has no split of that name, and its test split is meant."""
    return TEST if isinstance(given, str) and name != VALIDATION else name


def _task_of(sets: Iterable[Any]) -> str | None:
    """The task of the first set with examples; `None` where all are functions of a model, which do not say."""
    return next((item.task for item in sets if isinstance(item, Evaluator)), None)


def _single_scores(opened: Iterable[OpenedSoup]) -> dict[str, Score]:
    """The score of each ingredient that the selections of the soups have recorded."""
    scores: dict[str, Score] = {}
    for item in opened:
        scores |= item.soup.scores
    return scores


def _fingerprints_seen(opened: Iterable[OpenedSoup]) -> set[str]:
    """Fingerprints of the data that selected the soups, or on which their BatchNorm was estimated."""
    fingerprints: set[str] = set()
    for item in opened:
        recipe = item.soup.recipe
        datasets = []
        if recipe.selection is not None and recipe.selection.dataset is not None:
            datasets.append(recipe.selection.dataset)
        if recipe.batchnorm is not None:
            datasets.append(recipe.batchnorm.dataset)
        for dataset in datasets:
            fingerprints.update(filter(None, (dataset.fingerprint, dataset.inputs)))
    return fingerprints


def _entries(
    opened: Mapping[str, OpenedSoup],
    candidates: Sequence[Checkpoint],
    agreement: Agreement,
    training: Evaluator | None,
) -> list[Entry]:
    """The candidates, their uniform soup unless it was given, and the soups."""
    setup = set_up(candidates, agreement, batchnorm=batchnorm_record(training))
    entries = _entries_of_candidates(setup, training, uniform=UNIFORM not in opened and len(candidates) > 1)
    return [*entries, *(_entry_of_soup(name, item) for name, item in opened.items())]


def _entries_of_candidates(setup: MergeSetup, training: Evaluator | None, *, uniform: bool) -> list[Entry]:
    """Every candidate with its own settings, and their uniform soup, with the labels in one order for all."""
    singles = ModelMaker(setup.without_settings())
    entries = []
    for item in setup.candidates:
        mixture = Mixture.equal([item.ingredient])
        entries.append(Entry(item.name, "ingredient", singles, mixture, setup.plan(mixture).parameters))
    if uniform:
        everything = Mixture.equal([item.ingredient for item in setup.candidates])
        maker, parameters = ModelMaker(setup, training=training), setup.plan(everything).parameters
        entries.append(Entry(UNIFORM, "uniform", maker, everything, parameters, len(entries)))
    return entries


def _entry_of_soup(name: str, opened: OpenedSoup) -> Entry:
    soup = opened.soup
    statistics = None
    if soup.recipe.batchnorm and soup.batchnorm is None:  # recorded beside the recipe
        statistics = partial(read_statistics, soup.recipe, soup.plan)
    maker = ModelMaker(soup.setup, device=soup.device, training=soup.batchnorm, statistics=statistics)
    role: Literal["uniform", "soup"] = "uniform" if name == UNIFORM else "soup"
    return Entry(name, role, maker, soup.recipe.mixture, soup.plan.parameters, len(opened.members))


def _soups_by_name(soups: Any) -> dict[str, Any]:
    """The soups to compare, by the names that the table calls them."""
    if isinstance(soups, Mapping):
        return dict(soups)
    if isinstance(soups, (Soup, str, os.PathLike)) or not isinstance(soups, Iterable):
        return {soups.recipe.title if isinstance(soups, Soup) else "soup": soups}
    given = list(soups)
    names = []
    for soup in given:
        names.append(soup.recipe.title if isinstance(soup, Soup) else Path(soup).name)
    _refuse_twice("soups", names)
    return dict(zip(names, given, strict=True))


def _refuse_twice(what: str, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise RecipeError(f'two {what} to compare are called "{twice[0]}"; call one of them otherwise.')
