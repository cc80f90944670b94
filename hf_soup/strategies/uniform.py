"""All ingredients, equally."""

from __future__ import annotations

from collections.abc import Sequence

from ..plugins import strategy
from ..types import Ingredient, Mixture, Trials


@strategy(scores=False)
def uniform(ingredients: Sequence[Ingredient], trials: Trials | None) -> Mixture:
    """All ingredients with the same weight.

    Args:
        ingredients (`Sequence[Ingredient]`):
            In the order in which they are summed.
        trials ([`Trials`], *optional*):
            Not used: nothing is scored.

    Returns:
        [`Mixture`]

    Source: Wortsman et al. 2022, [Model soups](https://arxiv.org/abs/2203.05482), section 2.
    """
    return Mixture.equal(ingredients)
