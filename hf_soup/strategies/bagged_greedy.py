"""Greedy selection with replacement in the predictions of the ingredients, repeated on bags of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import EvaluationError, RecipeError
from ..metrics.predictions import Predictions, losses
from ..plugins import strategy
from ..types import Choice, Ingredient, Trials
from ._search import Search, predictions_by_name


if TYPE_CHECKING:
    import numpy as np


@strategy(linear_only=True)
def bagged_greedy(
    ingredients: Sequence[Ingredient],
    trials: Trials,
    *,
    bags: int = 20,
    fraction: float = 0.5,
    start: int = 2,
    steps: int = 20,
    seed: int = 0,
) -> Choice:
    """Select ingredients greedily with replacement, in the ensembles of many bags, and weight them by their counts.

    In each bag, a random part of the ingredients, the selection begins with the best ones and adds, step by step, the
    ingredient with which the mean of the outputs has the lowest validation loss; an ingredient may be added again. How
    often an ingredient was selected over all bags is its weight in the soup. The selection uses the predictions that
    the ingredients have made on validation: no average is run until the weights are known.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The candidates, in any order.
        trials ([`Trials`]):
            Source of the predictions, and scorer of the soup on validation.
        bags (`int`, *optional*, defaults to 20):
            Number of bags.
        fraction (`float`, *optional*, defaults to 0.5):
            Fraction of the ingredients in each bag.
        start (`int`, *optional*, defaults to 2):
            Number of ingredients with the lowest loss that the selection in a bag begins with.
        steps (`int`, *optional*, defaults to 20):
            Number of ingredients that are added in each bag; the selection stops earlier if none lowers the loss.
        seed (`int`, *optional*, defaults to 0):
            Seed of the bags. The merge passes its own.

    Returns:
        [`Choice`]: the selected ingredients, highest single score first.

    Raises:
        [`RecipeError`]: if `bags` or `start` is below 1, `steps` is negative, or `fraction` is not in (0, 1].

    Source: Caruana et al. 2004, [Ensemble selection from libraries of models](https://doi.org/10.1145/1015330.1015432),
    sections 2.1 to 2.3.
    """
    import numpy as np

    if min(bags, start) < 1 or steps < 0 or not 0 < fraction <= 1:
        raise RecipeError(
            "bags and start have to be 1 or more, steps 0 or more, and fraction above 0 and at most 1; they are "
            f"{bags}, {start}, {steps} and {fraction}."
        )
    search = Search(ingredients, trials)
    if len(search.ranked) == 1:
        return search.result()
    rng = np.random.default_rng(seed)
    items, members = predictions_by_name(ingredients, trials)
    if members[0].texts:
        raise EvaluationError("generated texts cannot be mixed: bagged_greedy needs logits.")
    size = max(round(fraction * len(items)), 1)
    counts = np.zeros(len(items))
    for _ in range(bags):
        bag = np.sort(rng.permutation(len(items))[:size])
        counts[bag] += _select([members[place] for place in bag], start, steps)
    search.take_weights(items, counts, f"counts of {bags} bags")
    return search.result()


def _select(members: Sequence[Predictions], start: int, steps: int) -> np.ndarray:
    """How often each member of a bag is selected, of shape `(members,)`."""
    import numpy as np

    outputs = np.stack([_outputs(member) for member in members])
    alone = np.array([_loss(members[0], output) for output in outputs])
    counts = np.zeros(len(members))
    counts[alone.argsort(kind="stable")[:start]] = 1
    total = np.tensordot(counts, outputs, axes=1)
    best = _loss(members[0], total / counts.sum())
    for _ in range(steps):
        with_one_more = [_loss(members[0], (total + output) / (counts.sum() + 1)) for output in outputs]
        place = int(np.argmin(with_one_more))
        if with_one_more[place] >= best:
            break
        best = with_one_more[place]
        counts[place] += 1
        total += outputs[place]
    return counts


def _outputs(predictions: Predictions) -> np.ndarray:
    """What is averaged in an ensemble: logits or values, and for tokens the probabilities of the correct ones."""
    import numpy as np

    outputs = predictions.logits.astype(np.float64)
    return np.exp(outputs) if predictions.kind == "tokens" else outputs


def _loss(like: Predictions, outputs: np.ndarray) -> float:
    """The mean loss of averaged outputs."""
    import numpy as np

    logits = np.log(np.maximum(outputs, np.finfo(np.float64).tiny)) if like.kind == "tokens" else outputs
    return float(losses(like._replace(logits=logits)).mean())
