"""YAML files -> values, strictly: unknown keys are errors with "did you mean", `1e-5` is a number, no key is twice.

It knows nothing of recipes or cook files, which are read with it; `yaml_text.py` bounds and parses the text.
"""

from __future__ import annotations

import dataclasses
import json
import os
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from .errors import RecipeError, did_you_mean
from .untrusted import as_error, one_line, read_file
from .yaml_text import MOST_BYTES, NUMBER, parse_yaml


T = TypeVar("T")


def read_yaml(path: str | os.PathLike[str], *, aliases: bool = True) -> dict[str, Any]:
    """Read one YAML file that holds a mapping.

    Args:
        path (`str` or `os.PathLike`):
            The file.
        aliases (`bool`, *optional*, defaults to `True`):
            Whether `*name` may repeat what `&name` marks, within bounds.

    Raises:
        [`RecipeError`]: if it is absent, too large, no YAML, no mapping, or a key stands twice.
    """
    where = one_line(os.fspath(path))
    try:
        content = read_file(path, at_most=MOST_BYTES, kind=RecipeError)
    except FileNotFoundError:
        raise RecipeError(f"cannot read {where}: No such file or directory.") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RecipeError(f"cannot read {where}: not a text file in UTF-8.") from None
    data = parse_yaml(text, where, aliases=aliases)
    if not isinstance(data, dict):
        found = "nothing" if data is None else type(data).__name__
        raise RecipeError(f"{where} holds {found}, not a mapping of keys to values.")
    return data


def read_value(text: str) -> Any:
    """One value as YAML has it, with numbers as everybody writes them.

    Raises:
        [`RecipeError`]: if it is no YAML.
    """
    return parse_yaml(text, repr(one_line(text)))


def override(data: dict[str, Any], item: str) -> None:
    """Set `a.b.c=value` in nested mappings; the value is read as YAML."""
    keys, equals, value = item.partition("=")
    *parents, last = keys.split(".")
    if not equals or not all([*parents, last]):
        raise RecipeError(f"{one_line(item)!r} sets nothing: write KEY=VALUE, such as data.path=my_data.")
    for key in parents:
        data[key] = {} if data.get(key) is None else data[key]
        if not isinstance(data[key], dict):
            kind = type(data[key]).__name__
            raise RecipeError(f"{one_line(item)!r}: `{one_line(key)}` is a {kind} in the file; replace it as a whole.")
        data = data[key]
    data[last] = read_value(value)


def build(cls: type[T], data: Mapping[str, Any], path: str) -> T:
    """A dataclass from a mapping that a file holds.

    Raises:
        [`RecipeError`]: with the first wrong keys or values, and the nearest known key.
    """
    import pydantic

    path = one_line(path)
    try:
        # by way of JSON, where strict types still take a list for a tuple and 1 for 1.0
        with as_error(RecipeError, f"{path} holds something else than numbers, strings, lists and mappings"):
            text = json.dumps(data)
        return pydantic.TypeAdapter(cls).validate_json(text)
    except pydantic.ValidationError as error:
        raise RecipeError(f"{path}: " + "; ".join(_explain(cls, item) for item in error.errors()[:5])) from None
    except RecipeError as error:
        message = str(error)
        raise RecipeError(message if message.startswith(path) else f"{path}: {message}") from None


def _explain(cls: type, error: Mapping[str, Any]) -> str:
    place = [item for item in error["loc"] if "[" not in str(item)] or ["file"]  # without pydantic's names of types
    *parents, last = place
    where = one_line(".".join(map(str, place)))
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _fields_at(cls, parents)
        return (
            f"unknown key `{one_line(last)}`"
            + (f" in `{one_line('.'.join(map(str, parents)))}`" if parents else "")
            + did_you_mean(last, known)
        )
    if error["type"] in ("missing", "missing_argument"):
        return f"the key `{where}` is missing"
    message = one_line(error["msg"])
    return f"`{where}`: {message[:1].lower()}{message[1:]}, found {one_line(repr(error['input']))}"


def _fields_at(cls: Any, keys: list[Any]) -> list[str]:
    """The field names of the dataclass that lies below `keys`, followed through optional, list and mapping types."""
    for key in keys:
        within = [item for item in typing.get_args(cls) if item is not Ellipsis] or [None]
        hint = typing.get_type_hints(cls).get(key) if dataclasses.is_dataclass(cls) else within[-1]
        inner = [item for item in typing.get_args(hint) if item is not type(None)]
        cls = inner[0] if type(None) in typing.get_args(hint) else hint
    return [item.name for item in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []


def dumper() -> type:
    """PyYAML's safe dumper, which puts quotes around a string that our loader would take for a number."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    Dumper.add_implicit_resolver(*NUMBER)
    return Dumper
