"""Writes what is generated in these pages: the tables of options in `command_line.md`, and all of `reference.md`.

python docs/generate.py --check     # says which page is not what the code says; exit code 1
python docs/generate.py --write     # writes them

Both pages are kept in the repository, so that they can be read without building the site. A test runs the check.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

import hf_soup
from hf_soup import lookup
from hf_soup.cli import main as command_line


DOCS = Path(__file__).parent
SHARED = {"form", "help"}  # options that every command has; the page says so once
BLOCK = re.compile(r"(<!-- options: ([\w-]+) -->\n).*?(<!-- end of options -->)", re.DOTALL)

# The order of the reference: what is not named here follows by name.
FIRST = (
    "merge",
    "check",
    "modules",
    "sweep",
    "load_sweep",
    "load_training",
    "compare",
    "cook",
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
    "load_recipe": "recipe_file.md",
    "Recipe": "recipe_file.md",
    "verify": "publishing.md#verified",
    "Verification": "publishing.md#verified",
    "tree": "publishing.md",
    "Soup": "publishing.md",
    "Selection": "strategies.md#what-a-search-says",
    "Evaluator": "evaluation.md",
    "update_batchnorm": "evaluation.md#batchnorm",
    "analyze": "analysis.md",
    "Analysis": "analysis.md",
    "advise": "advice.md",
    "Advice": "advice.md",
}
# not imported with `hf_soup.NAME`, but public as well
MORE = (
    ("metrics", ("load_metric",)),
    ("transforms", ("shifted_copy",)),
    (
        "testing",
        (
            "check_method",
            "check_strategy",
            "check_task",
            "FakeTrials",
            "tiny_text_model",
            "tiny_image_model",
            "save_text_model",
            "save_image_model",
            "tiny_texts",
            "tiny_images",
        ),
    ),
)
ENTRY = re.compile(r"(?P<name>\*{0,2}\w+)(?: \((?P<type>.*)\))?:$")


def pages() -> dict[str, str]:
    """File name -> what it has to hold."""
    return {"command_line.md": _command_line(), "reference.md": _reference()}


# The command line


def _command_line() -> str:
    text = (DOCS / "command_line.md").read_text(encoding="utf-8")
    return BLOCK.sub(lambda found: found[1] + _table_of(found[2]) + found[3], text)


def _table_of(which: str) -> str:
    """The options of a command; those of `merge` that belong to methods and strategies are a table of their own."""
    plugins = _plugins()
    if which == "methods-and-strategies":
        options = {option.name: option for option in _options("merge")}
        rows = [(_names(options[name]), _users(users), *_plugin(name, users)) for name, users in plugins.items()]
        return _table(("option", "of", "what it is", "default"), rows)
    rows = [
        (_names(option), _cell(option.help or ""), _default(option))
        for option in _options(which)
        if which != "merge" or option.name not in plugins
    ]
    return _table(("option", "what it is", "default"), rows)


def _options(name: str) -> list[click.Option]:
    if name not in command_line.commands:
        raise SystemExit(f"docs/command_line.md has options of `hf-soup {name}`, and there is no such command.")
    params = command_line.commands[name].params
    return [item for item in params if isinstance(item, click.Option) and item.name not in SHARED]


def _names(option: click.Option) -> str:
    value = "" if option.is_flag or option.metavar is None else f" {option.metavar}"
    names = sorted([*option.opts, *option.secondary_opts], key=lambda name: name.startswith("--"))
    return ", ".join(f"`{name}{value if name == names[-1] else ''}`" for name in names).replace("|", "\\|")


def _default(option: click.Option) -> str:
    if option.required:
        return "needed"
    return f"`{option.default}`" if option.show_default and not option.is_flag else ""


def _plugins() -> dict[str, list[tuple[str, Callable]]]:
    """Parameter -> the strategies and methods that take it, as the command line finds them."""
    found: dict[str, list[tuple[str, Callable]]] = {}
    for kind in ("strategy", "method"):
        for name in lookup.names(kind):
            function = lookup.load_function(kind, name)
            for parameter in lookup.parameters(function):
                if parameter != "weights":
                    found.setdefault(parameter, []).append((name, function))
    return found


def _plugin(name: str, users: list[tuple[str, Callable]]) -> tuple[str, str]:
    """What a parameter is, and its default where these differ by user."""
    text = {entry: body for entry, _, body in _sections(users[0][1])["Args"]}[name]
    defaults: dict[str, list[str]] = {}
    for user, function in users:
        defaults.setdefault(repr(lookup.parameters(function)[name].default), []).append(user)
    told = [
        "" if value == "None" else f"`{value}`" + (f" ({', '.join(who)})" if len(defaults) > 1 else "")
        for value, who in defaults.items()
    ]
    return _cell(text), ", ".join(told).replace("'", "")


def _users(users: list[tuple[str, Callable]]) -> str:
    return ", ".join(f"`{name}`" for name, _ in users)


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
    for name in sorted(
        hf_soup.__all__, key=lambda name: (name not in FIRST, FIRST.index(name) if name in FIRST else name)
    ):
        thing = getattr(hf_soup, name)
        if inspect.isclass(thing):
            (errors if issubclass(thing, Exception) else classes).append((name, thing))
        elif callable(thing):
            functions.append((name, thing))
    known = {name: _anchor(_heading(f"hf_soup.{name}", thing)) for name, thing in functions + classes + errors}
    errors.sort(key=lambda item: item[0] != "SoupError")
    parts = [
        "<!-- Written by docs/generate.py from signatures and docstrings: change those, then run `make docs`. -->",
        "# Python reference",
        "Everything that is public. What is not here may change without notice. The guides show how it goes together; "
        "`help(hf_soup.merge)` says the same as this page.",
        "## Functions",
        *(part for name, thing in functions for part in _thing(f"hf_soup.{name}", thing, known)),
        "## Classes",
        "Most of these are returned by the functions above; `Evaluator` is the one to make yourself.",
        *(part for name, thing in classes for part in _thing(f"hf_soup.{name}", thing, known)),
        "## Errors",
        "One `except hf_soup.SoupError` catches them all. What the messages mean: "
        "[troubleshooting](troubleshooting.md).",
        *(part for name, thing in errors for part in _thing(f"hf_soup.{name}", thing, known)),
        "## Strategies",
        "What each takes, as a keyword of `hf_soup.merge`, under `params` in a [cook file](cook_file.md#merge) and as "
        "an option of `hf-soup merge`. Which to take: [strategies](strategies.md).",
        *(part for name in lookup.names("strategy") for part in _plugin_entry("strategy", name, known)),
        "## Methods",
        "How the tensors of one name combine: `method=` of `hf_soup.merge`.",
        *(part for name in lookup.names("method") for part in _plugin_entry("method", name, known)),
        "## For extensions and tests",
        "Imported from their own modules.",
    ]
    for module, names in MORE:
        home = importlib.import_module(f"hf_soup.{module}")
        parts += [part for name in names for part in _thing(f"hf_soup.{module}.{name}", getattr(home, name), known)]
    return "\n\n".join(parts) + "\n"


def _heading(path: str, thing: Any) -> str:
    return f"class `{path}`" if inspect.isclass(thing) and not issubclass(thing, Exception) else f"`{path}`"


def _anchor(heading: str) -> str:
    """As code hosts and mkdocs make it."""
    return re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")


def _thing(path: str, thing: Any, known: dict[str, str]) -> Iterator[str]:
    name = path.rsplit(".", 1)[-1]
    yield f"### {_heading(path, thing)}"
    if inspect.isclass(thing) and issubclass(thing, Exception):
        yield from _text(thing, known)
        return
    yield _signature(path, thing)
    yield from _text(thing, known)
    page = PAGES.get(name, "")
    if (DOCS / page.partition("#")[0]).is_file():
        yield f"More: [{page.partition('.')[0].replace('_', ' ')}]({page})."
    if inspect.isclass(thing):
        for member, value in vars(thing).items():
            function = getattr(value, "func", getattr(value, "fget", getattr(value, "__func__", value)))
            if member.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
                continue
            yield f"#### `{name}.{member}`"
            if inspect.isfunction(value):
                yield _signature(f"{name}.{member}", function, method=True)
            yield from _text(function, known)


def _plugin_entry(kind: str, name: str, known: dict[str, str]) -> Iterator[str]:
    function = lookup.load_function(kind, name)
    taken = lookup.parameters(function)
    yield f'### `{kind}="{name}"`'
    yield from _text(function, known, only=set(taken))


def _signature(path: str, thing: Any, *, method: bool = False) -> str:
    """With defaults and without types, which stand in the list below it."""
    given = inspect.signature(thing)
    values = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in given.parameters.values()
        if not (method and parameter.name == "self")
    ]
    returns = (
        ""
        if inspect.isclass(thing) or given.return_annotation is inspect.Signature.empty
        else (f" -> {given.return_annotation}".replace("'", ""))
    )
    text = str(inspect.Signature(values))
    line = f"{path}{text}{returns}"
    if len(line) > 88:
        shown = [str(value) for value in inspect.Signature(values).parameters.values()]
        star = next((i for i, value in enumerate(values) if value.kind is value.KEYWORD_ONLY), None)
        if star is not None and not any(value.kind is value.VAR_POSITIONAL for value in values):
            shown.insert(star, "*")
        line = f"{path}(\n" + "".join(f"    {item},\n" for item in shown) + f"){returns}"
    return f"```text\n{line}\n```"


def _sections(thing: Any) -> dict[str, Any]:
    """A docstring of Hugging Face's form: its text, and its sections, in which entries are (name, type, text)."""
    lines = (inspect.getdoc(thing) or "").splitlines()
    found: dict[str, list[str]] = {"": []}
    current = ""
    for line in lines:
        if re.fullmatch(r"(Args|Returns|Raises|Attributes|Yields|Examples?):", line):
            current = line[:-1]
            found[current] = []
        elif current and line and not line.startswith(" "):  # text again
            current = ""
            found[""].append(line)
        else:
            found[current].append(line)
    parsed: dict[str, Any] = {"": "\n".join(found.pop("")).strip(), "Args": []}
    for section, body in found.items():
        parsed["Args" if section in ("Args", "Attributes") else section] = (
            _entries(body)
            if section in ("Args", "Attributes")
            else " ".join(line.strip() for line in body).strip()
            if section == "Returns"
            else [line[4:] for line in body]
        )
    return parsed


