"""All ingredients with equal weights."""

from __future__ import annotations

from collections.abc import Sequence

from ..plugins import strategy
from ..types import Ingredient, Mixture, Trials


@strategy(scores=False)
def uniform(ingredients: Sequence[Ingredient], trials: Trials | None) -> Mixture:
    """Average all ingredients with equal weights.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The ingredients, in the order in which they are summed.
        trials ([`Trials`], *optional*):
            Not used, since nothing is scored.

    Returns:
        [`Mixture`]: all ingredients, each with weight 1.

    Source: Wortsman et al. 2022, [Model soups](https://arxiv.org/abs/2203.05482), section 2.
    """
    return Mixture.equal(ingredients)
