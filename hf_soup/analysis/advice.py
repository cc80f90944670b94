"""Whether and how to make a soup of some models: each piece of advice has its evidence, a confidence, and a command.

Evidence is what was measured on these models and examples, with its number. What is known from elsewhere, and was not
measured here, is told apart from it. The thresholds come from measurements that `docs/advice.md` shows.
"""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..checkpoints.check import is_statistic
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.relation import RELATED, relate
from ..errors import DataError
from ..evaluation.comparison import SHARES
from ..merging.agreement import Agreement
from ..outputs import Predictions, right
from ..tables import align
from ..tasks import task_of
from .diversity import Diversity, measure_diversity
from .points import SURE, Line, Scorer, shown, uniform
from .similarity import Similarity


if TYPE_CHECKING:
    from ..data.classes import MissingClasses

Confidence = Literal["high", "medium", "low"]
FEW = 4  # models; below that a search has hardly anything to choose from
RIDGE = 0.05  # of the models' own loss, by which that of an average may be above the line between them,
SMALL = 0.01  # and this much in any case
SAME = 0.98  # cosine of two fine-tunes' changes above which they are one model trained twice
ALIKE = 0.02  # share of examples on which models disagree, below which neither ensemble nor soup can gain
CEILING = 0.01  # share of examples that the best model gets wrong
OUTLIER = 0.05  # how far below the best a model may score before it does more harm than good


GAINS = ("soup", "ensemble", "validation")  # topics of what a soup gains


class Piece(NamedTuple):
    """One piece of advice.

    Args:
        topic (`str`):
            What it is about, such as `"heads"`.
        advice (`str`):
            What to do, in a sentence; what it gives as the reason is in the evidence.
        evidence (`str`):
            What was measured on these models, with its number.
        confidence (`str`):
            `"high"`, `"medium"` or `"low"`.
        command (`str`):
            What follows from it; empty where nothing does.
        stops (`bool`):
            Whether it speaks against an average of all these models.
        general (`str`):
            What is known in general and was not measured here; empty where the evidence is enough.
    """

    topic: str
    advice: str
    evidence: str
    confidence: Confidence
    command: str = ""
    stops: bool = False
    general: str = ""


