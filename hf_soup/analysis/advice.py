"""The content of advice on a soup: pieces with their evidence, a verdict, and the resulting commands.

Evidence consists of measurements on these models and examples. General knowledge that was not measured here is kept
separate from it. `advising.py` collects the pieces.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from ..display.results import Result
from ..display.tables import align


Confidence = Literal["high", "medium", "low"]
Topic = Literal[
    "compatibility",
    "number",
    "classes",
    "start",
    "heads",
    "diversity",
    "BatchNorm",
    "generation",
    "ceiling",
    "quality",
    "barrier",
    "validation",
    "ensemble",
    "soup",
]


class Piece(NamedTuple):
    """One piece of advice.

    Args:
        topic (`str`):
            Subject of the piece, such as `"heads"`.
        advice (`str`):
            What to do, as a sentence. The reason for it is the evidence.
        evidence (`str`):
            What was measured on these models, with the numbers.
        confidence (`str`):
            `"high"`, `"medium"` or `"low"`.
        command (`str`):
            Command that carries out the advice; empty where there is none.
        stops (`bool`):
            Whether the piece speaks against averaging all of these models.
        general (`str`):
            What is known in general but was not measured here; empty where the evidence is enough.
    """

    topic: Topic
    advice: str
    evidence: str
    confidence: Confidence
    command: str = ""
    stops: bool = False
    general: str = ""


@dataclass(frozen=True, repr=False)
class Advice(Result):
    """Whether and how to make a soup.

    Args:
        names (`tuple[str, ...]`):
            The models.
        verdict (`str`):
            The whole in a sentence.
        command (`str`):
            Command to run next.
        pieces (`tuple[Piece, ...]`):
            The reasons for and against it, the most important first.
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
        """Whether there is no reason against an average of all models."""
        return not any(piece.stops for piece in self.pieces)

    def table(self) -> str:
        """The verdict and its command, then each piece with its evidence, and below them general knowledge."""
        lines = [["about", "remark", "measured here", "confidence"]]
        general = []
        for piece in self.pieces:
            lines.append([piece.topic, piece.advice, piece.evidence, piece.confidence])
            if piece.general:
                general.append(f"In general, not measured here ({piece.topic}): {piece.general}")
        # Four spaces turn a line into code in Markdown.
        code = f"    {self.command}" if self.command else ""
        return "\n\n".join(filter(None, [self.verdict, code, align(lines), *general]))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {**asdict(self), "ok": self.ok, "pieces": [piece._asdict() for piece in self.pieces]}


class Given(NamedTuple):
    """What the caller has given, as written in commands; a placeholder where nothing was given.

    Args:
        data (`str`, *optional*, defaults to `"--data DATA"`):
            The validation data, with the options that say how it is read.
        batchnorm_data (`str`, *optional*, defaults to `"--batchnorm-data DATA"`):
            The training data for BatchNorm.
        base_model (`str`, *optional*, defaults to `"BASE"`):
            The base model.
    """

    data: str = "--data DATA"
    batchnorm_data: str = "--batchnorm-data DATA"
    base_model: str = "BASE"


class Commands(NamedTuple):
    """The commands that advice recommends.

    Args:
        runs (`str`):
            The models as arguments, with the options by which models that differ are taken for like ones.
        batchnorm (`bool`, *optional*, defaults to `False`):
            Whether the models have BatchNorm, whose statistics are estimated again on training data.
        given ([`Given`], *optional*):
            What was given already.
    """

    runs: str
    batchnorm: bool = False
    given: Given = Given()

    @property
    def check(self) -> str:
        """The command that checks whether the models are compatible."""
        return f"hf-soup check {self.runs}"

    @property
    def advise(self) -> str:
        """The command for the same advice with the given examples, or with placeholders for them."""
        return f"hf-soup advise {self.runs} {self.given.data}"

    @property
    def advise_otherwise(self) -> str:
        """The command for the same advice with other examples than the given ones."""
        return f"hf-soup advise {self.runs} {Given().data}"

    @property
    def merge(self) -> str:
        """The common beginning of all commands that average the models."""
        command = f"hf-soup merge {self.runs}"
        return f"{command} {self.given.batchnorm_data}" if self.batchnorm else command

    @property
    def uniform(self) -> str:
        """The command for the uniform soup."""
        return f"{self.merge} -o soup"

    @property
    def greedy(self) -> str:
        """The command for a search for the models to average."""
        return f"{self.merge} --strategy greedy {self.given.data} -o soup"

    @property
    def interpolate(self) -> str:
        """The command for a mixture with the base model."""
        return f"{self.merge} --strategy interpolate --base-model {self.given.base_model} {self.given.data} -o soup"

    @property
    def vary(self) -> str:
        """The command for a sweep whose runs differ more."""
        settings = "--learning-rate 1e-5,3e-5,1e-4 --seed 0,1,2"
        return f"hf-soup sweep {self.given.base_model} --data DATA {settings} -o runs"

    def weighted(self, options: str) -> str:
        """The command for a soup with weights by module, which are given as options."""
        return f"{self.merge} {options} -o soup"
