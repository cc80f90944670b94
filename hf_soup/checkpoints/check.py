"""Checks whether checkpoints can be averaged, from headers, configurations and the integer buffers of local files.

The check changes nothing and downloads no weights. It does not look at floating-point weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ..display.results import Result
from ..errors import IncompatibleError, IngredientError, listed
from ..untrusted import as_error
from .adapter_relations import adapter_notes, base_problems
from .checkpoint import Checkpoint, unequal_twin_problems
from .differences import most_frequent
from .digest import bytes_of
from .label_problems import compare_classes
from .reader import TensorSpec
from .settings import compare_settings
from .tensor_problems import tensor_problems
from .tokenization import read_vocabularies
from .vocabulary import Vocabulary, difference


if TYPE_CHECKING:
    from ..analysis.relation import Relation

# Counters in integer buffers, which may differ between runs; all other integer buffers have to be equal.
COUNTERS = ("num_batches_tracked",)
STATISTICS = ("running_mean", "running_var", *COUNTERS)  # the running statistics of BatchNorm
SHOWN_LABELS = 8  # class names shown in the table
BATCHNORM_NOTE = (
    "the model has BatchNorm: averaged running statistics do not fit averaged weights. Give training data to estimate "
    "them again (`batchnorm_data`), or call `hf_soup.update_batchnorm` on the model"
)


@dataclass(frozen=True, repr=False)
class CheckReport(Result):
    """The result of a check.

    Args:
        names (`tuple[str, ...]`):
            The ingredients.
        architecture (`str`):
            Architecture of the ingredients, or of most of them.
        tensors (`int`):
            Number of tensors in each ingredient.
        parameters (`int`):
            Number of floating-point parameters in each ingredient.
        nbytes (`int`):
            Number of bytes of all ingredients together, which a merge reads.
        dtypes (`tuple[str, ...]`):
            The types of their floating-point tensors.
        labels (`tuple[str, ...]`):
            The names of the classes, in order.
        problems (`tuple[str, ...]`):
            Why they cannot be averaged, one line for each offender; empty when they can.
        notes (`tuple[str, ...]`):
            Findings that do not prevent an average but deserve attention.
        relation ([`Relation`], *optional*):
            Evidence in the weights for a common start, where the weights were read.
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
        """Raise an [`IncompatibleError`] that lists every problem, if there is any."""
        if self.problems:
            raise IncompatibleError(self.problems)

    def table(self) -> str:
        """The report as lines of text."""
        labels = ", ".join(self.labels[:SHOWN_LABELS])
        if len(self.labels) > SHOWN_LABELS:
            labels += f" ... ({len(self.labels)})"
        facts = {
            "ingredients": f"{len(self.names)}: {', '.join(self.names)}",
            "architecture": self.architecture,
            "tensors": f"{self.tensors:,}",
            "parameters": f"{self.parameters:,}",
            "dtypes": ", ".join(self.dtypes),
            "labels": labels or "none",
            "a merge reads": f"{self.nbytes / 1e6:,.1f} MB",
        }
        lines = [f"{name:<14} {value}" for name, value in facts.items()]
        lines += [f"{'note':<14} {note}" for note in self.notes]
        lines += [f"{'problem':<14} {problem}" for problem in self.problems]
        if self.relation is not None:
            lines += ["", self.relation.table(), ""]
        if not self.ok:
            lines.append("They cannot be averaged.")
        elif self.notes:
            lines.append("Their tensors can be averaged. Read the notes above before you do.")
        else:
            lines.append("They can be averaged.")
        return "\n".join(lines)


