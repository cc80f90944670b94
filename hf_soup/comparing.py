"""`compare`: opens what it was given and hands it to `hf_soup.evaluation`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from .checkpoints.checkpoint import Checkpoint
from .checkpoints.companions import in_order
from .checkpoints.hub import fetch
from .checkpoints.source import open_all, open_checkpoint
from .errors import RecipeError
from .evaluation.binding import bind_evaluator, bind_training
from .evaluation.compare import Entry, compare_models
from .evaluation.comparison import TEST, VALIDATION, Comparison
from .evaluation.evaluator import Evaluator
from .evaluation.tasting import estimate_again, lasting_fingerprint
from .merging.agreement import Agreement, agree
from .merging.in_memory import cook_in_memory
from .merging.plan import make_plan
from .recipes import RECIPE_FILE, load_hub_recipe, load_recipe
from .soup import Soup
from .types import Ingredient, Recipe


if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .evaluation.binding import Evaluation

UNIFORM = "uniform soup"


def compare(
    soups: Soup | Mapping[str, Any] | Any,
    *,
    test: Evaluation,
    shifted: Mapping[str, Evaluation] | None = None,
    validation: Evaluation | None = None,
    ingredients: Sequence[Any] | None = None,
    batchnorm_data: Any = None,
    take_from: str | None = None,
    allow_pickle: bool = False,
    metric: Any = None,
    higher_is_better: bool | None = None,
    ensembles: Sequence[str] | None = None,
) -> Comparison:
    """Score ingredients, the uniform soup, the given soups and ensembles on data that selection has not seen.

    Args:
        soups ([`Soup`], `str`, `os.PathLike`, or `Mapping[str, Soup | str | os.PathLike]`):
            One soup, or several by name: as [`merge`] made them, or folders and Hub ids of saved ones.
        test ([`Evaluator`], `datasets.Dataset`, `str` or `Callable`):
            What is reported. Of a function of a model only its score is known: no interval, no ensemble.
        shifted (`Mapping[str, Evaluator | Dataset | str | Callable]`, *optional*):
            More test sets, by name.
        validation ([`Evaluator`], `datasets.Dataset`, `str` or `Callable`, *optional*):
            What selected: it decides which single model is the one to beat, and fits temperatures and the mixture.
        ingredients (`Sequence`, *optional*):
            As for [`merge`]; by default what the soups were chosen from, of saved ones what went into them.
        batchnorm_data ([`Evaluator`], `datasets.Dataset` or `str`, *optional*):
            As for [`merge`], for the uniform soup that is added; by default that of the given soups.
        take_from (`str`, *optional*):
            As for [`merge`], for the uniform soup that is added; by default that of the given soups.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            As for [`merge`].
        metric (*optional*):
            One or several, as of [`Evaluator`], for all sets; by default an evaluator's own, or the task's.
        higher_is_better (`bool`, *optional*):
            As of [`Evaluator`].
        ensembles (`Sequence[str]`, *optional*):
            Of `"logits"`, `"probabilities"`, `"vote"` and `"mixture"`; by default all that the models allow.

    Returns:
        [`Comparison`]: `.table()`, `.to_pandas()`, `.plot()`, `.save(folder)`.

    Raises:
        [`EvaluationError`]: if the test set is the one that selected.
        [`RecipeError`]: if there is no soup, no ingredient, or a set cannot be scored on.
    """
    named = dict(soups) if isinstance(soups, Mapping) else {_soup_name(soups): soups}
    if not named:
        raise RecipeError("there is nothing to compare: give at least one soup.")
    opened = {name: _opened(soup, name, allow_pickle) for name, soup in named.items()}
    named = {name: found.soup for name, found in opened.items()}
    sizes = {name: len(found.members) for name, found in opened.items()}
    if ingredients is None:
        candidates = _candidates(opened.values(), allow_pickle)
    else:
        candidates = open_all(ingredients, allow_pickle=allow_pickle)
    _refuse_twice("sets", [VALIDATION, TEST, *(shifted or {})])
    _refuse_twice("models", [*(item.name for item in candidates), *named])
    sets = {VALIDATION: validation} if validation is not None else {}
    sets |= {TEST: test, **(shifted or {})}
    direction = {"metric": metric, "higher_is_better": higher_is_better}
    splits = {name: TEST if isinstance(item, str) and name != VALIDATION else name for name, item in sets.items()}
    take_from = _take_from(opened.values(), candidates) if take_from is None else take_from
    labels = next((found.labels for found in opened.values() if found.labels), ())
    agreement = agree(candidates, take_from=take_from, align_labels=True, labels=labels)
    like_soup = in_order(candidates, agreement.settings)
    bound = {name: bind_evaluator(item, like_soup, split=splits[name], **direction) for name, item in sets.items()}
    training = bind_training(batchnorm_data, like_soup)
    training = training or next((soup.batchnorm for soup in named.values() if soup.batchnorm), None)
    entries = [_entry(item.name, "ingredient", [item], agreement, None) for item in candidates]
    if UNIFORM not in named and len(candidates) > 1:  # not kept in memory
        entries.append(_entry(UNIFORM, "uniform", candidates, agreement, training, take_from=take_from))
    for name, soup in named.items():
        kind = "uniform" if name == UNIFORM else "soup"
        parameters = sum(spec.numel for spec in soup.plan.specs if spec.is_floating)
        decisive = [*soup.checkpoints, soup.plan.settings, soup.plan.base]
        kept = partial(lasting_fingerprint, soup.recipe, decisive)
        entries.append(Entry(name, kind, soup.build_model, parameters, kept, sizes[name]))
    seen = [part.get("dataset") or {} for s in named.values() for part in (s.recipe.selection, s.recipe.batchnorm)]
    task = next((item.task for item in bound.values() if isinstance(item, Evaluator)), "auto")
    return compare_models(
        entries,
        bound,
        task=task,
        ensembles=ensembles,
        selected_on={item.get(key) for item in seen for key in ("fingerprint", "inputs")} - {None},
        alone={name: score.rank_key for soup in named.values() for name, score in soup.scores.items()},
    )


class _Opened(NamedTuple):
    """A soup, of saved ones as one model with what its recipe says of how it was chosen; and what went into it.

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
    take_from: str | None
    labels: tuple[str, ...] = ()


