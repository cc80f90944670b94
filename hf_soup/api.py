"""The verbs: `merge`, `check`, `modules`. Each opens what it was given and calls rooms below."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .checkpoints.base_model import as_ingredient, fit_base, resolve_base
from .checkpoints.check import CheckReport
from .checkpoints.checkpoint import Checkpoint
from .checkpoints.companions import in_order
from .checkpoints.labels import base_order_problem, is_identity
from .checkpoints.modules import Module, list_modules
from .checkpoints.pieces import check_device
from .checkpoints.relation import relate
from .checkpoints.settings import base_computation_notes, base_notes, choose
from .checkpoints.source import open_all, open_checkpoint, try_to_open
from .errors import IncompatibleError, RecipeError, SoupError, did_you_mean, listed, warn
from .evaluation.binding import bind_evaluator, bind_training
from .evaluation.evaluator import Evaluator
from .evaluation.function_trials import FunctionTrials
from .evaluation.trials import ModelTrials, NoTrials
from .lookup import asks_for, checked, load_function, parameters, strategy_traits
from .merging.agreement import Agreement, agree
from .merging.plan import alignment_problems, bind_method, find_settings
from .merging.setup import MergeSetup, set_up
from .parallel import check_executor
from .seeds import check_seed
from .selecting import Strategy, select
from .soup import Soup
from .types import Choice, Mixture, Recipe, Selection, Weights, as_weights, plain


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
    report = agreement.check(checkpoints)
    if report.ok:
        report = replace(report, problems=alignment_problems(checkpoints[0], agreement.alignments))
    base = resolve_base(base_model, ingredients, checkpoints[0], needed=False, allow_pickle=allow_pickle)
    notes = list(report.notes)
    if base is not None:
        notes += _notes_of_base(base, checkpoints[0], report.labels)
    relation = None
    if deep and report.ok:
        relation = relate(checkpoints, base)
        notes += relation.notes
        moved = [name for name, order in agreement.alignments.items() if not is_identity(order)]
        if moved:
            notes.append(f"the heads of {', '.join(moved)} are compared as they are, not permuted")
    elif deep:
        notes.append("the weights were not read: there are problems without them")
    return replace(report, relation=relation, notes=tuple(notes))


def _notes_of_base(base: Checkpoint, like: Checkpoint, labels: Sequence[str]) -> list[str]:
    """What to look out for in a base model: other settings, another order of classes, tensors that it lacks."""
    notes = base_notes(base, like)
    problem = base_order_problem(base, labels)
    if problem:
        notes.append(problem)
    lacking = [name for name in like.specs if name not in base.specs]
    if lacking:
        notes.append(f"{base.name} lacks {len(lacking)} of their tensors: {listed(lacking)}")
    return notes


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
    request = _parse(
        method,
        strategy,
        params,
        weights=weights,
        scored=evaluator is not None,
        worth_asked=folds is not None or holdout is not None or executor != "local",
        metric_given=metric is not None or higher_is_better is not None,
    )
    check_executor(executor)
    check_device(device)
    seed = check_seed(seed)
    for failure in getattr(ingredients, "failed", ()):  # of a sweep
        warn(f"{failure.name} is left out: {failure.reason}")
    candidates = open_all(ingredients, config=config, allow_pickle=allow_pickle)
    agreement = agree(candidates, take_from=take_from, align_labels=align_labels)
    needed = request.strategy_needs_base or needs_base(method)
    base = resolve_base(base_model, ingredients, candidates[0], needed=needed, allow_pickle=allow_pickle)
    base_candidate = None
    if request.strategy_needs_base:
        base = base_candidate = _base_as_candidate(base, request, candidates, agreement)
    training = bind_training(batchnorm_data, in_order(candidates, agreement.settings))
    setup = set_up(
        candidates,
        agreement,
        method=method,
        params=request.method_params,
        base=base,
        base_candidate=base_candidate,
        dtype=dtype,
        seed=seed,
        batchnorm=training.described_batches() if training else None,
    )
    everything = Mixture.equal([item.ingredient for item in candidates])
    if request.weights is not None:
        everything = Mixture(everything.ingredients, request.weights)
    if request.strategy is None:
        return Soup(setup.recipe(everything), setup, device=device, batchnorm=training)
    mixture, selection = _choose(
        request.strategy_for(seed, base_candidate),
        setup,
        evaluator,
        training,
        metric=metric,
        higher_is_better=higher_is_better,
        folds=folds,
        holdout=holdout,
        executor=executor,
        device=device,
    )
    mixture = _with_settings(mixture, agreement.settings)
    return Soup(setup.recipe(mixture, selection), setup, device=device, batchnorm=training)


@dataclass(frozen=True)
class _Request:
    """What a merge was asked for by name: the method and the strategy with their parameters.

    Args:
        method_params (`dict[str, Any]`):
            Of the method.
        weights (`Weights`, *optional*):
            As the user gave them, where no strategy takes them.
        strategy (`str`, *optional*):
            Its name, if the user named one.
        function (`Callable`):
            The strategy; the uniform one if the user named none.
        strategy_params (`dict[str, Any]`):
            Of the strategy.
    """

    method_params: dict[str, Any]
    weights: Weights | None
    strategy: str | None
    function: Callable[..., Mixture | Choice]
    strategy_params: dict[str, Any]

    @property
    def strategy_needs_base(self) -> bool:
        """Whether the strategy mixes the base model in."""
        return asks_for(self.function, "base")

    def strategy_for(self, seed: int, base: Checkpoint | None) -> Strategy:
        """The strategy with what the merge provides."""
        provided: dict[str, Any] = {}
        if base is not None:
            provided["base"] = base.ingredient
        if asks_for(self.function, "seed"):
            provided["seed"] = seed
        return Strategy(self.strategy or "uniform", self.function, self.strategy_params, provided)


def _parse(
    method: str,
    strategy: str | None,
    params: Mapping[str, Any],
    *,
    weights: Sequence[float] | Mapping[str, Sequence[float] | float] | None,
    scored: bool,
    worth_asked: bool,
    metric_given: bool,
) -> _Request:
    """Find method and strategy, and refuse arguments that do not go together.

    Raises:
        [`RecipeError`]: with what to do.
    """
    function, method_params, strategy_params = share_out(method, strategy, params)
    given_weights = None
    if weights is not None and strategy is not None:
        if "weights" not in parameters(function):
            raise RecipeError(f'give either weights or a strategy: strategy="{strategy}" finds the weights itself.')
        strategy_params["weights"] = plain(weights)
    elif weights is not None:
        given_weights = as_weights(weights)
    if scored and strategy is None:
        raise RecipeError('an evaluator is for a strategy that chooses by it: add strategy="greedy".')
    if worth_asked and not scored:
        raise RecipeError("folds, holdout and executor are of trials: add a strategy and evaluator=Evaluator(data).")
    if metric_given and not scored:
        raise RecipeError("a metric is what an evaluator scores by: add evaluator=hf_soup.Evaluator(data).")
    if strategy_traits(function).linear_only and method != "linear":
        raise RecipeError(f'strategy="{strategy}" goes with method="linear" alone, not with "{method}".')
    return _Request(method_params, given_weights, strategy, function, strategy_params)


def _base_as_candidate(
    base: Checkpoint | None, request: _Request, candidates: Sequence[Checkpoint], agreement: Agreement
) -> Checkpoint:
    """The base model as one more ingredient, for a strategy that mixes it in.

    Raises:
        [`IncompatibleError`]: if it computes otherwise than the ingredients, and the user has not said whose settings
            the soup takes.
        [`RecipeError`]: if there is none.
    """
    if base is None:
        raise RecipeError(
            f'strategy="{request.strategy}" needs what the ingredients were fine-tuned from: base_model=...'
        )
    like = candidates[0]
    for item in in_order(candidates, agreement.settings):
        if item.name not in agreement.alignments:
            like = item
            break
    candidate = as_ingredient(base, like, [item.name for item in candidates])
    differences = base_computation_notes(base, like)
    if differences and agreement.settings is None:  # the soup would lie between models that compute otherwise
        raise IncompatibleError([f"{note}. {choose(like.name)}" for note in differences])
    return replace(candidate, notes=(*candidate.notes, *differences))


def _choose(
    strategy: Strategy,
    setup: MergeSetup,
    evaluator: Evaluation | None,
    training: Evaluator | None,
    *,
    metric: Any,
    higher_is_better: bool | None,
    folds: int | None,
    holdout: float | None,
    executor: str,
    device: str,
) -> tuple[Mixture, Selection]:
    """Run the strategy, on validation if there is an evaluator."""
    ingredients = tuple(item.ingredient for item in setup.candidates)
    if evaluator is None:
        choice = strategy.choose(ingredients, NoTrials())
        return choice.mixture, Selection(strategy.name, plain(strategy.params), trials=choice.trials)
    bound = bind_evaluator(evaluator, setup.settings_first, metric=metric, higher_is_better=higher_is_better)
    seed = setup.averaging.seed
    if not isinstance(bound, Evaluator):
        with FunctionTrials(setup, bound, training=training, device=device, executor=executor) as function_trials:
            return select(strategy, ingredients, function_trials, folds=folds, holdout=holdout, seed=seed)
    with ModelTrials(setup, bound, training=training, device=device, executor=executor) as trials:
        mixture, selection = select(strategy, ingredients, trials, folds=folds, holdout=holdout, seed=seed)
    return mixture, replace(selection, dataset=bound.described())


def _with_settings(mixture: Mixture, settings: Checkpoint | None) -> Mixture:
    """With the ingredient whose settings the soup takes, at the weight 0 if a strategy left it out."""
    if settings is None or settings.name in mixture.names:
        return mixture
    ingredients = (*mixture.ingredients, settings.ingredient)
    if isinstance(mixture.weights, dict):
        return Mixture(ingredients, {prefix: (*row, 0.0) for prefix, row in mixture.rows.items()})
    return Mixture(ingredients, (*mixture.weights, 0.0))


@dataclass(frozen=True)
class OpenedRecipe:
    """The ingredients of a recipe that was read from a file, opened.

    Args:
        recipe ([`Recipe`]):
            The recipe.
        ingredients (`tuple[Checkpoint, ...]`):
            Its ingredients that could be opened, without a base model that is one of them.
        base (`Checkpoint`, *optional*):
            The base model, where the method needs it or it is an ingredient.
        errors (`tuple[SoupError, ...]`):
            Why the others could not.
    """

    recipe: Recipe
    ingredients: tuple[Checkpoint, ...]
    base: Checkpoint | None
    errors: tuple[SoupError, ...]


def open_recipe(recipe: Recipe, *, allow_pickle: bool = False) -> OpenedRecipe:
    """Open what a recipe was made of, each once.

    Args:
        recipe ([`Recipe`]):
            With sources that should be there.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            As for [`merge`].

    Raises:
        [`RecipeError`]: if there is no such method, or it takes no such parameter.
    """
    bind_method(recipe.method, recipe.params)
    base_inside = recipe.base_inside
    fine_tuned = [item for item in recipe.ingredients if item.name != base_inside]
    references = list(fine_tuned)
    if base_inside is not None:  # as the recipe has it among the ingredients, with the digests of its files
        references += [item for item in recipe.ingredients if item.name == base_inside]
    elif recipe.base_model is not None and needs_base(recipe.method):
        references.append(recipe.base_model)
    opened = try_to_open(references, allow_pickle=allow_pickle)
    checkpoints = [item for item in opened[: len(fine_tuned)] if isinstance(item, Checkpoint)]
    bases = [item for item in opened[len(fine_tuned) :] if isinstance(item, Checkpoint)]
    errors = tuple(item for item in opened if isinstance(item, SoupError))
    return OpenedRecipe(recipe, tuple(checkpoints), bases[0] if bases else None, errors)


def cook_recipe(
    recipe: Recipe,
    *,
    candidates: Sequence[Checkpoint] | None = None,
    device: str = "cpu",
    allow_pickle: bool = False,
) -> Soup:
    """The soup of a recipe that was read from a file.

    Args:
        recipe ([`Recipe`]):
            With sources that are there.
        candidates (`Sequence[Checkpoint]`, *optional*):
            All that were chosen from, for a comparison; the ingredients by default.
        device (`str`, *optional*, defaults to `"cpu"`):
            Where to average.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            As for [`merge`].

    Returns:
        [`Soup`]

    Raises:
        [`IngredientError`]: if an ingredient is gone.
    """
    return bind_recipe(open_recipe(recipe, allow_pickle=allow_pickle), candidates=candidates, device=device)


def bind_recipe(opened: OpenedRecipe, *, candidates: Sequence[Checkpoint] | None = None, device: str = "cpu") -> Soup:
    """The soup of a recipe whose ingredients are opened; arguments as of [`cook_recipe`].

    Raises:
        [`SoupError`]: the first of the errors, if there are any.
        [`IncompatibleError`]: if the ingredients cannot be averaged.
    """
    if opened.errors:
        raise opened.errors[0]
    recipe, ingredients, base = opened.recipe, opened.ingredients, opened.base
    base_candidate = None
    if base is not None and ingredients:
        base = fit_base(base, ingredients[0])
    if base is not None and recipe.base_inside is not None:
        base_candidate = replace(as_ingredient(base, (ingredients or (base,))[0], ()), ingredient=base.ingredient)
    mixable = ingredients
    if not ingredients and base_candidate is not None:  # nothing goes in but the base model
        mixable, base_candidate = (base_candidate,), None
    settings = None
    if recipe.take_from is not None:
        settings = find_settings(recipe.take_from, [*ingredients, *([base_candidate] if base_candidate else [])])
    setup = set_up(
        mixable,
        Agreement(settings, recipe.labels, recipe.alignments),
        method=recipe.method,
        params=recipe.params,
        base=base,
        base_candidate=base_candidate,
        dtype=recipe.dtype,
        seed=recipe.seed,
        batchnorm=recipe.batchnorm,
    )
    return Soup(recipe, setup, candidates=candidates, device=device)


def share_out(
    method: str, strategy: str | None, params: Mapping[str, Any]
) -> tuple[Callable[..., Mixture | Choice], dict[str, Any], dict[str, Any]]:
    """The strategy's function, and which parameters are the method's and which the strategy's.

    Raises:
        [`RecipeError`]: if there is no such method or strategy, or neither takes one of the parameters or its value.
    """
    strategy = strategy or "uniform"
    method_function, strategy_function = load_function("method", method), load_function("strategy", strategy)
    of_method, of_strategy = parameters(method_function), parameters(strategy_function)
    method_params: dict[str, Any] = {}
    strategy_params: dict[str, Any] = {}
    for name, value in params.items():
        if name not in of_method and name not in of_strategy:
            neither = f'neither the method "{method}" nor the strategy "{strategy}" takes'
            hint = did_you_mean(name, {**of_method, **of_strategy})
            raise RecipeError(f'{neither} a parameter "{name}"{hint}')
        if name in of_method:
            value = checked(of_method[name], method_function, value)
            method_params[name] = plain(value)
        if name in of_strategy:  # one that both have is for both
            strategy_params[name] = plain(checked(of_strategy[name], strategy_function, value))
    return strategy_function, method_params, strategy_params


def needs_base(method: str) -> bool:
    """Whether a method asks for the base model."""
    return asks_for(load_function("method", method), "base")
