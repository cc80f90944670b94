"""Options that several commands share.

Options of a function come from its dataclass in `hf_soup.options`, those of methods and strategies from their
parameters.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import os
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from ..options import MergeOptions
from ..plugins import choices, load_function, names, parameters
from .stderr import be_quiet


Command = TypeVar("Command", bound=Callable[..., Any])


# Options from dataclasses


def options_of(cls: type, renamed: Mapping[str, str] | None = None) -> Callable[[Command], Command]:
    """One option for each field of a dataclass of `hf_soup.options` that has a text.

    Args:
        cls (`type`):
            The dataclass.
        renamed (`Mapping[str, str]`, *optional*):
            Names on the command line of fields that have another name there.
    """
    fields = [item.name for item in dataclasses.fields(cls) if "text" in item.metadata]

    def decorate(command: Command) -> Command:
        for name in reversed(fields):
            command = field_option(cls, name, (renamed or {}).get(name, name))(command)
        return command

    return decorate


def field_option(cls: type, name: str, parameter: str | None = None) -> Callable[[Command], Command]:
    """The option of one field, such as `--n-runs` for `n_runs`; a field with several values is a repeated option.

    Args:
        cls (`type`):
            A dataclass of `hf_soup.options`.
        name (`str`):
            Name of the field.
        parameter (`str`, *optional*):
            Name of the command's parameter; by default that of the field.
    """
    (item,) = [item for item in dataclasses.fields(cls) if item.name == name]
    parameter = parameter or name
    flag = f"--{parameter.replace('_', '-')}"
    hint = typing.get_type_hints(cls)[name]
    hints = [hint, *typing.get_args(hint)]  # of `int | None` also `int`
    if bool in hints:
        return click.option(flag, parameter, is_flag=True, default=item.default, help=item.metadata["text"])
    complete = _completion(item.metadata["choices"]) if item.metadata["choices"] else None
    if name in ("metric", "metrics"):
        complete = complete_metrics
    if name == "resources":
        return click.option(
            flag.removesuffix("s"),
            parameter,
            multiple=True,
            default=(),
            callback=_read_resources,
            metavar="NAME=VALUE",
            help=item.metadata["text"],
        )
    if any(typing.get_origin(hint) is tuple for hint in hints):
        # several values are given by repeating an option in the singular, such as `--metric` for `metrics`
        return click.option(
            flag.removesuffix("s"),
            parameter,
            multiple=True,
            default=(),
            metavar=item.metadata["metavar"],
            shell_complete=complete,
            help=item.metadata["text"],
        )
    return click.option(
        flag,
        parameter,
        type=_number_type(hints),
        default=item.default,
        show_default=item.default is not None,
        metavar=item.metadata["metavar"],
        shell_complete=complete,
        help=item.metadata["text"],
    )


def read_pairs(given: Sequence[str], *, option: str) -> dict[str, Any]:
    """Parse `NAME=VALUE`, with the values as YAML."""
    from ..formats.strict_yaml import read_value

    pairs = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not name.isidentifier() or not equals:
            raise click.BadParameter(f"{item!r}: write NAME=VALUE, such as power=2.", param_hint=option)
        pairs[name] = read_value(text)
    return pairs


def _read_resources(_: click.Context, __: click.Parameter, given: Sequence[str]) -> dict[str, Any] | None:
    """The values of `--resource`; `None` if there is none."""
    return read_pairs(given, option="--resource") or None


def _number_type(hints: Sequence[Any]) -> type:
    """The type of an option for a field of these types; a string if none of them is a number."""
    for number_type in (int, float):
        if number_type in hints:
            return number_type
    return str


def _completion(values: tuple[str, ...]) -> Callable[..., list[CompletionItem]]:
    """Shell completion of values. Not `click.Choice`: the function called checks them, and names the nearest one."""

    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(value) for value in values if value.startswith(incomplete)]

    return complete


def complete_metrics(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The built-in metrics, for the shell; they are imported when it asks."""
    from ..metrics.built_in import BUILT_IN

    return [CompletionItem(name) for name in BUILT_IN if name.startswith(incomplete)]


