"""Writes what is generated in these pages: the tables of options in `command_line.md`, the list of files in
`architecture.md`, and all of `reference.md`.

python docs/generate.py --check     # says which page is not what the code says; exit code 1
python docs/generate.py --write     # writes them

The pages are kept in the repository, so that they can be read without building the site. A test runs the check.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
from docstrings import read_docstring

import hf_soup
from hf_soup.cli import main as command_line
from hf_soup.plugins import load_function, parameters
from hf_soup.plugins import names as plugin_names


DOCS = Path(__file__).parent
SHARED = {"form", "help"}  # options that every command has; the page says so once
ROOT = DOCS.parent
PACKAGE = ROOT / "hf_soup"
FILES = re.compile(r"(<!-- files: [^>]* -->\n).*?(<!-- end of files -->)", re.DOTALL)
BLOCK = re.compile(r"(<!-- options: ([\w-]+) -->\n).*?(<!-- end of options -->)", re.DOTALL)

# The order of the reference: what is not named here follows by name.
FIRST = (
    "merge",
    "check",
    "modules",
    "sweep",
    "load_sweep",
    "compare",
    "cook",
    "load_ingredient",
    "load",
    "load_recipe",
    "verify",
)
# public name -> the page that explains it
PAGES = {
    "merge": "strategies.md",
    "check": "shared_start.md",
    "sweep": "sweeps.md",
    "Sweep": "sweeps.md",
    "compare": "comparison.md",
    "Comparison": "comparison.md",
    "cook": "cook_file.md",
    "load": "publishing.md",
    "load_ingredient": "ingredients.md",
    "load_recipe": "recipe_file.md",
    "Recipe": "recipe_file.md",
    "verify": "publishing.md#verified",
    "Verification": "publishing.md#verified",
    "lineage": "publishing.md",
    "Soup": "publishing.md",
    "Selection": "strategies.md#what-a-search-says",
    "Evaluator": "evaluation.md",
    "update_batchnorm": "evaluation.md#batchnorm",
    "importance": "methods.md#fisher-and-regmean",
    "analyze": "analysis.md",
    "Analysis": "analysis.md",
    "advise": "advice.md",
    "Advice": "advice.md",
}
# not `hf_soup.NAME`, but public as well; the errors of `hf_soup.errors` have their own part of the page
MORE = (
    ("callbacks", ("AverageWeights",)),
    ("data", ("load_training",)),
    ("metrics", ("load_metric",)),
    ("types", ("Mixture", "Choice")),
    ("training.records", ("FailedRun",)),
    ("api.verify", ("TensorDifference",)),
    ("transforms", ("shifted_copy",)),
    (
        "testing",
        (
            "check_method",
            "check_strategy",
            "check_task",
            "FakeTrials",
            "tiny_text_model",
            "tiny_sentence_model",
            "tiny_image_model",
            "save_text_model",
            "save_image_model",
            "tiny_texts",
            "tiny_images",
        ),
    ),
)
LINE = 88  # characters of a signature in one line


def pages() -> dict[str, str]:
    """File name -> what it has to hold."""
    return {
        "architecture.md": _architecture(),
        "command_line.md": _command_line(),
        "reference.md": _reference(),
    }


# The list of files


def _architecture() -> str:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    return FILES.sub(lambda block: block[1] + _list_of_files() + block[2], text)


def _list_of_files() -> str:
    """A table for each folder of the package: its files, and the first line of each."""
    folders: dict[Path, list[tuple[str, ...]]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "__init__.py":
            row = (f"[`{path.name}`](../{path.relative_to(ROOT).as_posix()})", _first_line(path))
            folders.setdefault(path.parent, []).append(row)
    parts = []
    for folder, rows in sorted(folders.items()):
        title = f"### `{folder.relative_to(ROOT).as_posix()}/`"
        parts.append(
            "\n".join([title, "", _first_line(folder / "__init__.py"), "", _table(("file", "what it is for"), rows)])
        )
    return "\n".join(parts)


def _first_line(path: Path) -> str:
    """The first sentence of a module's docstring, which may take two lines."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return _cell(" ".join(docstring.split("\n\n")[0].split()))


# The command line


def _command_line() -> str:
    text = (DOCS / "command_line.md").read_text(encoding="utf-8")
    return BLOCK.sub(lambda block: block[1] + _table_of(block[2]) + block[3], text)


def _table_of(which: str) -> str:
    """The options of a command; those of `merge` that belong to methods and strategies are a table of their own."""
    plugins = _plugins()
    if which == "methods-and-strategies":
        return _table_of_plugins(plugins)
    rows = []
    for option in _options(which):
        if which != "merge" or option.name not in plugins:
            rows.append((_names(option), _cell(option.help or ""), _default(option)))
    return _table(("option", "what it is", "default"), rows)


def _table_of_plugins(plugins: dict[str, list[Plugin]]) -> str:
    """The options of `merge` that methods and strategies take, and which of them do."""
    options = {option.name: option for option in _options("merge")}
    rows = []
    for name, users in plugins.items():
        user_names = ", ".join(f"`{user.name}`" for user in users)
        rows.append((_names(options[name]), user_names, _plugin_text(name, users), _plugin_defaults(name, users)))
    return _table(("option", "of", "what it is", "default"), rows)


