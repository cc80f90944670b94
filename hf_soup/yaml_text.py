"""The text of a YAML document -> plain values, within bounds of size, depth and repetition, whoever wrote it.

Values are made from the events of PyYAML's parser, so that nothing is built before it is counted. There are no tags
and no dates, and only one document.
"""

from __future__ import annotations

import copy
import re
from typing import Any, NamedTuple

from .errors import RecipeError
from .untrusted import as_error, one_line


MOST_BYTES = 10_000_000  # of a recipe, a cook file or the metadata of a card
MOST_VALUES = 100_000  # with what aliases repeat: 72 ingredients whose 1,000 classes are in another order have 72,000
MOST_CHARACTERS = 10_000_000  # of all strings, likewise
DEEPEST = 100  # lists and mappings within each other
NUMBER = (
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+)[eE][-+]?\d+$"),  # 1e-5, which plain YAML takes for a word
    list("-+0123456789."),
)
_KINDS = ("bool", "float", "int", "merge", "null")  # of plain scalars; dates and `=` are words
_MERGE = "tag:yaml.org,2002:merge"


class _Size(NamedTuple):
    values: int
    characters: int


def parse_yaml(text: str, where: str, *, aliases: bool = True, strict: bool = True) -> Any:
    """What a YAML text holds.

    Args:
        text (`str`):
            One document.
        where (`str`):
            What errors call it, such as the path of its file.
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
        if not isinstance(error.__cause__, yaml.MarkedYAMLError):
            raise
        problem, mark = error.__cause__.problem or error.__cause__.context, error.__cause__.problem_mark
        line = f" (line {mark.line + 1})" if mark else ""
        raise RecipeError(f"{invalid}: {one_line(problem)}{line}") from None


class _Document:
    def __init__(self, text: str, where: str, *, aliases: bool, strict: bool):
        import yaml

        self.where, self.aliases, self.strict = where, aliases, strict
        self.events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        self.scalars = _scalars()("")
        self.marked: dict[str, tuple[Any, _Size]] = {}
        self.values = self.characters = 0

    def read(self) -> Any:
        """The value of the only document; `None` if the text is empty."""
        import yaml

        next(self.events)  # the start of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        found = self._value(next(self.events), 0)
        next(self.events)  # the end of the document
        if not isinstance(next(self.events), yaml.StreamEndEvent):
            raise RecipeError(f"{self.where} holds several documents (---), and one is read.")
        return found

    def _value(self, event: Any, depth: int) -> Any:
        import yaml

        if depth > DEEPEST:
            raise RecipeError(f"{self.where} is nested too deeply: {DEEPEST} levels are read.")
        if isinstance(event, yaml.AliasEvent):
            return self._repeated(event)
        if self.strict and event.tag is not None:
            raise self._error(f"the tag {one_line(event.tag.replace('tag:yaml.org,2002:', '!!'), 60)}", event)
        before = _Size(self.values, self.characters)
        self._count(1, len(event.value) if isinstance(event, yaml.ScalarEvent) else 0)
        if isinstance(event, yaml.ScalarEvent):
            found = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            found = []
            while not isinstance(item := next(self.events), yaml.SequenceEndEvent):
                found.append(self._value(item, depth + 1))
        else:
            found = self._mapping(depth)
        if event.anchor is not None:
            size = _Size(self.values - before.values, self.characters - before.characters)
            self.marked[event.anchor] = found, size
        return found

    def _mapping(self, depth: int) -> dict[Any, Any]:
        import yaml

        found: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                line = event.start_mark.line + 1
                raise RecipeError(f"{self.where} is not valid YAML: a key is a word, not a list (line {line})")
            merges = self._kind(event) == _MERGE
            key, value = self._value(event, depth), self._value(next(self.events), depth + 1)
            if merges:
                merged = self._merged(value, event)
            elif key in found and self.strict:
                line = event.start_mark.line + 1
                name = one_line(key)
                raise RecipeError(f"{self.where} is not valid YAML: the key {name!r} stands twice (line {line})")
            else:
                found[key] = value
        return {**merged, **found}

    def _merged(self, value: Any, event: Any) -> dict[Any, Any]:
        """What `<<: *name` or `<<: [*one, *other]` brings along; of two values of a key the first counts."""
        found: dict[Any, Any] = {}
        for part in reversed(value if isinstance(value, list) else [value]):
            if not isinstance(part, dict):
                raise self._error("<< of what is no mapping", event)
            found |= part
        return found

    def _repeated(self, event: Any) -> Any:
        if not self.aliases:
            line = event.start_mark.line + 1
            raise RecipeError(f"{self.where}: aliases (*name) are not allowed here (line {line}).")
        if event.anchor not in self.marked:
            raise self._error(f"*{one_line(event.anchor, 60)}, which nothing before it marks", event)
        found, size = self.marked[event.anchor]
        self._count(*size)
        return copy.deepcopy(found)

    def _count(self, values: int, characters: int) -> None:
        self.values += values
        self.characters += characters
        if self.values > MOST_VALUES or self.characters > MOST_CHARACTERS:
            raise RecipeError(
                f"{self.where} holds more than {MOST_VALUES:,} values or {MOST_CHARACTERS:,} characters, with what "
                "aliases (*name) repeat; so many are not read."
            )

    def _kind(self, event: Any) -> str:
        """The tag of a scalar by the look of it."""
        import yaml

        if event.tag is not None and not self.strict:
            return "tag:yaml.org,2002:str"
        kind = self.scalars.resolve(yaml.ScalarNode, event.value, (event.implicit[0], False))
        number = kind.endswith((":int", ":float"))
        return "tag:yaml.org,2002:str" if number and ":" in event.value else kind  # 1:30 is no 90

    def _scalar(self, event: Any) -> Any:
        import yaml

        kind = self._kind(event)
        if kind in (_MERGE, "tag:yaml.org,2002:str"):
            return event.value
        try:
            return self.scalars.construct_object(yaml.ScalarNode(kind, event.value))
        except ValueError as error:
            line = event.start_mark.line + 1
            raise RecipeError(f"{self.where} is not valid YAML: {one_line(error)} (line {line})") from None

    def _error(self, what: str, event: Any) -> RecipeError:
        line = event.start_mark.line + 1
        return RecipeError(
            f"{self.where} holds something else than numbers, strings, lists and mappings: {what} (line {line})."
        )


def _scalars() -> type:
    """PyYAML's safe loader of scalars, with numbers as everybody writes them, and no dates."""
    import yaml

    class Scalars(yaml.SafeLoader):
        pass

    Scalars.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if tag.rpartition(":")[2] in _KINDS]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Scalars.add_implicit_resolver(*NUMBER)
    return Scalars
