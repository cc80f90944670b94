"""Numbers of a configuration that no model of these tensors has: refused before transformers builds anything of them.

A configuration of a hundred bytes can ask for a thousand million layers or classes, each of which is an object in
memory. It knows no architecture: a field counts by what its name says.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..errors import IngredientError
from ..untrusted import one_line
from .reader import TensorSpec


DEEPEST = 60  # levels of nesting; configurations of several models within one another have four
DIGITS = 40  # of a whole number; `model_max_length` of some has 31
# Fields of which each one makes a module, or an entry of a list or mapping.
MODULES = re.compile(r"layer|depth|block|stage|expert|codebook|branch|decoders?$|encoders?$|^num_\w*(heads|groups)$")
CLASSES = re.compile(r"label|class(es)?$|^num_tags$|choices")
POSITIONS = re.compile(r"position|^n_ctx$|max_(seq|sequence)_len|context_length|^seq_length$")
SIZES = re.compile(
    r"size|dim|width|channel|hidden|inner|embd|window|vocab|kernel|stride|patch|frame|^(d|n)_[a-z_]+$|^num_\w+$"
)
WIDTHS = re.compile(r"size|dim|width|channel|ffn|vocab|length")  # of what is there once
HIDDEN = re.compile(r"hidden_size|d_model|n_embd|(\w+_)?embed(ding)?_dim|dim")  # how wide a table of positions is
NO_COUNTS = re.compile(r"_(id|index|token|eps|idx|factor|scale|param|parameter|temperature)s?$|theta|^eos|^bos|seed")
NAMES = re.compile(r"id2label|label2id|label_descriptions")  # whose keys are no fields
ROTARY = re.compile(r"rope|rotary|alibi")  # positions that are computed when they are needed
FEWEST_MODULES, MOST_MODULES = 1_000, 100_000  # of a kind, with few tensors, and where they are not known
EXPERTS = re.compile(r"expert|codebook")  # of which one tensor may hold all
FEWEST_BUILT = 2_000  # modules of a model with hardly a tensor
MODULES_PER_TENSOR = 20  # most models have one or two
MOST_BUILT = 2**20  # where the tensors are not known
FEWEST_CLASSES, MOST_CLASSES = 100_000, 2_000_000  # where the tensors are known, and where they are not
LARGEST_SIZE = 2**28
TABLE, MOST_IN_TABLE = 2**26, 2**40  # numbers in a table of positions that no file holds


class Limits(NamedTuple):
    """How much a model may ask for.

    Args:
        modules (`int`), classes (`int`), size (`int`):
            The largest number of a field that counts layers and the like, classes, or anything else.
        table (`int`):
            Numbers in a table of all positions.
    """

    modules: int
    classes: int
    size: int
    table: int


def limits_of(specs: Mapping[str, TensorSpec] | None) -> Limits:
    """What a model of these tensors can have: no more layers than tensors, no more classes than rows.

    Args:
        specs (`Mapping[str, TensorSpec]`, *optional*):
            The tensors of its files; where they are not known yet, only what no model has is refused.
    """
    if not specs:
        return Limits(MOST_MODULES, MOST_CLASSES, LARGEST_SIZE, MOST_IN_TABLE)
    longest = max(max(spec.shape, default=0) for spec in specs.values())
    numbers = sum(spec.numel for spec in specs.values())
    return Limits(
        modules=max(FEWEST_MODULES, len(specs)),
        classes=max(FEWEST_CLASSES, longest),
        size=max(LARGEST_SIZE, longest),
        table=max(TABLE, 64 * numbers),
    )


def refuse_unbounded(config: Mapping[str, Any], where: str, specs: Mapping[str, TensorSpec] | None = None) -> None:
    """Refuse a configuration with numbers, lists or nesting that no model has.

    Args:
        config (`Mapping[str, Any]`):
            What `config.json` holds.
        where (`str`):
            What errors call it.
        specs (`Mapping[str, TensorSpec]`, *optional*):
            The tensors of its model.

    Raises:
        [`IngredientError`]: with the field and its value.
    """
    limits = limits_of(specs)
    waiting: list[tuple[str, Any, int]] = [("", config, 0)]
    rotary, positions, widest = False, ("", 0), 1
    while waiting:
        path, value, depth = waiting.pop()
        if depth > DEEPEST:
            raise IngredientError(f"{one_line(where)} is nested too deeply.")
        name = path.rpartition(".")[2]
        rotary = rotary or bool(ROTARY.search(name))
        if isinstance(value, Mapping):
            names = NAMES.fullmatch(name)
            waiting += [(path, key, depth + 1) for key in value]
            waiting += [(path if names else f"{path}.{key}", item, depth + 1) for key, item in value.items()]
        elif isinstance(value, list):
            most = limits.modules if _counts_entries(name) else limits.classes
            if len(value) > most:
                raise _cannot_be(path, f"a list of {len(value):,}", most, where)
            waiting += [(path, item, depth + 1) for item in value]
        elif isinstance(value, str):
            _refuse_half_characters(path, value, where)
        elif isinstance(value, int) and not isinstance(value, bool):
            _refuse_number(path, value, limits, where)
            if POSITIONS.search(name):
                positions = max(positions, (path, value), key=lambda found: found[1])
            elif HIDDEN.fullmatch(name):
                widest = max(widest, value)
    if not rotary:
        _refuse_table(positions, widest, limits, where)


def _refuse_number(path: str, number: int, limits: Limits, where: str) -> None:
    name = path.rpartition(".")[2]
    most = 10**DIGITS
    if NO_COUNTS.search(name):
        pass
    elif CLASSES.search(name):
        most = limits.classes
    elif _makes_modules(name):
        most = MOST_MODULES if EXPERTS.search(name) else limits.modules
    elif POSITIONS.search(name) or SIZES.search(name):
        most = limits.size
    if not -most <= number <= most:
        long = abs(number) > 10**DIGITS
        raise _cannot_be(path, f"a number of {number.bit_length()} bits" if long else str(number), most, where)


def _cannot_be(path: str, found: str, most: int, where: str) -> IngredientError:
    field = one_line(path.removeprefix("."), 80)
    return IngredientError(
        f"{one_line(where)} cannot be right: {field} is {found}, and its weights are for {most:,} at most."
    )


def _refuse_half_characters(path: str, text: str, where: str) -> None:
    """Refuse lone halves of characters, which no file in UTF-8 can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        field = one_line(path.removeprefix("."), 80) or "a key"
        raise IngredientError(f"{one_line(where)} cannot be right: {field} holds half a character.") from None


