"""JSON files as tables, with one object per row, either one per line or all in one list.

Python parses them, since pyarrow's reader converts texts to dates and crashes on some files.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import DataError
from ..untrusted import one_line
from .text_files import text_lines, wrong


if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 20_000  # number of rows that are Python objects at a time
DEPTH = 50  # of nested lists and objects
KIND_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "a truth value",
    int: "a number",
    float: "a number",
}


class _Row(NamedTuple):
    """An object and its location: its line, or its index in the list."""

    place: int | str
    values: dict[str, Any]


def read_json_rows(path: Path) -> pa.Table:
    """Read a file of JSON lines, or of one list of objects, or a `.json` file of one object with a single list of
    objects.

    Args:
        path (`Path`):
            The file. Otherwise what it holds counts, not whether its ending is `.json` or `.jsonl`.

    Raises:
        [`DataError`]: with file and line, if it is not JSON, a row is no object or names a field twice, or a field
            holds values of different kinds.
    """
    import pyarrow as pa

    rows = _rows(path)
    whole: pa.Table | None = None
    while chunk := list(islice(rows, ROWS)):
        table = _table(path, chunk)
        if whole is None:
            whole = table
            continue
        try:
            # permissive: a column may be integers in one chunk and floats in the next, or missing from one
            whole = pa.concat_tables([whole, table], promote_options="permissive")
        except pa.ArrowException as error:
            problem = f"values of another kind than in the rows before, there or soon after: {one_line(error)}"
            raise wrong(path, chunk[0].place, problem) from None
    if whole is None:
        raise DataError(f"{one_line(path)} is empty.")
    return whole


def _rows(path: Path) -> Iterator[_Row]:
    """The rows of a file, which is a single value if its first line is not complete JSON or is the only line."""
    # One stream of lines with two views: `filled` skips blank lines, and lines it consumes are gone from `numbered`.
    numbered = enumerate(text_lines(path, newline="\n"), 1)
    filled = ((number, line) for number, line in numbered if line.strip())
    first = next(filled, None)
    if first is None:
        return iter(())
    number, line = first
    try:
        value = _parse(path, line, number)
    except DataError:
        if line.rstrip().endswith("}"):  # the line is a row, and the error is in it
            raise
        # the first line of a value that spans several lines, such as "["
        rest = "".join(following for _, following in numbered)
        return _entries(path, _parse(path, line + rest, number))
    second = next(filled, None)
    if second is None:
        return _entries(path, value)
    lines = chain([first, second], filled)
    return (_row(path, number, _parse(path, line, number)) for number, line in lines)


def _parse(path: Path, text: str, line: int) -> Any:
    """Parse a text that begins on this line of the file."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        problem = f"not JSON: {one_line(error.msg)} at column {error.colno}"
        raise wrong(path, line + error.lineno - 1, problem) from None
    except _NamedTwiceError as error:
        raise wrong(path, line, f'an object with two fields "{one_line(error)}"') from None
    except RecursionError:
        raise wrong(path, line, "JSON that is nested too deeply") from None
    except ValueError as error:  # a number with thousands of digits
        raise wrong(path, line, one_line(error)) from None


def _entries(path: Path, value: Any) -> Iterator[_Row]:
    """The rows of a file that consists of one value."""
    if isinstance(value, dict):
        if path.suffix.lower() == ".jsonl":  # a file of one line is a row, whatever its fields hold
            return iter([_Row(1, value)])
        columns = _columns_of(value)
        if columns is not None:
            return _rows_of_columns(columns)
        rows = _only_list_of_objects(value)
        if rows is None:
            return iter([_Row(1, value)])
        value = rows
    if not isinstance(value, list):
        raise wrong(path, 1, f"{_kind(value)}. Rows are objects, one a line or in one list")
    return (_row(path, f"entry {number} of its list", entry) for number, entry in enumerate(value, 1))


def _only_list_of_objects(value: dict[str, Any]) -> list[Any] | None:
    """The rows of an object that also has plain fields, such as a version; `None` if it is not such an object."""
    lists = [field for field in value.values() if isinstance(field, list)]
    has_objects = any(isinstance(field, dict) for field in value.values())
    if len(lists) != 1 or has_objects or not lists[0]:
        return None
    rows = lists[0]
    if not all(isinstance(entry, dict) for entry in rows):
        return None
    return rows


