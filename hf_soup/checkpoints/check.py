"""Can these checkpoints be averaged? Told from headers and configurations, and from the integer buffers of local ones.

It changes nothing and fetches no weights. Floating-point weights are not looked at.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import IncompatibleError, IngredientError, listed
from ..untrusted import as_error
from .checkpoint import Checkpoint, torn_twin_problems
from .digest import bytes_of
from .labels import (
    FIELDS,
    alignment_notes,
    class_names,
    compare_labels,
    fields_of_names,
    label_names,
    permuted,
    usual_names,
    without_made_up,
)
from .reader import TensorSpec
from .settings import compare_settings
from .tensor_problems import tensor_problems
from .tokenization import read_vocabularies
from .vocabulary import Vocabulary, difference


if TYPE_CHECKING:
    from .relation import Relation

# Buffers that count and may differ between runs; every other integer buffer has to be equal.
COUNTERS = ("num_batches_tracked",)
STATISTICS = ("running_mean", "running_var", *COUNTERS)  # what BatchNorm keeps of the data that it saw
# Models whose heads have no classes; those that answer questions on images choose among answers, which are classes.
NO_CLASSES = re.compile(
    r"""
    ( CausalLM | ConditionalGeneration | LMHead(Model)? | MaskedLM | MultipleChoice | PreTraining
    | NextSentencePrediction | CTC | Seq2Seq | Seq2SeqLM | SpeechToText | TextToSpeech | MaskedImageModeling
    | DepthEstimation | Model
    | (?<!^ViltFor)(?<!^VisualBertFor)(?<!Visual)QuestionAnswering )$
    """,
    re.VERBOSE,
)
BATCHNORM_NOTE = (
    "the model has BatchNorm: averaged running statistics do not fit averaged weights. Give training data to estimate "
    "them again (`batchnorm_data`), or call `hf_soup.update_batchnorm` on the model"
)


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Args:
        names (`tuple[str, ...]`):
            The ingredients.
        architecture (`str`):
            Their architecture (that of most of them).
        tensors (`int`):
            How many tensors each has.
        parameters (`int`):
            How many floating-point numbers each has.
        nbytes (`int`):
            How many bytes all of them together hold, and a merge reads.
        dtypes (`tuple[str, ...]`):
            The types of their floating-point tensors.
        labels (`tuple[str, ...]`):
            The names of the classes, in order.
        problems (`tuple[str, ...]`):
            Why they cannot be averaged, one line for each offender; empty when they can.
        notes (`tuple[str, ...]`):
            What to look out for.
        relation ([`Relation`], *optional*):
            What the weights say about a common start, where they were read.
    """

    names: tuple[str, ...]
    architecture: str
    tensors: int
    parameters: int
    nbytes: int
    dtypes: tuple[str, ...]
    labels: tuple[str, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    relation: Relation | None = None

    @property
    def ok(self) -> bool:
        """Whether the ingredients can be averaged."""
        return not self.problems

    def raise_for_problems(self) -> None:
        """Raise [`IncompatibleError`] with every problem, if there is one."""
        if self.problems:
            raise IncompatibleError(self.problems)

    def table(self) -> str:
        """The report as lines of text."""
        labels = ", ".join(self.labels[:8]) + (f" ... ({len(self.labels)})" if len(self.labels) > 8 else "")
        rows = {
            "ingredients": f"{len(self.names)}: {', '.join(self.names)}",
            "architecture": self.architecture,
            "tensors": f"{self.tensors:,}",
            "parameters": f"{self.parameters:,}",
            "dtypes": ", ".join(self.dtypes),
            "labels": labels or "none",
            "a merge reads": f"{self.nbytes / 1e6:,.1f} MB",
        }
        lines = [f"{key:<14} {value}" for key, value in rows.items()]
        lines += [f"{'note':<14} {line}" for line in self.notes] + [
            f"{'problem':<14} {line}" for line in self.problems
        ]
        if self.relation is not None:
            lines += ["", self.relation.table(), ""]
        return "\n".join([*lines, "They can be averaged." if self.ok else "They cannot be averaged."])


def check_checkpoints(
    checkpoints: Sequence[Checkpoint],
    alignments: Mapping[str, Sequence[int]] | None = None,
    *,
    labels: Sequence[str] = (),
    base: str | None = None,
    settings: Checkpoint | None = None,
) -> CheckReport:
    """Compare configurations and headers; what most ingredients have is taken for right, so that the odd one is named.

    Args:
        checkpoints (`Sequence[Checkpoint]`):
            Opened ingredients.
        alignments (`Mapping[str, Sequence[int]]`, *optional*):
            Ingredient -> the order in which its classes will be taken.
        labels (`Sequence[str]`, *optional*):
            Names of the soup's classes, where they were found over more ingredients than these.
        base (`str`, *optional*):
            Which of them is the base model, if any: it may lack tensors (a head).
        settings (`Checkpoint`, *optional*):
            The ingredient that gives the soup its settings, if the user named one: differences are then notes.

    Returns:
        [`CheckReport`]: with every problem, not just the first.
    """
    tuned = [item for item in checkpoints if item.name != base] or checkpoints
    usual_architecture = _usual(tuned, lambda item: item.architecture)
    alike = [item for item in checkpoints if item.architecture == usual_architecture]
    keys = _usual(tuned, lambda item: tuple(item.specs))
    shapes = {
        key: _usual([c for c in checkpoints if key in c.specs], lambda c, k=key: c.specs[k].shape) for key in keys
    }
    kinds = {
        key: _usual([c for c in checkpoints if key in c.specs], lambda c, k=key: _kind(c.specs[k])) for key in keys
    }
    problems = []
    for item in checkpoints:
        if item.architecture != usual_architecture:
            problems.append(f"{item.name} is a {item.architecture}, the others are {usual_architecture}")
            continue  # its tensors differ of course
        problems += tensor_problems(item, shapes, may_lack=item.name == base)
        problems += _kind_problems(item, kinds)
    sizes_told = bool(problems)
    with as_error(IngredientError, f"{listed(item.name for item in checkpoints)} cannot be compared"):
        found_labels, label_problems, notes = _compare_labels(alike, alignments or {}, settings, tuple(labels))
        problems += label_problems
        vocabularies = read_vocabularies(checkpoints)
        problems += _vocabulary_problems(vocabularies)
        with_settings = [item for item in alike if item.name != base]
        found = compare_settings(with_settings, settings=settings, sizes=not sizes_told)
        problems += found.problems
    if not problems:
        problems += _buffer_problems(checkpoints)
    first = checkpoints[0]
    floating = [spec for spec in first.specs.values() if spec.is_floating]
    return CheckReport(
        names=tuple(item.name for item in checkpoints),
        architecture=usual_architecture,
        tensors=len(first.specs),
        parameters=sum(spec.numel for spec in floating),
        nbytes=sum(spec.nbytes for item in checkpoints for spec in item.specs.values()),
        dtypes=tuple(sorted({spec.dtype for item in checkpoints for spec in item.specs.values() if spec.is_floating})),
        labels=found_labels,
        problems=tuple(problems),
        notes=(*_notes(checkpoints, vocabularies), *notes, *found.notes),
    )


def equal_or_counter(name: str, values: Sequence[Any]) -> bool:
    """Rule for tensors that are not averaged: all equal, or known to be a counter.

    Args:
        name (`str`):
            The tensor's name.
        values (`Sequence[torch.Tensor]`):
            The tensor of each ingredient.
    """
    first, *others = values
    return _is_counter(name) or all(bytes_of(first) == bytes_of(other) for other in others)


def _is_counter(name: str) -> bool:
    return name.split(".")[-1] in COUNTERS


def _usual(checkpoints: Sequence[Checkpoint], value: Callable[[Checkpoint], Any]) -> Any:
    """What most have; the first of them where as many have something else."""
    return Counter(map(value, checkpoints)).most_common(1)[0][0]


def _kind(spec: TensorSpec) -> str:
    """Floating-point types can be mixed; a whole number goes with its like alone."""
    return "floating-point" if spec.is_floating else spec.dtype


def _kind_problems(item: Checkpoint, kinds: Mapping[str, str]) -> list[str]:
    return [
        f"{item.name}: {key} is {item.specs[key].dtype}, of the others it is {kind}"
        for key, kind in kinds.items()
        if key in item.specs and _kind(item.specs[key]) != kind
    ]


def _compare_labels(
    checkpoints: Sequence[Checkpoint],
    alignments: Mapping[str, Sequence[int]],
    settings: Checkpoint | None,
    known: tuple[str, ...],
) -> tuple[tuple[str, ...], list[str], list[str]]:
    """The soup's labels, without made-up ones; problems; and notes."""
    own = {item.name: class_names(item.config) for item in checkpoints}
    architecture = checkpoints[0].architecture
    if NO_CLASSES.search(architecture):
        giver = settings or checkpoints[0]
        unused = (
            f"labels in config.json are not the same in all, and a {architecture} uses none; the soup has those of "
        )
        notes = [unused + giver.name] if len(set(own.values())) > 1 else []
        return label_names(giver.config), [], notes
    labels = {name: permuted(found, alignments.get(name)) for name, found in own.items()}
    usual = known if known and settings is None else usual_names(list(labels.values()), settings)
    holder = settings.name if settings else next((name for name, found in labels.items() if found == usual), None)
    fields = next((fields_of_names(item.config) for item in checkpoints if item.name == holder), FIELDS)
    problems, notes = compare_labels(
        labels, usual, aligned=tuple(alignments), settings=settings, holder=holder, fields=fields
    )
    notes += alignment_notes(own, alignments, usual)
    return without_made_up(usual), problems, notes


def _vocabulary_problems(vocabularies: Mapping[str, Vocabulary]) -> list[str]:
    """Tokenizers that read the same ids as other words; where there is no tokenizer there is nothing to compare."""
    if not vocabularies:
        return []
    usual = Counter(found.digest for found in vocabularies.values()).most_common(1)[0][0]
    reference = next(name for name, found in vocabularies.items() if found.digest == usual)
    problems = []
    for name, found in vocabularies.items():
        told = difference(found, vocabularies[reference])
        if told:
            problems.append(f"{name} has another tokenizer than {reference}: {told}. Its ids mean other words")
    return problems


def is_statistic(name: str) -> bool:
    """Whether a tensor of this name is a running statistic of BatchNorm."""
    return name.rsplit(".", 1)[-1] in STATISTICS


def _buffer_problems(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Integer and boolean buffers that differ; those of the Hub are compared when they have been fetched."""
    local = [item for item in checkpoints if not item.on_hub]
    torn = [line for item in local for line in torn_twin_problems(item)]
    if torn:
        return torn
    who = ", ".join(item.name for item in local)
    return [
        f"{who}: the {spec.dtype} buffer {name} differs, and whole numbers are not averaged"
        for name, spec in checkpoints[0].specs.items()
        if local
        and not spec.is_floating
        and not _is_counter(name)
        and not equal_or_counter(name, [item.read(name) for item in local if name in item.specs])
    ]


def _notes(checkpoints: Sequence[Checkpoint], vocabularies: Mapping[str, Vocabulary]) -> list[str]:
    notes = [BATCHNORM_NOTE] if any(map(is_statistic, checkpoints[0].specs)) else []
    notes += [note for item in checkpoints for note in item.notes]
    bare = [item.name for item in checkpoints if item.name not in vocabularies]
    if 0 < len(bare) < len(checkpoints):
        notes.append(f"{', '.join(bare)} came without a tokenizer, whose words could not be compared")
    digests = Counter(tuple(sorted(item.ingredient.files.values())) for item in checkpoints)
    if any(count > 1 for count in digests.values()):
        notes.append("an ingredient is given more than once and counts as often")
    return notes