def _counts_entries(name: str) -> bool:
    """Whether each entry of a list of this name makes something; ids of tokens and names of classes do not."""
    return _makes_modules(name) and not NO_COUNTS.search(name) and not CLASSES.search(name)


def _makes_modules(name: str) -> bool:
    return MODULES.search(name) is not None and WIDTHS.search(name) is None


def _refuse_table(positions: tuple[str, int], widest: int, limits: Limits, where: str) -> None:
    """Refuse positions that are computed as a table when a model is built, and no file holds."""
    path, number = positions
    if number * widest > limits.table:
        raise IngredientError(
            f"{one_line(where)} cannot be right: {one_line(path.removeprefix('.'), 80)} is {number:,}, with sizes of "
            f"up to {widest:,}, which is more than its weights are for."
        )


def modules_for(tensors: int) -> int:
    """How many modules a model with so many tensors may have; rounded, so that similar models have the same limit."""
    return 2 ** (FEWEST_BUILT + MODULES_PER_TENSOR * tensors).bit_length()


@contextlib.contextmanager
def at_most_modules(most: int = MOST_BUILT) -> Iterator[None]:
    """Let a model that is built in the block have so many modules, counted as they are put together.

    Raises:
        [`IngredientError`]: when there is one more.
    """
    from torch.nn.modules.module import register_module_module_registration_hook

    count, builder = 0, threading.get_ident()

    def look(*_: object) -> None:
        nonlocal count
        count += threading.get_ident() == builder
        if count > most:
            raise IngredientError(f"its configuration asks for more than {most:,} modules, far more than its weights.")

    hook = register_module_module_registration_hook(look)
    try:
        yield
    finally:
        hook.remove()
