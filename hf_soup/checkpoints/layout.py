"""Which tensors a model's class reads and writes: their names and shapes on disk, as transformers itself decides.

A file may call a tensor otherwise than the class does today: by an older name (`LayerNorm.gamma`), with or without the
prefix of the body, below what a wrapper put in front (`_orig_mod.`), twice where weights are tied. `fit` brings the
names of a file to those that `save_pretrained` writes now, so that like is compared with like. It reads no weights.
"""

from __future__ import annotations

import functools
import json
import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import IngredientError, MissingExtraError
from ..version import versions
from .memory import architecture, empty_model, on_disk
from .reader import TensorSpec


if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What wrappers put into the names of tensors: torch.compile, FSDP, activation checkpointing, Lightning.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
PARALLEL = "module"  # of DataParallel and DDP; a model may have a module of that name itself
DEEPEST = 3  # components that stand in front of all names of a file and are tried as a prefix
# Buffers of older files that transformers ignores on load and no longer writes: they make no two files different.
IGNORED = re.compile(r"(^|\.)position_ids$|(^|\.)rotary_emb\.inv_freq$")
# Fields of a configuration that do not change which tensors a model has.
WITHOUT_EFFECT = ("_name_or_path", "dtype", "torch_dtype", "transformers_version", "id2label", "label2id")
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
            Stored duplicates of tied weights, which are not among `specs`, each with the name of its twin there.
        notes (`tuple[str, ...]`):
            What was taken off or left out.
        problem (`str`):
            Why there can be no such model.
        parts (`frozenset[str]`):
            Which parts of a checkpoint `expected` speaks of; `""` is the model itself.
    """

    specs: dict[str, TensorSpec]
    expected: Mapping[str, tuple[int, ...]] | None = None
    optional: frozenset[str] = frozenset()
    twins: tuple[tuple[TensorSpec, str], ...] = ()
    notes: tuple[str, ...] = ()
    problem: str = ""
    parts: frozenset[str] = frozenset({""})


def fit(config: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> Fitted:
    """Bring the names of a file's tensors to those that the model's class writes today.

    Args:
        config (`Mapping[str, Any]`):
            What `config.json` holds.
        specs (`Mapping[str, TensorSpec]`):
            The tensors of its files, by the names there.

    Returns:
        [`Fitted`]

    Raises:
        [`IngredientError`]: if two tensors of the file are the same tensor of the model.
    """
    known = _remembered(config)
    if known is not None and _same(known, specs):
        return Fitted(dict(specs), known)
    with _LOCK:
        try:
            layout = _layout(_key(config))
        except IngredientError as error:
            return Fitted(_without_ignored(specs), problem=str(error))
        except MissingExtraError as error:
            note = f"the names of its tensors were not compared with those of the model: {error}"
            return Fitted(_without_ignored(specs), notes=(note,))
        if type(layout.model).__module__.startswith("transformers."):  # a class of the user's own may change
            _remember(config, layout.shapes)
        if _same(layout.shapes, specs):
            return Fitted(dict(specs), layout.shapes)
        return _fit(layout, architecture(config)[0], specs)


def names_in_depth(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a model's tensors on disk in the order in which its class makes them, mostly from the bottom up;
    those last that transformers puts together from others.

    Args:
        config (`Mapping[str, Any]`):
            What `config.json` holds. No weights are made.

    Raises:
        [`IngredientError`]: if transformers cannot build the model.
    """
    known = _remembered(config)
    if known is not None:
        return tuple(known)
    with _LOCK:
        return tuple(_layout(_key(config)).shapes)


class _Family(NamedTuple):
    """Tensors that belong together when transformers loads: on disk each may be one, or several that it puts together.

    Args:
        disk (`tuple[str, ...]`):
            Their names in files.
        memory (`tuple[str, ...]`):
            Their names in a loaded model; a file may have the tensors in this form as well.
    """

    disk: tuple[str, ...]
    memory: tuple[str, ...]


class _Layout(NamedTuple):
    """What transformers knows of a model's tensors.

    Args:
        model (`PreTrainedModel`):
            On the meta device.
        shapes (`dict[str, tuple[int, ...]]`):
            Name on disk -> shape, from the bottom up.
        families (`dict[str, _Family]`):
            Each name on disk and in memory -> those that it belongs with.
        tied (`dict[str, str]`):
            Name in memory of a weight that is another one -> that one.
        unsaved (`frozenset[str]`):
            Names in memory that `save_pretrained` leaves out.
        computed (`frozenset[str]`):
            Buffers that the model computes and that older versions saved, without the prefix of the body.
        ignored (`re.Pattern`), optional (`re.Pattern`, *optional*):
            What transformers ignores in a file, and what it does not miss.
    """

    model: PreTrainedModel
    shapes: dict[str, tuple[int, ...]]
    families: dict[str, _Family]
    tied: dict[str, str]
    unsaved: frozenset[str]
    computed: frozenset[str]
    ignored: re.Pattern
    optional: re.Pattern | None

    def loader(self) -> _Loader:
        """How transformers names what it finds in one file; some of its rules remember what they have seen."""
        return _Loader(self.model)


