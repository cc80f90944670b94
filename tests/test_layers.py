"""Imports within the package follow the table of layers."""

import ast
from pathlib import Path

import pytest

import hf_soup


PACKAGE = Path(hf_soup.__file__).parent
# Folder or module -> layer. It may import from lower layers, and from its own folder.
LAYERS = {
    "errors": 0,
    "untrusted": 1,
    "version": 1,
    "threads": 1,
    "ranks": 1,
    "progress": 1,
    "yaml_text": 2,
    "value_store": 2,
    "child_processes": 2,
    "display": 2,
    "types": 3,
    "seeds": 4,
    "plugins": 4,
    "options": 5,
    "checkpoints": 5,
    "methods": 5,
    "strategies": 7,
    "metrics": 6,
    "data": 6,
    "jobs": 6,
    "parallel": 7,
    "transforms": 7,
    "formats": 7,
    "merging": 7,
    "tasks": 8,
    "evaluation": 9,
    "callbacks": 10,
    "selection": 10,
    "comparison": 10,
    "analysis": 11,
    "publishing": 11,
    "training": 12,
    "api": 13,
    "testing": 14,
    "__init__": 14,
    "cli": 15,
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path):
    """The folder in the package that a file belongs to, or the file's own name without its suffix."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path):
    """The folders and modules that a file imports anywhere, except under `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    exempt = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for part in node.body
        for inner in ast.walk(part)
    }
    package = ["hf_soup", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(tree):
        if id(node) in exempt:
            continue
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            full = [*base, *(node.module or "").split(".")] if node.module else base
            targets = [[*full, alias.name] for alias in node.names] if len(full) == 1 else [full]
        elif isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] == "hf_soup":
                yield target[1] if len(target) > 1 else "__init__"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    """Every import refers to a lower layer or to the file's own folder."""
    mine = room(path)
    for other in imported_rooms(path):
        allowed = other == mine or LAYERS[other] < LAYERS[mine]
        assert allowed, f"{mine} (layer {LAYERS[mine]}) imports {other} (layer {LAYERS[other]})"


def test_every_room_is_in_the_table():
    """The table lists exactly the folders and modules of the package."""
    assert {room(path) for path in FILES} == set(LAYERS)


def test_no_subpackage_is_called_like_a_verb():
    """No folder or module has the name of a public function, which importing it would overwrite."""
    assert not {room(path) for path in FILES} & set(hf_soup.__all__)
