"""Advice on whether and how to make a soup of some models: collects pieces of advice, and derives a verdict.

The pieces come from the weights (`advice_weights.py`) and, if there are examples, from losses (`advice_losses.py`) and
scores (`advice_scores.py`). The thresholds come from measurements in `docs/advice.md`.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..checkpoints.check import CheckReport, is_statistic
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.reader import PICKLED_WEIGHTS
from ..merging.agreement import Agreement
from ..metrics.predictions import Predictions
from .advice import Advice, Commands, Confidence, Given, Piece, Topic
from .advice_losses import Losses, barrier_piece, measure_losses
from .advice_scores import ceiling_piece, leaves_nothing_to_gain, quality_pieces, value_of_soups
from .advice_weights import architecture_pieces, change_pieces, number_pieces, start_pieces
from .diversity import Diversity, measure_diversity
from .points import Scorer
from .similarity import Similarity, measure_similarity


if TYPE_CHECKING:
    from ..data.classes import MissingClasses

GAIN_TOPICS: tuple[Topic, ...] = ("soup", "ensemble", "validation")  # topics about the gains of a soup
UNOPPOSED = "Nothing in the weights speaks against a soup"
ORDER: dict[Confidence, int] = {"high": 0, "medium": 1, "low": 2}  # the sort order of pieces of advice


class Evidence(NamedTuple):
    """Measurements on examples.

    Args:
        diversity ([`Diversity`]):
            Diversity of the models.
        losses ([`Losses`]):
            Losses of the models, of their soup, and half-way between pairs.
        predictions (`dict[str, Predictions]`):
            Predictions of each model.
        missing (`dict[str, MissingClasses]`):
            Set of examples -> classes that it has no example of.
    """

    diversity: Diversity
    losses: Losses
    predictions: dict[str, Predictions]
    missing: dict[str, MissingClasses]

    @property
    def reliable_losses(self) -> Losses | None:
        """The losses; `None` if classes are missing, since losses on the other classes are not representative."""
        return None if self.missing else self.losses

    @property
    def evaluations(self) -> int:
        """The number of models that were scored: each model, their soup, and the midpoint of each measured pair."""
        return len(self.losses.names) + 1 + len(self.losses.lines)


def give_advice(
    checkpoints: Sequence[Checkpoint],
    scorer: Scorer | None = None,
    *,
    similarity: Similarity | None = None,
    budget: int | None = None,
    sources: Sequence[str] = (),
    given: Given | None = None,
    agreement: Agreement | None = None,
    report: CheckReport | None = None,
) -> Advice:
    """Analyse models as far as data and budget allow, and give advice.

    Args:
        checkpoints (`Sequence[Checkpoint]`):
            The opened models.
        scorer ([`Scorer`], *optional*):
            The same models with validation examples.
        similarity ([`Similarity`], *optional*):
            Similarity of the same models. With a base model it shows whether they moved in different directions.
        budget (`int`, *optional*):
            Score so many models at most; all pairs by default.
        sources (`Sequence[str]`, *optional*):
            Names of the models in commands.
        given ([`Given`], *optional*):
            Names of the data and the base model in commands.
        agreement ([`Agreement`], *optional*):
            How models that differ are taken for like ones.
        report ([`CheckReport`], *optional*):
            Report of the check of the models, where they were checked already.

    Returns:
        [`Advice`]
    """
    names = tuple(checkpoint.name for checkpoint in checkpoints)
    agreement = agreement or Agreement()
    commands = _commands(checkpoints, sources, agreement, given or Given())
    if report is None:
        report = agreement.check(checkpoints)
    if report.problems:
        return _incompatible(names, report.problems, commands)
    if similarity is None and len(names) > 1:
        similarity = measure_similarity(checkpoints, agreement=agreement)
    evidence = _measure(scorer, budget) if scorer is not None else None
    pieces = _collect_pieces(checkpoints, similarity, evidence, commands)
    if evidence is not None:
        verdict, command = decide(pieces, commands, scored=True, missing=evidence.missing)
        return Advice(names, verdict, command, pieces, evidence.evaluations)
    verdict, command = decide(pieces, commands, scored=False)
    budget_is_short = scorer is not None and command == commands.advise
    if budget_is_short:  # data was given, so the advice must not ask for data
        verdict = f"{UNOPPOSED}; a budget of {len(names) + 1} models or more would tell whether it helps."
    return Advice(names, verdict, command, pieces)


def _commands(
    checkpoints: Sequence[Checkpoint], sources: Sequence[str], agreement: Agreement, given: Given
) -> Commands:
    """The commands for these models, with the options that make them compatible."""
    runs = " ".join(map(shlex.quote, sources)) or "RUN..."  # models in memory have no source
    # Without these options, the commands would refuse models that this analysis treats as compatible.
    if agreement.take_from:
        runs += f" --take-from {shlex.quote(agreement.take_from)}"
    if agreement.alignments:
        runs += " --align-labels"
    if any(_is_pickled(checkpoint) for checkpoint in checkpoints):
        runs += " --allow-pickle"
    return Commands(runs, batchnorm=any(map(is_statistic, checkpoints[0].specs)), given=given)


def _is_pickled(checkpoint: Checkpoint) -> bool:
    """Whether the weights are in pickles, which commands read only if that is allowed."""
    return any(file.startswith(PICKLED_WEIGHTS) for file in checkpoint.ingredient.files)


def _incompatible(names: tuple[str, ...], problems: Sequence[str], commands: Commands) -> Advice:
    """Advice on models that the check refuses, for which nothing else is measured."""
    piece = Piece(
        "compatibility",
        advice="They cannot be averaged as they are.",
        evidence=f"{len(problems)} problems, such as: {problems[0]}",
        confidence="high",
        command=commands.check,
        stops=True,
    )
    return Advice(names, "Do not average these models: they do not fit each other.", piece.command, (piece,))


def _measure(scorer: Scorer, budget: int | None) -> Evidence | None:
    """Score the models, their soup, and the midpoints of as many pairs as the budget allows.

    `None` if there is only one model, or the budget does not suffice for each model and their soup: fewer scores would
    be useless.
    """
    if len(scorer.names) < 2:
        return None
    pairs = None
    if budget is not None:
        pairs = budget - len(scorer.names) - 1
        if pairs < 0:
            return None
    diversity = measure_diversity(scorer)
    # The scorer keeps what it has predicted, so that no model runs again for this.
    predictions = {name: scorer.predictions({name: 1.0}) for name in scorer.names}
    if leaves_nothing_to_gain(diversity, predictions):
        pairs = 0  # no barrier changes the advice to take the best model
    losses = measure_losses(scorer, pairs)
    return Evidence(diversity, losses, predictions, scorer.missing_classes())


def _collect_pieces(
    checkpoints: Sequence[Checkpoint], similarity: Similarity | None, evidence: Evidence | None, commands: Commands
) -> tuple[Piece, ...]:
    """All pieces from weights and examples: first those that argue against an average, then by confidence."""
    pieces = number_pieces(len(checkpoints), commands)
    losses = best = None
    if evidence is not None:
        pieces += _missing_pieces(evidence.missing)
        losses, best = evidence.reliable_losses, evidence.diversity.best
    starts = start_pieces(similarity, losses, commands, best)
    pieces += starts
    pieces += change_pieces(similarity, commands)
    pieces += architecture_pieces(checkpoints[0], commands)
    if evidence is not None:
        measured = _measured_pieces(evidence, commands)
        heads_stop = any(piece.topic == "heads" and piece.stops for piece in starts)
        pieces += _with_all_heads(measured, evidence.losses) if heads_stop else measured
    # The sort is stable: pieces of equal weight keep the order in which they were collected.
    return tuple(sorted(pieces, key=lambda piece: (not piece.stops, ORDER[piece.confidence])))


def _missing_pieces(missing: Mapping[str, MissingClasses]) -> list[Piece]:
    """Pieces on sets of examples that lack classes, which make all measurements on them uncertain."""
    pieces = []
    for set_name, classes in missing.items():
        piece = Piece(
            "classes",
            advice=f"Give other examples: {classes.message(set_name)}",
            evidence=classes.numbers(),
            confidence="high",
            general="statistics of BatchNorm and scores from some classes alone say nothing about the others.",
        )
        pieces.append(piece)
    return pieces


def _measured_pieces(evidence: Evidence, commands: Commands) -> list[Piece]:
    """What examples say; without examples of all classes it is not sure, and stops nothing."""
    if leaves_nothing_to_gain(evidence.diversity, evidence.predictions):
        pieces = [ceiling_piece(evidence.diversity, evidence.predictions)]
    else:
        pieces = [
            *quality_pieces(evidence.diversity, evidence.predictions, commands),
            barrier_piece(evidence.losses, commands, evidence.diversity.best),
            value_of_soups(evidence.diversity, evidence.predictions, commands),
        ]
    if evidence.missing:
        return [piece._replace(confidence="low", stops=False) for piece in pieces]
    return pieces


def _with_all_heads(pieces: Sequence[Piece], losses: Losses) -> list[Piece]:
    """Turn pieces about averaged heads into remarks, since the advice is to use one head for all."""
    remarks = []
    for piece in pieces:
        if piece.topic == "barrier" and losses.has_barriers:
            piece = piece._replace(advice="The loss rises half-way between models, heads included.")
        elif piece.topic in ("barrier", *GAIN_TOPICS):
            piece = piece._replace(advice="This is what averages give whose heads are averaged as well.")
        remarks.append(piece._replace(command="", stops=False))
    return remarks


def decide(
    pieces: Sequence[Piece], commands: Commands, *, scored: bool, missing: Collection[str] = ()
) -> tuple[str, str]:
    """The verdict in a sentence, and the command, according to the most important decisive piece.

    Args:
        pieces (`Sequence[Piece]`):
            The weightiest first.
        commands ([`Commands`]):
            Commands for the same models.
        scored (`bool`):
            Whether there were examples.
        missing (`Collection[str]`, *optional*):
            Sets of examples without some classes.
    """
    for piece in pieces:
        if piece.stops and piece.topic == "heads":  # there is a remedy
            return piece.advice, piece.command
        if piece.stops:
            return f"Do not average all of them. {piece.advice}", piece.command
    if missing:
        lacking = f"These examples cannot tell whether to average: classes are missing in {' and '.join(missing)}."
        return lacking, commands.advise_otherwise
    for piece in pieces:
        if piece.topic == "ceiling":
            return piece.advice, ""
    if not scored:
        return f"{UNOPPOSED}; validation data would tell whether it helps.", commands.advise
    return _decide_how(pieces, commands)


def _decide_how(pieces: Sequence[Piece], commands: Commands) -> tuple[str, str]:
    """How to average models if no reason against it was found: by a search, or all of them."""
    for piece in pieces:
        if piece.command == commands.greedy:
            return f"Make a soup, and let a search choose. {piece.advice}", piece.command
        if piece.topic in GAIN_TOPICS:
            return f"Make a soup. {piece.advice}", piece.command or commands.uniform
    return "Make a soup.", commands.uniform
