"""`merge`: parse what is asked for, open ingredients, bind how they are averaged, choose, and return a soup."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..checkpoints.base_model import as_ingredient, resolve_base
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.companions import in_order
from ..checkpoints.pieces import check_device
from ..checkpoints.settings import base_computation_notes, choose
from ..checkpoints.source import open_all
from ..errors import IncompatibleError, RecipeError, warn
from ..evaluation.binding import batchnorm_record, bind_evaluator, bind_training
from ..evaluation.evaluator import Evaluator
from ..merging.agreement import Agreement, agree
from ..merging.setup import MergeSetup, set_up
from ..options import dtype_name
from ..parallel import check_executor
from ..plugins import asks_for, name_of, needs_base, parameters, share_out, strategy_traits
from ..seeds import check_seed
from ..selection.function_trials import FunctionTrials
from ..selection.select import Strategy, select
from ..selection.trials import ModelTrials, NoTrials
from ..strategies.weighted import as_given, weighted
from ..types import Choice, Mixture, Selection, Weights, plain
from .ingredients import read_ingredients
from .soup import Soup


if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from ..evaluation.binding import Evaluation


NO_KEYWORDS = ("ingredients", "params")  # parameters of `merge` that are not written as `name=value`


def merge(
    ingredients: Iterable[Any] | str | os.PathLike[str],
    *,
    weights: Sequence[float] | Mapping[str, Sequence[float] | float] | None = None,
    method: str | Callable[..., Any] = "linear",
    strategy: str | Callable[..., Any] | None = None,
    evaluator: Evaluation | None = None,
    folds: int | None = None,
    holdout: float | None = None,
    executor: str = "local",
    batchnorm_data: Evaluator | Dataset | str | None = None,
    base_model: Any = None,
    dtype: str | torch.dtype = "auto",
    seed: int = 0,
    align_labels: bool = False,
    take_from: str | None = None,
    device: str = "cpu",
    **params: Any,
) -> Soup:
    """Make a soup of fine-tuned checkpoints. Nothing is averaged before it is needed.

    Args:
        ingredients (`Iterable`, `str` or `os.PathLike`):
            Folders, Hub ids (`user/run1`, `user/run1@revision`) or loaded models, in any iterable that has an order; a
            [`Sweep`] is one. The path of a folder of runs stands for the runs in it. State dicts, pickles and names
            of your own go through [`load_ingredient`].
        weights (`Sequence[float]`, `Mapping[str, float]` or `Mapping[str, Sequence[float]]`, *optional*):
            One for each ingredient, relative to each other; by name (`{"run-0": 2, "run-1": 1}`: the others have the
            weight 0); or one for each ingredient and module prefix (`{"classifier": [1, 0], "": [1, 1]}`). All equal
            by default.
        method (`str` or `Callable`, *optional*, defaults to `"linear"`):
            How the tensors of one name combine: a name, `"package.module:function"`, or a function. A recipe can name
            a function only where a module has it; with another one it cannot be cooked again.
        strategy (`str` or `Callable`, *optional*):
            Which ingredients go in, with what weights, such as `"greedy"`; `hf-soup strategies` lists them.
            `"weighted"` takes `weights`, the others find them. Functions as for `method`.
        evaluator ([`Evaluator`], `datasets.Dataset`, `datasets.DatasetDict`, `str` or `Callable`, *optional*):
            Scores models on validation data, for strategies that choose. A function of a model returns a number, so
            that any harness can steer. An [`Evaluator`] of the data or of the function says the metric, its direction
            and everything else.
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
        dtype (`str` or `torch.dtype`, *optional*, defaults to `"auto"`):
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
        params:
            Parameters of the method and of the strategy, such as `normalize=False` or `accept=">"`.

    Returns:
        [`Soup`]: with `.model`, `.save_pretrained`, `.push_to_hub` and `.recipe`.

    Raises:
        [`IngredientError`]: if an ingredient cannot be read.
        [`IncompatibleError`]: if they cannot be averaged, with every offender.
        [`RecipeError`]: if weights, method, strategy or parameters are wrong.
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
        worth_asked=folds is not None or holdout is not None or executor != "local",
    )
    check_executor(executor)
    check_device(device)
    seed = check_seed(seed)
    ingredients = read_ingredients(ingredients)
    for failure in getattr(ingredients, "failed", ()):  # of a sweep
        warn(f"{failure.name} is left out: {failure.reason}")
    candidates = open_all(ingredients)
    agreement = agree(candidates, take_from=take_from, align_labels=align_labels)
    needed = request.strategy_needs_base or needs_base(method)
    base = resolve_base(base_model, ingredients, candidates[0], needed=needed)
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
        dtype=dtype_of_soup,
        seed=seed,
        batchnorm=batchnorm_record(training),
    )
    everything = Mixture.equal([item.ingredient for item in candidates])
    if request.weights is not None:
        everything = weighted(everything.ingredients, None, weights=request.weights)
    if request.strategy is None:
        return Soup(setup.recipe(everything), setup, device=device, batchnorm=training)
    mixture, selection = _choose(
        request.strategy_for(seed, base_candidate),
        setup,
        evaluator,
        training,
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
    weights: Weights | Mapping[str, float] | None
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
) -> _Request:
    """Find method and strategy, and refuse arguments that do not go together.

    Raises:
        [`RecipeError`]: with what to do.
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
        raise RecipeError("folds, holdout and executor are of trials: add a strategy and evaluator=Evaluator(data).")
    if strategy_traits(function).linear_only and method != "linear":
        raise RecipeError(f'strategy="{strategy}" goes with method="linear" alone, not with "{method}".')
    return _Request(method_params, given_weights, strategy, function, strategy_params)


def _own_keywords() -> list[str]:
    """The arguments of `merge` itself, one of which may be meant by a name that is no parameter of a plugin."""
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
    bound = bind_evaluator(evaluator, setup.settings_first)
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
        by_module = {module: (*weights, 0.0) for module, weights in mixture.weights_by_module.items()}
        return Mixture(ingredients, by_module)
    return Mixture(ingredients, (*mixture.weights, 0.0))
