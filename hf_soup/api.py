"""The verbs: `merge`, `check`, `modules`, `sweep`, `compare`. Each opens what it was given and calls rooms below."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .checkpoints.check import CheckReport, check_checkpoints, label_orders
from .checkpoints.checkpoint import Checkpoint
from .checkpoints.modules import Module, list_modules, names_without
from .checkpoints.pieces import check_device
from .checkpoints.relation import relate
from .checkpoints.source import open_all, open_base, open_checkpoint
from .data import load_data
from .errors import IngredientError, RecipeError, did_you_mean
from .evaluation.compare import TEST, VALIDATION, Comparison, Entry, compare_models
from .evaluation.evaluator import Evaluator, task_of
from .evaluation.trials import ModelTrials, NoTrials, as_score, cook_in_memory
from .lookup import asks_for, choices, load_function, parameters
from .merging.plan import bind_method, make_plan
from .soup import Soup
from .training.sweep import Sweep, run_sweep
from .types import Recipe, Score, plain


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel

    Evaluation = Evaluator | Dataset | Callable[[PreTrainedModel], Score | float]


UNIFORM = "uniform soup"


def check(
    ingredients: Sequence[Any],
    base_model: Any = None,
    *,
    deep: bool = False,
    allow_pickle: bool = False,
    config: PretrainedConfig | Mapping[str, Any] | None = None,
) -> CheckReport:
    """Tell whether checkpoints can be averaged, from their headers and configurations.

    Args:
        ingredients (`Sequence`):
            As for [`merge`].
        base_model (*optional*):
            What they were fine-tuned from: it has to fit them, and a deep check measures how far they went from it.
        deep (`bool`, *optional*, defaults to `False`):
            Read the weights as well, and tell whether they look like fine-tunes of one model.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            As for [`merge`].
        config (`transformers.PretrainedConfig` or `Mapping`, *optional*):
            Of ingredients that are state dicts.

    Returns:
        [`CheckReport`]: every problem and what to look out for; `.table()` prints it.

    Raises:
        [`IngredientError`]: if one cannot be opened at all, or the base model has no tensor in common with them.
    """
    checkpoints = open_all(ingredients, config=config, allow_pickle=allow_pickle)
    report = check_checkpoints(checkpoints)
    base = None
    if base_model is not None:  # a deep check reads it, under the names that the ingredients have
        if deep and report.ok:
            base = open_base(base_model, checkpoints[0], allow_pickle=allow_pickle)
        else:
            base = open_checkpoint(base_model, allow_pickle=allow_pickle)
        lacking = names_without(checkpoints[0].specs, base.specs)
        if len(lacking) == len(checkpoints[0].specs):
            raise IngredientError(
                f"{base.name!r} is no base of {checkpoints[0].name!r}: they have no tensor in common."
            )
        note = f"{base.name} lacks {len(lacking)} of their tensors: {', '.join(lacking[:4])}"
        report = replace(report, notes=report.notes + ((note,) if lacking else ()))
    if deep and report.ok:
        relation = relate(checkpoints, base)
        report = replace(report, relation=relation, notes=report.notes + relation.notes)
    elif deep:
        report = replace(report, notes=(*report.notes, "the weights were not read: there are problems without them"))
    return report


def modules(ingredient: Any, *, allow_pickle: bool = False) -> tuple[Module, ...]:
    """List the named modules of a checkpoint, which can have weights of their own in a soup.

    Args:
        ingredient (`str`, `os.PathLike`, `PreTrainedModel` or [`Ingredient`]):
            One of what [`merge`] takes.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            As for [`merge`].

    Returns:
        `tuple[Module, ...]`: name, number of tensors and of parameters of each; from the names alone.

    Raises:
        [`IngredientError`]: if it cannot be opened.
    """
    return list_modules(open_checkpoint(ingredient, allow_pickle=allow_pickle).specs.values())


def merge(
    ingredients: Sequence[Any],
    *,
    weights: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
    method: str = "linear",
    strategy: str | None = None,
    evaluator: Evaluation | None = None,
    base_model: Any = None,
    dtype: str = "auto",
    seed: int = 0,
    align_labels: bool = False,
    device: str = "cpu",
    allow_pickle: bool = False,
    config: PretrainedConfig | Mapping[str, Any] | None = None,
    **params: Any,
) -> Soup:
    """Make a soup of fine-tuned checkpoints. Nothing is averaged before it is needed.

    Args:
        ingredients (`Sequence`):
            Folders, Hub ids (`user/run1`, `user/run1@revision`), loaded models, or state dicts with `config=`; a
            [`Sweep`] is such a sequence.
        weights (`Sequence[float]` or `Mapping[str, Sequence[float]]`, *optional*):
            One for each ingredient, relative to each other; or a row for each module prefix (`{"classifier": [1, 0],
            "": [1, 1]}`). All equal by default.
        method (`str`, *optional*, defaults to `"linear"`):
            How the tensors of one name combine.
        strategy (`str`, *optional*):
            Who goes in: `"uniform"`, `"greedy"`. Excludes `weights`.
        evaluator ([`Evaluator`], `datasets.Dataset` or `Callable[[PreTrainedModel], float]`, *optional*):
            Scores models on validation data, for strategies that choose.
        base_model (*optional*):
            What the ingredients were fine-tuned from, for methods that need it; a [`Sweep`] knows its own.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Of the soup, such as `"bfloat16"`; `"auto"` is the widest among the ingredients.
        seed (`int`, *optional*, defaults to 0):
            For methods that draw random numbers.
        align_labels (`bool`, *optional*, defaults to `False`):
            Permute the heads of ingredients that have the same labels in another order; the recipe records it.
        device (`str`, *optional*, defaults to `"cpu"`):
            Where to average, such as `"cuda"`.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            Read `pytorch_model.bin` where an ingredient has no safetensors weights, with torch's `weights_only=True`.
        config (`transformers.PretrainedConfig` or `Mapping`, *optional*):
            Of ingredients that are state dicts.
        params:
            Parameters of the method and of the strategy, such as `normalize=False` or `accept=">"`.

    Returns:
        [`Soup`]: with `.model`, `.save_pretrained`, `.push_to_hub` and `.recipe`.

    Raises:
        [`IngredientError`]: if an ingredient cannot be read.
        [`IncompatibleError`]: if they cannot be averaged, with every offender.
        [`RecipeError`]: if weights, method, strategy or parameters are wrong.
    """
    find_strategy, for_method, for_strategy = share_out(method, strategy, params)
    if weights is not None and strategy is not None:
        raise RecipeError(f'give either weights or a strategy: strategy="{strategy}" finds the weights itself.')
    if evaluator is not None and strategy is None:
        raise RecipeError('an evaluator is for a strategy that chooses by it: add strategy="greedy".')
    check_device(device)
    candidates = open_all(ingredients, config=config, allow_pickle=allow_pickle)
    alignments = label_orders(candidates) if align_labels else {}
    if base_model is None and _needs_base(method):
        base_model = getattr(ingredients, "base_model", None)  # a sweep knows what its runs started from
    base = open_base(base_model, candidates[0], allow_pickle=allow_pickle) if base_model is not None else None

    def complete(recipe: Recipe) -> Recipe:
        return replace(
            recipe,
            method=method,
            params=for_method,
            base_model=base and base.ingredient,
            dtype=dtype,
            seed=seed,
            alignments={name: order for name, order in alignments.items() if name in recipe.names},
        )

    everything = complete(
        Recipe(
            tuple(item.ingredient for item in candidates), weights if weights is not None else (1.0,) * len(candidates)
        )
    )
    # what is wrong is said before anything is scored
    soup = Soup(everything, candidates, base=base, device=device)
    if strategy is None:
        return soup
    by_name = {item.name: item for item in candidates}
    selection: dict[str, Any] = {"strategy": strategy, "params": for_strategy}
    if evaluator is None:
        recipe = complete(find_strategy(everything.ingredients, NoTrials(), **for_strategy))
    else:
        bound = bind_evaluator(evaluator, candidates)
        trials = ModelTrials(by_name, bound, complete, base, device=device)
        try:
            recipe = complete(find_strategy(everything.ingredients, trials, **for_strategy))
            final = trials.score(recipe)
        finally:
            trials.close()
        selection |= {"metric": final.metric, "higher_is_better": final.higher_is_better, "split": final.split}
        selection |= {"score": final.value, "dataset": bound.described() if isinstance(bound, Evaluator) else {}}
    recipe = replace(recipe, selection=selection | recipe.selection)
    items = [by_name[name] for name in recipe.names]
    return Soup(recipe, items, base=base, candidates=candidates, device=device)


def cook_recipe(recipe: Recipe, *, candidates: Sequence[Checkpoint] | None = None, allow_pickle: bool = False) -> Soup:
    """The soup of a recipe that was read from a file.

    Args:
        recipe ([`Recipe`]):
            With sources that are there.
        candidates (`Sequence[Checkpoint]`, *optional*):
            All that were chosen from, for a comparison; the ingredients by default.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            As for [`merge`].

    Returns:
        [`Soup`]

    Raises:
        [`IngredientError`]: if an ingredient is gone.
    """
    bind_method(recipe)
    opened = open_all(recipe.ingredients, allow_pickle=allow_pickle)
    base = None
    if recipe.base_model and _needs_base(recipe.method):
        base = open_base(recipe.base_model, opened[0], allow_pickle=allow_pickle)
    return Soup(recipe, opened, base=base, candidates=candidates)


def sweep(
    base_model: str | os.PathLike,
    dataset: Dataset | str,
    *,
    space: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    output_dir: str | os.PathLike,
    task: str = "auto",
    validation: Dataset | str | None = None,
    metric: str | None = None,
    n_runs: int | None = None,
    seed: int = 0,
    head_seed: int = 0,
    training_args: Mapping[str, Any] | None = None,
    label_column: str | None = None,
    text_columns: Sequence[str] | None = None,
) -> Sweep:
    """Fine-tune one model several times, from one initial head, so that the runs can be averaged.

    Every run is a `transformers.Trainer` run in a folder of its own; runs that are whole are not repeated.

    Args:
        base_model (`str` or `os.PathLike`):
            A Hub id or folder with a tokenizer or image processor.
        dataset (`datasets.Dataset` or `str`):
            The training examples, or a folder or Hub id whose `train` split they are.
        space (`Mapping[str, Sequence]` or `Sequence[Mapping]`):
            A grid (`{"learning_rate": [1e-5, 3e-5], "seed": range(3)}`), a list of settings, or distributions with
            `n_runs`. Any field of `TrainingArguments` may vary, and `augment` (image transforms).
        output_dir (`str` or `os.PathLike`):
            Where the runs go.
        task (`str`, *optional*, defaults to `"auto"`):
            `"text-classification"` or `"image-classification"`; by default by the columns of the data.
        validation (`datasets.Dataset` or `str`, *optional*):
            Examples that each run is scored on at its end.
        metric (`str`, *optional*):
            The task's own by default.
        n_runs (`int`, *optional*):
            Draw as many settings from the space; the whole grid by default.
        seed (`int`, *optional*, defaults to 0):
            Of the drawing.
        head_seed (`int`, *optional*, defaults to 0):
            Of the new head that all runs start from. A run's own `seed` is for data order and dropout.
        training_args (`Mapping`, *optional*):
            Fields of `TrainingArguments` that all runs share.
        label_column (`str`, *optional*):
            By default `label` or `labels`.
        text_columns (`Sequence[str]`, *optional*):
            By default every column of strings.

    Returns:
        [`Sweep`]: a sequence of runs that [`merge`] takes as it is.

    Raises:
        [`RecipeError`]: if the space is empty or names a parameter that does not exist.
        [`TrainingError`]: if the folder holds runs of another base model, data or training arguments.
    """
    return run_sweep(
        base_model,
        load_data(dataset, split="train"),
        space=space,
        output_dir=output_dir,
        task=task,
        validation=None if validation is None else load_data(validation, split="validation"),
        metric=metric,
        n_runs=n_runs,
        seed=seed,
        head_seed=head_seed,
        training_args=training_args or {},
        label_column=label_column,
        text_columns=text_columns,
    )


def compare(
    soups: Soup | Mapping[str, Soup],
    *,
    test: Evaluator | Dataset,
    shifted: Mapping[str, Evaluator | Dataset] | None = None,
    validation: Evaluator | Dataset | None = None,
    metric: str | None = None,
) -> Comparison:
    """Score ingredients, the uniform soup, the given soups and the logit ensemble on data that selection has not seen.

    Args:
        soups ([`Soup`] or `Mapping[str, Soup]`):
            One soup, or several by name that were made from the same candidates.
        test ([`Evaluator`] or `datasets.Dataset`):
            What is reported.
        shifted (`Mapping[str, Evaluator | Dataset]`, *optional*):
            More test sets, by name.
        validation ([`Evaluator`] or `datasets.Dataset`, *optional*):
            What selected; it decides which single model is the one to beat.
        metric (`str`, *optional*):
            The task's own by default.

    Returns:
        [`Comparison`]: `.table()`, `.plot()`, `.save(folder)`.

    Raises:
        [`EvaluationError`]: if the test set is the one that selected.
        [`RecipeError`]: if there is no soup, or a set is neither an evaluator nor a data set.
    """
    soups = {_soup_name(soups): soups} if isinstance(soups, Soup) else dict(soups)
    if not soups:
        raise RecipeError("there is nothing to compare: give at least one soup.")
    candidates: list[Checkpoint] = []
    for item in (item for soup in soups.values() for item in soup.candidates):
        if item.ingredient not in [known.ingredient for known in candidates]:
            candidates.append(item)
    _refuse_twice("sets", [VALIDATION, TEST, *(shifted or {})])
    _refuse_twice("models", [*(item.name for item in candidates), *soups])
    sets = {VALIDATION: validation} if validation is not None else {}
    sets |= {TEST: test, **(shifted or {})}
    bound = {name: bind_evaluator(item, candidates, split=name) for name, item in sets.items()}
    for name, evaluator in bound.items():
        if not isinstance(evaluator, Evaluator):
            raise RecipeError(f"compare needs the examples themselves: give an Evaluator or a data set as {name}.")
    alignments = label_orders(candidates)
    entries = [Entry(item.name, "ingredient", _loader([item], alignments)) for item in candidates]
    if UNIFORM not in soups:
        entries.append(Entry(UNIFORM, "uniform", _loader(candidates, alignments)))  # not kept in memory
    entries += [
        Entry(name, "uniform" if name == UNIFORM else "soup", lambda soup=soup: soup.model)
        for name, soup in soups.items()
    ]
    selected_on = {(soup.recipe.selection.get("dataset") or {}).get("fingerprint") for soup in soups.values()}
    return compare_models(entries, bound, metric=metric, selected_on=selected_on - {None})


def _refuse_twice(what: str, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise RecipeError(f'two {what} to compare are called "{twice[0]}"; call one of them otherwise.')


def share_out(
    method: str, strategy: str | None, params: Mapping[str, Any]
) -> tuple[Callable[..., Recipe], dict[str, Any], dict[str, Any]]:
    """The strategy's function, and which parameters are the method's and which the strategy's.

    Raises:
        [`RecipeError`]: if there is no such method or strategy, or neither takes one of the parameters or its value.
    """
    functions = (load_function("method", method), load_function("strategy", strategy or "uniform"))
    known = [parameters(function) for function in functions]
    for name, value in params.items():
        if not any(name in of_one for of_one in known):
            what = f'neither the method "{method}" nor the strategy "{strategy or "uniform"}" takes'
            raise RecipeError(f'{what} a parameter "{name}"{did_you_mean(name, {**known[0], **known[1]})}')
        for function, of_one in zip(functions, known, strict=True):
            allowed = choices(of_one[name], function) if name in of_one else ()
            if allowed and value not in allowed:
                raise RecipeError(f'"{name}" is one of {", ".join(map(repr, allowed))}, not {value!r}.')
    for_method, for_strategy = ({k: plain(params[k]) for k in params if k in of_one} for of_one in known)
    return functions[1], for_method, for_strategy


def bind_evaluator(evaluator: Evaluation, candidates: Sequence[Checkpoint], *, split: str = VALIDATION) -> Any:
    """An evaluator that has the ingredients' tokenizer or image processor; plain functions stay as they are.

    Raises:
        [`RecipeError`]: if it is neither an evaluator, nor a data set, nor a function.
    """
    import datasets

    if isinstance(evaluator, (str, datasets.Dataset)):
        evaluator = Evaluator(evaluator, split=split)
    if isinstance(evaluator, Evaluator):
        folder = next((item.folder for item in candidates if item.companions and item.folder), None)
        task = task_of(candidates[0].architecture, evaluator.task)
        return evaluator.with_processing_class(folder and str(folder), task)
    if not callable(evaluator):
        raise RecipeError(f"an evaluator is an Evaluator, a data set, or a function of a model, not {evaluator!r}.")
    return lambda model: as_score(evaluator(model))


def _needs_base(method: str) -> bool:
    return asks_for(load_function("method", method), "base")


def _loader(items: Sequence[Checkpoint], alignments: Mapping[str, Sequence[int]]) -> Callable[[], PreTrainedModel]:
    """What makes the uniform soup of some ingredients, or loads one alone, with the labels in one order for all."""
    orders = {item.name: alignments[item.name] for item in items if item.name in alignments}
    recipe = Recipe(tuple(item.ingredient for item in items), (1.0,) * len(items), alignments=orders)
    return lambda: cook_in_memory(make_plan(recipe, items), items)


def _soup_name(soup: Soup) -> str:
    weights = {weight for row in soup.recipe.rows.values() for weight in row}
    return f"{soup.recipe.selection.get('strategy') or ('uniform' if len(weights) == 1 else 'weighted')} soup"