def _entries(lines: list[str]) -> list[tuple[str, str, str]]:
    entries: list[tuple[str, str, str]] = []
    for line in lines:
        if line.startswith("    ") and not line.startswith("     "):
            head = line.strip()
            match = ENTRY.fullmatch(head)
            entries.append((match["name"], match["type"] or "", "") if match else (head.rstrip(":"), "", ""))
        elif line.strip() and entries:
            name, kind, text = entries[-1]
            entries[-1] = (name, kind, f"{text} {line.strip()}".strip())
    return entries


def _text(thing: Any, known: dict[str, str], only: set[str] | None = None) -> Iterator[str]:
    parsed = _sections(thing)

    def link(text: str) -> str:
        def one(found: re.Match) -> str:
            name = found[1]
            return f"[`{name}`](#{known[name]})" if name in known else f"`{name}`"

        return re.sub(r"\[`([\w.]+)`\](?!\()", one, text)

    if parsed[""]:
        yield link(parsed[""])
    entries = [entry for entry in parsed["Args"] if only is None or entry[0] in only]
    if entries:
        lines = []
        for name, kind, text in entries:
            shown = f"`{name}`" if re.fullmatch(r"\*{0,2}\w+", name) else name
            lines.append(link(f"- {shown}" + (f" ({kind})" if kind else "") + f": {text}"))
        yield "\n".join(lines)
    if parsed.get("Returns"):
        yield link(f"**Returns** {parsed['Returns']}")
    if parsed.get("Raises"):
        items: list[str] = []
        for line in filter(str.strip, parsed["Raises"]):
            if line.startswith(" ") and items:
                items[-1] += f" {line.strip()}"
            else:
                items.append(line.strip())
        yield link("**Raises**\n\n" + "\n".join(f"- {item}" for item in items))


def main() -> None:
    """Check or write."""
    if sys.argv[1:] not in (["--check"], ["--write"]):
        raise SystemExit(__doc__)
    stale = {name: text for name, text in pages().items() if not _holds(DOCS / name, text)}
    for name, text in stale.items():
        if sys.argv[1] == "--write":
            (DOCS / name).write_text(text, encoding="utf-8")
        print(
            f"docs/{name} " + ("written" if sys.argv[1] == "--write" else "is not what the code says: run `make docs`")
        )
    sys.exit(1 if stale and sys.argv[1] == "--check" else 0)


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    main()