@dataclass(frozen=True)
class Advice:
    """Whether and how to make a soup.

    Args:
        names (`tuple[str, ...]`):
            The models.
        verdict (`str`):
            The whole in a sentence.
        command (`str`):
            What to do next.
        pieces (`tuple[Piece, ...]`):
            What speaks for and against it, the weightiest first.
        evaluations (`int`):
            Models that were scored for it.
    """

    names: tuple[str, ...]
    verdict: str
    command: str
    pieces: tuple[Piece, ...]
    evaluations: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against an average of all."""
        return not any(piece.stops for piece in self.pieces)

    def table(self) -> str:
        """The verdict, then each piece with its evidence, and below them what is known in general."""
        lines = [["about", "advice", "measured here", "confidence"]]
        lines += [[p.topic, p.advice, p.evidence, p.confidence] for p in self.pieces]
        general = [f"In general, not measured here ({p.topic}): {p.general}" for p in self.pieces if p.general]
        commands = list(dict.fromkeys(filter(None, [self.command, *(piece.command for piece in self.pieces)])))
        parts = [self.verdict, align(lines), *general, "\n".join(f"    {command}" for command in commands)]
        return "\n\n".join(part for part in parts if part)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {**asdict(self), "ok": self.ok, "pieces": [piece._asdict() for piece in self.pieces]}


def give_advice(
    checkpoints: Sequence[Checkpoint],
    scorer: Scorer | None = None,
    *,
    similarity: Similarity | None = None,
    budget: int | None = None,
    sources: Sequence[str] = (),
    agreement: Agreement | None = None,
) -> Advice:
    """Look at models, as far as there is data and budget, and say what to do with them.

    Args:
        checkpoints (`Sequence[Checkpoint]`):
            The opened models.
        scorer ([`Scorer`], *optional*):
            The same, with validation examples.
        similarity ([`Similarity`], *optional*):
            Of the same; with a base model it tells whether they went different ways.
        budget (`int`, *optional*):
            Score so many models at most; all pairs by default.
        sources (`Sequence[str]`, *optional*):
            What commands call the models.
        agreement ([`Agreement`], *optional*):
            How models that differ are taken for like ones.

    Returns:
        [`Advice`]
    """
    names = tuple(item.name for item in checkpoints)
    runs = " ".join(shlex.quote(source) for source in sources) or "RUN..."
    statistics = any(is_statistic(name) for name in checkpoints[0].specs)
    agreement = agreement or Agreement()
    taken = f" --take-from {shlex.quote(agreement.take_from)}" if agreement.take_from else ""
    taken += " --align-labels" if agreement.alignments else ""
    runs += taken
    merge = f"hf-soup merge {runs}" + (" --batchnorm-data DATA" if statistics else "")
    report = agreement.check(checkpoints)
    if report.problems:
        found = f"{len(report.problems)} problems, such as: {report.problems[0]}"
        piece = Piece(
            "compatibility", "They cannot be averaged as they are.", found, "high", f"hf-soup check {runs}", True
        )
        return Advice(names, "Do not average these models: they do not fit each other.", piece.command, (piece,))
    pieces, scored, found = _count(names, merge), 0, None
    if scorer is not None and len(names) > 1 and (budget is None or budget > len(names)):
        found = _look(scorer, None if budget is None else budget - len(names) - 1)
        scored = len(names) + 1 + len(found.lines)
    missing = scorer.missing_classes() if scorer is not None and found is not None else {}
    trusted = found if not missing else None
    pieces += [
        *_missing(missing),
        *_start(checkpoints, similarity, trusted, runs, agreement.moved(checkpoints[0])),
        *_kind(checkpoints[0], merge),
    ]
    if found is not None:
        said = {name: scorer.said({name: 1.0}) for name in names}
        measured = [*_quality(found.diversity, said, merge), *_between(found, merge)]
        measured += value_of_soups(found.diversity, said, scorer.examples, merge)
        pieces += [piece._replace(confidence="low", stops=False) for piece in measured] if missing else measured
    order = {"high": 0, "medium": 1, "low": 2}
    pieces.sort(key=lambda piece: (not piece.stops, order[piece.confidence]))
    return Advice(names, *_verdict(pieces, runs, merge, found is not None, missing), tuple(pieces), scored)


def _missing(missing: Mapping[str, MissingClasses]) -> list[Piece]:
    """Sets of examples without some classes: nothing that is measured on them is sure."""
    general = "statistics of BatchNorm and scores from some classes alone say nothing about the others."
    return [
        Piece("classes", f"Give other examples: {lack.message(what)}", lack.numbers(), "high", general=general)
        for what, lack in missing.items()
    ]


def _count(names: Sequence[str], merge: str) -> list[Piece]:
    n = len(names)
    if n == 1:
        more = "Fine-tune it again from the same start, or mix it with its base model (WiSE-FT)."
        command = f"{merge} --strategy interpolate --base-model BASE --data DATA -o soup"
        return [Piece("number", more, "1 model", "high", command, True)]
    if n < FEW:
        few = "Take the uniform soup, or weights along the way between them: a search has few subsets to choose from."
        return [Piece("number", few, f"{n} models, {2**n - 1} subsets", "medium", f"{merge} -o soup")]
    return []


class Looked(NamedTuple):
    """What the models said.

    Args:
        diversity ([`Diversity`]):
            Of the models.
        loss (`float`):
            Mean over the models alone.
        soup (`float`):
            Loss of their uniform soup.
        lines (`list[Line]`):
            Pairs, with the point half-way.
    """

    diversity: Diversity
    loss: float
    soup: float
    lines: list[Line]

    @property
    def ridge(self) -> float:
        """How far a loss has to be above another to be clearly above it."""
        return max(RIDGE * self.loss, SMALL)

    @property
    def rises(self) -> bool:
        """Whether the soup's loss is clearly above that of its models."""
        return self.soup - self.loss > self.ridge


def _look(scorer: Scorer, pairs: int | None) -> Looked:
    """Score the models, their soup, and half-way between pairs."""
    measured = measure_diversity(scorer)
    names = scorer.names
    singles = {name: scorer.point({name: 1.0}) for name in names}
    every = [(a, b) for step in range(1, len(names)) for a, b in zip(names, names[step:], strict=False)]
    chosen = every[: None if pairs is None else max(pairs, 0)]  # neighbours first, so that each model is among them
    lines = []
    with scorer.progress("Half-way between models", len(chosen)) as bar:
        for one, other in chosen:
            middle = scorer.point({one: 0.5, other: 0.5})
            lines.append(Line(one, other, (0.0, 0.5, 1.0), (singles[one], middle, singles[other])))
            bar.update()
    mean = sum(point.loss for point in singles.values()) / len(singles)
    return Looked(measured, mean, scorer.point(uniform(names)).loss, lines)


