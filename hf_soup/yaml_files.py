"""YAML files -> values, strictly: unknown keys are errors with "did you mean", `1e-5` is a number, no key is twice.

It knows nothing of recipes or cook files, which are read with it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from .errors import RecipeError, did_you_mean


T = TypeVar("T")
_NUMBER = (
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+)[eE][-+]?\d+$"),  # 1e-5, which plain YAML takes for a word
    list("-+0123456789."),
)


def read_yaml(path: str | os.PathLike, *, aliases: bool = True) -> dict[str, Any]:
    """Read one YAML file that holds a mapping.

    Args:
        path (`str` or `os.PathLike`):
            The file.
        aliases (`bool`, *optional*, defaults to `True`):
            Whether `*name` may repeat what `&name` marks; not in a stranger's file, which could grow without limit.

    Raises:
        [`RecipeError`]: if it is absent, no YAML, no mapping, or a key stands twice.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not a text file'}.") from None
    try:
        data = yaml.load(text, Loader=_loader(aliases))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from None
    except RecursionError:
        raise RecipeError(f"{path} is nested too deeply.") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{path} holds {type(data).__name__}, not a mapping of keys to values.")
    return data


def read_value(text: str) -> Any:
    """One value as YAML has it, with numbers as everybody writes them.

    Raises:
        [`RecipeError`]: if it is no YAML.
    """
    import yaml

    try:
        return yaml.load(text, Loader=_loader())
    except yaml.YAMLError as error:
        raise RecipeError(f"{text!r} is not valid YAML: {error}") from None


def override(data: dict[str, Any], item: str) -> None:
    """Set `a.b.c=value` in nested mappings; the value is read as YAML."""
    keys, equals, value = item.partition("=")
    *parents, last = keys.split(".")
    if not equals or not all([*parents, last]):
        raise RecipeError(f"{item!r} sets nothing: write KEY=VALUE, such as data.path=my_data.")
    for key in parents:
        data[key] = {} if data.get(key) is None else data[key]
        if not isinstance(data[key], dict):
            raise RecipeError(f"{item!r}: `{key}` is a {type(data[key]).__name__} in the file; replace it as a whole.")
        data = data[key]
    data[last] = read_value(value)


def build(cls: type[T], data: Mapping[str, Any], path: str) -> T:
    """A dataclass from a mapping that a file holds.

    Raises:
        [`RecipeError`]: with the first wrong keys or values, and the nearest known key.
    """
    import pydantic

    try:
        # by way of JSON, where strict types still take a list for a tuple and 1 for 1.0
        return pydantic.TypeAdapter(cls).validate_json(json.dumps(data))
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None
    except (TypeError, ValueError) as error:
        if not isinstance(error, pydantic.ValidationError):
            raise RecipeError(
                f"{path} holds something else than numbers, strings, lists and mappings: {error}"
            ) from None
        raise RecipeError(f"{path}: " + "; ".join(_explain(cls, item) for item in error.errors()[:5])) from None


def _explain(cls: type, error: Mapping[str, Any]) -> str:
    place = [item for item in error["loc"] if "[" not in str(item)] or ["file"]  # without pydantic's names of types
    *parents, last = place
    where = ".".join(map(str, place))
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _fields_at(cls, parents)
        return (
            f"unknown key `{last}`"
            + (f" in `{'.'.join(map(str, parents))}`" if parents else "")
            + did_you_mean(last, known)
        )
    if error["type"] in ("missing", "missing_argument"):
        return f"the key `{where}` is missing"
    return f"`{where}`: {error['msg'][0].lower()}{error['msg'][1:]}, found {error['input']!r}"


def _fields_at(cls: Any, keys: list[Any]) -> list[str]:
    """The field names of the dataclass that lies below `keys`, followed through optional, list and mapping types."""
    for key in keys:
        within = [item for item in typing.get_args(cls) if item is not Ellipsis]
        hint = typing.get_type_hints(cls)[key] if dataclasses.is_dataclass(cls) else within[-1]
        inner = [item for item in typing.get_args(hint) if item is not type(None)]
        cls = inner[0] if type(None) in typing.get_args(hint) else hint
    return [item.name for item in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []


def _loader(aliases: bool = True) -> type:
    """PyYAML's safe loader with numbers as everybody writes them, no dates, and no key twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if not aliases and self.check_event(yaml.events.AliasEvent):
                raise yaml.composer.ComposerError(
                    None, None, "aliases (*name) are not allowed here", self.peek_event().start_mark
                )
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if not isinstance(key.value, str):
                    raise yaml.constructor.ConstructorError(None, None, "a key is a word, not a list", key.start_mark)
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice", key.start_mark
                    )
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    dates = "tag:yaml.org,2002:timestamp"
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if tag != dates]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver(*_NUMBER)
    return Loader


def dumper() -> type:
    """PyYAML's safe dumper, which puts quotes around a string that our loader would take for a number."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    Dumper.add_implicit_resolver(*_NUMBER)
    return Dumper
