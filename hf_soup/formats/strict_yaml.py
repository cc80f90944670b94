"""Strict reading of YAML files: unknown keys are errors with suggestions, `1e-5` is a number, and keys are unique.

Recipes and cook files are read with these functions but are unknown here; `yaml_text.py` parses the text within
limits.
"""

from __future__ import annotations

import dataclasses
import json
import os
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from ..errors import RecipeError, did_you_mean
from ..untrusted import as_error, one_line, read_file
from ..yaml_text import MOST_BYTES, NUMBER, parse_yaml


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
        content = read_file(path, at_most=MOST_BYTES, error_class=RecipeError)
    except FileNotFoundError:
        raise RecipeError(f"cannot read {where}: No such file or directory.") from None
    try:
        text = content.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError:
        raise RecipeError(f"cannot read {where}: not a text file in UTF-8.") from None
    data = parse_yaml(text, where, aliases=aliases)
    if not isinstance(data, dict):
        held = "nothing" if data is None else type(data).__name__
        raise RecipeError(f"{where} holds {held}, not a mapping of keys to values.")
    return data


def read_value(text: str) -> Any:
    """Parse one YAML value; `1e-5` is a number, although YAML 1.1 considers it a string.

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
    section = data
    for key in parents:
        if section.get(key) is None:
            section[key] = {}
        if not isinstance(section[key], dict):
            held = type(section[key]).__name__
            raise RecipeError(f"{one_line(item)!r}: `{one_line(key)}` is a {held} in the file; replace it as a whole.")
        section = section[key]
    section[last] = read_value(value)


def build(cls: type[T], data: Mapping[str, Any], path: str) -> T:
    """Build a dataclass from a mapping in a file.

    Raises:
        [`RecipeError`]: with the first wrong keys or values, and the nearest known key.
    """
    import pydantic

    path = one_line(path)
    try:
        # through JSON, where strict types still accept a list for a tuple and 1 for 1.0
        with as_error(RecipeError, f"{path} holds something other than numbers, strings, lists and mappings"):
            text = json.dumps(data)
        return pydantic.TypeAdapter(cls).validate_json(text)
    except pydantic.ValidationError as error:
        explanations = [_explain(cls, item) for item in error.errors()[:5]]
        raise RecipeError(f"{path}: {'; '.join(explanations)}") from None
    except RecipeError as error:
        message = str(error)  # from a check in `__post_init__`, which does not know the file
        if not message.startswith(path):
            message = f"{path}: {message}"
        raise RecipeError(message) from None


def _explain(cls: type, error: Mapping[str, Any]) -> str:
    """An error of pydantic in the package's own words."""
    # pydantic includes the member of a union in the location of an error, such as `list[str]`
    keys = [key for key in error["loc"] if "[" not in str(key)] or ["file"]
    *parents, last = keys
    where = one_line(".".join(map(str, keys)))
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        section = f" in `{one_line('.'.join(map(str, parents)))}`" if parents else ""
        return f"unknown key `{one_line(last)}`{section}{did_you_mean(last, _fields_at(cls, parents))}"
    if error["type"] in ("missing", "missing_argument"):
        return f"the key `{where}` is missing"
    message = one_line(error["msg"])
    return f"`{where}`: {message[:1].lower()}{message[1:]}, found {one_line(repr(error['input']))}"


def _fields_at(cls: Any, keys: list[Any]) -> list[str]:
    """The field names of the dataclass at `keys`, following optional, list and mapping types."""
    for key in keys:
        if dataclasses.is_dataclass(cls):
            hint = typing.get_type_hints(cls).get(key)
        else:  # the items of a list or tuple, or the values of a mapping
            arguments = [item for item in typing.get_args(cls) if item is not Ellipsis]
            hint = arguments[-1] if arguments else None
        cls = _without_none(hint)
    if not dataclasses.is_dataclass(cls):
        return []
    return [item.name for item in dataclasses.fields(cls)]


def _without_none(hint: Any) -> Any:
    """`X` of `X | None`; any other type unchanged."""
    members = typing.get_args(hint)
    if type(None) not in members:
        return hint
    return next(member for member in members if member is not type(None))


def dumper() -> type:
    """PyYAML's safe dumper, which quotes strings that the loader of this package would read as numbers."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True  # repeated values are written out, since recipes are read without aliases

    Dumper.add_implicit_resolver(*NUMBER)
    return Dumper