def _start(
    checkpoints: Sequence[Checkpoint],
    similarity: Similarity | None,
    found: Looked | None,
    runs: str,
    moved: Mapping[tuple[str, str], Sequence[int]] | None = None,
) -> list[Piece]:
    """Whether bodies and heads look like fine-tunes of one start, and whether they are different models at all."""
    if len(checkpoints) < 2:
        return []
    # The similarity knows the same angles: weights are not read again.
    relation = relate(checkpoints, moved=moved) if similarity is None else similarity.relation()
    pieces = []
    losses = "" if found is None else f"; the soup's loss is {found.soup:.3f}, its models' {found.loss:.3f} on average"
    if relation.body is not None and relation.body < RELATED:
        evidence = f"lowest cosine of two bodies {relation.body:.2f}{losses}"
        advice = "Their bodies do not look like fine-tunes of one model. Take the best one, or an ensemble."
        general = (
            f"bodies of fine-tunes of one model have cosines above {RELATED}; the average of models that started "
            "apart is noise."
        )
        confidence: Confidence = "high" if found is None or found.rises else "medium"
        pieces.append(Piece("start", advice, evidence, confidence, f"hf-soup check {runs} --deep", True, general))
    elif relation.head is not None and relation.head < RELATED:
        evidence = f"lowest cosine of two heads {relation.head:.2f}, of two bodies {relation.body or 1.0:.2f}{losses}"
        command = "hf-soup sweep BASE --data DATA --head probe -o runs"
        general = (
            f"heads of fine-tunes of one head have cosines above {RELATED}; averages of heads that started apart cost "
            "between nothing and 19 points where hf_soup was measured."
        )
        unlike = "heads do not look like fine-tunes of one head"
        if found is None:
            advice = f"Their {unlike}. Fine-tune again from one head, or give data that tells what an average costs."
            pieces.append(Piece("heads", advice, evidence, "medium", command, True, general))
        elif found.rises:
            advice = (
                f"The soup's loss is {found.soup - found.loss:.3f} above its models', whose {unlike}. Fine-tune again "
                "from one head."
            )
            pieces.append(Piece("heads", advice, evidence, "high", command, True, general))
        else:
            advice = f"Their {unlike}, and yet the soup's loss is not clearly above theirs. One head is safer."
            pieces.append(Piece("heads", advice, evidence, "medium", command, False, general))
    if similarity is not None and similarity.base is not None:
        cosines = similarity.cosines("body")
        pairs = [cosines[i, j] for i, j in itertools.combinations(range(len(cosines)), 2)]
        mean = sum(pairs) / len(pairs)
        if mean > SAME:
            advice = "They changed in nearly the same way: vary data order, learning rate or augmentation more."
            evidence = f"mean cosine of their changes {mean:.3f}"
            command = "hf-soup sweep BASE --data DATA --learning-rate 1e-5,3e-5,1e-4 --seed 0,1,2 -o runs"
            general = "an average of models that are nearly one is nearly that one."
            pieces.append(Piece("diversity", advice, evidence, "medium", command, general=general))
    return pieces


def _kind(like: Checkpoint, merge: str) -> list[Piece]:
    """What the kind of model asks for."""
    pieces = []
    count = sum(is_statistic(name) for name in like.specs)
    if count:
        advice = "Give training data, on which the running statistics of the soup are estimated again."
        evidence = f"{count} running statistics of BatchNorm"
        general = "averaged running statistics do not match averaged weights."
        pieces.append(Piece("BatchNorm", advice, evidence, "high", f"{merge} -o soup", general=general))
    try:
        task = task_of(like.config)
    except DataError:
        return pieces
    if task in ("text-generation", "text2text-generation"):
        advice = "Choose by the texts that are wanted, not by the loss alone."
        command = "hf_soup.Evaluator(data, metric=..., generate={'max_new_tokens': 64})"
        general = "a soup with a lower loss may write worse texts."
        pieces.append(Piece("generation", advice, f"the models do {task}", "medium", command, general=general))
    return pieces


