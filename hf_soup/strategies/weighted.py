"""All ingredients, with the weights that the user gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import RecipeError, did_you_mean
from ..plugins import strategy
from ..types import Ingredient, Mixture, Trials, as_weights


@strategy(scores=False)
def weighted(
    ingredients: Sequence[Ingredient],
    trials: Trials | None,
    *,
    weights: Sequence[float] | Mapping[str, Sequence[float]] | Mapping[str, float] | None = None,
) -> Mixture:
    """All ingredients with given weights; a mean divides by their sum, unless `normalize=False` goes to the method.

    Args:
        ingredients (`Sequence[Ingredient]`):
            In the order in which they are summed.
        trials ([`Trials`], *optional*):
            Not used: nothing is scored.
        weights (`Sequence[float]`, `Mapping[str, float]` or `Mapping[str, Sequence[float]]`):
            One for each ingredient; by name (those that are not named are left out); or a row for each module prefix.

    Returns:
        [`Mixture`]

    Raises:
        [`RecipeError`]: if there are none, or as many as do not fit, or one is of no ingredient.

    Source: Wortsman et al. 2022, [Model soups](https://arxiv.org/abs/2203.05482), section 2.
    """
    if weights is None:
        raise RecipeError('the strategy "weighted" takes the weights that you give: weights=[2, 1, 1].')
    # A mapping to numbers is by ingredient, one to rows of numbers by module prefix, as recipes have it.
    if not isinstance(weights, Mapping) or not all(isinstance(value, (int, float)) for value in weights.values()):
        return Mixture(tuple(ingredients), as_weights(weights))
    names = [item.name for item in ingredients]
    for name in weights:
        if name not in names:
            raise RecipeError(f'weights: there is no ingredient "{name}"{did_you_mean(name, names)}')
    return Mixture(tuple(ingredients), as_weights([weights.get(name, 0) for name in names]))
