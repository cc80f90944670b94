"""All settings that give weights and ids their meaning, compared between ingredients: problems and notes in words.

The comparisons themselves are in `configs.py`, `tokenization.py` and `processors.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ..errors import IngredientError
from .checkpoint import GENERATION, Checkpoint
from .companions import first_with_files, giver_of_files, giver_of_generation, have_equal_files, in_order
from .configs import IS_GENERATION, WRITES, base_differences, compare_configs
from .differences import Difference, find_differences, several, usual_holder
from .files_beside import CARD, CONFIG, TOKENIZER
from .processors import compare_processors, is_compared
from .tokenization import compare_tokenizers, read_vocabularies
from .vocabulary import difference, in_both


OTHER_RULES = "The same weights compute something else with each"
OTHER_INPUTS = "The same inputs are prepared otherwise with each"
OTHER_IDS = "The same texts become other ids"
NOT_COMPARED = (CARD, CONFIG, ".gitattributes", "LICENSE")


class Findings(NamedTuple):
    """What a comparison found.

    Args:
        problems (`list[str]`):
            What keeps ingredients from being averaged, or needs a decision.
        notes (`list[str]`):
            What else differs, and from which ingredient the soup takes it.
    """

    problems: list[str]
    notes: list[str]


def compare_settings(
    checkpoints: Sequence[Checkpoint], *, settings: Checkpoint | None = None, sizes: bool = True
) -> Findings:
    """Compare configurations and all files beside the weights, but for labels and vocabularies.

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
    found = Findings([], [])
    order = in_order(checkpoints, settings)
    decided = settings is not None
    matters, unknown = compare_configs({item.name: item.config for item in checkpoints}, sizes=sizes)
    unknown += _generation_in_configs(checkpoints)
    _add(found, "config.json", matters, unknown, order[0].name, decided, OTHER_RULES)
    if have_equal_files(checkpoints):
        return found
    files, generation = giver_of_files(order), giver_of_generation(order)
    giver = files.name if files else ""
    sentences, noted, only_written = compare_tokenizers(checkpoints)
    for sentence in sentences:
        if decided:
            found.notes.append(f"{sentence}; the soup takes that of {giver}")
        else:
            usual = sentence.partition(" another tokenizer than ")[2].partition(":")[0]
            found.problems.append(f"{sentence}. {OTHER_IDS}. {choose(usual)}")
    _add(found, "tokenizer", [], noted, giver, decided, OTHER_IDS)
    found.notes.extend(f"{sentence}; the soup takes that of {giver}" for sentence in only_written)
    for finding in compare_processors(checkpoints):
        own_giver = generation.name if finding.generates and generation else giver
        _add(found, finding.topic, finding.decisive, finding.noted, own_giver, decided, OTHER_INPUTS)
        if finding.without:
            taken = "the soup has none" if own_giver in finding.without else f"the soup takes that of {own_giver}"
            found.notes.append(f"{', '.join(finding.without)} came without a {finding.topic}; {taken}")
    found.notes.extend(_other_files(checkpoints, first_with_files(order)))
    return found


def base_notes(base: Checkpoint, like: Checkpoint) -> list[str]:
    """What a base model computes and reads otherwise than a model fine-tuned from it.

    Args:
        base (`Checkpoint`):
            The base model.
        like (`Checkpoint`):
            One of the ingredients.
    """
    return [*base_computation_notes(base, like), *_base_vocabulary_notes(base, like)]


def _base_vocabulary_notes(base: Checkpoint, like: Checkpoint) -> list[str]:
    """Ids that are other words for the base model; tokens that only one of the two has are none."""
    renamed = replace(base, ingredient=replace(base.ingredient, name=f"{base.name} (base)"))
    try:
        found = read_vocabularies([renamed, like])
    except IngredientError:  # the tokenizer of a base model is not used
        return []
    if len(found) < 2:
        return []
    theirs, ours = (found[item.name] for item in (renamed, like))
    told = difference(in_both(theirs, ours), in_both(ours, theirs))
    advice = "Name the base model that they were fine-tuned from"
    return [f"the base model {base.name} has another tokenizer than {like.name}: {told}. {advice}"] if told else []


def base_computation_notes(base: Checkpoint, like: Checkpoint) -> list[str]:
    """What the configuration of a base model says otherwise than that of a model fine-tuned from it.

    Args:
        base (`Checkpoint`), like (`Checkpoint`):
            As for [`base_notes`].
    """
    called = base.name if base.name != like.name else f"{base.name} (base)"
    differences = base_differences(base.config, like.config, (called, like.name))
    if not differences:
        return []
    return [f"the base model computes otherwise than the ingredients: {several(differences)}"]


def choose(name: str) -> str:
    """The way out of a difference in settings."""
    return f'Choose with take_from="{name}" (--take-from {name})'


def _add(
    found: Findings,
    topic: str,
    decisive: Sequence[Difference],
    noted: Sequence[Difference],
    giver: str,
    decided: bool,
    why: str,
) -> None:
    """Differences in one matter as sentences: a problem each, or a note for all."""
    if decided:
        noted = [*decisive, *noted]
    else:
        usual = usual_holder(decisive)
        where = "" if topic in ("config.json", "processor") else f"{topic}: "
        found.problems.extend(f"{where}{difference}. {why}. {choose(usual)}" for difference in decisive)
    if noted:
        found.notes.append(f"{topic}: {several(noted)}; the soup takes that of {giver}")


def _generation_in_configs(checkpoints: Sequence[Checkpoint]) -> list[Difference]:
    """Settings of generation in `config.json`, which count where no generation configuration lies beside it."""
    settings = {}
    for item in checkpoints:
        writes = any(name.endswith(WRITES) for name in item.config.get("architectures") or ())
        if writes and GENERATION not in item.companion_digests:
            settings[item.name] = {key: value for key, value in item.config.items() if IS_GENERATION.search(key)}
    return find_differences(settings)


def _other_files(checkpoints: Sequence[Checkpoint], giver: Checkpoint | None) -> list[str]:
    """Files that no comparison reads, and that are not the same in all ingredients."""
    digests: dict[str, dict[str, str]] = {}
    for item in checkpoints:
        for name, digest in item.companion_digests.items():
            if name not in NOT_COMPARED and not TOKENIZER.fullmatch(name) and not is_compared(name):
                digests.setdefault(name, {})[item.name] = digest
    notes = []
    for name, by_holder in sorted(digests.items()):
        if len(set(by_holder.values())) > 1 or len(by_holder) < len(checkpoints):
            has_it = giver is not None and giver.name in by_holder
            taken = f"the soup takes that of {giver.name}" if has_it else "the soup has none"
            notes.append(f"{name} is not the same in all; {taken}")
    return notes
