"""Options that several commands share, and what they print."""

from __future__ import annotations

import inspect
import itertools
import json
import os
from collections.abc import Callable
from typing import Any

import click

from ..lookup import choices, load_function, names, parameters
from ..recipes import selection_as_dict
from ..tables import align
from .output import result
from .stderr import be_quiet


def _help(function: Callable, parameter: inspect.Parameter) -> str:
    """What a docstring of Hugging Face's form says of a parameter: the deeper lines below its entry."""
    lines = (inspect.getdoc(function) or "").splitlines()
    start = next(
        (index for index, line in enumerate(lines) if line.strip().startswith(f"{parameter.name} (")), len(lines)
    )
    below = itertools.takewhile(lambda line: line.startswith(" " * 8), lines[start + 1 :])
    return " ".join(line.strip() for line in below)


def _heard(context: click.Context, _: click.Parameter, form: str | None) -> str | None:
    if form == "quiet":
        be_quiet(context)
    return form


def output_options(command: Callable) -> Callable:
    """`--format`, `--json` and `--quiet`, as in the `hf` command; quiet shows neither notes nor bars."""
    options = [
        click.option(
            *("--format", "form"),
            type=click.Choice(["human", "json", "quiet"]),
            default="human",
            show_default=True,
            callback=_heard,
            help="What goes to stdout.",
        ),
        click.option("--json", "form", flag_value="json", help="Same as --format json."),
        click.option(
            *("-q", "--quiet", "form"),
            flag_value="quiet",
            callback=_heard,
            help="Same as --format quiet: the result's path only.",
        ),
    ]
    for option in options:
        command = option(command)
    return command


def plugin_options(command: Callable) -> Callable:
    """One option for each parameter of methods and strategies, which several may share; what is not given keeps its
    default.
    """
    found: dict[str, list[tuple[str, Callable]]] = {}
    for kind in ("strategy", "method"):
        for name in names(kind):
            function = load_function(kind, name)
            for parameter in parameters(function):
                found.setdefault(parameter, []).append((name, function))
    for name, users in reversed(found.items()):
        if name != "weights":  # the merge has these itself
            command = _plugin_option(name, users)(command)
    return command


def _plugin_option(name: str, users: list[tuple[str, Callable]]) -> Callable:
    function = users[0][1]
    parameter = parameters(function)[name]
    text = f"[{', '.join(user for user, _ in users)}] {_help(function, parameter)}"
    flag = f"--{name.replace('_', '-')}"
    if isinstance(parameter.default, bool):
        return click.option(f"{flag}/--no-{name.replace('_', '-')}", name, default=None, help=text)
    allowed = list(dict.fromkeys(choice for _, f in users for choice in choices(parameters(f)[name], f)))
    if allowed:
        return click.option(flag, name, type=click.Choice(allowed), default=None, help=text)
    hint = str(parameter.annotation)
    if hint.startswith("Sequence["):
        each = float if "float" in hint else str
        return click.option(flag, name, type=_List(each), default=None, help=text)
    option_type = next(kind for word, kind in (("int", int), ("float", float), ("str", str)) if word in hint)
    return click.option(flag, name, type=option_type, default=None, help=text)


class _List(click.ParamType):
    """Values with commas between them."""

    name = "LIST"

    def __init__(self, each: type):
        self._each = each

    def convert(self, value: Any, param: Any, ctx: Any) -> list[Any]:
        """`0,0.5,1` -> a list."""
        if not isinstance(value, str):
            return value
        try:
            return [self._each(item.strip()) for item in value.split(",")]
        except ValueError:
            self.fail(f"{value!r}: write numbers with commas between them.", param, ctx)


def example_options(command: Callable) -> Callable:
    """How examples are read, as of `hf_soup.Evaluator`."""
    options = [
        click.option("--task", default="auto", show_default=True, help="Read off the model by default."),
        click.option("--label-column", help="By default label, labels, or what else the task calls it."),
        click.option("--text-column", "text_columns", multiple=True, help="By default by well-known names."),
        click.option("--batch-size", type=int, help="Examples at a time."),
        click.option("--no-cache", is_flag=True, help="Run every model again, and keep nothing."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def read_examples(source: str | None, split: str, options: dict[str, Any], metric: Any = None) -> Any:
    """An evaluator of what the command line calls data, with the values of `example_options`."""
    import hf_soup
    from hf_soup.data.load import load_data, split_data_source

    if source is None:
        return None
    path, name, part = split_data_source(source, split)
    given = {key: options[key] for key in ("task", "label_column", "batch_size")}
    given |= {"text_columns": options["text_columns"] or None, "cache": not options["no_cache"]}
    found = load_data(path, name=name, split=part)
    return hf_soup.Evaluator(found, split=part, metric=metric or None, path=path, **given)


allow_pickle_option = click.option(
    "--allow-pickle", is_flag=True, help="Read pytorch_model.bin too; only tensors are taken from it."
)

allow_code_option = click.option(
    "--allow-code",
    is_flag=True,
    help="Import and call code that is not hf_soup's, where the file names some. Only for files that you trust.",
)


align_labels_option = click.option(
    "--align-labels", is_flag=True, help="Permute heads whose labels are in another order; ignore letter case."
)
take_from_option = click.option(
    "--take-from", metavar="NAME", help="The ingredient whose config, tokenizer and processor the soup takes."
)


def show(form: str, path: Any, data: Any, text: str) -> None:
    """Print a result in the form that was asked for: a path, data, or text for people."""
    result({"human": text.strip(), "json": json.dumps(data, indent=2, default=str), "quiet": str(path)}[form])


def named(given: tuple[str, ...], option: str, form: str | None) -> dict[str, str]:
    """`NAME=VALUE`, each name once; where no form is demanded, a folder is called like itself."""
    found: dict[str, str] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals and form is None:
            name, value = os.path.basename(os.path.normpath(item)), item
        if not name or not value:
            raise click.BadParameter(f"{item!r}: write {form or '[NAME=]SOUP'}.", param_hint=option)
        if name in found:
            raise click.BadParameter(f"two are called {name!r}; write NAME=... for one of them.", param_hint=option)
        found[name] = value
    return found


def described(soup: Any) -> dict[str, Any]:
    """A soup as data."""
    recipe = soup.recipe
    return {
        "ingredients": recipe.names,
        "weights": recipe.weights,
        "method": recipe.method,
        "selection": selection_as_dict(recipe.selection),
    }


def trial_table(soup: Any) -> str:
    """What was tried, and why it was kept or not; and who went in with what weight, where these differ."""
    rows, selection = soup.recipe.rows, soup.selection
    named = [f"weight of {prefix or 'the rest'}" if len(rows) > 1 else "weight" for prefix in rows]
    weights = align(
        [
            ["ingredient", *named],
            *[[n, *[f"{row[i]:.4g}" for row in rows.values()]] for i, n in enumerate(soup.recipe.names)],
        ]
    )
    if not selection or not selection.trials:
        return weights
    alike = len({weight for row in rows.values() for weight in row}) == 1
    return selection.table() + ("" if alike else f"\n\n{weights}")
