"""`merge`: parse the arguments, open the ingredients, bind method and settings, run the strategy, return a soup."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from ..analysis.shrinkage import shrunk_towards_base
from ..checkpoints.adapter_relations import base_of_adapters
from ..checkpoints.base_model import as_ingredient, resolve_base
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.companions import in_order
from ..checkpoints.pieces import check_device
from ..checkpoints.settings import base_computation_notes, choose
from ..checkpoints.source import open_all
from ..checkpoints.streaming import stream_weights
from ..checkpoints.vocabularies import with_common_vocabulary
from ..errors import IncompatibleError, RecipeError, warn
from ..evaluation.binding import batchnorm_record, bind_evaluator, bind_training
from ..evaluation.evaluator import Evaluator
from ..formats.chat_template import check_template
from ..jobs.packing import refuse_elsewhere
from ..merging.agreement import Agreement, agree
from ..merging.budget import read_size
from ..merging.setup import MergeSetup, set_up
from ..merging.varied import is_by_ingredient, is_varied, weights_by_module
from ..options import EXECUTORS, dtype_name
from ..parallel import check_executor
from ..plugins import (
    asks_for,
    importance_kind,
    load_function,
    method_traits,
    name_of,
    needs_base,
    parameters,
    share_out,
    strategy_traits,
)
from ..ranks import RANKS
from ..seeds import check_seed
from ..selection.function_trials import FunctionTrials
from ..selection.groups import GroupedTrials, expand
from ..selection.select import Strategy, select
from ..selection.trials import ModelTrials, NoTrials
from ..strategies.weighted import as_given, check_names, varies_by_tensor, weighted
from ..types import Choice, Ingredient, Mixture, Score, Selection, Trials, Weights, plain
from .importance import importance_for
from .ingredients import read_ingredients
from .snapshots import Grouping, find_grouping, refuse_trained_on
from .soup import Soup


if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel

    from ..evaluation.binding import Evaluation


NO_KEYWORDS = ("ingredients", "params")  # parameters of `merge` that are not written as `name=value`


def merge(
    ingredients: Iterable[Any] | str | os.PathLike[str],
    *,
    weights: Sequence[float] | Mapping[str, Sequence[float] | float] | None = None,
    method: str | Callable[..., Any] = "linear",
    strategy: str | Callable[..., Any] | None = None,
    within: str | None = None,
    k: int | None = None,
    group_by: str | Mapping[str, str] | None = None,
    evaluator: Evaluation | None = None,
    folds: int | None = None,
    holdout: float | None = None,
    executor: str = "local",
    resources: Mapping[str, float | str] | None = None,
    batchnorm_data: Evaluator | Dataset | str | None = None,
    importance_data: Evaluator | Dataset | str | Mapping[str, Any] | None = None,
    base_model: Any = None,
    dtype: str | torch.dtype = "auto",
    seed: int = 0,
    vocabulary: str | None = None,
    chat_template: str | None = None,
    align_labels: bool = False,
    take_from: str | None = None,
    device: str = "cpu",
    max_memory: int | str | None = None,
    stream: bool | None = None,
    **params: Any,
) -> Soup:
    """Make a soup of fine-tuned checkpoints. Nothing is averaged until it is needed.

    Args:
        ingredients (`Iterable`, `str` or `os.PathLike`):
            Folders, Hub ids (`user/run1`, `user/run1@revision`) or loaded models, in any iterable that has an order,
            such as a list or a [`Sweep`]. The path of a folder of runs stands for its runs. Use [`load_ingredient`]
            for state dicts, pickles and custom names.
        weights (`Sequence[float]`, `Mapping[str, float]` or `Mapping[str, Sequence[float]]`, *optional*):
            Relative weights of the ingredients; equal by default. They are given in the order of the ingredients, by
            name (`{"run-0": 2, "run-1": 1}`; ingredients that are not named have the weight 0), in order for each
            module prefix (`{"classifier": [1, 0], "": [1, 1]}`), or for each name along the depth (interpolated from
            the first layer to the last) or by module (`{"run-0": [1, 0], "run-1": {"classifier": 0, "": [0, 1]}}`).
        method (`str` or `Callable`, *optional*, defaults to `"linear"`):
            Method that combines the tensors of one name: its name (`hf-soup methods` lists them),
            `"package.module:function"`, or a function. A recipe can only name a function that is defined at the top
            level of a module; a soup made with any other function cannot be cooked again.
        strategy (`str` or `Callable`, *optional*):
            Strategy that chooses the ingredients and their weights, such as `"greedy"`: its name (`hf-soup strategies`
            lists them), `"package.module:function"`, or a function. `"weighted"` uses the given `weights`; the other
            strategies find them.
        within (`str`, *optional*):
            Average of the snapshots of each run that is taken first, so that a run is one ingredient: `"mean"` of all
            checkpoints, mean of the `"last"` k, `"minus_sqrt"`, the last k with weights that emulate a decay of the
            learning rate, or `"greedy"`, those that a search keeps. Runs are those of a sweep with `keep="all"`, or
            folders with `checkpoint-*` folders.
        k (`int`, *optional*):
            Number of snapshots for `"last"` and `"minus_sqrt"`; 3 by default.
        group_by (`str` or `Mapping[str, str]`, *optional*):
            Setting of the runs, such as `"learning_rate"`, or group of each run by name. Runs of one group are
            averaged with equal weights first, and the strategy chooses among groups.
        evaluator ([`Evaluator`], `datasets.Dataset`, `datasets.DatasetDict`, `str` or `Callable`, *optional*):
            Validation data by which strategies choose, or a function that takes a model and returns a score, so that
            any evaluation harness can be used. Pass an [`Evaluator`] of the data or function to set the metric, its
            direction and other options.
        folds (`int`, *optional*):
            Number of cross-validation folds used to estimate selection optimism: the selection is repeated without
            each fold and its result is scored on that fold. The soup itself is chosen on all validation data.
        holdout (`float`, *optional*):
            Fraction of the validation data that is held out from selection, to estimate selection optimism: the soup's
            score on the data it was chosen on is compared with its score on the held-out data.
        executor (`str`, *optional*, defaults to `"local"`):
            Where independent trials run, and where the weight files of the soup are made: `"local"`, one after
            another, or `"ray"`, in parallel on a Ray cluster. `"jobs"` runs each independent trial in a Hugging Face
            Job of its own, which reads the ingredients from the Hub; the files are made here. With `"ranks"` each
            process that `torchrun` or `srun` has started makes some of the weight files; all of them make the same
            calls, and share the batches of an [`Evaluator`].
        resources (`Mapping[str, float | str]`, *optional*):
            Resources of a trial on a Ray cluster (`num_cpus`, `num_gpus`), or settings of its job: `flavor`
            (`"cpu-basic"` by default), `timeout` (`"30m"`), `n_jobs`, the number of jobs at a time (8), `namespace`,
            the user or organization that runs them, `image`, a Docker image with hf_soup, and `package`, the
            requirement by which hf_soup is installed in others.
        batchnorm_data ([`Evaluator`], `datasets.Dataset` or `str`, *optional*):
            Training data (its `train` split) on which the BatchNorm running statistics of every average are estimated
            again, if the models have BatchNorm. The recipe records it.
        importance_data ([`Evaluator`], `datasets.Dataset`, `str` or `Mapping`, *optional*):
            Training data (its `train` split), or data for each ingredient by name, on which the methods `fisher` and
            `regmean` estimate how much each weight matters, as [`importance`] does. By default they take what
            [`importance`] has left beside the ingredients. The recipe records it.
        base_model (*optional*):
            The model that the ingredients were fine-tuned from, for methods and strategies that need it. The base
            model of a [`Sweep`] is known.
        dtype (`str` or `torch.dtype`, *optional*, defaults to `"auto"`):
            Data type of the soup, such as `"bfloat16"`; `"auto"` uses the widest type among the ingredients.
        seed (`int`, *optional*, defaults to 0):
            Random seed of methods and strategies that use random numbers, and of the split into folds.
        vocabulary (`str`, *optional*):
            What to do if tokenizers differ in added tokens: `"union"` gives the soup the tokens of all models,
            `"base_model"` or the name of an ingredient its tokens. A row of the embeddings that an ingredient
            lacks is that of the base model, if one is given that has it, or else the mean of those that have it. The
            recipe lists every ingredient, also those that a strategy left out, because rows come from them. By default
            the tokenizers have to be equal.
        chat_template (`str`, *optional*):
            Chat template of the soup's tokenizer, as Jinja; by default that of the ingredient that gives the settings.
        align_labels (`bool`, *optional*, defaults to `False`):
            Whether to permute the heads of ingredients that have the same labels in another order, and to treat labels
            that differ only in letter case as equal. The recipe records it.
        take_from (`str`, *optional*):
            Name of the ingredient whose configuration, class names, tokenizer, processor, generation settings and chat
            templates the soup takes; by default the first. It has to be given if the ingredients differ in a setting
            that changes the model's inputs or computation.
        device (`str`, *optional*, defaults to `"cpu"`):
            Device on which tensors are averaged, such as `"cuda"`.
        max_memory (`int` or `str`, *optional*):
            Memory that a method which needs whole tensors may use at once, in bytes or as a size (`"8GB"`); by default
            a quarter of the free memory. Tensors that need more are combined on one thread, one after the other.
        stream (`bool`, *optional*):
            Whether weights on the Hub that are not in the cache are read by ranges of bytes as they are averaged, and
            not kept, instead of downloaded; by default only if the disk of the cache is too small for them, which a
            warning says. Every computation of an average reads them again, so that a strategy with many trials is
            faster with downloaded weights.
        params:
            Parameters of the method and of the strategy, such as `normalize=False` or `accept=">"`.

    Returns:
        [`Soup`]: the soup, with `.model`, `.save_pretrained`, `.push_to_hub` and `.recipe`.

    Raises:
        [`IngredientError`]: if an ingredient cannot be read.
        [`IncompatibleError`]: if the ingredients cannot be averaged; it lists every problem.
        [`RecipeError`]: if weights, method, strategy or parameters are invalid.
    """
    method = name_of("method", method)
    strategy = None if strategy is None else name_of("strategy", strategy)
    dtype_of_soup = dtype_name(dtype)
    request = _parse(
        method,
        strategy,
        params,
        weights=weights,
        scored=evaluator is not None,
        worth_asked=folds is not None or holdout is not None,
    )
    if chat_template is not None:
        check_template(chat_template)
    check_executor(executor, resources, known=(*EXECUTORS, RANKS))
    trial_executor = "local" if executor == RANKS else executor  # ranks share the batches of each trial
    if executor == "jobs":
        if evaluator is None:
            raise RecipeError('executor="jobs" runs the trials of a search, which needs an evaluator.')
        if vocabulary is not None or importance_kind(method) is not None:
            raise RecipeError('executor="jobs" takes no vocabulary and no method that needs importance.')
        executor = "local"  # makes the files
    check_device(device)
    read_size(max_memory)
    seed = check_seed(seed)
    ingredients = read_ingredients(ingredients)
    for failure in getattr(ingredients, "failed", ()):  # of a sweep
        if not failure.is_stopped:
            warn(f"{failure.name} is left out: {failure.reason}")
    grouping = find_grouping(ingredients, within=within, k=k, group_by=group_by, method=method)
    candidates = open_all(ingredients if grouping is None else grouping.sources)
    shrinks = strategy == "auto" and evaluator is None  # without validation data, by the weights alone
    if trial_executor == "jobs":
        refuse_elsewhere(candidates)
    needed = request.strategy_needs_base or needs_base(method) or shrinks
    base = resolve_base(base_model, ingredients, candidates[0], needed=needed)
    base = base_of_adapters(candidates, base) or base
    if vocabulary is not None:
        if stream:
            raise RecipeError("vocabulary= takes single rows of embeddings, which cannot be streamed: stream=False.")
        if importance_kind(method) is not None:
            raise RecipeError(f'the method "{method}" takes no vocabulary: importance has no rows for added tokens.')
        candidates, base = with_common_vocabulary(candidates, base, vocabulary, settings=take_from)
    elif base is not None and needed:
        if trial_executor == "jobs":
            refuse_elsewhere([base])
        *streamed, base = stream_weights([*candidates, base], stream)
        candidates = tuple(streamed)
    else:
        candidates = stream_weights(candidates, stream)
    agreement = agree(candidates, take_from=take_from, align_labels=align_labels)
    base_candidate = None
    if shrinks and grouping is not None:
        raise RecipeError('strategy="auto" chooses among groups by validation score: pass an evaluator.')
    if request.strategy_needs_base or (shrinks and base is not None):
        base = base_candidate = _base_as_candidate(base, request, candidates, agreement)
    report = agreement.check(candidates, base_candidate)
    report.raise_for_problems()  # before anything is estimated
    importance = importance_for(method, candidates, importance_data)
    training = bind_training(batchnorm_data, in_order(candidates, agreement.settings))
    setup = set_up(
        candidates,
        agreement,
        method=method,
        params=request.method_params,
        base=base,
        base_candidate=base_candidate,
        dtype=dtype_of_soup,
        seed=seed,
        batchnorm=batchnorm_record(training),
        report=report,
        max_memory=max_memory,
        importance=importance,
        vocabulary=vocabulary,
        chat_template=chat_template,
    )
    soup_of = partial(Soup, setup=setup, device=device, batchnorm=training, executor=executor)
    items = tuple(item.ingredient for item in candidates)
    if request.strategy is None:
        groups = [] if grouping is None else grouping.groups(items)
        everything = Mixture.equal([group.ingredient for group in groups] or items)
        if request.weights is not None:
            given = request.weights
            if varies_by_tensor(given):
                check_names(given, everything.names)
            if is_by_ingredient(given, everything.names) and any(map(is_varied, given.values())):
                given = weights_by_module(given, everything.names, list(candidates[0].specs))
            everything = weighted(everything.ingredients, None, weights=given)
        return Soup(
            setup.recipe(expand(everything, groups)), setup, device=device, batchnorm=training, executor=executor
        )
    if shrinks:
        mixture, selection = _choose_by_weights(candidates, base_candidate, agreement)
        mixture = _with_left_out(mixture, setup)
        return soup_of(setup.recipe(mixture, selection))
    bound = None
    if evaluator is not None:
        bound = bind_evaluator(evaluator, setup.settings_first)
        if isinstance(bound, Evaluator):
            refuse_trained_on(ingredients, bound)
    mixture, selection = _choose(
        request.strategy_for(seed, base_candidate),
        setup,
        bound,
        training,
        grouping,
        folds=folds,
        holdout=holdout,
        executor=trial_executor,
        resources=resources,
        device=device,
    )
    mixture = _with_left_out(mixture, setup)
    return soup_of(setup.recipe(mixture, selection))


@dataclass(frozen=True)
class _Request:
    """The method and the strategy of a merge, with their parameters.

    Args:
        method_params (`dict[str, Any]`):
            Parameters of the method.
        weights (`Weights`, *optional*):
            Weights that the user passed, if no strategy takes them.
        strategy (`str`, *optional*):
            Name of the strategy, if the user named one.
        function (`Callable`):
            The strategy function; that of `"uniform"` if the user named none.
        strategy_params (`dict[str, Any]`):
            Parameters of the strategy.
    """

    method_params: dict[str, Any]
    weights: Weights | Mapping[str, float] | None
    strategy: str | None
    function: Callable[..., Mixture | Choice]
    strategy_params: dict[str, Any]

    @property
    def strategy_needs_base(self) -> bool:
        """Whether the strategy mixes in the base model."""
        return asks_for(self.function, "base")

    def strategy_for(self, seed: int, base: Checkpoint | None) -> Strategy:
        """The strategy, bound to its parameters, the seed and the base model."""
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
) -> _Request:
    """Find method and strategy, and raise an error for arguments that exclude each other.

    Raises:
        [`RecipeError`]: if arguments exclude each other; the message says what to do.
    """
    function, method_params, strategy_params = share_out(method, strategy, params, _own_keywords())
    given_weights: Weights | Mapping[str, float] | None = None
    if weights is not None and strategy is None:
        given_weights = as_given(weights)
    elif weights is not None:
        strategy_params["weights"] = _weights_for(strategy, function, weights)
    if scored and strategy is None:
        raise RecipeError('an evaluator is for a strategy that chooses by it: add strategy="greedy".')
    if worth_asked and not scored:
        raise RecipeError("folds and holdout are for trials: add a strategy and evaluator=Evaluator(data).")
    most = method_traits(load_function("method", method)).ingredients
    tries_more = strategy_traits(function).scores and strategy is not None
    if most is not None and tries_more and (strategy_params.get("max_ingredients") or most + 1) > most:
        raise RecipeError(
            f'the method "{method}" combines at most {most} ingredients, and strategy="{strategy}" tries more: give '
            "the ingredients without a strategy, or max_ingredients to one that takes it."
        )
    if strategy_traits(function).linear_only and method != "linear":
        raise RecipeError(f'strategy="{strategy}" goes with method="linear" alone, not with "{method}".')
    return _Request(method_params, given_weights, strategy, function, strategy_params)


def _own_keywords() -> list[str]:
    """The arguments of `merge` itself, which are suggested for an unknown parameter of a plugin."""
    return [name for name in inspect.signature(merge).parameters if name not in NO_KEYWORDS]


def _weights_for(strategy: str | None, function: Callable[..., Any], weights: object) -> object:
    """The weights as a parameter of the strategy that takes them.

    Raises:
        [`RecipeError`]: if the strategy finds the weights itself.
    """
    if "weights" not in parameters(function):
        raise RecipeError(f'give either weights or a strategy: strategy="{strategy}" finds the weights itself.')
    return plain(weights)


def _base_as_candidate(
    base: Checkpoint | None, request: _Request, candidates: Sequence[Checkpoint], agreement: Agreement
) -> Checkpoint:
    """The base model as an additional ingredient, for a strategy that mixes it in.

    Raises:
        [`IncompatibleError`]: if its settings change the computation of the ingredients, and `take_from` is not given.
        [`RecipeError`]: if there is no base model.
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
    if differences and agreement.settings is None:  # the soup would mix models with different computations
        raise IncompatibleError([f"{note}. {choose(like.name)}" for note in differences])
    return replace(candidate, notes=(*candidate.notes, *differences))


