"""What wrappers of a module leave in the names of its tensors: torch.compile, DDP, FSDP, a module around the model.

It decides by names alone, and takes off only what makes a name one of the model's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from .loading_rules import Loader


# What wrappers put into the names of tensors: torch.compile, FSDP, activation checkpointing, Lightning.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
PARALLEL = "module"  # of DataParallel and DDP; a model may have a module of that name itself
DEEPEST = 3  # components that stand in front of all names of a file and are tried as a prefix


def recognised(key: str, prefix: str, loader: Loader) -> tuple[str, str | None]:
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
    yield ".".join(part for part in inner if part != PARALLEL)


def foreign_prefix(names: Iterable[str], loader: Loader) -> str:
    """What stands in front of most names and is none of the model's own, such as `net.`."""
    names = list(names)
    if any(loader.in_memory(name) for name in names):
        return ""
    for count in range(1, DEEPEST + 1):
        fronts = Counter(".".join(name.split(".")[:count]) + "." for name in names)
        prefix, _ = fronts.most_common(1)[0]
        known = [name for name in names if loader.in_memory(name.removeprefix(prefix))]
        if len(known) * 2 > len(names):
            return prefix
    return ""


def without_plain_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Names of a module whose class is not looked at, without what wrappers put there: name -> what it was before."""
    names = list(names)
    all_parallel = all(name.startswith(f"{PARALLEL}.") for name in names)
    found = {}
    for name in names:
        parts = [part for part in name.split(".") if part not in WRAPPERS]
        found[name] = ".".join(parts[1:] if all_parallel else parts)
    return found


def prefix_notes(stripped: Mapping[str, str]) -> tuple[str, ...]:
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
