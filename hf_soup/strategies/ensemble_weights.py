"""Weights that are fitted to the predictions of the ingredients, without a forward pass of an average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import RecipeError
from ..metrics.mixing import fit_weights, mean_loss
from ..metrics.predictions import Predictions
from ..plugins import strategy
from ..types import Choice, Ingredient, Trials
from ._search import Search, predictions_by_name


if TYPE_CHECKING:
    import numpy as np

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # shares of equal weights that are compared by cross-fitting
NOTHING = 1e-3  # weight below which an ingredient is left out


@strategy(linear_only=True)
def ensemble_weights(
    ingredients: Sequence[Ingredient],
    trials: Trials,
    *,
    bootstraps: int = 10,
    shrink_folds: int = 5,
    seed: int = 0,
) -> Choice:
    """Weight the ingredients as in the ensemble of their outputs that has the lowest validation loss.

    The weights of the ensemble are fitted to the predictions that the ingredients have made on validation, on several
    bootstrap samples, and averaged. They are then mixed with equal weights: the share of equal weights is chosen on
    examples that the weights were not fitted to, and the largest share within one standard error of the best is taken.
    Close to one another, models whose weights are averaged predict about what their ensemble predicts. No average is
    run until the weights are known.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The ingredients, in any order.
        trials ([`Trials`]):
            Source of the predictions, and scorer of the soup on validation.
        bootstraps (`int`, *optional*, defaults to 10):
            Number of bootstrap samples that weights are fitted to.
        shrink_folds (`int`, *optional*, defaults to 5):
            Number of folds in which the share of equal weights is chosen.
        seed (`int`, *optional*, defaults to 0):
            Seed of the samples and folds. The merge passes its own.

    Returns:
        [`Choice`]: the ingredients, highest single score first.

    Raises:
        [`RecipeError`]: if `bootstraps` is below 1, or `shrink_folds` is not between 2 and the number of examples.

    Source: Breiman 1996, [Stacked regressions](https://doi.org/10.1007/BF00117832), for the weights of the ensemble.
    """
    import numpy as np

    if bootstraps < 1 or not 2 <= shrink_folds <= trials.examples:
        raise RecipeError(
            f"bootstraps has to be 1 or more and shrink_folds from 2 to {trials.examples}, the number of examples: "
            f"they are {bootstraps} and {shrink_folds}."
        )
    search = Search(ingredients, trials)
    if len(search.ranked) == 1:
        return search.result()
    rng = np.random.default_rng(seed)
    items, members = predictions_by_name(ingredients, trials)
    fitted = np.mean([fit_weights(members, _bootstrap(members[0], rng))[0] for _ in range(bootstraps)], axis=0)
    share = _share_of_equal_weights(members, shrink_folds, rng)
    weights = (1 - share) * fitted + share / len(items)
    weights[weights < NOTHING] = 0
    search.take_weights(items, weights, f"fitted weights, {share:.0%} equal")
    return search.result()


def _bootstrap(predictions: Predictions, rng: np.random.Generator) -> np.ndarray:
    """How often each item counts in a sample of the examples with replacement, of the shape `(items,)`."""
    import numpy as np

    rows, item_rows = np.unique(predictions.rows, return_inverse=True)
    counts = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)))
    return counts[item_rows]


def _share_of_equal_weights(members: Sequence[Predictions], folds: int, rng: np.random.Generator) -> float:
    """The largest share of equal weights whose loss on unseen examples is within one standard error of the lowest."""
    import numpy as np

    rows, item_rows = np.unique(members[0].rows, return_inverse=True)
    fold_of_row = rng.permutation(np.arange(len(rows)) % folds)
    fold_of_item = fold_of_row[item_rows]
    equal = np.full(len(members), 1 / len(members))
    losses = np.zeros((len(SHARES), len(item_rows)))
    for fold in range(folds):
        held_out = fold_of_item == fold
        fitted, factor = fit_weights(members, (~held_out).astype(np.float64))
        for place, share in enumerate(SHARES):
            mixed = (1 - share) * fitted + share * equal
            losses[place, held_out] = mean_loss(members, mixed, factor)[held_out]
    best = int(losses.mean(axis=1).argmin())
    allowed = []
    for place, share in enumerate(SHARES):
        difference = losses[place] - losses[best]
        if difference.mean() <= difference.std() / np.sqrt(len(rows)):
            allowed.append(share)
    return max(allowed)
