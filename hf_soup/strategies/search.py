"""Mixing weights from an evolution strategy: a search over the simplex with a budget, for any metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from ..errors import MissingExtraError, RecipeError
from ..plugins import strategy
from ..types import Choice, Ingredient, Mixture, Trials
from ._search import Search, mixture_by_module


@strategy(never_worse=True)
def search(
    ingredients: Sequence[Ingredient],
    trials: Trials,
    *,
    by: Literal["model", "module"] = "model",
    over: Mapping[str, Sequence[float]] | None = None,
    budget: int = 60,
    sigma: float = 1.0,
    seed: int = 0,
) -> Choice:
    """Search for mixing weights, and for parameters of the method, with CMA-ES; keep the best mixture scored.

    Single ingredients are scored too. The weights are a softmax of free numbers that start equal. The metric need not
    be smooth. Each score takes one pass over the validation examples.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The ingredients, in any order.
        trials ([`Trials`]):
            Scorer of mixtures on validation.
        by (`str`, *optional*, defaults to `"model"`):
            Granularity of the weights: one for each ingredient (`"model"`), or one for each module of each ingredient
            (`"module"`).
        over (`Mapping[str, Sequence[float]]`, *optional*):
            Parameters of the method to search for, with the lowest and the highest value of each: `{"density": [0.1,
            1]}`. The search begins in the middle.
        budget (`int`, *optional*, defaults to 60):
            Largest number of soups to score.
        sigma (`float`, *optional*, defaults to 1.0):
            Initial standard deviation of the free numbers.
        seed (`int`, *optional*, defaults to 0):
            Seed of the random draws. The merge passes its own.

    Returns:
        [`Choice`]: the ingredients, highest single score first.

    Raises:
        [`MissingExtraError`]: if `cmaes` is not installed.
        [`RecipeError`]: if `budget` or `sigma` is not positive, a range in `over` is none, or the method takes no such
            parameter.

    Source: Hansen 2016, [The CMA evolution strategy](https://arxiv.org/abs/1604.00772); the `cmaes` package.
    """
    if budget < 1 or not sigma > 0:
        raise RecipeError(f"budget and sigma have to be greater than 0, not {budget} and {sigma}.")
    try:
        from cmaes import CMA
    except ImportError:
        raise MissingExtraError("this strategy needs cmaes: pip install 'hf-soup[search]'") from None
    import numpy as np
    from scipy import special

    ranges = _ranges(over)
    middle = {name: (low + high) / 2 for name, (low, high) in ranges.items()}
    if ranges:  # before the ingredients, so that a parameter that the method lacks is an error at once
        trials.score(replace(Mixture.equal(ingredients), params=middle))
    search_state = Search(ingredients, trials, ties=False)
    count = len(search_state.ranked)
    if count == 1 and not ranges:
        return search_state.result()
    modules = trials.modules if by == "module" else ("",)
    # The search begins with equal weights, which are the first soup of the budget.
    _costs(search_state, [replace(Mixture.equal(search_state.ranked), params=middle)], ["uniform"])
    spent = 1

    def mixture_of(point: np.ndarray) -> Mixture:
        """The mixture at a point in the space of free numbers: their softmax, module by module, and the place of each
        parameter in its range.
        """
        of_weights, of_params = np.split(point, [len(modules) * count])
        weights = special.softmax(of_weights.reshape(len(modules), -1), axis=1)
        params = {}
        for (name, (low, high)), place in zip(ranges.items(), special.expit(of_params), strict=True):
            params[name] = float(low + (high - low) * place)
        return replace(mixture_by_module(search_state.ranked, modules, weights), params=params)

    # The distribution from which points are drawn, N(mean, sigma^2 C) in the paper; at first C is the identity.
    optimizer = CMA(mean=np.zeros(len(modules) * count + len(ranges)), sigma=sigma, seed=seed)
    while spent < budget:
        # 1. Draw a generation; the last one may be larger than what is left of the budget.
        points = [optimizer.ask() for _ in range(optimizer.population_size)]
        mixtures = [mixture_of(point) for point in points[: budget - spent]]
        # 2. Score it, and keep the best if it is the best so far.
        tried = [f"{spent + place}: {_shown(mixture)}" for place, mixture in enumerate(mixtures, start=1)]
        costs = _costs(search_state, mixtures, tried)
        spent += len(mixtures)
        # 3. Move the mean, sigma and C towards the better points; CMA-ES learns from whole generations alone.
        if len(mixtures) == len(points):
            optimizer.tell(list(zip(points, costs, strict=True)))
    return search_state.result()


def _costs(search_state: Search, mixtures: Sequence[Mixture], tried: Sequence[str]) -> list[float]:
    """Score mixtures and keep the best one if it beats all before.

    Returns:
        `list[float]`: the score of each mixture as a number to minimize, as CMA-ES does.
    """
    scores = search_state.trials.map(mixtures)  # without a threshold, since a trial that stops early has no score
    search_state.take_best(mixtures, scores, tried)
    return [-score.rank_key for score in scores]


def _ranges(over: Mapping[str, Sequence[float]] | None) -> dict[str, tuple[float, float]]:
    """The lowest and the highest value of each parameter to search for."""
    ranges = {}
    for name, values in (over or {}).items():
        if len(values) != 2 or not values[0] < values[1]:
            raise RecipeError(f'over: the range of "{name}" is its lowest and its highest value, not {list(values)}.')
        ranges[name] = (float(values[0]), float(values[1]))
    return ranges


def _shown(mixture: Mixture) -> str:
    """The weights and parameters of a mixture, as they appear in the name of a trial."""
    if isinstance(mixture.weights, dict):
        shown = f"weights of {len(mixture.weights_by_module)} modules"
    else:
        shown = " ".join(f"{weight:.2f}" for weight in mixture.weights)
    return " ".join([shown, *(f"{name}={value:.3g}" for name, value in mixture.params.items())])
