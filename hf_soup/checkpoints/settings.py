"""Comparison of all settings that give weights and ids their meaning, with the results as problems and notes.

The comparisons themselves are in `configs.py`, `tokenization.py` and `processors.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ..errors import IngredientError
from .checkpoint import GENERATION, Checkpoint
from .companion_files import CARD, CONFIG, TOKENIZER
from .companions import first_with_files, giver_of_files, giver_of_generation, have_equal_files, in_order
from .configs import IS_GENERATION, WRITES, base_differences, compare_configs
from .differences import Difference, find_differences, several, usual_holder
from .processors import Finding, compare_processors, is_compared
from .tokenization import compare_tokenizers, read_vocabularies
from .vocabulary import difference, in_both


OTHER_RULES = "The same weights compute different results with each"
OTHER_INPUTS = "The same inputs are prepared differently with each"
OTHER_IDS = "The same texts become different ids"
NOT_COMPARED = (CARD, CONFIG, ".gitattributes", "LICENSE")


class Findings(NamedTuple):
    """The result of a comparison.

    Args:
        problems (`list[str]`):
            Problems that keep ingredients from being averaged, or that need a decision.
        notes (`list[str]`):
            Notes on other differences, and on the ingredient that the soup takes these settings from.
    """

    problems: list[str]
    notes: list[str]


def compare_settings(
    checkpoints: Sequence[Checkpoint], *, settings: Checkpoint | None = None, sizes: bool = True
) -> Findings:
    """Compare configurations and companion files, except labels and vocabularies.

    Args:
        checkpoints (`Sequence[Checkpoint]`):
            Opened ingredients of one class.
        settings (`Checkpoint`, *optional*):
            The ingredient that gives the soup its settings, if the user named one: differences are then notes.
        sizes (`bool`, *optional*, defaults to `True`):
            Whether sizes in configurations are compared.

    Returns:
        [`Findings`]
    """
    if len(checkpoints) < 2:
        return Findings([], [])
    order = in_order(checkpoints, settings)
    decided = settings is not None
    findings = [_compare_configs(checkpoints, order[0].name, decided=decided, sizes=sizes)]
    if not have_equal_files(checkpoints):  # equal files need not be read
        giver = giver_of_files(order)
        giver_name = "" if giver is None else giver.name
        generation = giver_of_generation(order)
        findings.append(_compare_tokenizers(checkpoints, giver_name, decided=decided))
        for processor in compare_processors(checkpoints):
            processor_giver = giver_name
            if processor.generates and generation is not None:
                processor_giver = generation.name
            findings.append(_processor_findings(processor, processor_giver, decided=decided))
        findings.append(Findings([], _other_files(checkpoints, first_with_files(order))))
    return _joined(findings)


def _joined(findings: Sequence[Findings]) -> Findings:
    """All problems and all notes of several comparisons, in their order."""
    problems: list[str] = []
    notes: list[str] = []
    for finding in findings:
        problems += finding.problems
        notes += finding.notes
    return Findings(problems, notes)


def _compare_configs(checkpoints: Sequence[Checkpoint], giver: str, *, decided: bool, sizes: bool) -> Findings:
    """The differences in `config.json`, including generation settings."""
    matters, unknown = compare_configs({item.name: item.config for item in checkpoints}, sizes=sizes)
    unknown = [*unknown, *_generation_in_configs(checkpoints)]
    return _in_words("config.json", matters, unknown, giver, decided, OTHER_RULES)


def _compare_tokenizers(checkpoints: Sequence[Checkpoint], giver: str, *, decided: bool) -> Findings:
    """The differences in how tokenizers split texts; their vocabularies are compared in `check.py`."""
    comparison = compare_tokenizers(checkpoints)
    problems, notes = [], []
    for tokenizer in comparison.others:
        if decided:
            notes.append(f"{tokenizer.sentence}; the soup takes that of {giver}")
        else:
            problems.append(f"{tokenizer.sentence}. {OTHER_IDS}. {choose(tokenizer.usual)}")
    notes += _in_words("tokenizer", [], comparison.noted, giver, decided, OTHER_IDS).notes
    notes += [f"{sentence}; the soup takes that of {giver}" for sentence in comparison.only_written]
    return Findings(problems, notes)


def _processor_findings(processor: Finding, giver: str, *, decided: bool) -> Findings:
    """The differences in one processor, and the ingredients that lack it."""
    findings = _in_words(processor.topic, processor.decisive, processor.noted, giver, decided, OTHER_INPUTS)
    if not processor.without:
        return findings
    taken = "the soup has none" if giver in processor.without else f"the soup takes that of {giver}"
    note = f"{', '.join(processor.without)} came without a {processor.topic}; {taken}"
    return Findings(findings.problems, [*findings.notes, note])


def base_notes(base: Checkpoint, ingredient: Checkpoint) -> list[str]:
    """The differences in computation and inputs between a base model and a model fine-tuned from it.

    Args:
        base (`Checkpoint`):
            The base model.
        ingredient (`Checkpoint`):
            One of the ingredients.
    """
    return [*base_computation_notes(base, ingredient), *_base_vocabulary_notes(base, ingredient)]


def _base_vocabulary_notes(base: Checkpoint, ingredient: Checkpoint) -> list[str]:
    """Ids that are other tokens in the base model; tokens that only one of the two has are ignored."""
    # Vocabularies are looked up by name, and an ingredient may have the same name as the base model.
    renamed = replace(base, ingredient=replace(base.ingredient, name=f"{base.name} (base)"))
    try:
        vocabularies = read_vocabularies([renamed, ingredient])
    except IngredientError:  # the tokenizer of a base model is not used
        return []
    if len(vocabularies) < 2:
        return []
    of_base, of_ingredient = vocabularies[renamed.name], vocabularies[ingredient.name]
    differing_tokens = difference(in_both(of_base, of_ingredient), in_both(of_ingredient, of_base))
    if not differing_tokens:
        return []
    advice = "Name the base model that they were fine-tuned from"
    return [f"the base model {base.name} has another tokenizer than {ingredient.name}: {differing_tokens}. {advice}"]


def base_computation_notes(base: Checkpoint, ingredient: Checkpoint) -> list[str]:
    """The differences between the configurations of a base model and of a model fine-tuned from it.

    Args:
        base (`Checkpoint`), ingredient (`Checkpoint`):
            The arguments of [`base_notes`].
    """
    base_name = base.name
    if base_name == ingredient.name:
        base_name = f"{base.name} (base)"
    differences = base_differences(base.config, ingredient.config, (base_name, ingredient.name))
    if not differences:
        return []
    return [f"the base model computes differently from the ingredients: {several(differences)}"]


def choose(name: str) -> str:
    """How to resolve a difference in settings."""
    return f'Choose with take_from="{name}" (--take-from {name})'


def _in_words(
    topic: str,
    decisive: Sequence[Difference],
    noted: Sequence[Difference],
    giver: str,
    decided: bool,
    why: str,
) -> Findings:
    """The differences in one aspect, as sentences.

    Args:
        topic (`str`):
            The matter.
        decisive (`Sequence[Difference]`):
            Differences that change the computation: one problem each, unless the user has decided.
        noted (`Sequence[Difference]`):
            Differences that may change the computation: one note for all of them.
        giver (`str`):
            Name of the ingredient that gives the soup this matter.
        decided (`bool`):
            Whether the user named an ingredient to take settings from.
        why (`str`):
            Why a difference is a problem.
    """
    problems: list[str] = []
    notes: list[str] = []
    if decided:
        noted = [*decisive, *noted]
    elif decisive:
        usual_name = usual_holder(decisive[0])
        where = "" if topic in ("config.json", "processor") else f"{topic}: "
        problems = [f"{where}{difference}. {why}. {choose(usual_name)}" for difference in decisive]
    if noted:
        notes.append(f"{topic}: {several(noted)}; the soup takes that of {giver}")
    return Findings(problems, notes)


def _generation_in_configs(checkpoints: Sequence[Checkpoint]) -> list[Difference]:
    """Generation settings in `config.json`, which apply only without a `generation_config.json`."""
    settings = {}
    for item in checkpoints:
        writes = any(name.endswith(WRITES) for name in item.config.get("architectures") or ())
        if writes and GENERATION not in item.companion_digests:
            settings[item.name] = {key: value for key, value in item.config.items() if IS_GENERATION.search(key)}
    return find_differences(settings)


def _other_files(checkpoints: Sequence[Checkpoint], giver: Checkpoint | None) -> list[str]:
    """Files that no comparison reads and that are not the same in all ingredients."""
    digests: dict[str, dict[str, str]] = {}  # file -> ingredient -> digest
    for item in checkpoints:
        for name, digest in item.companion_digests.items():
            if _is_other_file(name):
                digests.setdefault(name, {})[item.name] = digest
    notes = []
    for name, by_holder in sorted(digests.items()):
        are_equal = len(set(by_holder.values())) == 1
        if are_equal and len(by_holder) == len(checkpoints):
            continue
        taken = "the soup has none"
        if giver is not None and giver.name in by_holder:
            taken = f"the soup takes that of {giver.name}"
        notes.append(f"{name} differs between the ingredients; {taken}")
    return notes


def _is_other_file(name: str) -> bool:
    """Whether a companion file is not read by any comparison but may change what a model does."""
    has_comparison = TOKENIZER.fullmatch(name) is not None or is_compared(name)
    return not has_comparison and name not in NOT_COMPARED
