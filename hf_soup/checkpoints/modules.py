"""Tensor names -> named module groups, and the weights by module that apply to each tensor. Tensors are not read."""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..errors import RecipeError, did_you_mean
from ..untrusted import one_line
from .reader import TensorSpec


IN_LAYERS = "*.[0-9]*"  # pattern for names of tensors in numbered layers; what follows it may match none
PATTERN = re.compile(r"[*?\[]")  # in what stands for names of tensors
# A first component with less than this fraction of the tensors is a head even if it has numbers (`classifier.1`).
LARGEST_HEAD = 10


class Module(NamedTuple):
    """A named group of a model's tensors that can have its own weights in a soup.

    Args:
        name (`str`):
            Name of the module, as weights by module use it, such as `"encoder.layer.3"`.
        tensors (`int`):
            Number of tensors in the module.
        parameters (`int`):
            Number of floating-point parameters in these tensors.
    """

    name: str
    tensors: int
    parameters: int


def list_modules(specs: Iterable[TensorSpec]) -> tuple[Module, ...]:
    """The named modules of a model in order of depth, as far as names tell: by name, with numbers sorted as numbers.

    Args:
        specs (`Iterable[TensorSpec]`):
            All tensors of the model.
    """
    specs = list(specs)
    prefix = own_prefix(spec.name for spec in specs)
    tensors: Counter[str] = Counter()
    parameters: Counter[str] = Counter()
    for spec in specs:
        module = group(spec.name, prefix)
        tensors[module] += 1
        if spec.is_floating:
            parameters[module] += spec.numel
    names = sorted(tensors, key=_by_numbers)
    return tuple(Module(name, tensors[name], parameters[name]) for name in names)


def by_depth(names: Iterable[str], order: Iterable[str]) -> tuple[str, ...]:
    """The named modules of a model from the bottom up.

    Args:
        names (`Iterable[str]`):
            Names of the tensors on disk.
        order (`Iterable[str]`):
            The same names from the bottom of the model up. Names that are not among them are sorted by the names
            alone.
    """
    names = list(names)
    prefix = own_prefix(names)
    places = {name: place for place, name in enumerate(order)}
    last = len(places)
    lowest: dict[str, int] = {}  # module -> the position of its first tensor
    for name in names:
        module = group(name, prefix)
        place = places.get(name, last)
        lowest[module] = min(lowest.get(module, last), place)
    return tuple(sorted(lowest, key=lambda module: (lowest[module], _by_numbers(module))))


def _by_numbers(name: str) -> list[tuple[bool, int, str]]:
    """A key that sorts the numbers in names as numbers, and before words."""
    key = []
    for component in name.split("."):
        is_number = component.isdecimal()
        number = int(component) if is_number else 0
        key.append((not is_number, number, component))
    return key


def own_prefix(names: Iterable[str]) -> str:
    """The prefix that a model with a head puts before its body (`"bert"`, `"vit"`, `"model"`), or `""`.

    It is the only first component that contains numbered layers, provided that it contains other tensors too: an
    encoder-decoder has two such components, a bare body none. A head may have numbers too (`classifier.1`), but is
    small.
    """
    paths = [name.split(".") for name in names]
    bodies = _bodies(paths)
    if len(bodies) != 1:
        return ""
    prefix = bodies[0]
    # A bare body also has one first component with layers, `encoder` or `layers`, but it contains nothing else.
    children = {path[1] for path in paths if path[0] == prefix and len(path) > 1}
    if len(children) < 2 or _has_number(children):
        return ""
    return prefix


def _bodies(paths: Sequence[Sequence[str]]) -> list[str]:
    """The first components that contain numbered layers, except heads, which are small.

    Args:
        paths (`Sequence[Sequence[str]]`):
            The components of each name.
    """
    sizes = Counter(path[0] for path in paths)
    with_layers = {path[0] for path in paths if _has_number(path)}
    return [first for first in with_layers if sizes[first] * LARGEST_HEAD > len(paths)]


def _has_number(components: Iterable[str]) -> bool:
    """Whether some components of names are numbers, as those of layers are."""
    return any(component.isdecimal() for component in components)


