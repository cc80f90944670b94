"""Traces of wrappers in tensor names: torch.compile, DDP, FSDP, or a module around the model.

Only names are examined, and a prefix is removed only if the result is a name of the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from .loading_rules import Loader


# Components that wrappers insert into tensor names: torch.compile, FSDP, activation checkpointing, Lightning.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
PARALLEL = "module"  # of DataParallel and DDP; a model may have a module with this name itself
DEEPEST = 3  # leading components of all names of a file that are tried as a prefix


class Recognised(NamedTuple):
    """A tensor of a file.

    Args:
        name (`str`):
            Name of the tensor without what a wrapper added to it.
        in_memory (`str`, *optional*):
            Name of the tensor in memory; `None` where the model has no such tensor.
    """

    name: str
    in_memory: str | None


def recognise(key: str, prefix: str, loader: Loader) -> Recognised:
    """Find the tensor of a model that a name in a file refers to; an unknown name is kept.

    Args:
        key (`str`):
            The name in the file.
        prefix (`str`):
            Prefix of the names in the file, as [`foreign_prefix`] finds it.
        loader ([`Loader`]):
            How transformers names what it finds.
    """
    for candidate in _without_wrappers(key, prefix):
        in_memory = loader.in_memory(candidate)
        if in_memory is not None:
            return Recognised(candidate, in_memory)
    return Recognised(key, None)


def _without_wrappers(key: str, prefix: str) -> Iterator[str]:
    """The names that a tensor may have had before it was wrapped, the least changed first."""
    yield key
    components = key.split(".")
    inner = _without(components, WRAPPERS)
    yield ".".join(inner)
    while inner and inner[0] == PARALLEL:
        inner = inner[1:]
        yield ".".join(inner)
    last_wrapper = -1
    for index, component in enumerate(components):
        if component in (*WRAPPERS, PARALLEL):
            last_wrapper = index
    if last_wrapper >= 0:  # also without the components before the wrapper
        yield ".".join(components[last_wrapper + 1 :])
    if prefix:
        yield key.removeprefix(prefix)
    yield ".".join(_without(inner, (PARALLEL,)))


def _without(components: Iterable[str], wrappers: Collection[str]) -> list[str]:
    """The components of a name other than these wrappers."""
    return [component for component in components if component not in wrappers]


def foreign_prefix(names: Iterable[str], loader: Loader) -> str:
    """The leading components of most names that are not part of the model, such as `net.`."""
    names = list(names)
    if any(loader.in_memory(name) for name in names):
        return ""
    for count in range(1, DEEPEST + 1):
        beginnings = Counter(_beginning(name, count) for name in names)
        prefix, _ = beginnings.most_common(1)[0]
        recognised = [name for name in names if loader.in_memory(name.removeprefix(prefix))]
        if len(recognised) * 2 > len(names):  # the others may belong to a loss or a head outside the model
            return prefix
    return ""


def _beginning(name: str, count: int) -> str:
    """The first components of a name, with the dot after them."""
    return ".".join(name.split(".")[:count]) + "."


def without_plain_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Names of a module whose class is not examined, without components of wrappers: name -> original name."""
    names = list(names)
    # DDP puts it in front of all names; if only some have it, it is a module of the model.
    all_parallel = all(name.startswith(f"{PARALLEL}.") for name in names)
    plain = {}
    for name in names:
        components = _without(name.split("."), WRAPPERS)
        if all_parallel:
            components = components[1:]
        plain[name] = ".".join(components)
    return plain


def prefix_notes(stripped: Mapping[str, str]) -> tuple[str, ...]:
    """Notes about the prefixes that were removed, and from how many names.

    Args:
        stripped (`Mapping[str, str]`):
            Name in a file -> the same without what a wrapper put into it.
    """
    counts = Counter(_taken_off(key, name) for key, name in stripped.items())
    notes = []
    for removed, count in counts.items():
        notes.append(f"{removed!r}, which a wrapper left, was taken off the names of {count} tensors")
    return tuple(notes)


def _taken_off(key: str, name: str) -> str:
    """The prefix that was removed from a name, or else the wrappers in it."""
    if key.endswith(name):
        return key.removesuffix(name)
    wrappers = set(key.split(".")) & set(WRAPPERS)
    return ", ".join(sorted(wrappers))
