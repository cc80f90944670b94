"""Maintainability of the code in numbers, for the working tree, another revision and other packages.

python benchmarks/house.py
python benchmarks/house.py --against v0.1.0 --tests 610 420 --ci 1500 900
python benchmarks/house.py --package peft --no-mypy --no-counts

A code line is a line that holds more than a comment or a docstring. Only the package is measured, not its tests. mypy
checks both revisions with the configuration of the working tree, and `tests/counting.py` of the working tree counts
what both do in each flow. The suite is not run: its seconds are given as arguments, one number for each column.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, TypeVar


ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "hf_soup"
VAGUE = ("found", "said", "told", "asked", "one", "each")
MANY_BRANCHES = 10
SHOWN = 10  # functions with the most branches
NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
PRAGMA = re.compile(r"#\s*(noqa|type:|pragma|fmt:|ruff:|mypy:|pylint:|!)")
Function = ast.FunctionDef | ast.AsyncFunctionDef
Node = TypeVar("Node", bound=ast.AST)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.match_case)


class Module(NamedTuple):
    """One file of a package: its name in the package, its text and its syntax tree."""

    name: str
    text: str
    tree: ast.Module


# --- reading


def parse(text: str, name: str = "module.py") -> Module:
    """A module from its text."""
    return Module(name, text, ast.parse(text))


def read_package(folder: Path) -> list[Module]:
    """All modules below a folder, without the tests in it."""
    paths = [path for path in sorted(folder.rglob("*.py")) if "tests" not in path.relative_to(folder).parts]
    return [parse(path.read_text(encoding="utf-8"), path.relative_to(folder).as_posix()) for path in paths]


def nodes(modules: Iterable[Module], kind: type[Node]) -> list[Node]:
    """All nodes of one kind."""
    return [node for module in modules for node in ast.walk(module.tree) if isinstance(node, kind)]


def functions(module: Module) -> Iterator[tuple[str, Function]]:
    """The functions of a module with their qualified names, nested ones and methods included."""

    def inside(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
        for child in ast.iter_child_nodes(node):
            name = f"{prefix}{child.name}" if isinstance(child, SCOPES) else ""
            if isinstance(child, Function):
                yield name, child
            yield from inside(child, f"{name}." if name else prefix)

    return inside(module.tree, "")


def own_nodes(function: Function) -> Iterator[ast.AST]:
    """The nodes in the body of a function that do not belong to a function or class inside it."""
    remaining: list[ast.AST] = list(function.body)
    while remaining:
        node = remaining.pop()
        yield node
        if not isinstance(node, SCOPES):
            remaining.extend(ast.iter_child_nodes(node))


# --- one function for each measure


def code_lines(modules: Iterable[Module]) -> int:
    """Lines that hold code: no blank lines, comments or docstrings."""
    return sum(len(_lines_of_code(module)) for module in modules)


def _lines_of_code(module: Module) -> set[int]:
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.Module, *SCOPES)) and ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            lines.difference_update(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return lines


def comment_lines(modules: Iterable[Module]) -> int:
    """Lines with a comment, alone or after code, that is not an instruction to a tool."""
    return sum(
        token.type == tokenize.COMMENT and not PRAGMA.match(token.string)
        for module in modules
        for token in tokenize.generate_tokens(io.StringIO(module.text).readline)
    )


def splats(modules: Iterable[Module]) -> int:
    """The number of call arguments written as `**mapping`."""
    return sum(keyword.arg is None for call in nodes(modules, ast.Call) for keyword in call.keywords)


def comprehensions(modules: Iterable[Module]) -> int:
    """The number of comprehensions of lists, sets and dicts, and of generator expressions."""
    return sum(len(nodes(modules, kind)) for kind in COMPREHENSIONS)


def conditional_expressions(modules: Iterable[Module]) -> int:
    """The number of expressions of the form `a if b else c`."""
    return len(nodes(modules, ast.IfExp))


def local_names(function: Function) -> set[str]:
    """The names a function binds: parameters except self and cls, and assigned names, also those in comprehensions."""
    arguments = function.args
    given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    names = {argument.arg for argument in given if argument is not None} - {"self", "cls"}
    for node in own_nodes(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
    return names


def name_length(modules: Iterable[Module]) -> float:
    """Mean length of the names that functions bind; a name counts once for each function."""
    lengths = [len(name) for module in modules for _, function in functions(module) for name in local_names(function)]
    return fmean(lengths or [0])


def vague_names(modules: Iterable[Module]) -> int:
    """Uses of vague names for variables and parameters; every read or write counts."""
    variables = sum(node.id in VAGUE for node in nodes(modules, ast.Name))
    return variables + sum(node.arg in VAGUE for node in nodes(modules, ast.arg))


def loose_files(modules: Iterable[Module]) -> int:
    """The number of modules directly in the package's folder, without `__init__.py`."""
    return sum("/" not in module.name and module.name != "__init__.py" for module in modules)


def rooms(modules: Iterable[Module]) -> int:
    """The number of modules and folders directly in the package's folder, which a new reader sees first."""
    return len({module.name.split("/")[0] for module in modules} - {"__init__.py"})


def branches(function: Function) -> int:
    """Number of if, for, while, except, case, conditional expressions, and, or, for and if in comprehensions."""
    count = 0
    for node in own_nodes(function):
        if isinstance(node, BRANCHES):
            count += 1
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            count += 1 + len(node.ifs)
    return count


