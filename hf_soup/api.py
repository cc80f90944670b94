"""The verbs: `merge`, `check`, `modules`. Each opens what it was given and calls rooms below."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .checkpoints.base_model import as_ingredient, open_base
from .checkpoints.check import CheckReport
from .checkpoints.checkpoint import Checkpoint
from .checkpoints.companions import in_order
from .checkpoints.labels import base_order_problem, is_identity
from .checkpoints.modules import Module, list_modules
from .checkpoints.pieces import check_device
from .checkpoints.relation import relate
from .checkpoints.settings import base_computation_notes, base_notes, choose
from .checkpoints.source import open_all, open_checkpoint
from .errors import IncompatibleError, RecipeError, did_you_mean, listed, warn
from .evaluation.binding import bind_evaluator, bind_training
from .evaluation.evaluator import Evaluator
from .evaluation.trials import ModelTrials, NoTrials
from .lookup import asks_for, checked, load_function, parameters
from .merging.agreement import agree
from .merging.plan import alignment_problems, bind_method, make_plan
from .parallel import check_executor
from .seeds import check_seed
from .selecting import select
from .soup import Soup
from .types import Recipe, plain


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig

    from .evaluation.binding import Evaluation


def check(
    ingredients: Sequence[Any],
    base_model: Any = None,
    *,
    deep: bool = False,
    align_labels: bool = False,
    take_from: str | None = None,
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
        align_labels (`bool`, *optional*, defaults to `False`):
            As for [`merge`]: the report says what would be permuted.
        take_from (`str`, *optional*):
            As for [`merge`].
        allow_pickle (`bool`, *optional*, defaults to `False`):
            As for [`merge`].
        config (`transformers.PretrainedConfig` or `Mapping`, *optional*):
            Of ingredients that are state dicts.

    Returns:
        [`CheckReport`]: every problem and what to look out for; `.table()` prints it.

    Raises:
        [`IngredientError`]: if one cannot be opened at all, or the base model has less than half of the tensors of
            their body.
        [`RecipeError`]: if settings are to be taken from an ingredient that is not there.
    """
    checkpoints = open_all(ingredients, config=config, allow_pickle=allow_pickle)
    agreement = agree(checkpoints, take_from=take_from, align_labels=align_labels)
    alignments, report = agreement.alignments, agreement.check(checkpoints)
    if report.ok:
        report = replace(report, problems=alignment_problems(checkpoints[0], alignments))
    base = None
    if base_model is not None:
        base = open_base(base_model, checkpoints[0], allow_pickle=allow_pickle)
        lacking = [name for name in checkpoints[0].specs if name not in base.specs]
        notes = base_notes(base, checkpoints[0])
        notes += filter(None, [base_order_problem(base, report.labels)])
        if lacking:
            notes.append(f"{base.name} lacks {len(lacking)} of their tensors: {listed(lacking)}")
        report = replace(report, notes=(*report.notes, *notes))
    if deep and report.ok:
        relation = relate(checkpoints, base)
        moved = [name for name, order in alignments.items() if not is_identity(order)]
        notes = [f"the heads of {', '.join(moved)} are compared as they are, not permuted"] if moved else []
        report = replace(report, relation=relation, notes=(*report.notes, *relation.notes, *notes))
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
    weights: Sequence[float] | Mapping[str, Sequence[float] | float] | None = None,
    method: str = "linear",
    strategy: str | None = None,
    evaluator: Evaluation | None = None,
    metric: Any = None,
    higher_is_better: bool | None = None,
    folds: int | None = None,
    holdout: float | None = None,
    executor: str = "local",
    batchnorm_data: Evaluator | Dataset | str | None = None,
    base_model: Any = None,
    dtype: str = "auto",
    seed: int = 0,
    align_labels: bool = False,
    take_from: str | None = None,
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
            "": [1, 1]}`); with `strategy="weighted"` also by name. All equal by default.
        method (`str`, *optional*, defaults to `"linear"`):
            How the tensors of one name combine.
        strategy (`str`, *optional*):
            Who goes in, such as `"greedy"`; `hf-soup strategies` lists them. `"weighted"` takes `weights`, the others
            find them.
        evaluator ([`Evaluator`], `datasets.Dataset`, `str` or `Callable`, *optional*):
            Scores models on validation data, for strategies that choose. A function of a model returns a number or a
            dict of them, so that any harness can steer.
        metric (*optional*):
            What to choose by, as of [`Evaluator`]; where the evaluator is a function, which value of its dict.
        higher_is_better (`bool`, *optional*):
            Direction of what is chosen by; known of built-in metrics, `True` by default of others.
        folds (`int`, *optional*):
            Search as many times on all folds of validation but one, and tell what the choice scores on the fold left
            out; the soup itself is chosen on all.
        holdout (`float`, *optional*):
            Which part of validation the search does not see; how much better the soup looks on the rest is told.
        executor (`str`, *optional*, defaults to `"local"`):
            Where trials run that do not depend on each other: `"local"`, one after the other, or `"ray"`.
        batchnorm_data ([`Evaluator`], `datasets.Dataset` or `str`, *optional*):
            Training data, of which the `train` split is taken: if the models have BatchNorm, the running statistics of
            every average are estimated again on it, as the recipe then says.
        base_model (*optional*):
            What the ingredients were fine-tuned from, for methods and strategies that need it; a [`Sweep`] knows its
            own.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Of the soup, such as `"bfloat16"`; `"auto"` is the widest among the ingredients.
        seed (`int`, *optional*, defaults to 0):
            For methods and strategies that draw random numbers, and for folds.
        align_labels (`bool`, *optional*, defaults to `False`):
            Permute the heads of ingredients that have the same labels in another order, and take labels for the same
            that differ in letter case alone; the recipe records it.
        take_from (`str`, *optional*):
            Name of the ingredient whose configuration, names of classes, tokenizer, processor, generation settings and
            chat templates the soup takes, by default the first. Where ingredients differ in one that changes what the
            model computes or gets, they are averaged only if this says whose to take.
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
        if "weights" not in parameters(find_strategy):
            raise RecipeError(f'give either weights or a strategy: strategy="{strategy}" finds the weights itself.')
        for_strategy["weights"], weights = plain(weights), None
    if evaluator is not None and strategy is None:
        raise RecipeError('an evaluator is for a strategy that chooses by it: add strategy="greedy".')
    if evaluator is None and (folds is not None or holdout is not None or executor != "local"):
        raise RecipeError("folds, holdout and executor are of trials: add a strategy and evaluator=Evaluator(data).")
    check_executor(executor)
    if evaluator is None and (metric is not None or higher_is_better is not None):
        raise RecipeError("a metric is what an evaluator scores by: add evaluator=hf_soup.Evaluator(data).")
    check_device(device)
    seed = check_seed(seed)
    for failure in getattr(ingredients, "failed", ()):  # of a sweep
        warn(f"{failure.name} is left out: {failure.reason}")
    candidates = open_all(ingredients, config=config, allow_pickle=allow_pickle)
    agreement = agree(candidates, take_from=take_from, align_labels=align_labels)
    settings = agreement.settings
    strategy_needs_base, way_from = asks_for(find_strategy, "base"), None
    if getattr(find_strategy, "linear", False) and method != "linear":
        raise RecipeError(f'strategy="{strategy}" goes with method="linear" alone, not with "{method}".')
    if base_model is None and (needs_base(method) or strategy_needs_base):
        base_model = getattr(ingredients, "base_model", None)  # a sweep knows what its runs started from
    base = open_base(base_model, candidates[0], allow_pickle=allow_pickle) if base_model is not None else None
    if strategy_needs_base:
        if base is None:
            raise RecipeError(f'strategy="{strategy}" needs what the ingredients were fine-tuned from: base_model=...')
        like = next(
            (item for item in in_order(candidates, settings) if item.name not in agreement.alignments), candidates[0]
        )
        way_from = as_ingredient(base, like, [item.name for item in candidates])
        apart = base_computation_notes(base, like)
        if apart and settings is None:  # the soup would lie between models that compute otherwise
            raise IncompatibleError([f"{note}. {choose(like.name)}" for note in apart])
        way_from = base = replace(way_from, notes=(*way_from.notes, *apart))
    training = bind_training(batchnorm_data, in_order(candidates, settings))

    def complete(recipe: Recipe) -> Recipe:
        orders = agreement.of(recipe.names)
        several = sum(map(any, zip(*recipe.rows.values(), strict=True))) > 1
        return replace(
            recipe,
            method=method,
            params=for_method,
            base_model=base and base.ingredient,
            dtype=dtype,
            seed=seed,
            alignments=orders,
            labels=agreement.labels if orders else (),
            take_from=take_from,
            batchnorm=training.described_batches() if training and several else {},
        )

    everything = complete(
        Recipe(
            tuple(item.ingredient for item in candidates), weights if weights is not None else (1.0,) * len(candidates)
        )
    )
    # what is wrong is said before anything is scored
    soup = Soup(everything, candidates, base=base, device=device, batchnorm=training)
    if way_from:
        row = (*[1.0] * len(candidates), 0.0)
        on_the_way = complete(Recipe((*everything.ingredients, way_from.ingredient), row))
        make_plan(on_the_way, [*candidates, way_from])
    if strategy is None:
        return soup
    by_name = {item.name: item for item in candidates}
    selection: dict[str, Any] = {"strategy": strategy, "params": dict(for_strategy)}
    given = {"base": way_from.ingredient} if way_from else {}
    given |= {"seed": seed} if asks_for(find_strategy, "seed") else {}
    if evaluator is None:
        recipe = complete(find_strategy(everything.ingredients, NoTrials(), **for_strategy, **given))
    else:
        like_soup = in_order(candidates, settings)
        bound = bind_evaluator(evaluator, like_soup, metric=metric, higher_is_better=higher_is_better)
        where = {"way_from": way_from, "device": device, "batchnorm": training, "executor": executor}
        trials = ModelTrials(by_name, bound, complete, base, **where)
        try:
            worth = {"folds": folds, "holdout": holdout, "seed": seed}
            recipe = select(find_strategy, everything.ingredients, trials, {**for_strategy, **given}, **worth)
            final = trials.score(recipe)
        finally:
            trials.close()
        recipe = complete(recipe)
        selection |= {"metric": final.metric, "higher_is_better": final.higher_is_better, "split": final.split}
        selection |= {"dataset": bound.described() if isinstance(bound, Evaluator) else {}}
    recipe = _with_settings(replace(recipe, selection=selection | recipe.selection), settings)
    by_name |= {way_from.name: way_from} if way_from else {}
    items = [by_name[name] for name in recipe.names]
    return Soup(recipe, items, base=base, candidates=candidates, device=device, batchnorm=training)


def _with_settings(recipe: Recipe, settings: Checkpoint | None) -> Recipe:
    """The recipe with the ingredient whose settings it takes, at the weight 0 if a strategy left it out."""
    if settings is None or settings.name in recipe.names:
        return recipe
    rows = {prefix: (*row, 0.0) for prefix, row in recipe.rows.items()}
    weights = rows if isinstance(recipe.weights, dict) else rows[""]
    return replace(recipe, ingredients=(*recipe.ingredients, settings.ingredient), weights=weights)


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
    name = recipe.base_inside
    tuned = [item for item in recipe.ingredients if item.name != name] or recipe.ingredients
    opened = open_all(tuned, allow_pickle=allow_pickle)
    base = None
    if recipe.base_model and (needs_base(recipe.method) or name):
        base = next((item for item in recipe.ingredients if item.name == name), recipe.base_model)
        base = open_base(base, opened[0], allow_pickle=allow_pickle)
    if name:  # a point on the way from it
        found = {item.name: item for item in opened}
        among = replace(as_ingredient(base, opened[0], ()), ingredient=base.ingredient)
        opened = [among if item.name == name else found[item.name] for item in recipe.ingredients]
    return Soup(recipe, opened, base=base, candidates=candidates)


def share_out(
    method: str, strategy: str | None, params: Mapping[str, Any]
) -> tuple[Callable[..., Recipe], dict[str, Any], dict[str, Any]]:
    """The strategy's function, and which parameters are the method's and which the strategy's.

    Raises:
        [`RecipeError`]: if there is no such method or strategy, or neither takes one of the parameters or its value.
    """
    functions = (load_function("method", method), load_function("strategy", strategy or "uniform"))
    known = [parameters(function) for function in functions]
    params = dict(params)
    for name, value in params.items():
        if not any(name in of_one for of_one in known):
            what = f'neither the method "{method}" nor the strategy "{strategy or "uniform"}" takes'
            raise RecipeError(f'{what} a parameter "{name}"{did_you_mean(name, {**known[0], **known[1]})}')
        for function, of_one in zip(functions, known, strict=True):
            if name in of_one:
                params[name] = checked(of_one[name], function, value)
    for_method, for_strategy = ({k: plain(params[k]) for k in params if k in of_one} for of_one in known)
    return functions[1], for_method, for_strategy


def needs_base(method: str) -> bool:
    """Whether a method asks for the base model."""
    return asks_for(load_function("method", method), "base")
