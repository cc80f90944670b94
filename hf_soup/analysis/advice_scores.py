"""Advice based on scores and decisions: models that are not useful, and the gains of an ensemble and a soup."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from ..metrics.predictions import Predictions, right
from ..metrics.statistics import SHARES, formatted
from ..types import gain
from .advice import Commands, Piece
from .diversity import Diversity
from .points import SURE


# docs/advice.md explains the thresholds: each is a handful of examples on a validation set of a few hundred.
CEILING = 0.01  # share of examples on which the best model is wrong
OUTLIER = 0.05  # the difference from the best score above which a model is likely to lower that of the soup
# from docs/strategies.md: over eight data sets, with the same budget of eight runs
MEASURED = (
    "over eight data sets, greedy soups were 0.5 points above the best single run on average, and visibly below it on "
    "none; uniform soups of a grid were 5.5 points below it."
)
ALIKE = 0.02  # share of examples on which models disagree, below which neither an ensemble nor a soup can gain


def quality_pieces(diversity: Diversity, predictions: Mapping[str, Predictions], commands: Commands) -> list[Piece]:
    """Models that are too bad to be of use, and models that decide alike.

    Args:
        diversity ([`Diversity`]):
            Scores of the models, and how differently they decide.
        predictions (`Mapping[str, Predictions]`):
            Predictions of each model.
        commands ([`Commands`]):
            Commands for the same models.
    """
    pieces = [
        _no_better_than_one_class(diversity, predictions),
        _far_below_the_best(diversity, commands),
        _alike(diversity, predictions),
    ]
    return [piece for piece in pieces if piece is not None]


def leaves_nothing_to_gain(diversity: Diversity, predictions: Mapping[str, Predictions]) -> bool:
    """Whether the best classifier gets so few examples wrong that no soup can be visibly better.

    Args:
        diversity ([`Diversity`]):
            Scores of the models.
        predictions (`Mapping[str, Predictions]`):
            Predictions of each model.
    """
    return _has_kind(predictions, "classes") and _share_wrong(diversity, predictions) < CEILING


def _share_wrong(diversity: Diversity, predictions: Mapping[str, Predictions]) -> float:
    """Share of the examples that the best model gets wrong."""
    return 1 - float(right(predictions[diversity.best]).mean())


def ceiling_piece(diversity: Diversity, predictions: Mapping[str, Predictions]) -> Piece:
    """The advice to take the best classifier, where it leaves nothing to gain.

    Args:
        diversity ([`Diversity`]):
            Scores of the models.
        predictions (`Mapping[str, Predictions]`):
            Predictions of each model.
    """
    wrong = _share_wrong(diversity, predictions)
    return Piece(
        "ceiling",
        advice=f"Take the best model, {diversity.best}: {wrong:.1%} is all that is left to gain on these examples.",
        evidence=f"{diversity.best} gets {wrong:.1%} of {diversity.examples} examples wrong",
        confidence="high",
    )


def _no_better_than_one_class(diversity: Diversity, predictions: Mapping[str, Predictions]) -> Piece | None:
    """Classifiers that are no better than a constant prediction of the most frequent class."""
    if diversity.metric != "accuracy" or not _has_kind(predictions, "classes"):
        return None
    import numpy as np

    labels = next(iter(predictions.values())).labels  # all models get the same examples
    _, counts = np.unique(labels, return_counts=True)
    share = float(counts.max() / len(labels))
    poor = []
    for name, outputs in predictions.items():
        if float(right(outputs).mean()) <= share:
            poor.append(name)
    # If nearly all examples belong to one class, a constant prediction is nearly perfect and shows nothing about a
    # model.
    if not poor or share >= 1 - CEILING:
        return None
    worse = "no better than always saying the most frequent class"
    scores = ", ".join(f"{name} {diversity.scores[name]:.1%}" for name in poor)
    none_is_better = len(poor) == len(predictions)
    advice = f"Leave {', '.join(poor)} out: {worse}."
    if none_is_better:
        advice = f"Fine-tune again: each of these models is {worse}."
    return Piece(
        "quality",
        advice=advice,
        evidence=f"accuracy: {scores}; always the most frequent class: {share:.1%}",
        confidence="high",
        stops=none_is_better,
    )


def _far_below_the_best(diversity: Diversity, commands: Commands) -> Piece | None:
    """Models that lower the score of a uniform soup."""
    if diversity.metric not in SHARES:  # other metrics have no scale on which 0.05 is a large difference
        return None
    below = []
    for name, score in diversity.scores.items():
        gap = gain(diversity.best_score, score, diversity.higher_is_better)
        if gap > OUTLIER:
            below.append(f"{name} {100 * gap:.1f}")
    if not below:
        return None
    return Piece(
        "quality",
        advice=f"Some are more than {100 * OUTLIER:.0f} points below the best; a search leaves out what does harm.",
        evidence=f"points of {diversity.metric} below {diversity.best}: {', '.join(below)}",
        confidence="medium",
        command=commands.greedy,
        general="a uniform soup gives a model far below the others the same weight as them.",
    )


def _alike(diversity: Diversity, predictions: Mapping[str, Predictions]) -> Piece | None:
    """Models that are too similar for an ensemble or a soup to gain much."""
    decides = _has_kind(predictions, "classes") or _has_kind(predictions, "labels")
    if not decides or diversity.disagreement >= ALIKE:
        return None
    share = diversity.disagreement
    return Piece(
        "diversity",
        advice=f"The models decide alike: two of them agree on {1 - share:.1%} of the examples.",
        evidence=f"two models disagree on {share:.1%} of {diversity.examples} examples",
        confidence="medium",
        general="an ensemble can gain only where models disagree, and a soup rarely gains more than an ensemble.",
    )


def _has_kind(predictions: Mapping[str, Predictions], kind: Literal["classes", "labels"]) -> bool:
    """Whether the models have a kind of output, which is the same for all."""
    return next(iter(predictions.values())).kind == kind


class Gains(NamedTuple):
    """The gains of the uniform soup and the ensemble over the best model, in the metric's unit; positive is better.

    Args:
        soup (`float`), ensemble (`float`):
            The gains.
        spread (`float`):
            How far the models' scores lie apart.
        visible (`float`):
            The least difference that the examples can show; 0 where that is not known.
    """

    soup: float
    ensemble: float
    spread: float
    visible: float

    @property
    def all_invisible(self) -> bool:
        """Whether the examples show no significant difference between these models."""
        return self.visible > max(self.spread, abs(self.ensemble), abs(self.soup))

    @property
    def ensemble_is_ahead(self) -> bool:
        """Whether the ensemble gains something, and significantly more than the soup."""
        return self.ensemble > 0 and self.ensemble - self.soup > self.visible


def value_of_soups(diversity: Diversity, predictions: Mapping[str, Predictions], commands: Commands) -> Piece:
    """Advice on the gains of ensemble and soup, and on whether the validation data can show them.

    Args:
        diversity ([`Diversity`]):
            Scores of the models, their soup and their ensemble.
        predictions (`Mapping[str, Predictions]`):
            Predictions of each model.
        commands ([`Commands`]):
            Commands for the same models.
    """
    gains = _gains(diversity, predictions)
    if gains.all_invisible:
        return _cannot_tell(diversity, gains, commands)
    numbers = _against_the_best(diversity, gains)
    if gains.ensemble_is_ahead and gains.soup < 0:
        return Piece(
            "ensemble",
            advice="The ensemble is above the best model and the uniform soup below it: let a search try.",
            evidence=numbers,
            confidence="medium",
            command=commands.greedy,
        )
    if gains.ensemble_is_ahead:
        return Piece(
            "ensemble",
            advice=f"The ensemble gains more than the uniform soup here, at {len(predictions)} times the cost.",
            evidence=numbers,
            confidence="medium",
        )
    if gains.soup >= 0:
        if diversity.visibly_kept is not None:
            numbers += f"; it keeps {diversity.visibly_kept:.0%} of the ensemble's gain over the mean"
        return Piece(
            "soup",
            advice="The uniform soup is as good as the best model here, or better.",
            evidence=numbers,
            confidence="medium",
            general=MEASURED,
        )
    loss_is_visible = -gains.soup >= gains.visible
    return Piece(
        "soup",
        advice="The uniform soup is not as good as the best model here: let a search choose.",
        evidence=numbers,
        confidence="medium" if loss_is_visible else "low",
        command=commands.greedy,
        general=MEASURED,
    )


def _gains(diversity: Diversity, predictions: Mapping[str, Predictions]) -> Gains:
    """The gains over the best model, and the smallest difference that these examples can show."""
    best, higher_is_better = diversity.best_score, diversity.higher_is_better
    visible = 0.0
    if diversity.metric == "accuracy":
        visible = half_width(predictions) or 0.0
    return Gains(
        soup=gain(diversity.soup, best, higher_is_better),
        ensemble=gain(diversity.ensemble, best, higher_is_better),
        spread=max(diversity.scores.values()) - min(diversity.scores.values()),
        visible=visible,
    )


def _cannot_tell(diversity: Diversity, gains: Gains, commands: Commands) -> Piece:
    """Advice to get more examples. It applies only to accuracy, so the gains are shares."""
    return Piece(
        "validation",
        advice="Validation cannot tell these models from each other: take the uniform soup, or more data.",
        evidence=f"differences of less than {100 * gains.visible:.1f} points cannot be seen on {diversity.examples} "
        f"examples; the models differ by {100 * gains.spread:.1f}, the uniform soup from the best by "
        f"{100 * gains.soup:+.1f}, the ensemble by {100 * gains.ensemble:+.1f}",
        confidence="high",
        command=commands.uniform,
    )


def _against_the_best(diversity: Diversity, gains: Gains) -> str:
    """The gains of soup and ensemble in points, or the scores themselves for other metrics."""
    if diversity.metric not in SHARES:
        soup = formatted(diversity.metric, diversity.soup)
        ensemble = formatted(diversity.metric, diversity.ensemble)
        return f"uniform soup {soup}, ensemble {ensemble}"
    return f"uniform soup {100 * gains.soup:+.1f}, ensemble {100 * gains.ensemble:+.1f} points against the best model"


def half_width(predictions: Mapping[str, Predictions]) -> float | None:
    """The accuracy difference between two of these models that is detectable: half the width of a 95 % interval.

    If a share `d` of paired examples is correct in one model and wrong in the other, the difference of accuracy has
    the standard error sqrt(d / n), provided that the models are about equally good.

    Args:
        predictions (`Mapping[str, Predictions]`):
            Predictions of each model on the same examples.

    Returns:
        `float`, or `None` where there is one model alone, or they give no classes.
    """
    first = next(iter(predictions.values()))
    if first.kind != "classes" or len(predictions) < 2:
        return None
    correct = [right(outputs) for outputs in predictions.values()]
    shares = []
    for first_correct, second_correct in itertools.combinations(correct, 2):
        shares.append(float((first_correct != second_correct).mean()))
    mean_share = sum(shares) / len(shares)  # `d`, averaged over the pairs
    return SURE * math.sqrt(mean_share / len(first.rows))