def _quality(found: Diversity, said: dict[str, Predictions], merge: str) -> list[Piece]:
    """Runs that are too good, or too bad, to be of use, and how differently they decide."""
    pieces, metric = [], found.metric
    first = next(iter(said.values()))
    sign = 1 if found.higher_is_better else -1
    best = max(found.scores, key=lambda name: sign * found.scores[name])
    if first.kind == "classes":
        wrong = 1 - float(right(said[best]).mean())
        if wrong < CEILING:
            evidence = f"{best} gets {wrong:.1%} of {found.examples} examples wrong"
            advice = f"Take the best model: {wrong:.1%} is all that is left to gain on these examples."
            pieces.append(Piece("ceiling", advice, evidence, "high"))
        share = max(float((first.labels == label).mean()) for label in set(first.labels.tolist()))
        poor = [name for name, of in said.items() if float(right(of).mean()) <= share]
        if poor and metric == "accuracy" and share < 1 - CEILING:
            known = ", ".join(f"{name} {found.scores[name]:.1%}" for name in poor)
            evidence = f"accuracy: {known}; always the most frequent class: {share:.1%}"
            worse = "no better than always saying the most frequent class"
            advice = f"Leave {', '.join(poor)} out: {worse}."
            if len(poor) == len(said):
                advice = f"Fine-tune again: each of these models is {worse}."
            pieces.append(Piece("quality", advice, evidence, "high", "", len(poor) == len(said)))
    if metric in SHARES:
        far = [name for name, score in found.scores.items() if sign * (found.scores[best] - score) > OUTLIER]
        if far:
            gaps = {name: 100 * sign * (found.scores[best] - found.scores[name]) for name in far}
            below = ", ".join(f"{name} {gap:.1f}" for name, gap in gaps.items())
            evidence = f"points of {metric} below {best}: {below}"
            advice = f"Let a search decide which go in: some are more than {100 * OUTLIER:.0f} points below the best."
            general = "a uniform soup gives a model far below the others the same weight as them."
            pieces.append(Piece("quality", advice, evidence, "medium", _greedy(merge), general=general))
    if first.kind in ("classes", "labels") and found.disagreement < ALIKE:
        evidence = f"two models disagree on {found.disagreement:.1%} of {found.examples} examples"
        advice = f"They decide alike: two models agree on {1 - found.disagreement:.1%} of the examples."
        general = "an ensemble can gain only where models disagree, and a soup rarely gains more than an ensemble."
        pieces.append(Piece("diversity", advice, evidence, "medium", general=general))
    return pieces


def _between(found: Looked, merge: str) -> list[Piece]:
    """Whether the loss rises between models."""
    n = len(found.diversity.scores)
    losses = f"the soup's loss is {found.soup:.3f}, its models' {found.loss:.3f} on average"
    barriers = [(line.barrier() or 0.0, line) for line in found.lines]
    high = [line for barrier, line in barriers if barrier > found.ridge]
    where = ""
    if barriers:
        worst, line = max(barriers, key=lambda pair: pair[0])
        where = (
            f"; half-way between {line.one} and {line.other} the loss is {worst:.3f} above the line between the ends"
        )
    if not high and found.rises:
        above = found.soup - found.loss
        advice = f"The loss of the average of all is {above:.3f} above that of its models: let a search choose."
        return [Piece("barrier", advice, losses + where, "medium", _greedy(merge))]
    if not found.lines:
        advice = "The average of all has no loss that speaks against it; no pair was looked at."
        return [Piece("barrier", advice, losses, "low")]
    if not high:
        seen = len(found.lines) == n * (n - 1) // 2
        evidence = f"no barrier, at {len(found.lines)} of {n * (n - 1) // 2} pairs{where}; {losses}"
        advice = "No loss speaks against an average: not half-way between pairs, and not that of the average of all."
        return [Piece("barrier", advice, evidence, "high" if seen else "medium")]
    odd = _in_all(high, found.lines)
    evidence = f"{len(high)} of {len(found.lines)} pairs{where}; {losses}"
    if len(high) < len(found.lines) and odd:
        advice = f"Leave {', '.join(odd)} out, or let a search do so: the loss rises on the way to others."
        return [Piece("barrier", advice, evidence, "high", _greedy(merge))]
    advice = (
        f"The loss rises half-way between {len(high)} of {len(found.lines)} pairs. Take the best one, or an ensemble."
    )
    return [Piece("barrier", advice, evidence, "high", "", True)]


