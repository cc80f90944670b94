"""Which tensors a model's class reads and writes: their names and shapes on disk, as transformers itself decides.

A file may name a tensor differently from the current class: by an older name (`LayerNorm.gamma`), with or without the
prefix of the body, with the prefix of a wrapper (`_orig_mod.`), or twice if weights are tied. `fit` converts the names
of a file to those that `save_pretrained` writes now, so that tensors can be compared. It reads no weights.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import IngredientError, MissingExtraError
from .bounds import modules_for, refuse_unbounded
from .layout_cache import remember, remembered
from .loading_rules import IGNORED, Family, Layout, Loader, layout_key, layout_of
from .reader import TensorSpec
from .wrapped_names import Recognised, foreign_prefix, prefix_notes, recognise


# The names of a file with more than 2,000 tensors and more than 20 times those of its model are not matched, since the
# file holds another model and each name is tried against every rule of transformers.
FEW, MANY = 2_000, 20
_LOCK = threading.Lock()  # ingredients are opened in parallel, but transformers builds one model at a time


class Fitted(NamedTuple):
    """The tensors of a file under the names that their class currently uses.

    Args:
        specs (`dict[str, TensorSpec]`):
            Tensors by these names, sorted. Names that the class does not know are unchanged.
        expected (`Mapping[str, tuple[int, ...]]`, *optional*):
            Names and shapes of all tensors that the class reads; `None` where it could not be looked at.
        optional (`frozenset[str]`):
            Names of the tensors that may be absent from a file.
        twins (`tuple[tuple[TensorSpec, str], ...]`):
            Tensors that are stored twice, tied or under an old and a new name: what is not among `specs`, each with
            the name of its twin there.
        notes (`tuple[str, ...]`):
            Notes on what was removed from names or left out.
        problem (`str`):
            Why there can be no such model.
        subfolders (`frozenset[str]`):
            Subfolders of a checkpoint that `expected` covers; `""` is the model itself.
    """

    specs: dict[str, TensorSpec]
    expected: Mapping[str, tuple[int, ...]] | None = None
    optional: frozenset[str] = frozenset()
    twins: tuple[tuple[TensorSpec, str], ...] = ()
    notes: tuple[str, ...] = ()
    problem: str = ""
    subfolders: frozenset[str] = frozenset({""})


def fit(config: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> Fitted:
    """Rename a file's tensors to the names that the model's class currently writes.

    Args:
        config (`Mapping[str, Any]`):
            Content of `config.json`.
        specs (`Mapping[str, TensorSpec]`):
            The tensors of its files, by the names there.

    Returns:
        [`Fitted`]
    """
    refuse_unbounded(config, "config.json", specs)
    shapes = remembered(config)
    if shapes is not None and _same(shapes, specs):  # the usual case, handled without transformers
        return Fitted(dict(specs), shapes)
    with _LOCK:
        try:
            layout = layout_of(layout_key(config), modules_for(len(specs)))
        except IngredientError as error:
            return Fitted(_without_ignored(specs), problem=str(error))
        except MissingExtraError as error:
            note = f"the names of its tensors were not compared with those of the model: {error}"
            return Fitted(_without_ignored(specs), notes=(note,))
        if type(layout.model).__module__.startswith("transformers."):  # a class defined by the user may change
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


def shapes_of(config: Mapping[str, Any]) -> Mapping[str, tuple[int, ...]]:
    """The names and shapes of a model's tensors on disk, with tied weights once.

    Args:
        config (`Mapping[str, Any]`):
            Content of `config.json`. The model is built without weights.

    Raises:
        [`IngredientError`]: if transformers cannot build the model.
    """
    shapes = remembered(config)
    if shapes is not None:
        return shapes
    with _LOCK:
        return layout_of(layout_key(config)).shapes


def names_in_depth(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a model's tensors on disk in the order in which its class creates them, mostly from the bottom up;
    tensors that transformers assembles from others come last.

    Args:
        config (`Mapping[str, Any]`):
            Content of `config.json`. The model is built without weights.

    Raises:
        [`IngredientError`]: if transformers cannot build the model.
    """
    return tuple(shapes_of(config))


