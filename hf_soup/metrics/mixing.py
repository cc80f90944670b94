"""Fits convex weights of models to their predictions: those of the mixture of outputs with the lowest loss.

It runs no models, so a fit takes milliseconds to seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import EvaluationError
from .predictions import Predictions, check_has_loss, losses, same_examples


if TYPE_CHECKING:
    import numpy as np


def fit_weights(members: Sequence[Predictions], counts: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """Fit the weights of models in the mean of their outputs, and the factor that the mean is multiplied by.

    With weights `w` and a factor `s`, the loss of `s * sum_k w_k z_k` is a convex function of `s * w`, of which every
    element is at least 0. The weights are therefore a global minimum, and no temperature has to be chosen. For values
    the outputs are not logits, and for tokens the probabilities of the correct ones are mixed: there the weights have
    the sum 1 and the factor is 1.

    Args:
        members (`Sequence[Predictions]`):
            Predictions of the models on the same examples.
        counts (`np.ndarray` of shape `(items,)`, *optional*):
            How often each item counts, such as in a bootstrap; by default once.

    Returns:
        `tuple[np.ndarray, float]`: weights of shape `(members,)` that sum to 1, and the factor.

    Raises:
        [`EvaluationError`]: if the models have generated texts, which cannot be mixed.
    """
    import numpy as np
    from scipy import optimize

    same_examples(members)
    if members[0].texts:
        raise EvaluationError("generated texts cannot be mixed: weights of an ensemble need logits.")
    kind, labels = members[0].kind, members[0].labels
    check_has_loss(kind)
    outputs = np.stack([member.logits.astype(np.float64) for member in members])
    shares = np.full(len(labels), 1 / len(labels)) if counts is None else counts / counts.sum()

    def loss(scaled: np.ndarray) -> tuple[float, np.ndarray]:
        return _loss_and_gradient(scaled, outputs, labels, shares, kind)

    start = np.full(len(members), 1 / len(members))
    if kind == "values":
        sum_is_one = {"type": "eq", "fun": lambda weights: weights.sum() - 1, "jac": np.ones_like}
        bounds = [(0, 1)] * len(members)
        found = optimize.minimize(loss, start, jac=True, method="SLSQP", bounds=bounds, constraints=[sum_is_one]).x
        return np.maximum(found, 0) / np.maximum(found, 0).sum(), 1.0
    scaled = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(members)).x
    factor = float(scaled.sum())
    if factor <= 0:  # no combination is better than none, so that nothing tells the models apart
        return start, 1.0
    if kind == "tokens":
        return scaled / factor, 1.0
    return scaled / factor, factor


def mean_loss(members: Sequence[Predictions], weights: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """The loss of each item for the weighted mean of the outputs, multiplied by a factor.

    Args:
        members (`Sequence[Predictions]`):
            Predictions of the models on the same examples.
        weights (`np.ndarray` of shape `(members,)`):
            Weights that sum to 1.
        factor (`float`, *optional*, defaults to 1.0):
            Factor of the mean.

    Returns:
        `np.ndarray` of shape `(items,)`
    """
    import numpy as np
    from scipy import special

    outputs = np.stack([member.logits.astype(np.float64) for member in members])
    if members[0].kind == "tokens":
        mixed = special.logsumexp(outputs, axis=0, b=weights[:, None])
    else:
        mixed = factor * np.tensordot(weights, outputs, axes=1)
    return losses(members[0]._replace(logits=mixed))


def _loss_and_gradient(
    scaled: np.ndarray, outputs: np.ndarray, labels: np.ndarray, shares: np.ndarray, kind: str
) -> tuple[float, np.ndarray]:
    """The mean loss of the mixture and its derivatives; outputs have the shape `(members, items, ...)`."""
    import numpy as np
    from scipy import special

    if kind == "tokens":
        # The sum of the weights is added: without a constraint, its minimum then has weights that sum to 1.
        likelihoods = np.exp(outputs)
        mixed = np.maximum(scaled @ likelihoods, np.finfo(np.float64).tiny)
        return float(-shares @ np.log(mixed) + scaled.sum()), 1 - likelihoods @ (shares / mixed)
    mixed = np.tensordot(scaled, outputs, axes=1)
    if kind == "classes":
        log_probabilities = special.log_softmax(mixed, axis=1)
        items = np.arange(len(labels))
        value = -shares @ log_probabilities[items, labels]
        slopes = np.exp(log_probabilities)
        slopes[items, labels] -= 1
        slopes *= shares[:, None]
    elif kind == "labels":
        value = shares @ -np.mean(special.log_expit(np.where(labels > 0, mixed, -mixed)), axis=1)
        slopes = (special.expit(mixed) - (labels > 0)) * shares[:, None] / labels.shape[1]
    else:
        value = shares @ np.square(mixed - labels)
        slopes = 2 * (mixed - labels) * shares
    return float(value), outputs.reshape(len(outputs), -1) @ slopes.ravel()
