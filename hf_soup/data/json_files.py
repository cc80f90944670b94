"""JSON files as tables: an object for each row, one a line, or in one list.

They are parsed by Python, since pyarrow's reader makes dates of texts and stops the process for some files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import DataError
from ..untrusted import one_line
from .text_files import text_lines, wrong


if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 20_000  # that are Python objects at a time
DEPTH = 50  # of lists and objects within one another
KINDS = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", int: "a number", float: "a number"}


class _Row(NamedTuple):
    place: int | str  # its line, or which entry of the list it is
    values: dict[str, Any]


def read_json_rows(path: Path) -> pa.Table:
    """A file of JSON lines, of one list of objects, or as `.json` of one object whose only list is one of objects.

    Args:
        path (`Path`):
            The file. Otherwise what it holds counts, not whether its ending is `.json` or `.jsonl`.

    Raises:
        [`DataError`]: with file and line, if it is not JSON, a row is no object or names a field twice, or a field
            holds values of different kinds.
    """
    import pyarrow as pa

    rows = _rows(path)
    whole = None
    while chunk := list(islice(rows, ROWS)):
        table = _table(path, chunk)
        try:
            whole = table if whole is None else pa.concat_tables([whole, table], promote_options="permissive")
        except pa.ArrowException as error:
            found = f"values of another kind than in the rows before, there or soon after: {one_line(error)}"
            raise wrong(path, chunk[0].place, found) from None
    if whole is None:
        raise DataError(f"{one_line(path)} is empty.")
    return whole


def _rows(path: Path) -> Iterator[_Row]:
    numbered = enumerate(text_lines(path, newline="\n"), 1)
    filled = ((number, line) for number, line in numbered if line.strip())
    number, line = next(filled, (0, ""))
    if not number:
        return iter(())
    try:
        whole = _parse(path, line, number)
    except DataError:
        if line.rstrip().endswith("}"):  # a row
            raise
        rest = "".join(line for _, line in numbered)
        return _entries(path, _parse(path, line + rest, number))
    second = next(filled, None)
    if second is None:
        return _entries(path, whole)
    lines = chain([(number, line), second], filled)
    return (_row(path, number, _parse(path, line, number)) for number, line in lines)


def _parse(path: Path, text: str, line: int) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise wrong(
            path, line + error.lineno - 1, f"not JSON: {one_line(error.msg)} at column {error.colno}"
        ) from None
    except _NamedTwiceError as error:
        raise wrong(path, line, f'an object with two fields "{one_line(error)}"') from None
    except RecursionError:
        raise wrong(path, line, "JSON that is nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits
        raise wrong(path, line, one_line(error)) from None


def _entries(path: Path, whole: Any) -> Iterator[_Row]:
    """The rows of a file that is one value."""
    if isinstance(whole, dict):
        lists = [value for value in whole.values() if isinstance(value, list)]
        nested = [value for value in whole.values() if isinstance(value, dict)]
        columns = _columns_of(whole)
        if columns is not None and path.suffix.lower() != ".jsonl":
            return iter(columns)
        is_row = path.suffix.lower() == ".jsonl" or len(lists) != 1 or nested or not lists[0]
        if is_row or not all(isinstance(entry, dict) for entry in lists[0]):
            return iter([_Row(1, whole)])
        whole = lists[0]
    if not isinstance(whole, list):
        raise wrong(path, 1, f"{_kind(whole)}. Rows are objects, one a line or in one list")
    return (_row(path, f"entry {number} of its list", entry) for number, entry in enumerate(whole, 1))


def _columns_of(whole: dict[str, Any]) -> list[_Row] | None:
    """The rows of an object that has a list, or an object of numbered values, for each column, as pandas writes it."""
    values = list(whole.values())
    if len(values) < 2:
        return None
    if all(isinstance(value, dict) for value in values):
        keys = list(values[0])
        if not keys or any(list(value) != keys for value in values) or not all(key.isdecimal() for key in keys):
            return None
        values = [list(value.values()) for value in values]
    if not all(isinstance(value, list) for value in values) or len({len(value) for value in values}) != 1:
        return None
    if any(isinstance(entry, dict) for value in values for entry in value):
        return None
    return [
        _Row(number, dict(zip(whole, row, strict=True))) for number, row in enumerate(zip(*values, strict=True), 1)
    ]


def _row(path: Path, place: int | str, value: Any) -> _Row:
    if not isinstance(value, dict):
        raise wrong(path, place, f"{_kind(value)}, where a row is an object")
    return _Row(place, value)


def _table(path: Path, rows: list[_Row]) -> pa.Table:
    """Rows as a table; a field that some rows lack is missing there.

    Raises:
        [`DataError`]: naming the first row whose value does not go with those before.
    """
    import pyarrow as pa

    names = dict.fromkeys(name for row in rows for name in row.values)
    if not names:
        raise wrong(path, rows[0].place, "an object without fields")
    columns = {}
    for name in names:
        values = [row.values.get(name) for row in rows]
        try:
            columns[name] = pa.array(values)
        except Exception as error:  # pyarrow's own errors, of overflows, of text that is no Unicode, of recursion
            place = rows[_first_failing(pa.array, values)].place
            raise wrong(path, place, f'the field "{one_line(name)}": {one_line(error)}') from None
        if _depth(columns[name].type) > DEPTH:
            raise DataError(f'{one_line(path)}: the field "{one_line(name)}" is nested more than {DEPTH} times.')
    return pa.table(columns)


def _first_failing(convert: Callable[[list], Any], values: list) -> int:
    """The index of the first value with which a list cannot be converted any more."""
    low, high = 0, len(values)  # so many values are converted, so many are not
    while high - low > 1:
        middle = (low + high) // 2
        try:
            convert(values[:middle])
            low = middle
        except Exception:
            high = middle
    return high - 1


def _depth(kind: pa.DataType) -> int:
    return 1 + max((_depth(kind.field(place).type) for place in range(kind.num_fields)), default=0)


class _NamedTwiceError(Exception):
    pass


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    pairs = list(pairs)
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    names = [name for name, _ in pairs]
    raise _NamedTwiceError(next(name for name in names if names.count(name) > 1))


def _kind(value: Any) -> str:
    return KINDS.get(type(value), "nothing")