def check_checkpoints(
    checkpoints: Sequence[Checkpoint],
    alignments: Mapping[str, Sequence[int]] | None = None,
    *,
    labels: Sequence[str] = (),
    base: str | None = None,
    settings: Checkpoint | None = None,
) -> CheckReport:
    """Compare configurations and headers; what most ingredients have counts as correct, so the outlier is reported.

    Args:
        checkpoints (`Sequence[Checkpoint]`):
            Opened ingredients.
        alignments (`Mapping[str, Sequence[int]]`, *optional*):
            Ingredient -> the order in which its classes will be taken.
        labels (`Sequence[str]`, *optional*):
            Names of the soup's classes, where they were found over more ingredients than these.
        base (`str`, *optional*):
            Name of the base model, if there is one among them. It may lack tensors, such as a head.
        settings (`Checkpoint`, *optional*):
            The ingredient that gives the soup its settings, if the user named one: differences are then notes.

    Returns:
        [`CheckReport`]: with every problem, not just the first.
    """
    tuned = _fine_tuned(checkpoints, base)
    architecture = most_frequent(item.architecture for item in tuned)
    usual_tensors = _usual_tensors(checkpoints, tuned)
    problems: list[str] = []
    for item in checkpoints:
        problems += _problems_of_tensors(item, architecture, usual_tensors, may_lack=item.name == base)
    shapes_differ = bool(problems)
    same_class = [item for item in checkpoints if item.architecture == architecture]
    with as_error(IngredientError, f"{listed(item.name for item in checkpoints)} cannot be compared"):
        classes = compare_classes(same_class, alignments or {}, settings, tuple(labels))
        vocabularies = read_vocabularies(checkpoints)
        # A base model contributes no settings to a soup, so its settings may differ.
        compared = [item for item in same_class if item.name != base]
        differences = compare_settings(compared, settings=settings, sizes=not shapes_differ)
        problems += [*classes.problems, *_vocabulary_problems(vocabularies), *differences.problems]
        problems += base_problems(checkpoints)
    if not problems:  # this reads tensors, and only compatible ones can be compared
        problems += _value_problems(checkpoints)
    notes = [*_notes(checkpoints, vocabularies), *classes.notes, *differences.notes, *adapter_notes(checkpoints)]
    return _report(checkpoints, architecture, classes.labels, problems, notes)


def _fine_tuned(checkpoints: Sequence[Checkpoint], base: str | None) -> Sequence[Checkpoint]:
    """The ingredients without the base model; all of them if nothing else remains."""
    return [item for item in checkpoints if item.name != base] or checkpoints


def _report(
    checkpoints: Sequence[Checkpoint],
    architecture: str,
    labels: tuple[str, ...],
    problems: list[str],
    notes: list[str],
) -> CheckReport:
    """The report: problems and notes, tensors and parameters of one model, and bytes and data types of all."""
    nbytes = 0
    dtypes, seen = set(), set()
    for item in checkpoints:
        for name, spec in item.specs.items():
            origin = item.origin(name)
            if origin in seen:  # what adapters share with their base model is read once
                continue
            if origin is not None:
                seen.add(origin)
            kept = spec._replace(dtype=item.kept_dtype(name))
            nbytes += kept.nbytes
            if kept.is_floating:
                dtypes.add(kept.dtype)
    specs = checkpoints[0].specs.values()
    return CheckReport(
        names=tuple(item.name for item in checkpoints),
        architecture=architecture,
        tensors=len(specs),
        parameters=sum(spec.numel for spec in specs if spec.is_floating),
        nbytes=nbytes,
        dtypes=tuple(sorted(dtypes)),
        labels=labels,
        problems=tuple(problems),
        notes=tuple(notes),
    )


def equal_or_counter(name: str, values: Sequence[bytearray | memoryview]) -> bool:
    """Rule for tensors that are not averaged: they are equal, or they are a known counter.

    Args:
        name (`str`):
            The tensor's name.
        values (`Sequence[bytearray | memoryview]`):
            The bytes of the tensor of each ingredient.
    """
    if _is_counter(name):
        return True
    first, *other_values = values
    return all(first == value for value in other_values)


def _is_counter(name: str) -> bool:
    return name.split(".")[-1] in COUNTERS


class _UsualTensors(NamedTuple):
    """The tensors that most ingredients have.

    Args:
        shapes (`dict[str, tuple[int, ...]]`):
            Name -> the most frequent shape.
        types (`dict[str, str]`):
            Name -> the most frequent type, `"floating-point"` for all that can be mixed.
    """

    shapes: dict[str, tuple[int, ...]]
    types: dict[str, str]


def _usual_tensors(checkpoints: Sequence[Checkpoint], tuned: Sequence[Checkpoint]) -> _UsualTensors:
    """The usual tensors; their names come from fine-tuned ingredients, since a base model may lack a head."""
    shapes, types = {}, {}
    # The most frequent list of names, taken as a unit: a majority vote on each name could give a model that no
    # ingredient is.
    names = most_frequent(tuple(item.specs) for item in tuned)
    for name in names:
        specs = [item.specs[name] for item in checkpoints if name in item.specs]
        shapes[name] = most_frequent(spec.shape for spec in specs)
        types[name] = most_frequent(_type_of(spec) for spec in specs)
    return _UsualTensors(shapes, types)