def _options(name: str) -> list[click.Option]:
    if name not in command_line.commands:
        raise SystemExit(f"docs/command_line.md has options of `hf-soup {name}`, and there is no such command.")
    params = command_line.commands[name].params
    return [item for item in params if isinstance(item, click.Option) and item.name not in SHARED]


def _names(option: click.Option) -> str:
    names = sorted([*option.opts, *option.secondary_opts], key=lambda name: name.startswith("--"))
    if option.metavar is not None and not option.is_flag:
        names[-1] += f" {option.metavar}"
    return ", ".join(f"`{name}`" for name in names).replace("|", "\\|")


def _default(option: click.Option) -> str:
    if option.required:
        return "needed"
    return f"`{option.default}`" if option.show_default and not option.is_flag else ""


class Plugin(NamedTuple):
    """A method or strategy."""

    name: str
    function: Callable[..., Any]


def _plugins() -> dict[str, list[Plugin]]:
    """Parameter -> the strategies and methods that take it, as the command line finds them."""
    users: dict[str, list[Plugin]] = {}
    for kind in ("strategy", "method"):
        for name in plugin_names(kind):
            function = load_function(kind, name)
            for parameter in parameters(function):
                if parameter != "weights":
                    users.setdefault(parameter, []).append(Plugin(name, function))
    return users


def _plugin_text(parameter: str, users: list[Plugin]) -> str:
    """What a parameter is, with the names of its users where it is several things."""
    users_of: dict[str, list[str]] = {}
    for user in users:
        (text,) = [entry.text for entry in read_docstring(user.function).arguments if entry.name == parameter]
        users_of.setdefault(text, []).append(user.name)
    if len(users_of) == 1:
        return _cell(*users_of)
    return _cell(" ".join(f"{', '.join(names)}: {text}" for text, names in users_of.items()))


def _plugin_defaults(parameter: str, users: list[Plugin]) -> str:
    """The default of a parameter, with the names of its users where they differ in it."""
    users_of: dict[str, list[str]] = {}
    for user in users:
        default = repr(parameters(user.function)[parameter].default)
        users_of.setdefault(default, []).append(user.name)
    texts = []
    for default, names in users_of.items():
        if default == "None":
            texts.append("")
        elif len(users_of) > 1:
            texts.append(f"`{default}` ({', '.join(names)})")
        else:
            texts.append(f"`{default}`")
    return ", ".join(texts).replace("'", "")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    """Help as a cell: names of options and of values are code, a bar does not end the cell."""
    text = re.sub(r"\[`([\w.]+)`\]", r"`\1`", text).replace("|", "\\|")
    return re.sub(r"(?<![`\w-])(--[a-z][\w-]*)", r"`\1`", text)


# The reference


def _reference() -> str:
    functions, classes, errors = [], [], []
    for name in sorted(hf_soup.__all__, key=_place_in_reference):
        thing = getattr(hf_soup, name)
        if inspect.isclass(thing) and issubclass(thing, Exception):
            errors.append((name, thing))
        elif inspect.isclass(thing):
            classes.append((name, thing))
        elif callable(thing):
            functions.append((name, thing))
    for error in hf_soup.SoupError.__subclasses__():
        errors.append((f"errors.{error.__name__}", error))
    anchors = {}
    for name, thing in functions + classes + errors:
        anchors[thing.__name__] = _anchor(_heading(f"hf_soup.{name}", thing))

    def entries(things: list[tuple[str, Any]]) -> list[str]:
        return [part for name, thing in things for part in _thing(f"hf_soup.{name}", thing, anchors)]

    parts = [
        "<!-- Written by docs/generate.py from signatures and docstrings: change those, then run `make docs`. -->",
        "# Python reference",
        "Everything that is public. What is not here may change without notice. The guides show how it goes together; "
        "`help(hf_soup.merge)` says the same as this page.",
        "## Functions",
        *entries(functions),
        "## Classes",
        "Most of these are returned by the functions above; `Evaluator` is the one to make yourself.",
        *entries(classes),
        "## Errors",
        "One `except hf_soup.SoupError` catches them all; `hf_soup.errors` has its subclasses. What the messages "
        "mean: [troubleshooting](troubleshooting.md).",
        *entries(errors),
        "## Strategies",
        "What each takes, as a keyword of `hf_soup.merge`, under `params` in a [cook file](cook_file.md#merge) and as "
        "an option of `hf-soup merge`. Which to take: [strategies](strategies.md).",
        *(part for name in plugin_names("strategy") for part in _plugin_entry("strategy", name, anchors)),
        "## Methods",
        "How the tensors of one name combine: `method=` of `hf_soup.merge`.",
        *(part for name in plugin_names("method") for part in _plugin_entry("method", name, anchors)),
        "## For extensions and tests",
        "Resolved by `import hf_soup` as well, from their own modules.",
    ]
    for module, names in MORE:
        home = importlib.import_module(f"hf_soup.{module}")
        parts += entries([(f"{module}.{name}", getattr(home, name)) for name in names])
    return "\n\n".join(parts) + "\n"


