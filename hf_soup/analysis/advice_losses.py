"""Advice that losses give: whether the loss rises between models, and whether that of their average is higher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .advice import Commands, Piece
from .points import Line, Scorer, uniform


RIDGE = 0.05  # of the models' own loss, by which that of an average may be above the line between them,
SMALL = 0.01  # and this much in any case


class Losses(NamedTuple):
    """Losses of some models, of their average, and between them.

    Args:
        names (`tuple[str, ...]`):
            The models.
        single (`float`):
            Mean loss of single models.
        soup (`float`):
            Loss of their uniform soup.
        lines (`list[Line]`):
            Pairs, with the point half-way.
    """

    names: tuple[str, ...]
    single: float
    soup: float
    lines: list[Line]

    @property
    def pairs(self) -> int:
        """How many pairs of models there are, whether they were looked at or not."""
        return len(self.names) * (len(self.names) - 1) // 2

    @property
    def margin(self) -> float:
        """How far a loss has to be above another to be clearly above it."""
        return max(RIDGE * self.single, SMALL)

    @property
    def soup_is_worse(self) -> bool:
        """Whether the soup's loss is clearly above that of its models."""
        return self.soup - self.single > self.margin

    @property
    def sentence(self) -> str:
        """Both losses, in words."""
        return f"the soup's loss is {self.soup:.3f}, its models' {self.single:.3f} on average"


def measure_losses(scorer: Scorer, pairs: int | None = None) -> Losses:
    """Score the models, their soup, and half-way between pairs.

    Args:
        scorer ([`Scorer`]):
            The models and the examples.
        pairs (`int`, *optional*):
            Look at so many pairs at most; at all by default.
    """
    names = scorer.names
    singles = {name: scorer.point({name: 1.0}) for name in names}
    # Neighbours first, so that each model is among few pairs.
    ordered = [pair for step in range(1, len(names)) for pair in zip(names, names[step:], strict=False)]
    chosen = ordered if pairs is None else ordered[: max(pairs, 0)]
    lines = []
    with scorer.progress("Half-way between models", len(chosen)) as bar:
        for one, other in chosen:
            middle = scorer.point({one: 0.5, other: 0.5})
            lines.append(Line(one, other, (0.0, 0.5, 1.0), (singles[one], middle, singles[other])))
            bar.update()
    mean = sum(point.loss for point in singles.values()) / len(singles)
    return Losses(names, mean, scorer.point(uniform(names)).loss, lines)


def barrier_piece(losses: Losses, commands: Commands) -> Piece:
    """Whether the loss rises between models, or at least in their average.

    Args:
        losses ([`Losses`]):
            Of the models.
        commands ([`Commands`]):
            Of the same models.
    """
    high = [line for line in losses.lines if _height(line) > losses.margin]
    where = _highest(losses.lines)
    if not high and losses.soup_is_worse:
        above = losses.soup - losses.single
        return Piece(
            "barrier",
            advice=f"The loss of the average of all is {above:.3f} above that of its models: let a search choose.",
            evidence=losses.sentence + where,
            confidence="medium",
            command=commands.greedy,
        )
    if not losses.lines:
        return Piece(
            "barrier",
            advice="The average of all has no loss that speaks against it; no pair was looked at.",
            evidence=losses.sentence,
            confidence="low",
        )
    if not high:
        return Piece(
            "barrier",
            advice="No loss speaks against an average: not half-way between pairs, and not that of the average of "
            "all.",
            evidence=f"no barrier, at {len(losses.lines)} of {losses.pairs} pairs{where}; {losses.sentence}",
            confidence="high" if len(losses.lines) == losses.pairs else "medium",
        )
    return _high_barriers(high, losses, where, commands)


def _high_barriers(high: Sequence[Line], losses: Losses, where: str, commands: Commands) -> Piece:
    """Some models to leave out, where it is due to few of them; else no soup."""
    evidence = f"{len(high)} of {len(losses.lines)} pairs{where}; {losses.sentence}"
    outsiders = _outsiders(high, losses.lines)
    if outsiders and len(high) < len(losses.lines):
        return Piece(
            "barrier",
            advice=f"Leave {', '.join(outsiders)} out, or let a search do so: the loss rises on the way to others.",
            evidence=evidence,
            confidence="high",
            command=commands.greedy,
        )
    return Piece(
        "barrier",
        advice=f"The loss rises half-way between {len(high)} of {len(losses.lines)} pairs. Take the best one, or an "
        "ensemble.",
        evidence=evidence,
        confidence="high",
        stops=True,
    )


def _height(line: Line) -> float:
    return line.barrier() or 0.0


def _highest(lines: Sequence[Line]) -> str:
    """Where the highest barrier lies, as the end of a sentence; empty where no pair was looked at."""
    if not lines:
        return ""
    line = max(lines, key=_height)
    return (
        f"; half-way between {line.one} and {line.other} the loss is {_height(line):.3f} above the line between the "
        "ends"
    )


def _outsiders(high: Sequence[Line], lines: Sequence[Line]) -> list[str]:
    """The models without which no barrier is left, where these are fewer than half."""
    names = sorted({name for line in lines for name in (line.one, line.other)})
    left, outsiders = list(high), []
    while left:
        name = max(names, key=lambda name: _barriers_of(name, left))
        outsiders.append(name)
        left = [line for line in left if name not in (line.one, line.other)]
    if 2 * len(outsiders) >= len(names):
        return []
    return sorted(outsiders, key=lambda name: -_barriers_of(name, high))


def _barriers_of(name: str, lines: Sequence[Line]) -> int:
    """How many of these lines begin or end at a model."""
    return sum(name in (line.one, line.other) for line in lines)