def value_of_soups(found: Diversity, said: dict[str, Predictions], n: int, merge: str) -> list[Piece]:
    """What ensemble and soup gain, and whether the validation data can tell.

    Args:
        found ([`Diversity`]):
            Scores of the models, their soup and their ensemble.
        said (`dict[str, Predictions]`):
            What each model says.
        n (`int`):
            Examples.
        merge (`str`):
            The beginning of a command that merges them.
    """
    pieces, sign = [], 1 if found.higher_is_better else -1
    best = sign * found.best_score
    half = half_width(said) if found.metric == "accuracy" else None
    unit = "points" if found.metric in SHARES else found.metric
    scale = 100 if found.metric in SHARES else 1
    soup, ensemble = (sign * value - best for value in (found.soup, found.ensemble))
    if half is not None:
        spread = max(found.scores.values()) - min(found.scores.values())
        if half > max(spread, abs(ensemble), abs(soup)):
            advice = "Validation cannot tell these models from each other: take the uniform soup, or more data."
            evidence = (
                f"differences of less than {scale * half:.1f} {unit} cannot be seen on {n} examples; the models "
                f"differ by {scale * spread:.1f}, the uniform soup from the best by {scale * soup:+.1f}, the ensemble "
                f"by {scale * ensemble:+.1f}"
            )
            return [Piece("validation", advice, evidence, "high", f"{merge} -o soup")]
    numbers = f"uniform soup {scale * soup:+.1f}, ensemble {scale * ensemble:+.1f} {unit} against the best model"
    if found.metric not in SHARES:
        numbers = f"uniform soup {shown(found.metric, found.soup)}, ensemble {shown(found.metric, found.ensemble)}"
    if soup < 0 and ensemble > 0 and (half is None or ensemble - soup > half):
        advice = "The ensemble is above the best model and the uniform soup below it: let a search try."
        pieces.append(Piece("ensemble", advice, numbers, "medium", _greedy(merge)))
    elif ensemble - soup > (half or 0) and ensemble > 0:
        advice = f"The ensemble gains more than the uniform soup here, at {len(said)} times the cost."
        pieces.append(Piece("ensemble", advice, numbers, "medium"))
    elif soup >= 0:
        seen = found.kept is not None and found.gain >= (found.noise or 0)
        kept = f"; it keeps {found.kept:.0%} of the ensemble's gain over the mean" if seen else ""
        advice = "The uniform soup is as good as the best model here, or better."
        pieces.append(Piece("soup", advice, numbers + kept, "medium"))
    else:
        advice = "The uniform soup is not as good as the best model here: let a search choose."
        pieces.append(
            Piece("soup", advice, numbers, "low" if half is not None and -soup < half else "medium", _greedy(merge))
        )
    return pieces


def half_width(said: dict[str, Predictions]) -> float | None:
    """How large a difference of accuracy between two of these models has to be to be seen: half a 95 % interval.

    Of paired examples on which a share `d` is right in one model and wrong in the other, the difference of accuracy
    has the standard error sqrt(d / n) where the two are about as good.
    """
    first = next(iter(said.values()))
    if first.kind != "classes" or len(said) < 2:
        return None
    pairs = list(itertools.combinations(said.values(), 2))
    share = sum(float((right(a) != right(b)).mean()) for a, b in pairs) / len(pairs)
    return SURE * math.sqrt(share / len(first.rows))


def _verdict(
    pieces: Sequence[Piece], runs: str, merge: str, scored: bool, missing: Collection[str] = ()
) -> tuple[str, str]:
    """The whole in a sentence, and the command: told by the weightiest piece that decides."""
    against = next((piece for piece in pieces if piece.stops), None)
    if against is not None:
        return f"Do not average all of them. {against.advice}", against.command
    if missing:
        lacking = f"These examples cannot tell whether to average: classes are missing in {' and '.join(missing)}."
        return lacking, f"hf-soup advise {runs} --data DATA"
    ceiling = next((piece for piece in pieces if piece.topic == "ceiling"), None)
    if ceiling is not None:
        return ceiling.advice, f"{merge} -o soup"
    if not scored:
        return (
            "Nothing in the weights speaks against a soup; validation data would tell whether it helps.",
            f"hf-soup advise {runs} --data DATA",
        )
    deciding = [piece for piece in pieces if piece.command == _greedy(merge) or piece.topic in GAINS]
    if deciding:
        piece = deciding[0]  # they are sorted by confidence
        search = ", and let a search choose" if piece.command == _greedy(merge) else ""
        return f"Make a soup{search}. {piece.advice}", piece.command or f"{merge} -o soup"
    return "Make a soup.", f"{merge} -o soup"


def _greedy(merge: str) -> str:
    return f"{merge} --strategy greedy --data DATA -o soup"


def _in_all(high: Sequence[Line], lines: Sequence[Line]) -> list[str]:
    """The models without which no barrier is left, where these are fewer than half."""
    names = {name for line in lines for name in (line.one, line.other)}
    counts = {name: sum(name in (line.one, line.other) for line in high) for name in names}
    odd: list[str] = []
    left = list(high)
    while left:
        name = max(sorted(names), key=lambda name: sum(name in (line.one, line.other) for line in left))
        odd.append(name)
        left = [line for line in left if name not in (line.one, line.other)]
    return sorted(odd, key=lambda name: -counts[name]) if 2 * len(odd) < len(names) else []