def _fit(layout: Layout, specs: Mapping[str, TensorSpec]) -> Fitted:
    """Match the tensors of a file whose names are not exactly those that their class currently writes."""
    from transformers.core_model_loading import dot_natural_key

    loader = layout.loader()
    prefix = foreign_prefix(specs, loader)
    # In the order in which transformers loads them, since some of its rules keep state between names.
    keys = sorted(specs, key=dot_natural_key)
    recognised = {key: recognise(key, prefix, loader) for key in keys}
    kept, twins = _under_canonical_names(layout, loader, specs, recognised)
    expected = _expected(layout, kept)
    optional: frozenset[str] = frozenset()
    if layout.optional is not None:
        optional = frozenset(filter(layout.optional.search, expected))
    stripped = {key: tensor.name for key, tensor in recognised.items() if tensor.name != key}
    return Fitted(dict(sorted(kept.items())), expected, optional, tuple(twins), prefix_notes(stripped))


def _under_canonical_names(
    layout: Layout, loader: Loader, specs: Mapping[str, TensorSpec], recognised: Mapping[str, Recognised]
) -> tuple[dict[str, TensorSpec], list[tuple[TensorSpec, str]]]:
    """The tensors of a file under their current names on disk, and those that the file holds a second time.

    Args:
        layout ([`Layout`]), loader ([`Loader`]):
            Layout and loader of the model.
        specs (`Mapping[str, TensorSpec]`):
            The tensors by their names in the file.
        recognised (`Mapping[str, Recognised]`):
            Name in the file -> the tensor of the model.
    """
    present = {tensor.in_memory for tensor in recognised.values() if tensor.in_memory is not None}
    kept: dict[str, TensorSpec] = {}
    twins: list[tuple[TensorSpec, str]] = []
    for key, tensor in recognised.items():
        if _is_left_out(layout, loader, tensor):
            continue
        canonical = _on_disk(layout, loader, tensor)
        spec = specs[key]
        if canonical != key:
            spec = spec._replace(name=canonical, stored=key)
        has_original = _tied_to(layout, tensor) in present and canonical in layout.shapes
        # A second copy is compared with the first when the weights are read, before it is dropped.
        if canonical in kept or has_original:
            twins.append((spec, canonical))
        else:
            kept[canonical] = spec
    return kept, twins


def _is_left_out(layout: Layout, loader: Loader, tensor: Recognised) -> bool:
    """Whether transformers ignores a tensor of a file, or no longer writes it."""
    if tensor.in_memory is not None:
        return tensor.in_memory in layout.unsaved
    return layout.ignored.search(tensor.name) is not None or loader.current_name(tensor.name) in layout.computed


def _tied_to(layout: Layout, tensor: Recognised) -> str | None:
    """The name in memory of the weight to which a tensor is tied."""
    return None if tensor.in_memory is None else layout.tied.get(tensor.in_memory)


def _on_disk(layout: Layout, loader: Loader, tensor: Recognised) -> str:
    """The current name on disk of a tensor of a file; its own name if the model has no such tensor."""
    if tensor.in_memory is None:
        return tensor.name
    in_memory = _tied_to(layout, tensor) or tensor.in_memory
    family = layout.families[in_memory]
    if len(family.disk) == 1 and len(family.memory) == 1:
        return family.disk[0]
    # Several tensors are converted together, so the name in memory does not identify one of those on disk.
    if tensor.name in family.disk:
        return tensor.name
    current_name = loader.current_name(tensor.name)
    for name in family.disk:
        if loader.current_name(name) == current_name:
            return name
    return in_memory


def _expected(layout: Layout, kept: Mapping[str, TensorSpec]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of everything that a model reads from such a file; assembled tensors appear under the file's
    own names, on disk or as in memory.
    """
    expected = dict(layout.shapes)
    state = layout.model.state_dict()
    for family in dict.fromkeys(layout.families.values()):  # each family is listed under all of its names
        if _is_as_in_memory(family, kept):
            for name in family.disk:
                expected.pop(name, None)
            for name in family.memory:
                expected[name] = tuple(state[name].shape)
    return expected


def _is_as_in_memory(family: Family, kept: Mapping[str, TensorSpec]) -> bool:
    """Whether a file has the assembled tensors under their names in memory, and none under the names on disk."""
    only_in_memory = set(family.memory) - set(family.disk)
    only_on_disk = set(family.disk) - set(family.memory)
    # `isdisjoint` would iterate over all tensors for each family
    return any(name in kept for name in only_in_memory) and not any(name in kept for name in only_on_disk)


def _without_ignored(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    return {name: spec for name, spec in specs.items() if not IGNORED.search(name)}


def _same(shapes: Mapping[str, tuple[int, ...]], specs: Mapping[str, TensorSpec]) -> bool:
    """Whether a file has exactly these tensors."""
    if shapes.keys() != specs.keys():
        return False
    return all(spec.shape == shapes[name] for name, spec in specs.items())
