"""Limits on the numbers in a configuration, checked before transformers builds anything from it.

A configuration of a hundred bytes can ask for a billion layers or classes, each of which becomes an object in memory.
The limits follow from the names of the fields; this module knows no architectures.
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


DEEPEST = 60  # levels of nesting; a configuration that contains several models has four
DIGITS = 40  # of an integer; some values of `model_max_length` have 31
# Fields that count modules, or entries of a list or mapping.
MODULES = re.compile(r"layer|depth|block|stage|expert|codebook|branch|decoders?$|encoders?$|^num_\w*(heads|groups)$")
CLASSES = re.compile(r"label|class(es)?$|^num_tags$|choices")
POSITIONS = re.compile(r"position|^n_ctx$|max_(seq|sequence)_len|context_length|^seq_length$")
SIZES = re.compile(
    r"size|dim|width|channel|hidden|inner|embd|window|vocab|kernel|stride|patch|frame|^(d|n)_[a-z_]+$|^num_\w+$"
)
WIDTHS = re.compile(r"size|dim|width|channel|ffn|vocab|length")  # sizes of a single object, not counts
HIDDEN = re.compile(r"hidden_size|d_model|n_embd|(\w+_)?embed(ding)?_dim|dim")  # the width of a position table
NO_COUNTS = re.compile(r"_(id|index|token|eps|idx|factor|scale|param|parameter|temperature)s?$|theta|^eos|^bos|seed")
NAMES = re.compile(r"id2label|label2id|label_descriptions")  # their keys are not field names
ROTARY = re.compile(r"rope|rotary|alibi")  # positions that are computed on demand
FEWEST_MODULES, MOST_MODULES = 1_000, 100_000  # per field: with few tensors, and with unknown tensors
EXPERTS = re.compile(r"expert|codebook")  # one tensor may hold all of them
FEWEST_BUILT = 2_000  # modules of a model with very few tensors
MODULES_PER_TENSOR = 20  # most models have one or two
MOST_BUILT = 2**20  # where the tensors are unknown
FEWEST_CLASSES, MOST_CLASSES = 100_000, 2_000_000  # where the tensors are known, and where they are unknown
LARGEST_SIZE = 2**28
TABLE, MOST_IN_TABLE = 2**26, 2**40  # numbers in a position table that is not stored in a file


class Limits(NamedTuple):
    """The largest numbers that a model may ask for.

    Args:
        modules (`int`), classes (`int`), size (`int`):
            The largest number of a field that counts layers and the like, classes, or anything else.
        table (`int`):
            Number of elements in a table of all positions.
    """

    modules: int
    classes: int
    size: int
    table: int


def limits_of(specs: Mapping[str, TensorSpec] | None) -> Limits:
    """The limits of a model with these tensors: at most as many layers as tensors, and as many classes as rows.

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
    """Refuse a configuration whose numbers, lists or nesting exceed what any model has.

    Args:
        config (`Mapping[str, Any]`):
            Content of `config.json`.
        where (`str`):
            Name of the file in errors.
        specs (`Mapping[str, TensorSpec]`, *optional*):
            The tensors of its model.

    Raises:
        [`IngredientError`]: with the field and its value.
    """
    limits = limits_of(specs)
    positions = _Positions()
    waiting = [_Field("", config, 0)]
    while waiting:
        field = waiting.pop()
        if field.depth > DEEPEST:
            raise IngredientError(f"{one_line(where)} is nested too deeply.")
        positions.see(field)
        value = field.value
        if isinstance(value, Mapping):
            waiting += field.inner()
        elif isinstance(value, list):
            _refuse_long(field, limits, where)
            waiting += field.inner()
        elif isinstance(value, str):
            _refuse_half_characters(field.path, value, where)
        elif _is_number(value):
            _refuse_number(field, limits, where)
    positions.refuse_table(limits, where)


class _Field(NamedTuple):
    """One value of a configuration.

    Args:
        path (`str`):
            The names on the way to it, each behind a dot.
        value (`Any`):
            Value of the field.
        depth (`int`):
            Number of mappings and lists that the field is nested in.
    """

    path: str
    value: Any
    depth: int

    @property
    def name(self) -> str:
        """The last component of its path."""
        return self.path.rpartition(".")[2]

    def inner(self) -> list[_Field]:
        """The entries of a list, or the values and keys of a mapping, since keys are text as well.

        Of the numbers in a list only the smallest and the largest are returned, and each text once.
        """
        depth = self.depth + 1
        if not isinstance(self.value, Mapping):
            numbers = [item for item in self.value if _is_number(item)]
            texts = {item for item in self.value if isinstance(item, str)}
            others = [item for item in self.value if isinstance(item, (list, Mapping))]
            extremes = [min(numbers), max(numbers)] if numbers else []
            return [_Field(self.path, item, depth) for item in (*extremes, *texts, *others)]
        fields = [_Field(self.path, key, depth) for key in self.value]
        has_names = NAMES.fullmatch(self.name) is not None
        for key, item in self.value.items():
            path = self.path if has_names else f"{self.path}.{key}"
            fields.append(_Field(path, item, depth))
        return fields