def _place_in_reference(name: str) -> tuple[int, str]:
    """What `FIRST` names comes in its order, the rest by name."""
    return (FIRST.index(name), "") if name in FIRST else (len(FIRST), name)


def _heading(path: str, thing: Any) -> str:
    return f"class `{path}`" if inspect.isclass(thing) and not issubclass(thing, Exception) else f"`{path}`"


def _anchor(heading: str) -> str:
    """As code hosts and mkdocs make it."""
    return re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")


def _thing(path: str, thing: Any, anchors: dict[str, str]) -> Iterator[str]:
    """The entry of a function, a class or an error, paragraph by paragraph."""
    name = path.rsplit(".", 1)[-1]
    yield f"### {_heading(path, thing)}"
    if inspect.isclass(thing) and issubclass(thing, Exception):
        yield from _text(thing, anchors)
        return
    yield _signature(path, thing)
    yield from _text(thing, anchors)
    page = PAGES.get(name, "")
    if (DOCS / page.partition("#")[0]).is_file():
        yield f"More: [{page.partition('.')[0].replace('_', ' ')}]({page})."
    if inspect.isclass(thing):
        for member, value in vars(thing).items():
            yield from _member(name, member, value, anchors)


def _member(class_name: str, name: str, value: Any, anchors: dict[str, str]) -> Iterator[str]:
    """The entry of a public method or property that has a docstring."""
    function = value
    for wrapped in ("func", "fget", "__func__"):  # of cached properties, properties and class methods
        function = getattr(function, wrapped, function)
    if name.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
        return
    yield f"#### `{class_name}.{name}`"
    if inspect.isfunction(value):
        yield _signature(f"{class_name}.{name}", function, method=True)
    yield from _text(function, anchors)


def _plugin_entry(kind: str, name: str, anchors: dict[str, str]) -> Iterator[str]:
    function = load_function(kind, name)
    yield f'### `{kind}="{name}"`'
    yield from _text(function, anchors, only=set(parameters(function)))


def _signature(path: str, thing: Any, *, method: bool = False) -> str:
    """With defaults and without types, which stand in the list below it."""
    signature = inspect.signature(thing)
    parameters = []
    for parameter in signature.parameters.values():
        if not (method and parameter.name == "self"):
            parameters.append(parameter.replace(annotation=inspect.Parameter.empty))
    returns = ""
    if not inspect.isclass(thing) and signature.return_annotation is not inspect.Signature.empty:
        returns = f" -> {signature.return_annotation}".replace("'", "")
    line = f"{path}{inspect.Signature(parameters)}{returns}"
    if len(line) > LINE:
        lines = "".join(f"    {text},\n" for text in _parameter_lines(parameters))
        line = f"{path}(\n{lines}){returns}"
    return f"```text\n{line}\n```"


def _parameter_lines(parameters: list[inspect.Parameter]) -> list[str]:
    """One for each parameter, and the star before those that are named."""
    lines = [str(parameter) for parameter in parameters]
    kinds = [parameter.kind for parameter in parameters]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        lines.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    return lines


def _text(thing: Any, anchors: dict[str, str], only: set[str] | None = None) -> Iterator[str]:
    """A docstring as Markdown, with links to other entries, paragraph by paragraph."""
    docstring = read_docstring(thing)
    if docstring.text:
        yield _linked(docstring.text, anchors)
    lines = []
    for name, type_, text in docstring.arguments:
        if only is not None and name not in only:
            continue
        shown_name = f"`{name}`" if re.fullmatch(r"\*{0,2}\w+", name) else name
        shown_type = f" ({type_})" if type_ else ""
        lines.append(_linked(f"- {shown_name}{shown_type}: {text}", anchors))
    if lines:
        yield "\n".join(lines)
    if docstring.returns:
        yield _linked(f"**Returns** {docstring.returns}", anchors)
    if docstring.raises:
        yield _linked("**Raises**\n\n" + "\n".join(f"- {item}" for item in docstring.raises), anchors)


def _linked(text: str, anchors: dict[str, str]) -> str:
    """With links where a docstring names a public thing."""

    def link(match: re.Match[str]) -> str:
        name = match[1]
        return f"[`{name}`](#{anchors[name]})" if name in anchors else f"`{name}`"

    return re.sub(r"\[`([\w.]+)`\](?!\()", link, text)


def main() -> None:
    """Check or write."""
    if sys.argv[1:] not in (["--check"], ["--write"]):
        raise SystemExit(__doc__)
    writes = sys.argv[1] == "--write"
    stale = {name: text for name, text in pages().items() if not _holds(DOCS / name, text)}
    for name, text in stale.items():
        if writes:
            (DOCS / name).write_text(text, encoding="utf-8")
        print(f"docs/{name} written" if writes else f"docs/{name} is not what the code says: run `make docs`")
    sys.exit(1 if stale and not writes else 0)


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    main()
