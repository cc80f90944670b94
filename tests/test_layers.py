"""The import table of the design."""

import ast
from pathlib import Path

import pytest

import hf_soup


PACKAGE = Path(hf_soup.__file__).parent
# Room -> layer. A room imports from smaller numbers only, from its own folder.
LAYERS = {
    "errors": -3,
    "untrusted": -2,
    "tables": -1,
    "plots": -1,
    "version": 0,
    "types": 0,
    "threads": 0,
    "progress": 0,
    "images": 1,
    "yaml_text": 0,
    "value_store": 0,
    "child_processes": 0,
    "lookup": 1,
    "options": 2,
    "seeds": 1,
    "model_inputs": 1,
    "transforms": 2,
    "checkpoints": 1,
    "outputs": 1,
    "parallel": 1,
    "sweep_plot": 2,
    "methods": 2,
    "strategies": 2,
    "data": 2,
    "calibration": 2,
    "recipes": 2,
    "yaml_files": 1,
    "cook_file": 4,
    "merging": 3,
    "selecting": 3,
    "metrics": 3,
    "tokens": 3,
    "heads": 3,
    "tasks": 4,
    "evaluation": 5,
    "hub": 6,
    "analysis": 6,
    "training": 7,
    "soup": 8,
    "api": 9,
    "comparing": 9,
    "analyzing": 9,
    "sweeping": 9,
    "single_analyses": 10,
    "verifying": 10,
    "variations": 10,
    "cook_data": 10,
    "cooking": 11,
    "testing": 12,
    "__init__": 12,
    "cli": 13,
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path):
    """The room that a file belongs to: its folder in the package, or its own name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path):
    """Rooms that a file imports anywhere, except for type checkers only."""
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
    """Every import goes to a smaller layer, or stays in its room."""
    mine = room(path)
    for other in imported_rooms(path):
        allowed = other == mine or LAYERS[other] < LAYERS[mine]
        assert allowed, f"{mine} (layer {LAYERS[mine]}) imports {other} (layer {LAYERS[other]})"


def test_every_room_is_in_the_table():
    """No file lies outside the design."""
    assert {room(path) for path in FILES} == set(LAYERS)


def test_no_subpackage_is_called_like_a_verb():
    """Importing `hf_soup.merge` as a module would overwrite the function of that name."""
    assert not {room(path) for path in FILES} & set(hf_soup.__all__)
