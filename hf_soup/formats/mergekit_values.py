"""Values of mergekit's parameters: numbers, lists along the layers, and filters for names of tensors.

They become mappings of patterns, as a merge takes them. A list counts along the layers of the model, and its first
value for tensors outside of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..checkpoints.modules import IN_LAYERS, at_depth
from ..errors import RecipeError
from ..untrusted import one_line


def of_levels(levels: Sequence[Any], what: str) -> Any:
    """The value that several levels give to each tensor: where the filters of one leave a gap, the next one counts.

    Args:
        levels (`Sequence[Any]`):
            Values as the configuration has them, the most special first.
        what (`str`):
            File and parameter, with which error messages begin.

    Returns:
        A number, a truth value, a mapping of patterns to numbers and lists, or `None` if there is no level.

    Raises:
        [`RecipeError`]: if a value has another form, or no value is left for other tensors.
    """
    patterns: dict[str, Any] = {}
    for level in levels:
        if isinstance(level, list) and level and all(isinstance(item, Mapping) for item in level):
            for item in level:
                text = item.get("filter")
                _add(patterns, "" if text in (None, "*") else f"{text}*", item.get("value"), what)
        else:
            _add(patterns, "", level, what)
        if "" in patterns:
            return patterns[""] if list(patterns) == [""] else patterns
    if patterns:
        raise RecipeError(f"{what} has filters, and no value for the other tensors.")
    return None


def _add(patterns: dict[str, Any], ending: str, value: Any, what: str) -> None:
    """Add the value for names that contain a text; the first one for a name counts.

    Args:
        patterns (`dict[str, Any]`):
            Pattern -> value, so far.
        ending (`str`):
            The text and `*`; empty for all names.
        value:
            A number or a list.
        what (`str`):
            File and parameter.
    """
    if isinstance(value, list):
        if not value or not all(isinstance(item, (int, float)) for item in value):
            raise RecipeError(f"{what} is a number or a list of numbers, not {one_line(repr(value))}.")
        if len(set(value)) > 1:
            patterns.setdefault(IN_LAYERS + ending, list(value))
        value = value[0]
    elif not isinstance(value, (int, float)):
        raise RecipeError(f"{what} is a number or a list of numbers, not {one_line(repr(value))}.")
    patterns.setdefault(f"*{ending}" if ending else "", value)


def of_slices(values: Sequence[Any], sizes: Sequence[int]) -> Any:
    """The value of a parameter that has one value, of the form of [`of_levels`], for each slice of a model.

    Args:
        values (`Sequence[Any]`):
            Value in each slice. That of the first also counts for embeddings, and that of the last for other tensors
            outside of the layers.
        sizes (`Sequence[int]`):
            Number of layers of each slice.
    """
    if all(value == values[0] and not isinstance(value, Mapping) for value in values):
        return values[0]
    mappings = [dict(value) if isinstance(value, Mapping) else {"": value} for value in values]
    endings: dict[str, None] = {}  # of patterns in any slice, in order; the empty one, for all other names, is last
    for mapping in mappings:
        endings |= dict.fromkeys(_ending(pattern) for pattern in mapping if _ending(pattern))
    patterns: dict[str, Any] = {}
    for ending in (*endings, ""):
        by_layer = []
        for mapping, size in zip(mappings, sizes, strict=True):
            value = _of_ending(mapping, ending)
            for layer in range(size):
                depth = layer / max(size - 1, 1)
                by_layer.append(at_depth(value, depth) if isinstance(value, list) else value)
        patterns[IN_LAYERS + ending] = by_layer
    for ending in endings:
        patterns[f"*{ending}"] = mappings[-1].get(f"*{ending}", mappings[-1][""])
    return {**patterns, "*embed*": mappings[0][""], "": mappings[-1][""]}


def _ending(pattern: str) -> str:
    """The text that names of a pattern contain, and `*`."""
    return pattern.removeprefix(IN_LAYERS).removeprefix("*")


def _of_ending(mapping: Mapping[str, Any], ending: str) -> Any:
    """The value in layers for names that contain a text: that of this text, or that of all other names."""
    for pattern in (IN_LAYERS + ending, f"*{ending}" if ending else "", IN_LAYERS):
        if pattern in mapping:
            return mapping[pattern]
    return mapping[""]