def _choose_by_weights(
    candidates: Sequence[Checkpoint], base: Checkpoint | None, agreement: Agreement
) -> tuple[Mixture, Selection]:
    """The choice of `"auto"` without validation data: the mean, shrunk towards the base model if it is known."""
    if base is None:
        why = "There is no validation data, and no base model to shrink towards: all ingredients, equally."
        return Mixture.equal([item.ingredient for item in candidates]), Selection("auto", why=why)
    mixture, shares = shrunk_towards_base(candidates, base, agreement)
    low, high = min(shares.values()), max(shares.values())
    why = (
        f"There is no validation data: by the cosines of their changes, the mean of the ingredients has a share of "
        f"{low:.2f} to {high:.2f} in each module, and the base model the rest."
    )
    return mixture, Selection("auto", why=why)


def _choose(
    strategy: Strategy,
    setup: MergeSetup,
    evaluator: Evaluator | Callable[[PreTrainedModel], Score] | None,
    training: Evaluator | None,
    grouping: Grouping | None,
    *,
    folds: int | None,
    holdout: float | None,
    executor: str,
    resources: Mapping[str, Any] | None,
    device: str,
) -> tuple[Mixture, Selection]:
    """Run the strategy, on validation data if there is an evaluator."""
    ingredients = tuple(item.ingredient for item in setup.candidates)
    if evaluator is None:
        groups = [] if grouping is None else grouping.groups(ingredients)
        choice = strategy.choose(tuple(group.ingredient for group in groups) or ingredients, NoTrials())
        selection = Selection(strategy.name, plain(strategy.params), trials=choice.trials)
        return expand(choice.mixture, groups), selection
    seed = setup.averaging.seed
    if not isinstance(evaluator, Evaluator):
        with FunctionTrials(
            setup, evaluator, training=training, device=device, executor=executor, resources=resources
        ) as function_trials:
            return _select(strategy, ingredients, function_trials, grouping, folds=folds, holdout=holdout, seed=seed)
    with ModelTrials(
        setup, evaluator, training=training, device=device, executor=executor, resources=resources
    ) as trials:
        mixture, selection = _select(strategy, ingredients, trials, grouping, folds=folds, holdout=holdout, seed=seed)
    return mixture, replace(selection, dataset=evaluator.described())