class _Loader:
    """The names that transformers gives to the tensors of a file when it loads them.

    Args:
        model (`PreTrainedModel`):
            On the meta device.
    """

    def __init__(self, model: PreTrainedModel):
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        mapping = get_model_conversion_mapping(model)
        self._renamings = [rule for rule in mapping if isinstance(rule, WeightRenaming)]
        self._converters = [rule for rule in mapping if isinstance(rule, WeightConverter)]
        self._state = model.state_dict()
        self._prefix = model.base_model_prefix

    def in_memory(self, name: str) -> str | None:
        """The name in memory of a tensor of a file (of the first, where it becomes several); `None` if it has none."""
        from transformers.core_model_loading import rename_source_key

        found, _ = rename_source_key(name, self._renamings, self._converters, self._prefix, self._state)
        if found not in self._state and name in self._state:  # it should not have been renamed
            found, _ = rename_source_key(name, [], [], self._prefix, self._state)
        return found if found in self._state else None

    def spelt(self, name: str) -> str:
        """A name with today's spelling, without the prefix of the body."""
        for rule in self._renamings:
            name, _ = rule.rename_source_key(name)
        while self._prefix and name.startswith(f"{self._prefix}."):
            name = name.removeprefix(f"{self._prefix}.")
        return name


@functools.lru_cache(maxsize=16)
def _layout(key: str) -> _Layout:
    """What transformers knows of the tensors of a model, from its configuration as JSON."""
    model = empty_model(json.loads(key))
    unsaved = frozenset(model._keys_to_ignore_on_save or ())
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in unsaved}
    on_file = on_disk(model, dict(state))
    places = {id(tensor): place for place, tensor in enumerate(state.values())}
    names = sorted(on_file, key=lambda name: places.get(id(on_file[name]), len(places)))
    shapes = {name: tuple(on_file[name].shape) for name in names}
    tied = dict(getattr(model, "all_tied_weights_keys", {}))
    families = _families(model, [name for name in state if name not in tied], names)
    ignored = _pattern([*(model._keys_to_ignore_on_load_unexpected or ()), IGNORED.pattern])
    optional = model._keys_to_ignore_on_load_missing
    prefix = f"{model.base_model_prefix}."
    computed = frozenset(name.removeprefix(prefix) for name, _ in model.named_non_persistent_buffers())
    pattern = _pattern(optional) if optional else None
    return _Layout(model, shapes, families, tied, unsaved, computed, ignored, pattern)


def _families(model: PreTrainedModel, memory: Sequence[str], disk: Sequence[str]) -> dict[str, _Family]:
    """Each name of a model's tensors, in memory and on disk -> those that it belongs with."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    loader = _Loader(model)
    on_load = {name: loader.in_memory(name) for name in disk}
    rules = reversed(get_model_conversion_mapping(model, add_legacy=False))
    backwards = [rule.reverse_transform() for rule in rules if isinstance(rule, WeightConverter)]
    together: dict[str, tuple[list[str], list[str]]] = {}
    for name in memory:
        group = name
        for rule in backwards:
            renamed, pattern = rule.rename_source_key(name)
            if pattern is not None:  # one rule at most
                group = renamed
                break
        together.setdefault(group, ([], []))[1].append(name)
    group_of = {name: group for group, (_, names) in together.items() for name in names}
    for name, found in on_load.items():
        group = group_of.get(found, f"{name} alone")
        together.setdefault(group, ([], []))[0].append(name)
    families = {}
    for names, in_memory in together.values():
        family = _Family(tuple(names), tuple(in_memory))
        for name in (*in_memory, *names):
            families[name] = family
    return families


def _fit(layout: _Layout, cls: str, specs: Mapping[str, TensorSpec]) -> Fitted:
    from transformers.core_model_loading import dot_natural_key

    loader = layout.loader()
    prefix = _foreign_prefix(specs, loader)
    found: dict[str, TensorSpec] = {}
    twins, stripped = [], {}
    for key in sorted(specs, key=dot_natural_key):
        name, in_memory = _recognised(key, prefix, loader)
        if name != key:
            stripped[key] = name
        if in_memory is None and (layout.ignored.search(name) or loader.spelt(name) in layout.computed):
            continue
        if in_memory in layout.unsaved:
            continue
        canonical = name if in_memory is None else _on_disk(layout, loader, name, in_memory)
        spec = specs[key] if canonical == key else specs[key]._replace(name=canonical, stored=key)
        if (
            in_memory in layout.tied
            and canonical in layout.shapes
            and _holds(specs, loader, prefix, layout, in_memory)
        ):
            twins.append((spec, canonical))
            continue
        if canonical in found:
            raise IngredientError(
                f"its files hold {found[canonical].key} and {key}, which are one tensor of {cls} ({canonical}). Save "
                "the model again."
            )
        found[canonical] = spec
    expected = _expected(layout, found)
    optional = frozenset(name for name in expected if layout.optional is not None and layout.optional.search(name))
    notes = _prefix_notes(stripped)
    return Fitted(dict(sorted(found.items())), expected, optional, tuple(twins), notes)


def _recognised(key: str, prefix: str, loader: _Loader) -> tuple[str, str | None]:
    """A name without what a wrapper put into it, and its name in memory; as it is where the model knows none of it."""
    for candidate in _without_wrappers(key, prefix):
        in_memory = loader.in_memory(candidate)
        if in_memory is not None:
            return candidate, in_memory
    return key, None


def _without_wrappers(key: str, prefix: str) -> Iterable[str]:
    """What a name may have been before it was wrapped, the least changed first."""
    yield key
    parts = key.split(".")
    inner = [part for part in parts if part not in WRAPPERS]
    yield ".".join(inner)
    while inner and inner[0] == PARALLEL:
        inner = inner[1:]
        yield ".".join(inner)
    places = [place for place, part in enumerate(parts) if part in (*WRAPPERS, PARALLEL)]
    if places:  # with what stands in front of the wrapper as well
        yield ".".join(parts[places[-1] + 1 :])
    if prefix:
        yield key.removeprefix(prefix)


def _foreign_prefix(names: Iterable[str], loader: _Loader) -> str:
    """What stands in front of all names and is none of the model's own, such as `net.`."""
    names = list(names)
    if any(loader.in_memory(name) for name in names):
        return ""
    for count in range(1, DEEPEST + 1):
        fronts = {".".join(name.split(".")[:count]) + "." for name in names}
        if len(fronts) > 1:
            return ""
        (prefix,) = fronts
        known = [name for name in names if loader.in_memory(name.removeprefix(prefix))]
        if len(known) * 2 > len(names):
            return prefix
    return ""


