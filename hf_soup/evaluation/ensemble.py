"""What the ingredients say together, at the cost of running all of them. Predictions in, predictions out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import EvaluationError, RecipeError, did_you_mean
from ..outputs import Predictions, decisions, probabilities, same_examples


if TYPE_CHECKING:
    import numpy as np

ENSEMBLES = {  # name -> what tables call it
    "logits": "logit ensemble",
    "probabilities": "probability ensemble",
    "vote": "majority vote",
    "mixture": "learned mixture",
}
FITTING = {  # kinds of output -> ensembles that are defined for them
    "classes": tuple(ENSEMBLES),
    "labels": tuple(ENSEMBLES),
    "values": ("logits", "mixture"),
    "tokens": ("probabilities", "mixture"),
}
FITTED_ON = "validation"  # the set that the mixture's weights come from
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


def check_ensembles(names: Sequence[str], kind: str, *, fitted: bool) -> None:
    """Refuse ensembles that cannot be made, before anything is run.

    Args:
        names (`Sequence[str]`):
            What was asked for.
        kind (`str`):
            Of the models' output.
        fitted (`bool`):
            Whether there is a validation set.

    Raises:
        [`RecipeError`]: for the first that does not exist, is not defined for such output, or cannot be fitted.
    """
    for name in names:
        if name not in ENSEMBLES:
            raise RecipeError(f'there is no ensemble "{name}"{did_you_mean(name, ENSEMBLES)}')
        if name not in FITTING[kind]:
            raise RecipeError(f"models of {kind} have no ensemble of {name}: take {', '.join(FITTING[kind])}.")
        if name == "mixture" and not fitted:
            raise RecipeError("the learned mixture is fitted on validation: give a validation set.")


def make_ensembles(
    members: Mapping[str, Mapping[str, Predictions]], names: Sequence[str] | None = None
) -> dict[str, tuple[dict[str, Predictions], dict[str, float]]]:
    """Predictions of ensembles on every set.

    Args:
        members (`Mapping[str, Mapping[str, Predictions]]`):
            Model -> set -> predictions.
        names (`Sequence[str]`, *optional*):
            Keys of `ENSEMBLES`; by default all that are defined for the models' output and can be fitted.

    Returns:
        `dict`: what a table calls the ensemble -> its predictions on each set, and the weights of the learned mixture.
    """
    parts = list(next(iter(members.values()), {}))
    if len(members) < 2 or not parts:
        return {}
    said = {part: [of[part] for of in members.values()] for part in parts}
    combine = {"logits": mean_logits, "probabilities": mean_probabilities, "vote": majority_vote}
    made: dict[str, tuple[dict[str, Predictions], dict[str, float]]] = {}
    for name in FITTING[said[parts[0]][0].kind] if names is None else names:
        if name in combine:
            made[ENSEMBLES[name]] = {part: combine[name](each) for part, each in said.items()}, {}
        elif FITTED_ON in said:
            weights = fit_mixture(said[FITTED_ON])
            shares = dict(zip(members, map(float, weights), strict=True))
            made[ENSEMBLES[name]] = {part: mixture(each, weights) for part, each in said.items()}, shares
    return made


def _together(members: Sequence[Predictions], logits: np.ndarray) -> Predictions:
    import numpy as np

    seconds = sum(member.seconds for member in members)
    return members[0]._replace(logits=logits.astype(np.float32), seconds=seconds, texts=(), references=())
