"""Which tensors a model's class reads and writes: their names and shapes on disk, as transformers itself decides.

A file may call a tensor otherwise than the class does today: by an older name (`LayerNorm.gamma`), with or without the
prefix of the body, below what a wrapper put in front (`_orig_mod.`), twice where weights are tied. `fit` brings the
names of a file to those that `save_pretrained` writes now, so that like is compared with like. It reads no weights.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import IngredientError, MissingExtraError
from .bounds import modules_for, refuse_unbounded
from .layout_cache import remember, remembered
from .loading_rules import IGNORED, Layout, Loader, layout_key, layout_of
from .reader import TensorSpec
from .wrapped_names import foreign_prefix, prefix_notes, recognise


FEW, MANY = 2_000, 20  # tensors beyond those of the model, and times their number, that are sorted out
_LOCK = threading.Lock()  # ingredients are opened side by side, and transformers builds one model at a time


class Fitted(NamedTuple):
    """The tensors of a file under the names that their class has for them today.

    Args:
        specs (`dict[str, TensorSpec]`):
            By these names, sorted. Names that the class does not know are as they were.
        expected (`Mapping[str, tuple[int, ...]]`, *optional*):
            Names and shapes of all tensors that the class reads; `None` where it could not be looked at.
        optional (`frozenset[str]`):
            Those of them that may be absent from a file.
        twins (`tuple[tuple[TensorSpec, str], ...]`):
            Tensors that are stored twice, tied or under an old and a new name: what is not among `specs`, each with
            the name of its twin there.
        notes (`tuple[str, ...]`):
            What was taken off or left out.
        problem (`str`):
            Why there can be no such model.
        subfolders (`frozenset[str]`):
            Which subfolders of a checkpoint `expected` speaks of; `""` is the model itself.
    """

    specs: dict[str, TensorSpec]
    expected: Mapping[str, tuple[int, ...]] | None = None
    optional: frozenset[str] = frozenset()
    twins: tuple[tuple[TensorSpec, str], ...] = ()
    notes: tuple[str, ...] = ()
    problem: str = ""
    subfolders: frozenset[str] = frozenset({""})


def fit(config: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> Fitted:
    """Bring the names of a file's tensors to those that the model's class writes today.

    Args:
        config (`Mapping[str, Any]`):
            What `config.json` holds.
        specs (`Mapping[str, TensorSpec]`):
            The tensors of its files, by the names there.

    Returns:
        [`Fitted`]
    """
    refuse_unbounded(config, "config.json", specs)
    shapes = remembered(config)
    if shapes is not None and _same(shapes, specs):
        return Fitted(dict(specs), shapes)
    with _LOCK:
        try:
            layout = layout_of(layout_key(config), modules_for(len(specs)))
        except IngredientError as error:
            return Fitted(_without_ignored(specs), problem=str(error))
        except MissingExtraError as error:
            note = f"the names of its tensors were not compared with those of the model: {error}"
            return Fitted(_without_ignored(specs), notes=(note,))
        if type(layout.model).__module__.startswith("transformers."):  # a class of the user's own may change
            remember(config, layout.shapes)
        if _same(layout.shapes, specs):
            return Fitted(dict(specs), layout.shapes)
        if len(specs) > FEW + MANY * len(layout.shapes):
            problem = (
                f"it holds {len(specs):,} tensors, and the model that config.json names has {len(layout.shapes):,}: "
                "one of the two belongs to another model."
            )
            return Fitted(_without_ignored(specs), problem=problem)
        return _fit(layout, specs)


def names_in_depth(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a model's tensors on disk in the order in which its class makes them, mostly from the bottom up;
    those last that transformers puts together from others.

    Args:
        config (`Mapping[str, Any]`):
            What `config.json` holds. No weights are made.

    Raises:
        [`IngredientError`]: if transformers cannot build the model.
    """
    shapes = remembered(config)
    if shapes is not None:
        return tuple(shapes)
    with _LOCK:
        return tuple(layout_of(layout_key(config)).shapes)


def _fit(layout: Layout, specs: Mapping[str, TensorSpec]) -> Fitted:
    from transformers.core_model_loading import dot_natural_key

    loader = layout.loader()
    prefix = foreign_prefix(specs, loader)
    recognised = {key: recognise(key, prefix, loader) for key in sorted(specs, key=dot_natural_key)}
    in_memory_names = {tensor.in_memory for tensor in recognised.values() if tensor.in_memory is not None}
    kept: dict[str, TensorSpec] = {}
    twins: list[tuple[TensorSpec, str]] = []
    for key, (name, in_memory) in recognised.items():
        if _is_left_out(layout, loader, name, in_memory):
            continue
        canonical = name if in_memory is None else _on_disk(layout, loader, name, in_memory)
        spec = specs[key] if canonical == key else specs[key]._replace(name=canonical, stored=key)
        # A tied weight is stored twice where the file holds the weight that it is tied to as well.
        tied_to = layout.tied.get(in_memory) if in_memory is not None else None
        if canonical in kept or (tied_to in in_memory_names and canonical in layout.shapes):
            twins.append((spec, canonical))  # a tensor under two names: equal, or refused where they are compared
        else:
            kept[canonical] = spec
    expected = _expected(layout, kept)
    optional = frozenset(name for name in expected if layout.optional is not None and layout.optional.search(name))
    stripped = {key: tensor.name for key, tensor in recognised.items() if tensor.name != key}
    return Fitted(dict(sorted(kept.items())), expected, optional, tuple(twins), prefix_notes(stripped))


def _is_left_out(layout: Layout, loader: Loader, name: str, in_memory: str | None) -> bool:
    """Whether transformers ignores a tensor of a file, or no longer writes it."""
    if in_memory is None:
        return bool(layout.ignored.search(name)) or loader.spelt(name) in layout.computed
    return in_memory in layout.unsaved


def _on_disk(layout: Layout, loader: Loader, name: str, in_memory: str) -> str:
    """The name that files have today for a tensor of a file, by its name there and in memory."""
    in_memory = layout.tied.get(in_memory, in_memory)
    family = layout.families[in_memory]
    if len(family.disk) == 1 and len(family.memory) == 1:
        return family.disk[0]
    if name in family.disk:
        return name
    spelt = loader.spelt(name)
    alike = [other for other in family.disk if loader.spelt(other) == spelt]
    return alike[0] if alike else in_memory


def _expected(layout: Layout, kept: Mapping[str, TensorSpec]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all that a model reads from such a file: of tensors that it puts together the names that the
    file has, on disk or as in memory.
    """
    expected = dict(layout.shapes)
    state = layout.model.state_dict()
    families = {id(family): family for family in layout.families.values()}
    for family in families.values():
        only_in_memory = [name for name in family.memory if name not in family.disk]
        only_on_disk = [name for name in family.disk if name not in family.memory]
        is_as_in_memory = any(name in kept for name in only_in_memory)
        if is_as_in_memory and not any(name in kept for name in only_on_disk):
            for name in family.disk:
                expected.pop(name, None)
            for name in family.memory:
                expected[name] = tuple(state[name].shape)
    return expected


def _without_ignored(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    return {name: spec for name, spec in specs.items() if not IGNORED.search(name)}


def _same(shapes: Mapping[str, tuple[int, ...]], specs: Mapping[str, TensorSpec]) -> bool:
    """Whether a file has just these tensors."""
    return shapes.keys() == specs.keys() and all(spec.shape == shapes[name] for name, spec in specs.items())