def take_fields(cls: type, values: dict[str, Any], renamed: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Remove the values of [`options_of`] from those of a command, and return them by field; empty ones are `None`."""
    taken: dict[str, Any] = {}
    for item in dataclasses.fields(cls):
        if "text" in item.metadata:
            value = values.pop((renamed or {}).get(item.name, item.name))
            taken[item.name] = item.default if value == () else value
    return taken


# Options of methods and strategies


def plugin_options(command: Command) -> Command:
    """One option for each parameter of methods and strategies; several of them may share one. Parameters that are not
    given keep their defaults.
    """
    users_of: dict[str, list[Callable[..., Any]]] = {}
    for plugin_type in ("strategy", "method"):
        for name in names(plugin_type):
            function = load_function(plugin_type, name)
            for parameter in parameters(function):
                users_of.setdefault(parameter, []).append(function)
    for parameter, users in reversed(users_of.items()):
        if parameter != "weights":  # an option of `merge` itself
            command = _plugin_option(parameter, users)(command)
    return command


def _plugin_option(name: str, users: list[Callable[..., Any]]) -> Callable[[Command], Command]:
    parameter = parameters(users[0])[name]
    users_of: dict[str, list[str]] = {}  # a parameter may be different things for different methods
    for function in users:
        text = _described_in_docstring(function, parameters(function)[name])
        users_of.setdefault(text, []).append(function.__name__)
    text = " ".join(f"[{', '.join(names)}] {text}" for text, names in users_of.items())
    flag = f"--{name.replace('_', '-')}"
    if isinstance(parameter.default, bool):
        return click.option(f"{flag}/--no-{name.replace('_', '-')}", name, default=None, help=text)
    return click.option(flag, name, type=_plugin_type(name, users), default=None, help=text)


def _plugin_type(name: str, users: list[Callable[..., Any]]) -> click.ParamType[Any] | type:
    """The type of a value: one of the choices of all functions with this parameter, a list, a number or a string."""
    allowed: dict[str, None] = {}  # in order, without duplicates
    for function in users:
        allowed |= dict.fromkeys(choices(parameters(function)[name], function))
    if allowed:
        return click.Choice(list(allowed))
    hint = str(parameters(users[0])[name].annotation)
    if hint.startswith("Mapping["):
        return _Yaml()
    if hint.startswith("Sequence["):
        return _List(float if "float" in hint else str)
    types = {"int": int, "float": float, "str": str}
    return next(types[word] for word in types if word in hint)


def _described_in_docstring(function: Callable[..., Any], parameter: inspect.Parameter) -> str:
    """The description of a parameter in a docstring of Hugging Face's form: the indented lines below its entry."""
    lines = iter((inspect.getdoc(function) or "").splitlines())
    for line in lines:
        if line.strip().startswith(f"{parameter.name} ("):
            break
    below = itertools.takewhile(lambda line: line.startswith(" " * 8), lines)
    return " ".join(line.strip() for line in below)


class _List(click.ParamType):  # type: ignore[type-arg]  # it has a type argument in the newest versions of click only
    """Values separated by commas."""

    name = "LIST"

    def __init__(self, value_type: type[float] | type[str]):
        self._value_type = value_type

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse `0,0.5,1` into a list."""
        if not isinstance(value, str):
            return value
        try:
            return [self._value_type(item.strip()) for item in value.split(",")]
        except ValueError:
            self.fail(f"{value!r}: write numbers separated by commas.", param, ctx)


class _Yaml(click.ParamType):  # type: ignore[type-arg]  # it has a type argument in the newest versions of click only
    """A mapping as YAML: `{density: [0.1, 1]}`."""

    name = "YAML"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the text."""
        from ..formats.strict_yaml import read_value

        return read_value(value) if isinstance(value, str) else value


# Single options


allow_pickle_option = click.option(
    "--allow-pickle",
    is_flag=True,
    help="Read pytorch_model.bin, or states of FSDP and DeepSpeed, if there is no safetensors file; only tensors are "
    "loaded.",
)

allow_code_option = click.option(
    "--allow-code",
    is_flag=True,
    help="Import and call code from outside of hf_soup that the file names. Only for files that you trust.",
)
align_labels_option = field_option(MergeOptions, "align_labels")
take_from_option = field_option(MergeOptions, "take_from")
stream_option = field_option(MergeOptions, "stream")


def output_options(command: Command) -> Command:
    """`--format`, `--json` and `--quiet`, as in the `hf` command; `--quiet` also hides notes and progress bars."""
    options = [
        click.option(
            *("--format", "form"),
            type=click.Choice(["human", "json", "quiet"]),
            default="human",
            show_default=True,
            callback=_heed_quiet,
            help="Format of the result on stdout.",
        ),
        click.option("--json", "form", flag_value="json", help="Same as --format json."),
        click.option(
            *("-q", "--quiet", "form"),
            flag_value="quiet",
            callback=_heed_quiet,
            help="Same as --format quiet: print only the path or a one-line result.",
        ),
    ]
    for add_option in options:
        command = add_option(command)
    return command


def _heed_quiet(context: click.Context, _: click.Parameter, form: str | None) -> str | None:
    if form == "quiet":
        be_quiet(context)
    return form


def named(given: tuple[str, ...], flag: str, form: str | None) -> dict[str, str]:
    """Parse `NAME=VALUE`, each name once; without a required form, a folder without a name has its own."""
    values: dict[str, str] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals and form is None:
            name, value = os.path.basename(os.path.normpath(item)), item
        if not name or not value:
            raise click.BadParameter(f"{item!r}: write {form or '[NAME=]SOUP'}.", param_hint=flag)
        if name in values:
            raise click.BadParameter(f"two are called {name!r}; write NAME=... for one of them.", param_hint=flag)
        values[name] = value
    return values
