"""Tests of the measures in `benchmarks/house.py`, on snippets whose numbers can be counted by hand."""

import importlib.util
import sys
from pathlib import Path

import pytest


def load_house():
    """Load the script as a module."""
    path = Path(__file__).parent.parent / "benchmarks" / "house.py"
    spec = importlib.util.spec_from_file_location("house", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["house"] = module  # NamedTuple looks up its types there
    spec.loader.exec_module(module)
    return module


house = load_house()
SNIPPET = '''"""A module."""

# why
LIMIT = 3  # of retries


def outer(first, *rest, **options):
    """A docstring
    of two lines.
    """
    found = [item for item in rest if item and first]  # noqa: C416

    def inner(self, value):
        return value if found else call(**options)

    try:
        for index in range(LIMIT):
            while index:
                pass
    except ValueError as error:
        raise error
    return inner
'''


@pytest.fixture
def modules():
    """The snippet as a package of one module."""
    return [house.parse(SNIPPET, "outer.py")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("code_lines", 12),  # every line but four lines of docstrings, a comment and seven blank lines
        ("comment_lines", 2),  # the third comment is for ruff
        ("splats", 1),
        ("comprehensions", 1),
        ("conditional_expressions", 1),
        ("vague_names", 2),  # `found` is counted when it is written and when it is read
        ("loose_files", 1),
        ("rooms", 1),
    ],
)
def test_what_is_counted(modules, name, expected):
    """Each measure returns the expected count for the snippet."""
    assert getattr(house, name)(modules) == expected


def test_names_of_a_function(modules):
    """Local names are parameters except self, and targets of assignments, loops, handlers and comprehensions."""
    names = {name: house.local_names(function) for name, function in house.functions(modules[0])}
    assert names == {
        "outer": {"first", "rest", "options", "found", "item", "index", "error"},
        "outer.inner": {"value"},
    }
    lengths = [len(name) for of_function in names.values() for name in of_function]
    assert house.name_length(modules) == pytest.approx(sum(lengths) / len(lengths))


def test_branches_of_a_function(modules):
    """A comprehension, its condition, its `and`, for, while and except are six; inner functions count separately."""
    assert house.most_complex(modules) == [(6, "outer.py outer"), (1, "outer.py outer.inner")]


def test_a_table_has_a_column_for_each_revision():
    """A cell is empty if the revision lacks the measure."""
    table = house.show_table({"before": {"lines": "10", "errors": "3"}, "after": {"lines": "9"}})
    assert table.splitlines() == [
        "| measure | before | after |",
        "| --------|--------|------ |",
        "| lines   | 10     | 9     |",
        "| errors  | 3      |       |",
    ]
