"""The contract of strategies: what the rest of the package relies on, to be checked in tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..plugins import asks_for, parameters, strategy_traits
from ..types import Choice, Ingredient, Mixture, gain
from .fake_trials import FakeTrials
from .promises import Promises


ITEMS = tuple(Ingredient(f"run-{index}", f"runs/run-{index}") for index in range(5))
BASE = Ingredient("start", "runs/start")


def check_strategy(function: Callable[..., Mixture | Choice]) -> None:
    """Check that a strategy keeps the promises that merging relies on.

    A strategy documents its parameters, returns a [`Mixture`] or a [`Choice`] of ingredients that it was given, with
    weights whose sum is positive, and finds the same mixture in whatever order the ingredients are given. If it is
    declared `never_worse`, its mixture scores at least as well as the best single ingredient.

    Args:
        function (`Callable`):
            The strategy, `f(ingredients, trials, *, ...) -> Mixture | Choice`.

    Raises:
        [`AssertionError`]: if a promise is broken; the message names the strategy and the promise, and says what was
            returned.
    """
    promises = Promises("strategy", function)
    promises.check_documented()
    # With a metric where lower is better, the same scores lead to another search.
    for higher_is_better in (True, False):
        mixture = _chosen(promises, ITEMS, higher_is_better)
        for order in (ITEMS[::-1], ITEMS[2:] + ITEMS[:2]):
            again = _chosen(promises, order, higher_is_better)
            if _weights_by_place(mixture) != _weights_by_place(again):
                outcome = (
                    f"depends on the order of its ingredients: it chose {_shown(mixture)} from {_names(ITEMS)}, and "
                    f"{_shown(again)} from {_names(order)}"
                )
                promises.broken("find the same mixture in any order of the ingredients", outcome)
        if strategy_traits(function).never_worse:
            _check_never_worse(promises, mixture, higher_is_better)
    single = _chosen(promises, ITEMS[:1], True)
    others = [item.name for item in single.ingredients if item not in (ITEMS[0], BASE)]
    if others:
        promises.broken("choose the only ingredient that it is given", f"chose {_shown(single)}")


def _chosen(promises: Promises, ingredients: Sequence[Ingredient], higher_is_better: bool) -> Mixture:
    """The mixture that a strategy chooses from ingredients with made-up scores, checked by itself."""
    function = promises.function
    options: dict[str, Any] = {}
    if asks_for(function, "base"):
        options["base"] = BASE
    if asks_for(function, "seed"):
        options["seed"] = 0
    if "weights" in parameters(function):
        options["weights"] = {item.name: ITEMS.index(item) + 1 for item in ingredients}
    given = f"for the ingredients {_names(ingredients)}"
    trials = FakeTrials(_made_up_score, higher_is_better=higher_is_better)
    hint = "hf_soup.types.Mixture takes the ingredients themselves, not their names, and one weight for each"
    with promises.raising(f"choose a mixture of its ingredients ({hint})", given):
        result = function(ingredients, trials, **options)
    mixture = result.mixture if isinstance(result, Choice) else result
    if not isinstance(mixture, Mixture):
        promise = "return a hf_soup.types.Mixture of ingredients and weights, or a hf_soup.types.Choice"
        promises.broken_by_value(promise, result, given)
    _check_mixture(promises, mixture, ingredients, given)
    return mixture


def _check_mixture(promises: Promises, mixture: Mixture, ingredients: Sequence[Ingredient], given: str) -> None:
    """Refuse ingredients that were not given, and weights that do not define a mean."""
    unknown = [item for item in mixture.ingredients if item not in (*ingredients, BASE)]
    if unknown:
        what = f"{unknown[0].name!r} from {unknown[0].source!r}"
        promises.broken("choose only ingredients that it is given", f"invented an ingredient: {what} {given}")
    for prefix, weights in mixture.weights_by_module.items():
        if not sum(weights) > 0:
            of_module = f" of the module {prefix!r}" if prefix else ""
            outcome = f"returned the weights {weights}{of_module} {given}"
            promises.broken("return weights whose sum is positive", outcome)


def _check_never_worse(promises: Promises, mixture: Mixture, higher_is_better: bool) -> None:
    """Check that a mixture scores at least as well as every single ingredient."""
    score = _made_up_score(mixture)
    for item in ITEMS:
        single = _made_up_score(Mixture.equal([item]))
        if gain(score, single, higher_is_better) < 0:
            direction = "higher" if higher_is_better else "lower"
            outcome = (
                f"promises never to be worse and chose {_shown(mixture)}, which scores {score:g}, where {item.name} "
                f"alone scores {single:g} and {direction} is better"
            )
            promises.broken("score at least as well as the best single ingredient", outcome)


def _made_up_score(mixture: Mixture) -> float:
    """A score with ties among the ingredients, and a bonus for mixing."""
    values = []
    for name in mixture.names:
        # `run-0` to `run-4` score 0, 1, 2, 0 and 1 alone, the base model, which has no number, 1
        values.append(int(name[-1]) % 3 if name[-1].isdecimal() else 1)
    total = 0.0
    for weights in mixture.weights_by_module.values():
        shares = [weight / sum(weights) for weight in weights]
        total += sum(share * value for share, value in zip(shares, values, strict=True))
        total += 0.3 * sum(share * (1 - share) for share in shares)
    # Rounded, so that ties are ties in whatever order numbers were summed.
    return round(total / len(mixture.weights_by_module), 6)


def _weights_by_place(mixture: Mixture) -> dict[tuple[str, str], float]:
    """(Module prefix, ingredient) -> weight, for the weights other than 0."""
    weight_by_place = {}
    for prefix, weights in mixture.weights_by_module.items():
        for ingredient, weight in zip(mixture.names, weights, strict=True):
            if weight:
                weight_by_place[prefix, ingredient] = weight
    return weight_by_place


def _shown(mixture: Mixture) -> str:
    """A mixture for a sentence: each ingredient with its weight, or all weights by module."""
    if isinstance(mixture.weights, dict):
        return f"{_names(mixture.ingredients)} with the weights {mixture.weights}"
    pairs = zip(mixture.names, mixture.weights, strict=True)
    return ", ".join(f"{name} (weight {weight:g})" for name, weight in pairs)


def _names(ingredients: Sequence[Ingredient]) -> str:
    return ", ".join(item.name for item in ingredients)