def head_names(names: Iterable[str]) -> tuple[str, ...]:
    """The tensors of the head: those outside the body's prefix; empty if there is no such prefix."""
    names = list(names)
    prefix = own_prefix(names)
    if not prefix:
        return ()
    return tuple(name for name in names if not _covers(prefix, name))


def class_tensors(specs: Mapping[str, TensorSpec], classes: int, classifiers: Sequence[str] = ()) -> tuple[str, ...]:
    """The tensors with one row per class: those of the head with as many rows as there are classes.

    Args:
        specs (`Mapping[str, TensorSpec]`):
            All tensors by name.
        classes (`int`):
            Number of classes.
        classifiers (`Sequence[str]`, *optional*):
            The modules that are the head, where names alone do not tell.

    Raises:
        [`RecipeError`]: if there is none, or one has as many rows as columns, so that classes could be either.
    """
    names = [name for name in specs if _is_below(classifiers, name)] or head_names(specs)
    tensors = []
    for name in names:
        spec = specs[name]
        if not spec.is_floating or spec.shape[:1] != (classes,):
            continue
        if spec.shape[1:2] == (classes,):  # the shape does not show whether rows or columns are the classes
            raise _cannot_be_permuted(f"{name} is square")
        tensors.append(name)
    if not tensors:
        raise _cannot_be_permuted(f"no tensor of the head has {classes} rows")
    return tuple(tensors)


def _cannot_be_permuted(why: str) -> RecipeError:
    return RecipeError(f"the heads cannot be permuted: {why}. Fine-tune with one label2id for all.")


def group(name: str, prefix: str = "") -> str:
    """The module group of one tensor: up to and including the first number (`encoder.layer.3`), else the first
    component.

    Args:
        name (`str`):
            The tensor's name on disk.
        prefix (`str`, *optional*):
            The model's own prefix, which is left out.
    """
    components = name.removeprefix(f"{prefix}.").split(".")
    for index, component in enumerate(components):
        if component.isdecimal():
            return ".".join(components[: index + 1])
    return components[0]


def assign_weights(
    names: Iterable[str], weights_by_module: Mapping[str, tuple[float, ...]]
) -> dict[str, tuple[float, ...]]:
    """The weights of each tensor: those of the longest module prefix that covers it.

    Args:
        names (`Iterable[str]`):
            Tensor names on disk.
        weights_by_module (`Mapping[str, tuple[float, ...]]`):
            Module prefix -> a weight for each ingredient; prefixes are whole dotted components, with or without
            the model's own prefix.

    Returns:
        `dict[str, tuple[float, ...]]`: tensor name -> a weight for each ingredient.

    Raises:
        [`RecipeError`]: if a prefix matches no tensor, two are the same module, or a tensor has no weights.
    """
    names = list(names)
    matched = assign_modules(names, weights_by_module, "weights")
    without_weights = [name for name in names if name not in matched]
    if without_weights:
        raise RecipeError(
            f'weights: {len(without_weights)} tensors such as "{without_weights[0]}" have none; give a row for "" as '
            "well, the rest."
        )
    return {name: weights_by_module[matched[name]] for name in names}


def assign_modules(names: Sequence[str], modules: Iterable[str], what: str) -> dict[str, str]:
    """The module of each tensor: the first pattern that matches it, or else the longest prefix that covers it. Tensors
    that none covers are left out.

    Args:
        names (`Sequence[str]`):
            Tensor names on disk.
        modules (`Iterable[str]`):
            Module prefixes: whole dotted components, with or without the model's own prefix; or patterns for names,
            such as `"*self_attn*"`.
        what (`str`):
            What is given by module, with which error messages begin.

    Raises:
        [`RecipeError`]: if a prefix matches no tensor, or two are the same module.
    """
    modules = list(modules)
    patterns = [module for module in modules if PATTERN.search(module)]
    whole_names = _whole_names(names, [module for module in modules if module not in patterns], what)
    matched: dict[str, str] = {}
    for module in sorted(whole_names, key=len):  # if two cover a tensor, the longer comes later
        for name in names:
            if _covers(module, name):
                matched[name] = whole_names[module]
    for pattern in reversed(patterns):
        covered = fnmatch.filter(names, pattern)
        if not covered and not pattern.startswith(IN_LAYERS):
            raise RecipeError(f'{what}: no tensor has a name like "{one_line(pattern)}".')
        matched |= dict.fromkeys(covered, pattern)
    return matched


