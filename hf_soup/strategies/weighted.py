"""The ingredients with the weights that the user gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from ..errors import RecipeError, did_you_mean
from ..plugins import strategy
from ..types import Ingredient, Mixture, Trials, Weights, as_weights


@strategy(scores=False)
def weighted(
    ingredients: Sequence[Ingredient],
    trials: Trials | None,
    *,
    weights: Sequence[float] | Mapping[str, Sequence[float]] | Mapping[str, float] | None = None,
) -> Mixture:
    """Average the ingredients with given weights.

    The weights are divided by their sum, unless the method is given `normalize=False`.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The ingredients, in the order in which they are summed.
        trials ([`Trials`], *optional*):
            Not used, since nothing is scored.
        weights (`Sequence[float]`, `Mapping[str, float]` or `Mapping[str, Sequence[float]]`):
            Weight of each ingredient: a list in the order of the ingredients, a mapping by name (ingredients that it
            does not name are left out), or a mapping from module prefixes to such lists.

    Returns:
        [`Mixture`]: the ingredients with these weights.

    Raises:
        [`RecipeError`]: if no weights are given, or a name is not that of an ingredient.

    Source: Wortsman et al. 2022, [Model soups](https://arxiv.org/abs/2203.05482), section 2.
    """
    if weights is None:
        raise RecipeError('the strategy "weighted" needs weights, such as weights=[2, 1, 1].')
    if not is_by_name(weights):
        return Mixture(tuple(ingredients), as_weights(weights))
    names = [item.name for item in ingredients]
    check_names(weights, names)
    return Mixture(tuple(ingredients), as_weights([weights.get(name, 0) for name in names]))


def check_names(weights: Mapping[str, Any], ingredients: Sequence[str]) -> None:
    """Raise an error for weights of what is no ingredient.

    Args:
        weights (`Mapping[str, Any]`):
            Weights by name.
        ingredients (`Sequence[str]`):
            Names of the ingredients.

    Raises:
        [`RecipeError`]: naming the first such name and the nearest ingredient.
    """
    for name in weights:
        if name not in ingredients:
            raise RecipeError(f'weights: there is no ingredient "{name}"{did_you_mean(name, ingredients)}')


def as_given(weights: object) -> Weights | Mapping[str, float]:
    """Weights in one of the forms that a user may give: a list, a mapping by name, or lists by module prefix.

    Raises:
        [`RecipeError`]: if the value has none of these forms.
    """
    if varies_by_tensor(weights) or is_by_name(weights):
        return weights
    return as_weights(weights)


def varies_by_tensor(weights: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether weights by name differ between tensors: a mapping, or lists beside numbers. Names are checked later."""
    if not isinstance(weights, Mapping):
        return False
    types = {isinstance(value, (int, float)) for value in weights.values()}
    return len(types) == 2 or any(isinstance(value, Mapping) for value in weights.values())


def is_by_name(weights: object) -> TypeGuard[Mapping[str, float]]:
    """Whether weights map each name to one number; by module, each prefix maps to several."""
    return isinstance(weights, Mapping) and all(isinstance(value, (int, float)) for value in weights.values())