def _on_disk(layout: _Layout, loader: _Loader, name: str, in_memory: str) -> str:
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


def _holds(specs: Mapping[str, TensorSpec], loader: _Loader, prefix: str, layout: _Layout, in_memory: str) -> bool:
    """Whether a file has the weight itself that a tied one is, so that the tied one is stored twice."""
    own = layout.tied[in_memory]
    return any(_recognised(key, prefix, loader)[1] == own for key in specs)


def _expected(layout: _Layout, found: Mapping[str, TensorSpec]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all that a model reads from such a file: of tensors that it puts together the names that the
    file has, on disk or as in memory.
    """
    expected = dict(layout.shapes)
    state = layout.model.state_dict()
    for family in {id(family): family for family in layout.families.values()}.values():
        as_in_memory = any(name in found for name in family.memory if name not in family.disk)
        if as_in_memory and not any(name in found for name in family.disk if name not in family.memory):
            for name in family.disk:
                expected.pop(name, None)
            for name in family.memory:
                expected[name] = tuple(state[name].shape)
    return expected


def _prefix_notes(stripped: Mapping[str, str]) -> tuple[str, ...]:
    """What was taken off, and of how many names."""
    counts: dict[str, int] = {}
    for key, name in stripped.items():
        front = key.removesuffix(name)
        taken = front if front + name == key else ", ".join(sorted(set(key.split(".")) & set(WRAPPERS)))
        counts[taken] = counts.get(taken, 0) + 1
    return tuple(
        f"{taken!r}, which a wrapper left, was taken off the names of {count} tensors"
        for taken, count in counts.items()
    )


def _pattern(patterns: Iterable[str]) -> re.Pattern:
    return re.compile("|".join(f"({pattern})" for pattern in patterns))


def _without_ignored(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    return {name: spec for name, spec in specs.items() if not IGNORED.search(name)}


def _same(shapes: Mapping[str, tuple[int, ...]], specs: Mapping[str, TensorSpec]) -> bool:
    """Whether a file has just these tensors."""
    return shapes.keys() == specs.keys() and all(spec.shape == shapes[name] for name, spec in specs.items())


def _key(config: Mapping[str, Any]) -> str:
    """All of a configuration that decides which tensors its model has, as JSON."""
    kept = {key: value for key, value in config.items() if key not in WITHOUT_EFFECT}
    if config.get("id2label"):
        kept["num_labels"] = len(config["id2label"])
    return json.dumps(kept, sort_keys=True, default=str)


def cache_folder() -> Path:
    """Where layouts are kept between processes: below `HF_HOME`."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "hf_soup" / "layouts"


def _file(config: Mapping[str, Any]) -> Path:
    import xxhash

    content = _key(config) + _versions()
    return cache_folder() / f"{xxhash.xxh3_128_hexdigest(content.encode())}.json"


def _remembered(config: Mapping[str, Any]) -> Mapping[str, tuple[int, ...]] | None:
    """Names and shapes that another process has looked up: to import transformers' models takes a second."""
    return _read(_file(config))


@functools.cache
def _versions() -> str:
    return json.dumps(versions(), sort_keys=True)


@functools.lru_cache(maxsize=16)
def _read(path: Path) -> Mapping[str, tuple[int, ...]] | None:
    try:
        found = json.loads(path.read_bytes())
        return {name: tuple(shape) for name, shape in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _remember(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Keep names and shapes for other processes; without a folder that can be written nothing is kept."""
    path = _file(config)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(shapes), encoding="utf-8")
        os.replace(aside, path)
    except OSError:
        return
    _read.cache_clear()