def depths_of(names: Iterable[str]) -> dict[str, float]:
    """The depth of each tensor: 0 for the first of numbered layers and for embeddings, 1 for the last and above.

    Layers have equal distances. An encoder and a decoder are each counted from 0 to 1.

    Args:
        names (`Iterable[str]`):
            Tensor names on disk.
    """
    names = list(names)
    prefix = own_prefix(names)
    stacks = _layers_by_stack(names, prefix)
    depths = {}
    for name in names:
        module = group(name, prefix)
        stack = _stack_of(module)
        if stack is not None:
            depths[name] = stacks[stack].index(module) / max(len(stacks[stack]) - 1, 1)
        else:
            depths[name] = 0.0 if any(_is_embedding(component) for component in name.split(".")) else 1.0
    return depths


def at_depth(values: Sequence[float], depth: float) -> float:
    """The value at a depth from 0 to 1, interpolated between values at equal distances.

    Args:
        values (`Sequence[float]`):
            One value or more, the first of which belongs to the bottom of the model, and the last to the top.
        depth (`float`):
            Position in the model.
    """
    place = depth * (len(values) - 1)
    low = min(int(place), len(values) - 1)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def count_layers(names: Iterable[str]) -> int:
    """The number of layers of the largest stack; 0 if no names have numbers.

    Args:
        names (`Iterable[str]`):
            Tensor names on disk.
    """
    names = list(names)
    return max(map(len, _layers_by_stack(names, own_prefix(names)).values()), default=0)


def _layers_by_stack(names: Sequence[str], prefix: str) -> dict[str, list[str]]:
    """Name of each stack of layers, such as `encoder.layer` -> its layers from the bottom up."""
    stacks: dict[str, set[str]] = {}
    for name in names:
        module = group(name, prefix)
        stack = _stack_of(module)
        if stack is not None:
            stacks.setdefault(stack, set()).add(module)
    return {stack: sorted(modules, key=_by_numbers) for stack, modules in stacks.items()}


def _stack_of(module: str) -> str | None:
    """The components before the number of a layer; `None` for a module that is no layer."""
    components = module.split(".")
    for place, component in enumerate(components):
        if component.isdecimal():
            return ".".join(components[:place])
    return None


def _is_embedding(component: str) -> bool:
    """Whether a component of a name belongs to the bottom of a model."""
    return "embed" in component or component in ("wte", "wpe", "shared", "stem")


def _whole_names(names: Sequence[str], modules: Iterable[str], what: str) -> dict[str, str]:
    """The full name of each module, with the model's own prefix -> its name as it was given."""
    prefix = own_prefix(names)
    whole_names: dict[str, str] = {}
    for module in modules:
        name = module
        if not _covers_any(name, names):
            name = f"{prefix}.{module}"
        if not _covers_any(name, names):
            groups = {group(tensor, prefix) for tensor in names}
            hint = did_you_mean(module, groups)
            raise RecipeError(f'{what}: no tensor lies below the module "{one_line(module)}"{hint}')
        if name in whole_names:
            raise RecipeError(f'{what}: "{whole_names[name]}" and "{module}" are the same module; give it one value.')
        whole_names[name] = module
    return whole_names


def _covers_any(prefix: str, names: Iterable[str]) -> bool:
    return any(_covers(prefix, name) for name in names)


def _is_below(prefixes: Iterable[str], name: str) -> bool:
    return any(_covers(prefix, name) for prefix in prefixes)


def _covers(prefix: str, name: str) -> bool:
    """Whether a tensor is below a prefix of complete components, so that `layer.1` does not cover `layer.10`."""
    return not prefix or name == prefix or name.startswith(prefix + ".")
