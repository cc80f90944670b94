"""What the ingredients say together: the mean of their outputs, at the cost of running all of them."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import EvaluationError
from .evaluator import Predictions


def mean_logits(members: Sequence[Predictions]) -> Predictions:
    """The logit ensemble.

    Args:
        members (`Sequence[Predictions]`):
            Predictions of each model on the same examples, logits of shape `(examples, classes)`.

    Returns:
        [`Predictions`]: with the mean of the logits.

    Raises:
        [`EvaluationError`]: if the members did not see the same examples.

    Source: Wortsman et al. 2022, [Model soups](https://arxiv.org/abs/2203.05482), section 3.
    """
    import numpy as np

    if any(not np.array_equal(members[0].labels, member.labels) for member in members):
        raise EvaluationError("the members of an ensemble have to be run on the same examples with the same classes.")
    logits = np.mean([member.logits for member in members], axis=0, dtype=np.float64)
    return Predictions(logits.astype(np.float32), members[0].labels)
