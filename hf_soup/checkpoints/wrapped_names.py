"""What wrappers of a module leave in the names of its tensors: torch.compile, DDP, FSDP, a module around the model.

It decides by names alone, and takes off only what makes a name one of the model's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from .loading_rules import Loader


# What wrappers put into the names of tensors: torch.compile, FSDP, activation checkpointing, Lightning.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
PARALLEL = "module"  # of DataParallel and DDP; a model may have a module of that name itself
DEEPEST = 3  # components that stand in front of all names of a file and are tried as a prefix


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
    """Find the tensor of a model that a name in a file stands for; where there is none, the name stays as it is.

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
    """What a name may have been before it was wrapped, the least changed first."""
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
    if last_wrapper >= 0:  # without what stands in front of the wrapper as well
        yield ".".join(components[last_wrapper + 1 :])
    if prefix:
        yield key.removeprefix(prefix)
    yield ".".join(_without(inner, (PARALLEL,)))


def _without(components: Iterable[str], wrappers: Collection[str]) -> list[str]:
    """The components of a name that are none of these wrappers."""
    return [component for component in components if component not in wrappers]


def foreign_prefix(names: Iterable[str], loader: Loader) -> str:
    """What stands in front of most names and is none of the model's own, such as `net.`."""
    names = list(names)
    if any(loader.in_memory(name) for name in names):
        return ""
    for count in range(1, DEEPEST + 1):
        beginnings = Counter(_beginning(name, count) for name in names)
        prefix, _ = beginnings.most_common(1)[0]
        recognised = [name for name in names if loader.in_memory(name.removeprefix(prefix))]
        if len(recognised) * 2 > len(names):  # the others may be of a loss or a head beside the model
            return prefix
    return ""


def _beginning(name: str, count: int) -> str:
    """The first components of a name, with the dot behind them."""
    return ".".join(name.split(".")[:count]) + "."


def without_plain_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Names of a module whose class is not looked at, without what wrappers put there: name -> what it was before."""
    names = list(names)
    # DDP puts it in front of all names; where some have it, it is a module of the model.
    all_parallel = all(name.startswith(f"{PARALLEL}.") for name in names)
    plain = {}
    for name in names:
        components = _without(name.split("."), WRAPPERS)
        if all_parallel:
            components = components[1:]
        plain[name] = ".".join(components)
    return plain


def prefix_notes(stripped: Mapping[str, str]) -> tuple[str, ...]:
    """What was taken off, and of how many names.

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
    """The beginning of a name that was taken off, or else the wrappers that stood in it."""
    if key.endswith(name):
        return key.removesuffix(name)
    wrappers = set(key.split(".")) & set(WRAPPERS)
    return ", ".join(sorted(wrappers))
