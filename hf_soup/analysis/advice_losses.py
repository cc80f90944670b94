"""Advice based on losses: whether the loss rises between models, and whether that of their average is higher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .advice import Commands, Piece
from .points import Line, Scorer, uniform


# The share of the models' own loss by which the loss of an average may exceed the line between them; an excess of up
# to SMALL is always allowed. docs/advice.md has the measurements between which the threshold lies.
RIDGE = 0.05
SMALL = 0.01


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
        """The number of pairs of models, measured or not."""
        return len(self.names) * (len(self.names) - 1) // 2

    @property
    def margin(self) -> float:
        """The margin by which a loss has to exceed another to be clearly above it."""
        return max(RIDGE * self.single, SMALL)

    @property
    def soup_is_worse(self) -> bool:
        """Whether the soup's loss is clearly above that of its models."""
        return self.soup - self.single > self.margin

    @property
    def has_barriers(self) -> bool:
        """Whether the loss clearly rises halfway between two of the models."""
        return any(_height(line) > self.margin for line in self.lines)

    @property
    def sentence(self) -> str:
        """Both losses, as part of a sentence."""
        return f"the soup's loss is {self.soup:.3f}, its models' {self.single:.3f} on average"


def measure_losses(scorer: Scorer, pairs: int | None = None) -> Losses:
    """Score the models, their soup, and the midpoints of pairs.

    Args:
        scorer ([`Scorer`]):
            The models and the examples.
        pairs (`int`, *optional*):
            Look at so many pairs at most; at all by default.
    """
    names = scorer.names
    singles = {name: scorer.point({name: 1.0}) for name in names}
    chosen = _neighbours_first(names)
    if pairs is not None:
        chosen = chosen[: max(pairs, 0)]
    lines = []
    with scorer.progress("Half-way between models", len(chosen)) as bar:
        for start, end in chosen:
            middle = scorer.point({start: 0.5, end: 0.5})
            lines.append(Line(start, end, (0.0, 0.5, 1.0), (singles[start], middle, singles[end])))
            bar.update()
    mean = sum(point.loss for point in singles.values()) / len(singles)
    return Losses(names, mean, scorer.point(uniform(names)).loss, lines)


def _neighbours_first(names: Sequence[str]) -> list[tuple[str, str]]:
    """All pairs, ordered so that the first few cover all models, however small the budget is."""
    pairs: list[tuple[str, str]] = []
    for distance in range(1, len(names)):
        pairs.extend(zip(names, names[distance:], strict=False))
    return pairs


def barrier_piece(losses: Losses, commands: Commands, best: str | None = None) -> Piece:
    """Advice on whether the loss rises between models, or at least in their average.

    Args:
        losses ([`Losses`]):
            Losses of the models.
        commands ([`Commands`]):
            Commands for the same models.
        best (`str`, *optional*):
            Model with the best score, which is never to be left out.
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
    return _high_barriers(high, losses, where, commands, best)


def _high_barriers(high: Sequence[Line], losses: Losses, where: str, commands: Commands, best: str | None) -> Piece:
    """Advice to leave out some models if they cause the barriers, or else to make no soup."""
    evidence = f"{len(high)} of {len(losses.lines)} pairs{where}; {losses.sentence}"
    outsiders = _outsiders(high, losses.lines)
    few = bool(outsiders) and len(high) < len(losses.lines)
    if not few:
        return Piece(
            "barrier",
            advice=f"The loss rises half-way between {len(high)} of {len(losses.lines)} pairs. Take the best one, or "
            "an ensemble.",
            evidence=evidence,
            confidence="high",
            stops=True,
        )
    if best in outsiders:
        advice = f"Let a search choose: the loss rises on the way from {best}, the best one, to others."
    else:
        advice = f"Leave {', '.join(outsiders)} out, or let a search do so: the loss rises on the way to others."
    return Piece("barrier", advice=advice, evidence=evidence, confidence="high", command=commands.greedy)


def _height(line: Line) -> float:
    """The barrier of a line whose ends and middle were scored."""
    return line.barrier() or 0.0


def _highest(lines: Sequence[Line]) -> str:
    """The location of the highest barrier, as the end of a sentence; empty if no pair was measured."""
    if not lines:
        return ""
    line = max(lines, key=_height)
    where = f"half-way between {line.one} and {line.other}"
    return f"; {where} the loss is {_height(line):.3f} above the line between the ends"


def _outsiders(high: Sequence[Line], lines: Sequence[Line]) -> list[str]:
    """The models without which no barrier remains, if they are fewer than half."""
    ends = set()
    for line in lines:
        ends |= {line.one, line.other}
    names = sorted(ends)
    remaining, outsiders = list(high), []
    # Greedy: leave out the model with the most barriers until none remains.
    while remaining:
        worst = max(names, key=lambda name: _barriers_of(name, remaining))
        outsiders.append(worst)
        remaining = [line for line in remaining if worst not in (line.one, line.other)]
    # Where half of the models would have to go, they are not outliers.
    if 2 * len(outsiders) >= len(names):
        return []
    return sorted(outsiders, key=lambda name: -_barriers_of(name, high))


def _barriers_of(name: str, lines: Sequence[Line]) -> int:
    """The number of these lines that begin or end at a model."""
    return sum(name in (line.one, line.other) for line in lines)