def _problems_of_tensors(
    item: Checkpoint, architecture: str, usual_tensors: _UsualTensors, *, may_lack: bool
) -> list[str]:
    """Problems with the class of one ingredient, or else with the names, shapes and data types of its tensors."""
    if item.architecture != architecture:  # another class implies other tensors
        return [f"{item.name} is a {item.architecture}, the others are {architecture}"]
    return [
        *tensor_problems(item, usual_tensors.shapes, may_lack=may_lack),
        *_type_problems(item, usual_tensors.types),
    ]


def _type_of(spec: TensorSpec) -> str:
    """The group of a data type: floating-point types can be mixed, every integer type is a group of its own."""
    return "floating-point" if spec.is_floating else spec.dtype


def _type_problems(item: Checkpoint, types: Mapping[str, str]) -> list[str]:
    """Tensors whose data type differs from that of most ingredients and cannot be mixed with it."""
    problems = []
    for name, usual_type in types.items():
        spec = item.specs.get(name)
        if spec is not None and _type_of(spec) != usual_type:
            problems.append(f"{item.name}: {name} is {spec.dtype}, of the others it is {usual_type}")
    return problems


def _vocabulary_problems(vocabularies: Mapping[str, Vocabulary]) -> list[str]:
    """Tokenizers that map the same ids to different tokens; ingredients without a tokenizer are not compared."""
    if not vocabularies:
        return []
    usual_digest = most_frequent(vocabulary.digest for vocabulary in vocabularies.values())
    reference = next(name for name, vocabulary in vocabularies.items() if vocabulary.digest == usual_digest)
    problems = []
    for name, vocabulary in vocabularies.items():
        differing_tokens = difference(vocabulary, vocabularies[reference])
        if differing_tokens:
            problems.append(
                f"{name} has another tokenizer than {reference}: {differing_tokens}. Its ids mean other words. If the "
                'tokenizers differ in added tokens only: vocabulary="union"'
            )
    return problems


def is_statistic(name: str) -> bool:
    """Whether a tensor of this name is a running statistic of BatchNorm."""
    return name.rsplit(".", 1)[-1] in STATISTICS


def _value_problems(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Tied weights and buffers whose values differ; those on the Hub are compared after the download."""
    local = [item for item in checkpoints if not item.on_hub]
    problems = []
    for item in local:
        problems += unequal_twin_problems(item)
    if local and not problems:
        problems += _buffer_problems(local, checkpoints[0].specs)
    return problems


def _buffer_problems(local: Sequence[Checkpoint], specs: Mapping[str, TensorSpec]) -> list[str]:
    """Integer and boolean buffers that differ between local ingredients."""
    holders = ", ".join(item.name for item in local)
    problems = []
    for name, spec in specs.items():
        if spec.is_floating or _is_counter(name):  # the value of a counter is not read
            continue
        values = [bytes_of(item.read(name)) for item in local if name in item.specs]
        if not equal_or_counter(name, values):
            problems.append(f"{holders}: the {spec.dtype} buffer {name} differs, and whole numbers are not averaged")
    return problems


def _notes_of_ingredients(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """The notes of each ingredient; a note about skipped files that applies to several ingredients appears once."""
    names_by_note: dict[str, list[str]] = {}
    for item in checkpoints:
        for note in item.notes:
            without_name = note.replace(f"of the files of {item.name} a soup", "of the files of {} a soup", 1)
            names_by_note.setdefault(without_name, []).append(item.name)
    notes = []
    for note, names in names_by_note.items():
        notes.append(note.replace("of the files of {} a soup", f"of the files of {listed(names)} a soup", 1))
    return notes


def _notes(checkpoints: Sequence[Checkpoint], vocabularies: Mapping[str, Vocabulary]) -> list[str]:
    """Notes about the tensors, the tokenizers and the list of ingredients."""
    notes = []
    if any(is_statistic(name) for name in checkpoints[0].specs):
        notes.append(BATCHNORM_NOTE)
    notes += _notes_of_ingredients(checkpoints)
    without_tokenizer = [item.name for item in checkpoints if item.name not in vocabularies]
    if 0 < len(without_tokenizer) < len(checkpoints):
        names = ", ".join(without_tokenizer)
        notes.append(f"{names} came without a tokenizer, so its vocabulary could not be compared")
    # Duplicates are found by the content of their files, not by name.
    contents = Counter(tuple(sorted(item.ingredient.files.values())) for item in checkpoints)
    if max(contents.values()) > 1:
        notes.append("an ingredient is given more than once and counts each time")
    return notes
