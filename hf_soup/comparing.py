"""`compare`: opens what it was given and hands it to `hf_soup.evaluation`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .checkpoints.check import label_orders
from .checkpoints.checkpoint import Checkpoint
from .checkpoints.source import open_all, open_checkpoint
from .errors import RecipeError
from .evaluation.compare import Entry, compare_models
from .evaluation.comparison import TEST, VALIDATION, Comparison
from .evaluation.evaluator import Evaluator
from .evaluation.trials import bind_evaluator, bind_training, cook_in_memory, estimate_again, lasting_fingerprint
from .merging.plan import make_plan
from .recipes import RECIPE_FILE, load_recipe
from .soup import Soup
from .tasks import task_of
from .types import Recipe


if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .evaluation.trials import Evaluation

UNIFORM = "uniform soup"


def compare(
    soups: Soup | Mapping[str, Any] | Any,
    *,
    test: Evaluation,
    shifted: Mapping[str, Evaluation] | None = None,
    validation: Evaluation | None = None,
    ingredients: Sequence[Any] | None = None,
    batchnorm_data: Any = None,
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
            As for [`merge`]; needed with saved soups, by default what the soups were chosen from.
        batchnorm_data ([`Evaluator`], `datasets.Dataset` or `str`, *optional*):
            As for [`merge`], for the uniform soup that is added; by default that of the given soups.
        metric (*optional*):
            One or several, as of [`Evaluator`], for the sets that are no evaluator; the task's own by default.
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
    opened = {name: _opened(soup, name) for name, soup in named.items()}
    named = {name: soup for name, (soup, _) in opened.items()}
    sizes = {name: size for name, (_, size) in opened.items()}
    given = open_all(ingredients) if ingredients is not None else []
    candidates: list[Checkpoint] = list(given)
    for item in (item for soup in named.values() for item in (() if given else soup.candidates)):
        if item.ingredient not in [known.ingredient for known in candidates]:
            candidates.append(item)
    _refuse_twice("sets", [VALIDATION, TEST, *(shifted or {})])
    _refuse_twice("models", [*(item.name for item in candidates), *named])
    sets = {VALIDATION: validation} if validation is not None else {}
    sets |= {TEST: test, **(shifted or {})}
    direction = {"metric": metric, "higher_is_better": higher_is_better}
    bound = {name: bind_evaluator(item, candidates, split=name, **direction) for name, item in sets.items()}
    alignments = label_orders(candidates)
    training = bind_training(batchnorm_data, candidates)
    training = training or next((soup.batchnorm for soup in named.values() if soup.batchnorm), None)
    entries = [_entry(item.name, "ingredient", [item], alignments, None) for item in candidates]
    if UNIFORM not in named and len(candidates) > 1:  # not kept in memory
        entries.append(_entry(UNIFORM, "uniform", candidates, alignments, training))
    for name, soup in named.items():
        kind = "uniform" if name == UNIFORM else "soup"
        parameters = sum(spec.numel for spec in soup.plan.specs if spec.is_floating)
        kept = lasting_fingerprint(soup.recipe)
        entries.append(Entry(name, kind, lambda soup=soup: soup.model, parameters, kept, sizes[name]))
    selections = [soup.recipe.selection for soup in named.values()]
    task = next((item.task for item in bound.values() if isinstance(item, Evaluator)), "auto")
    return compare_models(
        entries,
        bound,
        task=task_of(candidates[0].config, task) if any(isinstance(e, Evaluator) for e in bound.values()) else task,
        ensembles=ensembles,
        selected_on={(item.get("dataset") or {}).get("fingerprint") for item in selections} - {None},
        alone={name: score.rank_key for soup in named.values() for name, score in soup.scores.items()},
    )


def _opened(soup: Any, name: str) -> tuple[Soup, int]:
    """A soup, of saved ones as one model with what its recipe says of how it was chosen; and how many went into it."""
    if isinstance(soup, Soup):
        return soup, len(soup.recipe.names)
    checkpoint = open_checkpoint(soup, name=name)
    recipe, size = Recipe((checkpoint.ingredient,), (1.0,)), 1
    if checkpoint.folder is not None and (checkpoint.folder / RECIPE_FILE).is_file():
        made_by = load_recipe(checkpoint.folder)
        recipe, size = replace(recipe, selection=made_by.selection), len(made_by.names)
    return Soup(recipe, [checkpoint]), size


def _entry(
    name: str,
    kind: str,
    items: Sequence[Checkpoint],
    alignments: Mapping[str, Sequence[int]],
    training: Evaluator | None,
) -> Entry:
    """The uniform soup of some ingredients, or one alone, with the labels in one order for all."""
    orders = {item.name: alignments[item.name] for item in items if item.name in alignments}
    recipe = Recipe(tuple(item.ingredient for item in items), (1.0,) * len(items), alignments=orders)
    if training and len(items) > 1:
        recipe = replace(recipe, batchnorm={"dataset": training.described()})
    plan = make_plan(recipe, items)
    parameters = sum(spec.numel for spec in plan.specs if spec.is_floating)

    def load() -> PreTrainedModel:
        return estimate_again(cook_in_memory(plan, items), recipe, training)

    return Entry(name, kind, load, parameters, lasting_fingerprint(recipe), len(items))


def _soup_name(soup: Any) -> str:
    if not isinstance(soup, Soup):
        return "soup"
    weights = {weight for row in soup.recipe.rows.values() for weight in row}
    return f"{soup.recipe.selection.get('strategy') or ('uniform' if len(weights) == 1 else 'weighted')} soup"


def _refuse_twice(what: str, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise RecipeError(f'two {what} to compare are called "{twice[0]}"; call one of them otherwise.')
