"""Ensembles, which combine the predictions of several models, at the cost of running all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import EvaluationError, RecipeError, did_you_mean
from ..metrics.predictions import Predictions, decisions, probabilities, same_examples


if TYPE_CHECKING:
    import numpy as np

ENSEMBLES = {  # name -> name in tables
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
    "ranking": ("logits",),
    "pixels": (),
    "boxes": (),
}
FITTED_ON = "validation"  # the data set that the mixture's weights are fitted on
STEPS, RATE = 300, 0.1  # steps and learning rate of Adam for the mixture's weights
FLOOR, CEILING = 1e-12, 1 - 1e-9  # limits of a probability before its logarithm
TIE_BREAK = 1e-6  # weight of the mean probability beside the share of votes


def mean_logits(members: Sequence[Predictions], weights: Sequence[float] | None = None) -> Predictions:
    """Logit ensemble: the mean of logits or values.

    Args:
        members (`Sequence[Predictions]`):
            Predictions of the models on the same examples.
        weights (`Sequence[float]`, *optional*):
            Weight of each member; equal by default.

    Returns:
        [`Predictions`]

    Raises:
        [`EvaluationError`]: if the members have predictions on different examples, or are language models, whose
            logits are not kept.

    Source: Wortsman et al. 2022, [Model soups](https://arxiv.org/abs/2203.05482), section 3.
    """
    import numpy as np

    same_examples(members)
    if not FITTING[members[0].kind]:
        raise EvaluationError(f"models of {members[0].kind} have no ensembles, because their outputs are not kept.")
    if members[0].kind == "tokens":
        raise EvaluationError("the logits of language models are not kept: use mean_probabilities.")
    mean = np.average(_stacked_logits(members), axis=0, weights=weights)
    return _ensemble_of(members, mean)


def mean_probabilities(members: Sequence[Predictions], weights: Sequence[float] | None = None) -> Predictions:
    """Probability ensemble: the mean of the probabilities of classes, labels or correct tokens; the arguments are
    those of [`mean_logits`].

    Raises:
        [`EvaluationError`]: if the members have predictions on different examples, or predict values.
    """
    import numpy as np
    from scipy import special

    same_examples(members)
    if members[0].kind == "tokens":
        # Logits of tokens are log probabilities of the correct ones; the mean is that of the probabilities.
        shares = np.ones(len(members)) if weights is None else np.asarray(weights)
        shares = shares / shares.sum()
        log_mean = special.logsumexp(_stacked_logits(members), axis=0, b=shares.reshape(-1, 1))
        return _ensemble_of(members, log_mean)
    mean = np.average(_stacked_probabilities(members), axis=0, weights=weights)
    return _ensemble_of(members, _logits_of(mean, members[0].kind))


def majority_vote(members: Sequence[Predictions]) -> Predictions:
    """Majority vote: the share of members that choose each class or label; the mean probability breaks ties.

    Args:
        members (`Sequence[Predictions]`):
            Predictions of the models on the same examples.

    Raises:
        [`EvaluationError`]: if the members have predictions on different examples, or do not choose between classes.
    """
    import numpy as np

    same_examples(members)
    mean = np.mean(_stacked_probabilities(members), axis=0)
    votes = [decisions(member) for member in members]
    if members[0].kind == "classes":  # class numbers -> one-hot rows
        one_hot = np.eye(mean.shape[1])
        votes = [one_hot[classes] for classes in votes]
    # Centred, so that a majority for a label stays above 1/2 and one against it below 1/2.
    tie_break = TIE_BREAK * (mean - 0.5)
    share = np.clip(np.mean(votes, axis=0) + tie_break, FLOOR, CEILING)
    return _ensemble_of(members, _logits_of(share, members[0].kind))


def fit_mixture(members: Sequence[Predictions]) -> np.ndarray:
    """Fit the weights of the members in a mixture of their outputs, by gradient descent on the loss.

    The outputs are logits or values, and for language models the probabilities of the correct tokens. The weights are
    a softmax of free parameters that start equal; they are passed to [`mean_logits`] or [`mean_probabilities`].

    Args:
        members (`Sequence[Predictions]`):
            Predictions of the models on validation data.

    Returns:
        `np.ndarray` of shape `(members,)`: non-negative weights that sum to 1.
    """
    import torch

    same_examples(members)
    kind = members[0].kind
    outputs = torch.from_numpy(_stacked_logits(members))
    labels = torch.from_numpy(members[0].labels)

    def loss(weights: torch.Tensor) -> torch.Tensor:
        if kind == "tokens":
            return -torch.logsumexp(outputs + weights.log()[:, None], dim=0).mean()
        mixed = torch.tensordot(weights, outputs, dims=1)
        if kind == "classes":
            return torch.nn.functional.cross_entropy(mixed, labels)
        if kind == "labels":
            return torch.nn.functional.binary_cross_entropy_with_logits(mixed, labels.double())
        return torch.nn.functional.mse_loss(mixed, labels.double())

    # A softmax keeps the weights positive with the sum 1 while Adam moves the parameters freely.
    free = torch.zeros(len(members), dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([free], lr=RATE)
    for _ in range(STEPS):
        adam.zero_grad()
        loss(free.softmax(0)).backward()
        adam.step()
    return free.detach().softmax(0).numpy()


def mixture(members: Sequence[Predictions], weights: Sequence[float]) -> Predictions:
    """The outputs of the members, mixed with the weights of [`fit_mixture`]."""
    if members[0].kind == "tokens":
        return mean_probabilities(members, weights)
    return mean_logits(members, weights)


def check_ensembles(names: Sequence[str], kind: str, *, fitted: bool) -> None:
    """Raise an error for ensembles that cannot be made, before anything is run.

    Args:
        names (`Sequence[str]`):
            Names of the requested ensembles.
        kind (`str`):
            Kind of the models' output.
        fitted (`bool`):
            Whether there is a validation set.

    Raises:
        [`RecipeError`]: for the first ensemble that does not exist, is not defined for such output, or cannot be
            fitted.
    """
    for name in names:
        if name not in ENSEMBLES:
            raise RecipeError(f'there is no ensemble "{name}"{did_you_mean(name, ENSEMBLES)}')
        if not FITTING[kind]:
            raise RecipeError(f"models of {kind} have no ensembles, because their outputs are not kept.")
        if name not in FITTING[kind]:
            raise RecipeError(f"models of {kind} have no ensemble of {name}: take {', '.join(FITTING[kind])}.")
        if name == "mixture" and not fitted:
            raise RecipeError("the learned mixture is fitted on validation: give a validation set.")


COMBINE: dict[str, Callable[[Sequence[Predictions]], Predictions]] = {
    "logits": mean_logits,
    "probabilities": mean_probabilities,
    "vote": majority_vote,
}
# predictions on each data set, and the weights of the members in a learned mixture
Ensemble = tuple[dict[str, Predictions], dict[str, float]]


def make_ensembles(
    members: Mapping[str, Mapping[str, Predictions]], names: Sequence[str] | None = None
) -> dict[str, Ensemble]:
    """Predictions of ensembles on every data set.

    Args:
        members (`Mapping[str, Mapping[str, Predictions]]`):
            Predictions by model and data set.
        names (`Sequence[str]`, *optional*):
            Names of ensembles, keys of `ENSEMBLES`; by default all that are defined for the models' output and can be
            fitted.

    Returns:
        `dict`: for each ensemble, by its name in tables, its predictions on each data set, and the weights of the
        learned mixture.
    """
    sets = list(next(iter(members.values()), {}))
    if len(members) < 2 or not sets:
        return {}
    outputs: dict[str, list[Predictions]] = {}  # data set -> predictions of each model
    for set_name in sets:
        outputs[set_name] = [by_set[set_name] for by_set in members.values()]
    first_predictions = outputs[sets[0]][0]
    if names is None:
        names = FITTING[first_predictions.kind]
    made: dict[str, Ensemble] = {}
    for name in names:
        if name in COMBINE:
            combined = {set_name: COMBINE[name](predictions) for set_name, predictions in outputs.items()}
            made[ENSEMBLES[name]] = combined, {}
        elif FITTED_ON in outputs:
            weights = fit_mixture(outputs[FITTED_ON]).tolist()
            mixed = {set_name: mixture(predictions, weights) for set_name, predictions in outputs.items()}
            made[ENSEMBLES[name]] = mixed, dict(zip(members, weights, strict=True))
    return made


def _logits_of(probabilities: np.ndarray, kind: str) -> np.ndarray:
    """Logits whose softmax, or sigmoid for labels, gives these probabilities."""
    import numpy as np
    from scipy import special

    if kind == "classes":
        return np.log(np.maximum(probabilities, FLOOR))
    return special.logit(np.clip(probabilities, FLOOR, CEILING))


def _stacked_logits(members: Sequence[Predictions]) -> np.ndarray:
    """The logits of all members, (members, ...), in a type with enough precision for their sum."""
    import numpy as np

    return np.stack([member.logits.astype(np.float64) for member in members])


def _stacked_probabilities(members: Sequence[Predictions]) -> np.ndarray:
    """The probabilities of all members, (members, ...)."""
    import numpy as np

    return np.stack([probabilities(member) for member in members])


def _ensemble_of(members: Sequence[Predictions], logits: np.ndarray) -> Predictions:
    """The predictions of an ensemble, whose time is the sum of its members' and which generates no texts."""
    import numpy as np

    seconds = sum(member.seconds for member in members)
    return members[0]._replace(logits=logits.astype(np.float32), seconds=seconds, texts=(), references=())