def most_complex(modules: Iterable[Module]) -> list[tuple[int, str]]:
    """Number of branches and name of each function, sorted by decreasing number."""
    ranking = []
    for module in modules:
        for name, function in functions(module):
            ranking.append((branches(function), f"{module.name} {name}"))
    return sorted(ranking, key=lambda pair: (-pair[0], pair[1]))


def mypy_errors(tree: Path) -> int:
    """The number of mypy errors in a checkout, with the configuration of the working tree."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--no-pretty"]
        if tree != ROOT:
            command += ["--cache-dir", cache]
        # the caller's PYTHONPATH may name another checkout
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f"mypy failed: {done.stdout}{done.stderr}")
    return sum(": error: " in line for line in done.stdout.splitlines())


def flow_counts(tree: Path) -> dict[str, dict[str, float]]:
    """How often each flow checks, plans, opens and loads, in a checkout."""
    command = [sys.executable, str(ROOT / "tests" / "counting.py")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, text=True)
    if done.returncode:  # an old revision may lack these functions
        print(f"tests/counting.py counts nothing in {tree}: {done.stderr.splitlines()[-1]}", file=sys.stderr)
        return {}
    flows: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return flows


# --- the table


def measure(modules: list[Module]) -> dict[str, str]:
    """All measures that are taken from the code alone, formatted for the table."""
    lines = code_lines(modules)
    complex_functions = most_complex(modules)

    def per_thousand(count: int) -> str:
        return f"{count * 1000 / max(lines, 1):.1f}"

    return {
        "code lines": f"{lines:,}",
        "** in calls": str(splats(modules)),
        "comprehensions per 1,000 lines": per_thousand(comprehensions(modules)),
        "conditional expressions per 1,000 lines": per_thousand(conditional_expressions(modules)),
        "mean length of local names": f"{name_length(modules):.2f}",
        f"uses of {', '.join(VAGUE)}": str(vague_names(modules)),
        "comment lines per 100 lines": f"{comment_lines(modules) * 100 / max(lines, 1):.1f}",
        "loose files at the top": str(loose_files(modules)),
        "rooms": str(rooms(modules)),
        f"functions of more than {MANY_BRANCHES} branches": str(
            sum(count > MANY_BRANCHES for count, _ in complex_functions)
        ),
        f"branches of the {SHOWN} most complex": " ".join(str(count) for count, _ in complex_functions[:SHOWN]),
    }


def show_table(columns: dict[str, dict[str, str]]) -> str:
    """The columns side by side as a Markdown table; a measure that a column lacks is left empty."""
    measures = list(dict.fromkeys(name for column in columns.values() for name in column))
    rows = [["measure", *columns]]
    rows += [[name, *(column.get(name, "") for column in columns.values())] for name in measures]
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "-|-".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in lines)


def extract(revision: str, folder: Path) -> Path:
    """Extract a revision into a folder."""
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True)
    if archive.returncode:
        raise SystemExit(archive.stderr.decode())
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


def column_of(tree: Path, *, mypy: bool, counts: bool) -> dict[str, str]:
    """All measures of a checkout."""
    column = measure(read_package(tree / PACKAGE))
    if mypy:
        column = {"mypy errors": str(mypy_errors(tree)), **column}
    if counts:
        for flow, numbers in flow_counts(tree).items():
            column |= {f"{flow}: {', '.join(numbers)}": " ".join(f"{number:g}" for number in numbers.values())}
    return column


def package_folder(name: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"there is no package {name} in this environment.")
    return Path(spec.submodule_search_locations[0])


def show_complex(title: str, modules: list[Module]) -> str:
    """The most complex functions, one per line."""
    lines = [f"{count:4} {name}" for count, name in most_complex(modules)[:SHOWN]]
    return "\n".join([f"Most branches, {title}:", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="REVISION", help="an earlier revision, measured as well")
    parser.add_argument("--package", action="append", default=[], help="an installed package to compare with")
    parser.add_argument("--no-mypy", action="store_true", help="without mypy, which takes a minute")
    parser.add_argument("--no-counts", action="store_true", help="without the counts of flows, which import torch")
    parser.add_argument("--tests", nargs="+", metavar="SECONDS", default=[], help="what the suite took, by column")
    parser.add_argument("--ci", nargs="+", metavar="SECONDS", default=[], help="what CI took, by column")
    options = parser.parse_args()
    columns: dict[str, dict[str, str]] = {}
    listings = []
    with tempfile.TemporaryDirectory() as folder:
        trees = {"working tree": ROOT}
        if options.against:
            trees = {options.against: extract(options.against, Path(folder)), **trees}
        for title, tree in trees.items():
            columns[title] = column_of(tree, mypy=not options.no_mypy, counts=not options.no_counts)
            listings.append(show_complex(title, read_package(tree / PACKAGE)))
    for what, seconds in {"seconds of the suite": options.tests, "seconds of CI": options.ci}.items():
        for title, value in zip(list(columns), seconds, strict=False):
            columns[title][what] = value
    for name in options.package:
        modules = read_package(package_folder(name))
        columns[name] = measure(modules)
        listings.append(show_complex(name, modules))
    print("\n\n".join([show_table(columns), *listings]))


if __name__ == "__main__":
    main()