def _select(
    strategy: Strategy,
    ingredients: Sequence[Ingredient],
    trials: Trials,
    grouping: Grouping | None,
    *,
    folds: int | None,
    holdout: float | None,
    seed: int,
) -> tuple[Mixture, Selection]:
    """Run the strategy on the ingredients, or on their groups as if each were one ingredient."""
    if grouping is None:
        return select(strategy, ingredients, trials, folds=folds, holdout=holdout, seed=seed)
    if grouping.within == "greedy" and (folds is not None or holdout is not None):
        raise RecipeError(
            'within="greedy" chooses snapshots on all validation data, so that folds and holdout would not show its '
            'optimism: use within="mean" or "last", or leave them out.'
        )
    groups = grouping.groups(ingredients, trials)
    as_ingredients = tuple(group.ingredient for group in groups)
    grouped = cast("Trials", GroupedTrials(trials, groups))
    mixture, selection = select(strategy, as_ingredients, grouped, folds=folds, holdout=holdout, seed=seed)
    return expand(mixture, groups), selection


def _with_left_out(mixture: Mixture, setup: MergeSetup) -> Mixture:
    """Add ingredients that the strategy left out and that the soup takes something from, with the weight 0.

    These are the one whose settings it takes, and all of them if rows of embeddings come from them.
    """
    needed = () if setup.agreement.settings is None else (setup.agreement.settings,)
    if setup.vocabulary is not None:  # in their order, which gives tokens their ids
        return _with_all(mixture, setup.candidates)
    added = tuple(item.ingredient for item in needed if item.name not in mixture.names)
    return _of_ingredients(mixture, (*mixture.ingredients, *added))


def _with_all(mixture: Mixture, candidates: Sequence[Checkpoint]) -> Mixture:
    """The mixture with all candidates in their order, and the base model last if the strategy has mixed it in."""
    everything = [item.ingredient for item in candidates]
    names = {item.name for item in everything}
    return _of_ingredients(mixture, (*everything, *(item for item in mixture.ingredients if item.name not in names)))


def _of_ingredients(mixture: Mixture, ingredients: Sequence[Ingredient]) -> Mixture:
    """A mixture of more ingredients, perhaps in another order; the new ones have the weight 0."""
    by_module = {}
    for module, row in mixture.weights_by_module.items():
        weight_of = dict(zip(mixture.names, row, strict=True))
        by_module[module] = tuple(weight_of.get(item.name, 0.0) for item in ingredients)
    weights = by_module if isinstance(mixture.weights, dict) else by_module[""]
    return Mixture(tuple(ingredients), weights, mixture.params)
