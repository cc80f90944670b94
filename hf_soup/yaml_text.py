"""Parsing of YAML text to plain values, with limits on size, depth and repetition.

Values are built from the events of PyYAML's parser, so that everything is counted before it is built. Tags, dates and
multiple documents are not supported.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .errors import RecipeError
from .untrusted import as_error, one_line


if TYPE_CHECKING:
    import yaml


MOST_BYTES = 10_000_000  # of a recipe, a cook file or the metadata of a model card
MOST_VALUES = 100_000  # with aliases expanded: 72 ingredients with 1,000 reordered classes have 72,000
MOST_CHARACTERS = 10_000_000  # of all strings, including repetitions
DEEPEST = 100  # nested lists and mappings
NUMBER = (
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+)[eE][-+]?\d+$"),  # 1e-5, which plain YAML considers a string
    list("-+0123456789."),
)
_TAG = "tag:yaml.org,2002:"  # the prefix of the names of YAML's own types
_KINDS = ("bool", "float", "int", "merge", "null")  # of plain scalars; dates and `=` are strings
_MERGE = f"{_TAG}merge"
_TEXT = f"{_TAG}str"


class _Size(NamedTuple):
    values: int
    characters: int


class _Mark(Protocol):
    """A position in the text: PyYAML has different classes for its Python and C parsers."""

    line: int


def parse_yaml(text: str, where: str, *, aliases: bool = True, strict: bool = True) -> Any:
    """Parse a YAML text.

    Args:
        text (`str`):
            Text of one document.
        where (`str`):
            Name of the text in errors, such as the path of its file.
        aliases (`bool`, *optional*, defaults to `True`):
            Whether `*name` may repeat what `&name` marks.
        strict (`bool`, *optional*, defaults to `True`):
            Whether a key that stands twice and a tag are errors; otherwise the last one counts, and tags are ignored.

    Returns:
        `Any`: strings, numbers, truth values, `None`, lists and mappings of them.

    Raises:
        [`RecipeError`]: if it is no YAML, or larger, deeper or more repetitive than anything that is meant.
    """
    import yaml

    invalid = f"{where} is not valid YAML"
    try:
        with as_error(RecipeError, invalid):
            return _Document(text, where, aliases=aliases, strict=strict).read()
    except RecipeError as error:
        cause = error.__cause__
        if not isinstance(cause, yaml.MarkedYAMLError):
            raise
        # PyYAML's own message spans several lines and quotes the text
        problem = one_line(cause.problem or cause.context)
        raise RecipeError(f"{invalid}: {problem}{_line_of(cause.problem_mark)}") from None


class _Document:
    """The parsing of one document, which counts what it has built so far; arguments as in [`parse_yaml`]."""

    def __init__(self, text: str, where: str, *, aliases: bool, strict: bool):
        import yaml

        self.where, self.aliases, self.strict = where, aliases, strict
        self.events: Iterator[yaml.Event] = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        self.scalars = _scalars()("")
        self.anchors: dict[str, tuple[Any, _Size]] = {}  # anchor -> its value and size
        self.values = self.characters = 0

    def read(self) -> Any:
        """The value of the only document; `None` if the text is empty."""
        import yaml

        next(self.events)  # the start of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        value = self._value(next(self.events), 0)
        next(self.events)  # the end of the document
        if not isinstance(next(self.events), yaml.StreamEndEvent):
            raise RecipeError(f"{self.where} holds several documents (---), but only one is read.")
        return value

    def _value(self, event: yaml.Event, depth: int) -> Any:
        """The value that starts with an event: a scalar, a list, a mapping, or a repetition by an alias."""
        import yaml

        if depth > DEEPEST:
            raise RecipeError(f"{self.where} is nested too deeply: {DEEPEST} levels are read.")
        if isinstance(event, yaml.AliasEvent):
            return self._repeated(event)
        if not isinstance(event, (yaml.ScalarEvent, yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            raise TypeError(f"the parser of PyYAML gave {event} where a value begins")
        if self.strict and event.tag is not None:
            raise self._error(f"the tag {one_line(event.tag.replace(_TAG, '!!'), 60)}", event)
        before = _Size(self.values, self.characters)
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            self._count(1, len(event.value))
            value = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._count(1, 0)
            value = self._sequence(depth)
        else:
            self._count(1, 0)
            value = self._mapping(depth)
        if event.anchor is not None:
            size = _Size(self.values - before.values, self.characters - before.characters)
            self.anchors[event.anchor] = value, size
        return value

    def _sequence(self, depth: int) -> list[Any]:
        import yaml

        items = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._value(event, depth + 1))
        return items

    def _mapping(self, depth: int) -> dict[Any, Any]:
        """A mapping whose start event was read; its keys are scalars."""
        import yaml

        mapping: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}  # from `<<`, overridden by the mapping's own keys
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._invalid("a key is a word, not a list", event)
            is_merge = self._tag(event) == _MERGE
            key = self._value(event, depth)
            value = self._value(next(self.events), depth + 1)
            if is_merge:
                merged = self._merged(value, event)
            elif key in mapping and self.strict:
                raise self._invalid(f"the key {one_line(key)!r} appears twice", event)
            else:
                mapping[key] = value
        return {**merged, **mapping}

    def _merged(self, value: Any, event: yaml.Event) -> dict[Any, Any]:
        """The content of `<<: *name` or `<<: [*one, *other]`; if a key occurs twice, the first value counts."""
        merged: dict[Any, Any] = {}
        mappings = value if isinstance(value, list) else [value]
        for mapping in reversed(mappings):  # so that the first comes last, and overrides the others
            if not isinstance(mapping, dict):
                raise self._error("<< of something that is not a mapping", event)
            merged |= mapping
        return merged

    def _repeated(self, event: yaml.AliasEvent) -> Any:
        """The value that an alias repeats, counted again: nested aliases can expand a few lines to gigabytes."""
        if not self.aliases:
            raise RecipeError(f"{self.where}: aliases (*name) are not allowed here{_line_of(event.start_mark)}.")
        if event.anchor not in self.anchors:
            raise self._error(f"*{one_line(event.anchor, 60)}, which no anchor before it defines", event)
        value, size = self.anchors[event.anchor]
        self._count(size.values, size.characters)
        return copy.deepcopy(value)

    def _count(self, values: int, characters: int) -> None:
        """Add to the size of the document, and refuse it if it becomes too large."""
        self.values += values
        self.characters += characters
        if self.values > MOST_VALUES or self.characters > MOST_CHARACTERS:
            raise RecipeError(
                f"{self.where} holds more than {MOST_VALUES:,} values or {MOST_CHARACTERS:,} characters, with what "
                "aliases (*name) repeat; so many are not read."
            )

    def _tag(self, event: yaml.ScalarEvent) -> str:
        """The tag of a scalar, determined by the form of its text."""
        import yaml

        if event.tag is not None and not self.strict:
            return _TEXT
        tag = self.scalars.resolve(yaml.ScalarNode, event.value, (event.implicit[0], False))
        is_number = tag in (f"{_TAG}int", f"{_TAG}float")
        if is_number and ":" in event.value:  # YAML 1.1 reads 1:30 as 90, in base 60
            return _TEXT
        return tag

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        """The value of a scalar, which is a string unless its tag says otherwise."""
        import yaml

        tag = self._tag(event)
        if tag in (_MERGE, _TEXT):
            return event.value
        try:
            return self.scalars.construct_object(yaml.ScalarNode(tag, event.value))
        except ValueError as error:
            raise self._invalid(one_line(error), event) from None

    def _invalid(self, problem: str, event: yaml.Event) -> RecipeError:
        return RecipeError(f"{self.where} is not valid YAML: {problem}{_line_of(event.start_mark)}")

    def _error(self, what: str, event: yaml.Event) -> RecipeError:
        """An error about valid YAML that is not supported."""
        line = _line_of(event.start_mark)
        return RecipeError(
            f"{self.where} holds something other than numbers, strings, lists and mappings: {what}{line}."
        )


def _line_of(mark: _Mark | None) -> str:
    """The location of a problem, for the end of a message."""
    if mark is None:
        return ""
    return f" (line {mark.line + 1})"  # PyYAML counts from 0


def _scalars() -> type[yaml.SafeLoader]:
    """PyYAML's safe loader of scalars, with numbers in exponential notation and without dates."""
    import yaml

    class Scalars(yaml.SafeLoader):
        pass

    # by the first character of a scalar: the possible tags, each with its pattern
    rules_by_first: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items():
        rules_by_first[first] = []
        for tag, pattern in rules:
            if tag.removeprefix(_TAG) in _KINDS:
                rules_by_first[first].append((tag, pattern))
    Scalars.yaml_implicit_resolvers = rules_by_first
    Scalars.add_implicit_resolver(*NUMBER)
    return Scalars