def _columns_of(value: dict[str, Any]) -> dict[str, list[Any]] | None:
    """The columns of an object that has a list, or an object of numbered values, for each column, as pandas writes it.

    `DataFrame.to_json` writes `{"text": {"0": "a", "1": "b"}, ...}`, and `DataFrame.to_dict("list")` gives `{"text":
    ["a", "b"], ...}`.
    """
    fields = list(value.values())
    if len(fields) < 2:  # a single list holds rows, or is a field of the only row
        return None
    if all(isinstance(field, dict) for field in fields):
        if not _are_numbered_alike(fields):
            return None
        fields = [list(field.values()) for field in fields]
    if not _are_columns(fields):
        return None
    return dict(zip(value, fields, strict=True))


def _are_columns(fields: Sequence[Any]) -> bool:
    """Whether fields are lists of equal length without objects, which would be rows."""
    if not all(isinstance(field, list) for field in fields):
        return False
    if len({len(field) for field in fields}) > 1:
        return False
    return not any(isinstance(entry, dict) for entry in chain.from_iterable(fields))


def _are_numbered_alike(fields: Sequence[dict[str, Any]]) -> bool:
    """Whether all objects have the same integer keys, which are row numbers."""
    row_numbers = list(fields[0])
    if not row_numbers or any(list(field) != row_numbers for field in fields):
        return False
    return all(number.isdecimal() for number in row_numbers)


def _rows_of_columns(columns: dict[str, list[Any]]) -> Iterator[_Row]:
    """The rows of columns of equal length."""
    for number, values in enumerate(zip(*columns.values(), strict=True), 1):
        yield _Row(number, dict(zip(columns, values, strict=True)))


def _row(path: Path, place: int | str, value: Any) -> _Row:
    """A value as a row, which has to be an object."""
    if not isinstance(value, dict):
        raise wrong(path, place, f"{_kind(value)}, where a row is an object")
    return _Row(place, value)


def _table(path: Path, rows: list[_Row]) -> pa.Table:
    """Rows as a table; a field that some rows lack is missing in them.

    Raises:
        [`DataError`]: naming the first row whose value does not go with those before.
    """
    import pyarrow as pa

    names: dict[str, None] = {}  # in order of first occurrence
    for row in rows:
        names |= dict.fromkeys(row.values)
    if not names:
        raise wrong(path, rows[0].place, "an object without fields")
    columns: dict[str, pa.Array] = {}
    for name in names:
        values = [row.values.get(name) for row in rows]
        try:
            columns[name] = pa.array(values)
        except Exception as error:  # pyarrow's errors about overflows, invalid Unicode and recursion
            place = rows[_first_failing(values)].place
            raise wrong(path, place, f'the field "{one_line(name)}": {one_line(error)}') from None
        if _depth(columns[name].type) > DEPTH:
            raise DataError(f'{one_line(path)}: the field "{one_line(name)}" is nested more than {DEPTH} times.')
    return pa.table(columns)


def _first_failing(values: list[Any]) -> int:
    """The index of the first value that makes it impossible to convert the list to an Arrow array."""
    import pyarrow as pa

    # By bisection, because Arrow's errors do not name the value.
    low, high = 0, len(values)  # numbers of leading values that can and cannot be converted
    while high - low > 1:
        middle = (low + high) // 2
        try:
            pa.array(values[:middle])
            low = middle
        except Exception:
            high = middle
    return high - 1


def _depth(dtype: pa.DataType) -> int:
    """The nesting depth of a type, including the values themselves."""
    inner = [_depth(dtype.field(place).type) for place in range(dtype.num_fields)]
    return 1 + max(inner, default=0)


class _NamedTwiceError(Exception):
    """The name of a duplicate field of an object; Python's parser would keep only the last one."""


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of an object, without duplicates."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        repeated = [name for name, count in counts.items() if count > 1]
        raise _NamedTwiceError(repeated[0])
    return fields


def _kind(value: Any) -> str:
    """The word for the type of a value in a message."""
    return KIND_NAMES.get(type(value), "nothing")
