"""The parts of a checkpoint: the model itself, and modules in sub-folders (`2_Dense` of a SentenceTransformer).

Tensors of a part are called after it, so that all of a checkpoint's tensors have names of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .folder import read_config
from .layout import Fitted, fit
from .reader import TensorSpec
from .wrapped_names import prefix_notes, without_plain_wrappers


def part_prefix(part: str) -> str:
    """What stands in front of the names of a part's tensors; nothing for the model itself."""
    return f"{part.replace('/', '.')}." if part else ""


def fit_parts(
    config: Mapping[str, Any], tensors: Mapping[str, dict[str, TensorSpec]], folder: Path | None = None
) -> Fitted:
    """Bring the tensors of a checkpoint to the names that their classes have for them.

    Args:
        config (`Mapping[str, Any]`):
            What `config.json` of the model itself holds.
        tensors (`Mapping[str, dict[str, TensorSpec]]`):
            Part -> its tensors by their names in its files.
        folder (`Path`, *optional*):
            Of the checkpoint, where parts have configurations of their own.

    Returns:
        [`Fitted`]: of all parts together.

    Raises:
        [`IngredientError`]: if the configuration of a part cannot be read.
    """
    specs: dict[str, TensorSpec] = {}
    expected: dict[str, tuple[int, ...]] = {}
    twins, optional, known, notes, problems = [], set(), set(), [], []
    for part, of_part in tensors.items():
        settings = config if part == "" else read_config(folder / part, needed=False)
        if part and "architectures" not in settings:
            settings = {}
        found = fit(settings, of_part) if settings else _unwrapped(of_part)
        prefix = part_prefix(part)
        for key, spec in found.specs.items():
            stored = "" if prefix + key == spec.key else spec.key
            specs[prefix + key] = spec._replace(name=prefix + key, stored=stored)
        if found.expected is not None:
            known.add(part)
            expected |= {prefix + key: shape for key, shape in found.expected.items()}
        optional |= {prefix + key for key in found.optional}
        twins += [(spec, prefix + key) for spec, key in found.twins]
        notes += found.notes
        problems += [found.problem] if found.problem else []
    return Fitted(
        dict(sorted(specs.items())),
        expected if known else None,
        frozenset(optional),
        tuple(twins),
        tuple(notes),
        "; ".join(problems),
        frozenset(known),
    )


def _unwrapped(tensors: Mapping[str, TensorSpec]) -> Fitted:
    """The tensors of a module whose class is not looked at, without what wrappers left in their names."""
    plain = without_plain_wrappers(tensors)
    specs = {}
    for key, spec in tensors.items():
        name = plain[key]
        specs[name] = spec if name == key else spec._replace(name=name, stored=key)
    stripped = {key: name for key, name in plain.items() if key != name}
    return Fitted(specs, notes=prefix_notes(stripped))