def _opened(soup: Any, name: str, allow_pickle: bool) -> _Opened:
    if isinstance(soup, Soup):
        return _Opened(soup, soup.recipe.ingredients, soup.recipe.take_from, soup.recipe.labels)
    checkpoint = open_checkpoint(soup, name=name, allow_pickle=allow_pickle)
    recipe, members = Recipe((checkpoint.ingredient,), (1.0,)), (checkpoint.ingredient,)
    take_from, labels = None, ()
    source, commit = checkpoint.ingredient.source, checkpoint.ingredient.revision
    if commit:
        fetch(source, commit, [RECIPE_FILE])
    if checkpoint.folder is not None and (checkpoint.folder / RECIPE_FILE).is_file():
        # its method is not called: the soup is scored as it was saved
        folder = checkpoint.folder
        made_by = load_hub_recipe(source, commit, allow_code=True) if commit else load_recipe(folder, allow_code=True)
        recipe = replace(recipe, selection=made_by.selection)
        members = tuple(item for item in made_by.ingredients if item.name != made_by.base_inside)
        take_from, labels = made_by.take_from, made_by.labels
    return _Opened(Soup(recipe, [checkpoint]), members, take_from, labels)


def _candidates(opened: Iterable[_Opened], allow_pickle: bool) -> list[Checkpoint]:
    """What the soups were chosen from, each once; of saved soups what went into them."""
    found: list[Checkpoint] = []
    for soup, members, *_ in opened:
        made_here = soup.recipe.ingredients == members
        items = soup.candidates if made_here else open_all(members, allow_pickle=allow_pickle)
        found += [item for item in items if item.ingredient not in [known.ingredient for known in found]]
    return found


def _take_from(opened: Iterable[_Opened], candidates: Sequence[Checkpoint]) -> str | None:
    """The candidate that gives the soups their settings, if a recipe names one."""
    named = {found.take_from for found in opened}
    return next((item.name for item in candidates if item.name in named), None)


def _entry(
    name: str,
    kind: str,
    items: Sequence[Checkpoint],
    agreement: Agreement,
    training: Evaluator | None,
    *,
    take_from: str | None = None,
) -> Entry:
    """The uniform soup of some ingredients, or one alone, with the labels in one order for all."""
    orders = agreement.of([item.name for item in items])
    recipe = Recipe(tuple(item.ingredient for item in items), (1.0,) * len(items), alignments=orders)
    recipe = replace(recipe, labels=agreement.labels if orders else (), take_from=take_from)
    if training and len(items) > 1:
        recipe = replace(recipe, batchnorm=training.described_batches())
    plan = make_plan(recipe, items)
    parameters = sum(spec.numel for spec in plan.specs if spec.is_floating)

    def load() -> PreTrainedModel:
        return estimate_again(cook_in_memory(plan, items), recipe, training)

    kept = partial(lasting_fingerprint, recipe, [*items, plan.settings])
    return Entry(name, kind, load, parameters, kept, len(items))


def _soup_name(soup: Any) -> str:
    return soup.recipe.title if isinstance(soup, Soup) else "soup"


def _refuse_twice(what: str, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise RecipeError(f'two {what} to compare are called "{twice[0]}"; call one of them otherwise.')
