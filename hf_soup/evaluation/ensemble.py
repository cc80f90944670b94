"""What the ingredients say together, at the cost of running all of them. Predictions in, predictions out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import EvaluationError
from ..outputs import Predictions, decisions, probabilities, same_examples


if TYPE_CHECKING:
    import numpy as np

STEPS, RATE = 300, 0.1  # of Adam, for the mixture's weights
FLOOR = 1e-12  # of a probability before its logarithm


def mean_logits(members: Sequence[Predictions], weights: Sequence[float] | None = None) -> Predictions:
    """The logit ensemble: mean of logits or of values.

    Args:
        members (`Sequence[Predictions]`):
            Predictions of each model on the same examples.
        weights (`Sequence[float]`, *optional*):
            One for each member; all equal by default.

    Returns:
        [`Predictions`]

    Raises:
        [`EvaluationError`]: if the members did not see the same examples, or give tokens (logits are not kept).

    Source: Wortsman et al. 2022, [Model soups](https://arxiv.org/abs/2203.05482), section 3.
    """
    import numpy as np

    same_examples(members)
    if members[0].kind == "tokens":
        raise EvaluationError("of language models, whose logits are not kept, take mean_probabilities.")
    mean = np.average([member.logits.astype(np.float64) for member in members], axis=0, weights=weights)
    return _together(members, mean)


def mean_probabilities(members: Sequence[Predictions], weights: Sequence[float] | None = None) -> Predictions:
    """The probability ensemble: mean of the probabilities of classes, labels or right tokens; arguments as of
    [`mean_logits`].

    Raises:
        [`EvaluationError`]: if the members did not see the same examples, or give values.
    """
    import numpy as np
    from scipy import special

    same_examples(members)
    if members[0].kind == "tokens":
        logs = np.stack([member.logits.astype(np.float64) for member in members])
        shares = np.full(len(members), 1 / len(members)) if weights is None else np.asarray(weights) / np.sum(weights)
        return _together(members, special.logsumexp(logs, axis=0, b=shares.reshape(-1, 1)))
    mean = np.average([probabilities(member) for member in members], axis=0, weights=weights)
    logits = np.log(np.maximum(mean, FLOOR))
    return _together(
        members, logits if members[0].kind == "classes" else special.logit(np.clip(mean, FLOOR, 1 - 1e-9))
    )


def majority_vote(members: Sequence[Predictions]) -> Predictions:
    """The vote: the share of members that choose each class or label; ties go to the higher mean probability.

    Args:
        members (`Sequence[Predictions]`):
            Predictions of each model on the same examples.

    Raises:
        [`EvaluationError`]: if the members did not see the same examples, or choose nothing.
    """
    import numpy as np
    from scipy import special

    same_examples(members)
    mean = np.mean([probabilities(member) for member in members], axis=0)
    chosen = [decisions(member) for member in members]
    if members[0].kind == "classes":
        chosen = [np.eye(mean.shape[1])[classes] for classes in chosen]
    share = np.clip(np.mean(chosen, axis=0) + 1e-6 * (mean - 0.5), FLOOR, 1 - 1e-9)
    return _together(members, np.log(share) if members[0].kind == "classes" else special.logit(share))


def fit_mixture(members: Sequence[Predictions]) -> np.ndarray:
    """Weights of the members in a mixture of their outputs, by gradient descent on the loss.

    The outputs are logits or values, of language models the probabilities of the right tokens. The weights are a
    softmax of free numbers that start equal; [`mean_logits`] or [`mean_probabilities`] take them.

    Args:
        members (`Sequence[Predictions]`):
            Predictions of each model on validation.

    Returns:
        `np.ndarray` of shape `(members,)`: not negative, with the sum 1.
    """
    import numpy as np
    import torch

    same_examples(members)
    kind = members[0].kind
    said = torch.from_numpy(np.stack([member.logits.astype(np.float64) for member in members]))
    right = torch.from_numpy(members[0].labels)

    def loss(weights: torch.Tensor) -> torch.Tensor:
        if kind == "tokens":
            return -torch.logsumexp(said + weights.log()[:, None], dim=0).mean()
        mixed = torch.tensordot(weights, said, dims=1)
        if kind == "classes":
            return torch.nn.functional.cross_entropy(mixed, right)
        if kind == "labels":
            return torch.nn.functional.binary_cross_entropy_with_logits(mixed, right.double())
        return torch.nn.functional.mse_loss(mixed, right.double())

    free = torch.zeros(len(members), dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([free], lr=RATE)
    for _ in range(STEPS):
        adam.zero_grad()
        loss(free.softmax(0)).backward()
        adam.step()
    return free.detach().softmax(0).numpy()


def mixture(members: Sequence[Predictions], weights: Sequence[float]) -> Predictions:
    """The members' outputs, mixed with the weights of [`fit_mixture`]."""
    return (mean_probabilities if members[0].kind == "tokens" else mean_logits)(members, weights)


def _together(members: Sequence[Predictions], logits: np.ndarray) -> Predictions:
    import numpy as np

    seconds = sum(member.seconds for member in members)
    return members[0]._replace(logits=logits.astype(np.float32), seconds=seconds, texts=(), references=())
