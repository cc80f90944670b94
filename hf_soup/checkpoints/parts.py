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
    fits = {part: _in_checkpoint(_fit(config, part, specs, folder), part) for part, specs in tensors.items()}
    all_specs: dict[str, TensorSpec] = {}
    expected: dict[str, tuple[int, ...]] = {}
    optional: set[str] = set()
    twins: list[tuple[TensorSpec, str]] = []
    notes: list[str] = []
    parts_with_class = set()
    for part, fitted in fits.items():
        all_specs |= fitted.specs
        if fitted.expected is not None:
            parts_with_class.add(part)
            expected |= fitted.expected
        optional |= fitted.optional
        twins += fitted.twins
        notes += fitted.notes
    problems = [fitted.problem for fitted in fits.values() if fitted.problem]
    return Fitted(
        specs=dict(sorted(all_specs.items())),
        expected=expected if parts_with_class else None,
        optional=frozenset(optional),
        twins=tuple(twins),
        notes=tuple(notes),
        problem="; ".join(problems),
        parts=frozenset(parts_with_class),
    )


def _fit(config: Mapping[str, Any], part: str, specs: Mapping[str, TensorSpec], folder: Path | None) -> Fitted:
    """The tensors of one part under the names that its class has for them, where its class is known."""
    if part == "":
        settings = config
    elif folder is not None:
        settings = read_config(folder / part, needed=False)
        if "architectures" not in settings:  # settings of a module of sentence-transformers, such as a pooling
            settings = {}
    else:
        settings = {}
    return fit(settings, specs) if settings else _unwrapped(specs)


def _in_checkpoint(fitted: Fitted, part: str) -> Fitted:
    """The tensors of a part under the names that they have among all of the checkpoint."""
    prefix = part_prefix(part)
    specs = {}
    for name, spec in fitted.specs.items():
        full_name = prefix + name
        stored = "" if full_name == spec.key else spec.key
        specs[full_name] = spec._replace(name=full_name, stored=stored)
    expected = None
    if fitted.expected is not None:
        expected = {prefix + name: shape for name, shape in fitted.expected.items()}
    return fitted._replace(
        specs=specs,
        expected=expected,
        optional=frozenset(prefix + name for name in fitted.optional),
        twins=tuple((spec, prefix + name) for spec, name in fitted.twins),
    )


def _unwrapped(tensors: Mapping[str, TensorSpec]) -> Fitted:
    """The tensors of a module whose class is not looked at, without what wrappers left in their names."""
    plain_names = without_plain_wrappers(tensors)
    specs = {}
    stripped = {}
    for key, spec in tensors.items():
        name = plain_names[key]
        if name != key:
            stripped[key] = name
            spec = spec._replace(name=name, stored=key)
        specs[name] = spec
    return Fitted(specs, notes=prefix_notes(stripped))
