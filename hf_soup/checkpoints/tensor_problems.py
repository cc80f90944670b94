"""Which tensors of ingredients do not go together: absent, additional or of another shape, held against the model that
`config.json` names where that is known, else against what most ingredients have. It reads no weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import listed
from .checkpoint import Checkpoint
from .parts import part_prefix


SHOWN = 3  # names in one line


def tensor_problems(item: Checkpoint, usual: Mapping[str, tuple[int, ...]], *, may_lack: bool = False) -> list[str]:
    """What is wrong with the tensors of one ingredient, by name and shape.

    Args:
        item (`Checkpoint`):
            An opened ingredient.
        usual (`Mapping[str, tuple[int, ...]]`):
            Names and shapes that most ingredients have.
        may_lack (`bool`, *optional*, defaults to `False`):
            Whether it is a base model, which may have no head.

    Returns:
        `list[str]`: a line for each kind of problem.
    """
    if item.fitted is not None and item.fitted.problem:
        return [*item.problems, f"{item.name}: {item.fitted.problem}"]
    needed = _needed(item, usual)
    optional = item.fitted.optional if item.fitted is not None else frozenset()
    absent = [name for name in needed if name not in item.specs and name not in optional]
    extra = [name for name in item.specs if name not in needed]
    problems = [*item.problems]
    if not may_lack:
        problems += _line(item, "lacks", [name for name in absent if name in usual], "")
        problems += _line(
            item,
            "lacks",
            [name for name in absent if name not in usual],
            f", which {item.architecture} would draw anew",
        )
    problems += _line(item, "has in addition", [name for name in extra if name not in usual], "")
    problems += _line(
        item,
        "has in addition",
        [name for name in extra if name in usual],
        f", which {item.architecture} does not have",
    )
    if not problems and not may_lack:  # the model would load it, and still the others have other tensors
        way_out = ": transformers loads both layouts; load one of them and save it again with `save_pretrained`"
        problems += _line(item, "lacks", [name for name in usual if name not in item.specs], way_out)
        problems += _line(item, "has in addition", [name for name in item.specs if name not in usual], way_out)
    return problems + shape_problems(item, needed, usual)


def _needed(item: Checkpoint, usual: Mapping[str, tuple[int, ...]]) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes that an ingredient should have: its model's, and of parts without a model the usual ones."""
    if item.fitted is None or item.fitted.expected is None:
        return usual
    elsewhere = {name for name, spec in item.specs.items() if spec.part not in item.fitted.parts}
    prefixes = tuple(part_prefix(part) for part in item.parts if part not in item.fitted.parts)
    more = {name: shape for name, shape in usual.items() if name in elsewhere or name.startswith(prefixes)}
    return {**item.fitted.expected, **more}


def _line(item: Checkpoint, what: str, names: Sequence[str], why: str) -> list[str]:
    if not names:
        return []
    return [f"{item.name} {what} {listed(sorted(names), SHOWN)}{why}"]


def shape_problems(
    item: Checkpoint, needed: Mapping[str, tuple[int, ...]], usual: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Tensors of another shape than they should have.

    Args:
        item (`Checkpoint`):
            An opened ingredient.
        needed (`Mapping[str, tuple[int, ...]]`):
            Names and shapes that its model reads.
        usual (`Mapping[str, tuple[int, ...]]`):
            Those that most ingredients have.
    """
    found = []
    for name, shape in needed.items():
        spec = item.specs.get(name)
        if spec is None or spec.shape == shape == usual.get(name, shape):
            continue
        if 0 in spec.shape and 0 not in shape:
            found.append(
                f"{item.name}: {name} is empty. DeepSpeed (ZeRO 3) leaves such files; its zero_to_fp32.py makes whole "
                "weights of its state"
            )
        elif name in usual and spec.shape != usual[name]:
            found.append(f"{item.name}: {name} has the shape {list(spec.shape)}, the others {list(usual[name])}")
        elif spec.shape != shape:
            found.append(
                f"{item.name}: {name} has the shape {list(spec.shape)}, and its config.json makes it {list(shape)}"
            )
    return found