class _Positions:
    """What a configuration states about its position table, collected field by field."""

    def __init__(self) -> None:
        self._are_rotary = False
        self._path = ""
        self._count = 0
        self._width = 1

    def see(self, field: _Field) -> None:
        """Record a field that determines the size of the table."""
        if ROTARY.search(field.name):
            self._are_rotary = True
        if not _is_number(field.value):
            return
        if POSITIONS.search(field.name):
            if field.value > self._count:
                self._path, self._count = field.path, field.value
        elif HIDDEN.fullmatch(field.name):
            self._width = max(self._width, field.value)

    def refuse_table(self, limits: Limits, where: str) -> None:
        """Refuse position tables that are too large to be computed when a model is built and that no file holds."""
        if not self._are_rotary and self._count * self._width > limits.table:
            raise IngredientError(
                f"{one_line(where)} cannot be right: {_shown(self._path)} is {self._count:,}, with sizes of up to "
                f"{self._width:,}, which is more than its weights are for."
            )


def _is_number(value: Any) -> bool:
    """Whether a value is an integer; `True` is excluded, although Python counts it as an `int`."""
    return isinstance(value, int) and not isinstance(value, bool)


def _refuse_long(field: _Field, limits: Limits, where: str) -> None:
    """Refuse a list with more modules, or more of any other entries, than the model can have."""
    limit = limits.modules if _counts_entries(field.name) else limits.classes
    if len(field.value) > limit:
        raise _cannot_be(field.path, f"a list of {len(field.value):,}", limit, where)


def _refuse_number(field: _Field, limits: Limits, where: str) -> None:
    """Refuse a number that is too large for what its field counts, or too far below zero."""
    number, limit = field.value, _limit_of(field.name, limits)
    if -limit <= number <= limit:
        return
    text = f"a number of {number.bit_length()} bits"
    if abs(number) <= 10**DIGITS:  # Python refuses to print numbers of thousands of digits
        text = str(number)
    raise _cannot_be(field.path, text, limit, where)


def _limit_of(name: str, limits: Limits) -> int:
    """The largest number that a field with this name may hold."""
    if NO_COUNTS.search(name):
        return 10**DIGITS
    if CLASSES.search(name):
        return limits.classes
    if _makes_modules(name):  # before `SIZES`, which also matches names such as `num_hidden_layers`
        return MOST_MODULES if EXPERTS.search(name) else limits.modules
    if POSITIONS.search(name) or SIZES.search(name):
        return limits.size
    return 10**DIGITS


def _cannot_be(path: str, value: str, limit: int, where: str) -> IngredientError:
    return IngredientError(
        f"{one_line(where)} cannot be right: {_shown(path)} is {value}, and its weights are for {limit:,} at most."
    )


def _shown(path: str) -> str:
    """A path as shown in errors; a file may use any text as a field name."""
    return one_line(path.removeprefix("."), 80)


def _refuse_half_characters(path: str, text: str, where: str) -> None:
    """Refuse lone surrogates, which no UTF-8 file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        field = _shown(path) or "a key"
        raise IngredientError(f"{one_line(where)} cannot be right: {field} holds half a character.") from None


def _counts_entries(name: str) -> bool:
    """Whether each entry of a list with this name creates an object; token ids and class names do not."""
    return _makes_modules(name) and not NO_COUNTS.search(name) and not CLASSES.search(name)


def _makes_modules(name: str) -> bool:
    """Whether a field with this name counts layers or similar modules, and is not the width of one of them."""
    return MODULES.search(name) is not None and WIDTHS.search(name) is None


def modules_for(tensors: int) -> int:
    """How many modules a model with this many tensors may have; rounded so that similar models share a limit."""
    return 2 ** (FEWEST_BUILT + MODULES_PER_TENSOR * tensors).bit_length()


@contextlib.contextmanager
def at_most_modules(limit: int = MOST_BUILT) -> Iterator[None]:
    """Limit how many modules a model that is built in the block may have, counting them as they are registered.

    Raises:
        [`IngredientError`]: when there is one more.
    """
    from torch.nn.modules.module import register_module_module_registration_hook

    count, builder = 0, threading.get_ident()

    def look(*_: object) -> None:
        nonlocal count
        if threading.get_ident() == builder:  # the hook is also called for models that other threads build
            count += 1
        if count > limit:
            raise IngredientError(
                f"its configuration asks for more than {limit:,} modules, far more than its weights."
            )

    hook = register_module_module_registration_hook(look)
    try:
        yield
    finally:
        hook.remove()
