"""`compare`: it opens its inputs and passes them to `hf_soup.comparison`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..analysis.relation import unrelated_heads
from ..checkpoints.base_model import open_base
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.companions import in_order
from ..checkpoints.hub import fetch
from ..checkpoints.source import open_all, open_checkpoint
from ..checkpoints.vocabularies import with_common_vocabulary
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
    """Score the ingredients, their uniform soup, the given soups and ensembles on data not used for selection.

    Args:
        soups ([`Soup`], `str`, `os.PathLike`, `Iterable` or `Mapping[str, Soup | str | os.PathLike]`):
            One soup, several soups, or a mapping of names to soups. Each is a [`Soup`], or the folder or Hub id of a
            saved one. It may be empty if `ingredients` are given.
        test ([`Evaluator`], `datasets.Dataset`, `str` or `Callable`):
            Test set whose scores are reported. A function of a model gives only a score: no interval and no ensembles.
        shifted (`Mapping[str, Evaluator | Dataset | str | Callable]`, *optional*):
            Further test sets by name, such as data under distribution shift.
        validation ([`Evaluator`], `datasets.Dataset`, `str` or `Callable`, *optional*):
            Data that the soups were selected on. It determines the best single model, which the others are compared
            with, and is used to fit the temperatures and the mixture ensemble.
        ingredients (`Iterable`, `str` or `os.PathLike`, *optional*):
            Models to compare with, in any form that [`merge`] takes. By default the candidates that the soups were
            chosen from; for a saved soup, its ingredients.
        batchnorm_data ([`Evaluator`], `datasets.Dataset` or `str`, *optional*):
            Training data on which the BatchNorm statistics of the added uniform soup are estimated again; by default
            that of the given soups.
        take_from (`str`, *optional*):
            Name of the ingredient whose settings the added uniform soup takes; by default that of the given soups.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            Whether `pytorch_model.bin` is read where there are no safetensors weights, as for [`load_ingredient`].
        ensembles (`Sequence[str]`, *optional*):
            Ensembles of the ingredients to score: any of `"logits"`, `"probabilities"`, `"vote"` and `"mixture"`; by
            default all that the models allow.

    Returns:
        [`Comparison`]: `.table()`, `.to_pandas()`, `.plot()`, `.save(folder)`.

    Raises:
        [`EvaluationError`]: if the test set was used for selection.
        [`RecipeError`]: if there is no soup or no ingredient, or a set cannot be used for scoring.
    """
    named = _soups_by_name(soups)
    if not named and ingredients is None:
        raise RecipeError("there is nothing to compare: give a soup, or ingredients, whose uniform soup is compared.")
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
        item.soup.warn_of_doubts(heads=not doubts)  # the same warnings were given already
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
    """The data sets to score on, in the order of the table.

    Raises:
        [`RecipeError`]: if a shifted set has the name of another one.
    """
    _refuse_twice("sets", [VALIDATION, TEST, *shifted])
    sets = {TEST: test, **shifted}
    return sets if validation is None else {VALIDATION: validation, **sets}


class OpenedSoup(NamedTuple):
    """A soup to compare. A saved soup is a single model, with what its recipe says about how it was made.

    Args:
        soup ([`Soup`]):
            The soup.
        members (`tuple[Ingredient, ...]`):
            Ingredients of the soup.
        take_from (`str`, *optional*):
            Name of the ingredient whose settings it has, if its recipe names one.
        labels (`tuple[str, ...]`, *optional*):
            Names of its classes, if its recipe lists them.
        vocabulary (`str`, *optional*), base_model (`Ingredient`, *optional*):
            Vocabulary that the ingredients were brought to, and the base model, as in its recipe.
    """

    soup: Soup
    members: tuple[Ingredient, ...]
    take_from: str | None = None
    labels: tuple[str, ...] = ()
    vocabulary: str | None = None
    base_model: Ingredient | None = None


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
    # A base model among the ingredients is not a fine-tune, so the soup is not compared with it.
    members = tuple(item for item in made_by.ingredients if item.name != made_by.base_inside)
    return OpenedSoup(soup, members, made_by.take_from, made_by.labels, made_by.vocabulary, made_by.base_model)


def _saved_recipe(checkpoint: Checkpoint) -> Recipe | None:
    """The recipe in the folder or repository of a saved soup, if there is one."""
    source, commit = checkpoint.ingredient.source, checkpoint.ingredient.revision
    if commit:
        fetch(source, commit, [RECIPE_FILE])
    if checkpoint.folder is None or not (checkpoint.folder / RECIPE_FILE).is_file():
        return None
    # A custom method is allowed, because it is never called: the soup is scored as it was saved.
    if commit:
        return load_hub_recipe(source, commit, allow_code=True)
    return load_recipe(checkpoint.folder, allow_code=True)


def _candidates(opened: Iterable[OpenedSoup], allow_pickle: bool) -> tuple[Checkpoint, ...]:
    """The candidates that the soups were chosen from, each once; for saved soups, their ingredients."""
    candidates: list[Checkpoint] = []
    for item in opened:
        made_here = item.soup.recipe.ingredients == item.members
        checkpoints = item.soup.candidates if made_here else open_all(item.members, allow_pickle=allow_pickle)
        if item.vocabulary is not None:  # of a saved soup
            base = None if item.base_model is None else open_base(item.base_model, checkpoints[0])
            checkpoints, _ = with_common_vocabulary(checkpoints, base, item.vocabulary, settings=item.take_from)
        there = [candidate.ingredient for candidate in candidates]
        candidates += [checkpoint for checkpoint in checkpoints if checkpoint.ingredient not in there]
    return tuple(candidates)


def _agreement(opened: Iterable[OpenedSoup], candidates: Sequence[Checkpoint], take_from: str | None) -> Agreement:
    """The settings and classes of the candidates: those of the soups by default."""
    soups = list(opened)
    if take_from is None:
        names = {item.take_from for item in soups}
        take_from = next((candidate.name for candidate in candidates if candidate.name in names), None)
    labels = next((item.labels for item in soups if item.labels), ())
    return agree(candidates, take_from=take_from, align_labels=True, labels=labels)


def _batchnorm_data_of(opened: Iterable[OpenedSoup]) -> Evaluator | None:
    """The training data that the first soup with such data uses to estimate BatchNorm again."""
    for item in opened:
        if item.soup.batchnorm is not None:
            return item.soup.batchnorm
    return None


def _split_of(name: str, given: Evaluation) -> str:
    """The split of a data set: that of the same name, or the test split for shifted sets given by path or Hub id."""
    return TEST if isinstance(given, str) and name != VALIDATION else name


def _task_of(sets: Iterable[Any]) -> str | None:
    """The task of the first data set with examples; `None` if all of them are functions of a model."""
    return next((item.task for item in sets if isinstance(item, Evaluator)), None)


def _single_scores(opened: Iterable[OpenedSoup]) -> dict[str, Score]:
    """The score of each ingredient that the soups' selections recorded."""
    scores: dict[str, Score] = {}
    for item in opened:
        scores |= item.soup.scores
    return scores


def _fingerprints_seen(opened: Iterable[OpenedSoup]) -> set[str]:
    """Fingerprints of the data used to select the soups or to estimate their BatchNorm statistics."""
    fingerprints: set[str] = set()
    for item in opened:
        recipe = item.soup.recipe
        datasets = []
        if recipe.selection is not None and recipe.selection.dataset is not None:
            datasets.append(recipe.selection.dataset)
        if recipe.batchnorm is not None:
            datasets.append(recipe.batchnorm.dataset)
        datasets += [record.dataset for record in recipe.importance.values()]
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
    """Every candidate with its own settings, and their uniform soup, all with one order of labels."""
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
    """The soups to compare, by their names in the table."""
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
        raise RecipeError(f'two {what} to compare are called "{twice[0]}"; give one of them another name.')
