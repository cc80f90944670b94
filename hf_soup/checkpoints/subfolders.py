"""The subfolders of a checkpoint that hold weights (`2_Dense` of a SentenceTransformer); the model itself is `""`.

The names of a subfolder's tensors start with its name, so that all tensor names of a checkpoint are distinct.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .folder import read_config
from .layout import Fitted, fit
from .reader import TensorSpec
from .wrapped_names import prefix_notes, without_plain_wrappers


def subfolder_prefix(subfolder: str) -> str:
    """The prefix of the names of a subfolder's tensors; empty for the model itself."""
    if not subfolder:
        return ""
    return f"{subfolder.replace('/', '.')}."


def fit_subfolders(
    config: Mapping[str, Any], tensors: Mapping[str, dict[str, TensorSpec]], folder: Path | None = None
) -> Fitted:
    """Rename the tensors of a checkpoint to the names that their classes use.

    Args:
        config (`Mapping[str, Any]`):
            Content of the `config.json` of the model itself.
        tensors (`Mapping[str, dict[str, TensorSpec]]`):
            Subfolder -> its tensors by their names in its files.
        folder (`Path`, *optional*):
            Folder of the checkpoint, where subfolders have configurations of their own.

    Returns:
        [`Fitted`]: of all subfolders together.

    Raises:
        [`IngredientError`]: if the configuration of a subfolder cannot be read.
    """
    all_specs: dict[str, TensorSpec] = {}
    expected: dict[str, tuple[int, ...]] = {}
    optional: set[str] = set()
    twins: list[tuple[TensorSpec, str]] = []
    notes: list[str] = []
    problems = []
    subfolders_with_class = set()
    for subfolder, specs in tensors.items():
        settings = _settings_of(config, subfolder, folder)
        own_fitted = fit(settings, specs) if settings else _unwrapped(specs)
        fitted = _in_checkpoint(own_fitted, subfolder)
        all_specs |= fitted.specs
        if fitted.expected is not None:
            subfolders_with_class.add(subfolder)
            expected |= fitted.expected
        optional |= fitted.optional
        twins += fitted.twins
        notes += fitted.notes
        if fitted.problem:
            problems.append(fitted.problem)
    return Fitted(
        specs=dict(sorted(all_specs.items())),
        expected=expected if subfolders_with_class else None,
        optional=frozenset(optional),
        twins=tuple(twins),
        notes=tuple(notes),
        problem="; ".join(problems),
        subfolders=frozenset(subfolders_with_class),
    )


def _settings_of(config: Mapping[str, Any], subfolder: str, folder: Path | None) -> Mapping[str, Any]:
    """The configuration of the model in one subfolder; empty if it is not a configuration that transformers knows."""
    if subfolder == "":
        return config
    if folder is None:
        return {}
    settings = read_config(folder / subfolder, needed=False)
    if "architectures" not in settings:  # settings of a module of sentence-transformers, such as a pooling
        return {}
    return settings


def _in_checkpoint(fitted: Fitted, subfolder: str) -> Fitted:
    """The tensors of a subfolder under their names within the checkpoint."""
    prefix = subfolder_prefix(subfolder)
    specs = {}
    for name, spec in fitted.specs.items():
        full_name = prefix + name
        stored = "" if full_name == spec.key else spec.key  # empty if the file uses the same name
        if (full_name, stored) != (spec.name, spec.stored):
            spec = spec._replace(name=full_name, stored=stored)
        specs[full_name] = spec
    expected = fitted.expected
    if expected is not None and prefix:
        expected = {prefix + name: shape for name, shape in expected.items()}
    return fitted._replace(
        specs=specs,
        expected=expected,
        optional=frozenset(prefix + name for name in fitted.optional),
        twins=tuple((spec, prefix + name) for spec, name in fitted.twins),
    )


def _unwrapped(tensors: Mapping[str, TensorSpec]) -> Fitted:
    """The tensors of a module whose class is not examined, with names free of wrappers."""
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
