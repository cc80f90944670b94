"""CSV and TSV files as tables: each line that holds a row is one, and each word stays what is written.

A column is of numbers if every value in it is one. Any other is text, in which `NA`, `null` and `True` are words. A
value that is not there is an empty text, or in a column of numbers a missing one.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import DataError, listed, warn
from ..untrusted import one_line
from .text_files import text_lines, wrong


if TYPE_CHECKING:
    import pyarrow as pa

LONGEST_VALUE = 50_000_000  # characters; a quote that nothing closes would take the rest of the file
ROWS = 50_000  # that are text objects at a time
WHOLE = r"^\s*[+-]?(0|[1-9][0-9]*)\s*$"  # 007 and 01 are words: a number would lose their zeros
REAL = r"^\s*[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\s*$"
_TESTED = 100  # values that are looked at before a column is converted


class _Form(NamedTuple):
    delimiter: str
    quoted: bool

    def options(self) -> dict[str, Any]:
        quoting = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        return {"delimiter": self.delimiter, "quoting": quoting, "strict": True}


def read_words(path: Path) -> pa.Table:
    """A CSV or TSV file as a table of texts; [`as_numbers`] makes numbers of it.

    Args:
        path (`Path`):
            The file; with the ending `.tsv` values are separated by tabs.

    Raises:
        [`DataError`]: with file and line, if a line does not have the fields of the header, a quote is not closed, or
            the file is no text; if it holds no row, or two columns of one name.
    """
    with _long_values():
        return _read_words(path, _form(path))


def _read_words(path: Path, form: _Form) -> pa.Table:
    import pyarrow as pa

    rows = _rows(path, form)
    first, header = next(rows, (0, None))
    if header is None:
        raise DataError(f"{one_line(path)} is empty.")
    names = _column_names(path, first, header, form)
    chunks = []
    while chunk := list(islice(rows, ROWS)):
        for line, row in chunk:
            if len(row) != len(names):
                raise wrong(path, line, _wrong_count(len(row), names, form))
        columns = zip(*(row for _, row in chunk), strict=True)
        chunks.append([pa.array(column, pa.large_string()) for column in columns])
    if not chunks:
        raise DataError(f"{one_line(path)} has a header ({listed(names)}) and is empty otherwise.")
    columns = [pa.chunked_array(column) for column in zip(*chunks, strict=True)]
    return pa.table(columns, names=names)


def as_numbers(words: pa.Table) -> pa.Table:
    """The same table with int64 where each value is a whole number of 64 bits, and float64 where each is a number."""
    import pyarrow as pa

    return pa.table([_column(words[name]) for name in words.column_names], names=words.column_names)


def _column(words: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    tested = [word for word in words[:_TESTED].to_pylist() if word]
    if not all(re.match(REAL, word) for word in tested):
        return words
    there = pc.not_equal(words, "")
    if not pc.any(there).as_py():
        return words
    for pattern, number, kind in ((WHOLE, int, pa.int64()), (REAL, float, pa.float64())):
        is_number = pc.match_substring_regex(words, pattern)
        if not pc.all(pc.or_(is_number, pc.invert(there))).as_py():
            continue
        try:
            chunks = [
                pa.array([number(word) if word else None for word in chunk.to_pylist()], kind)
                for chunk in words.chunks
            ]
        except (OverflowError, ValueError):  # more than 64 bits
            return words
        return pa.chunked_array(chunks)
    return words


def _rows(path: Path, form: _Form) -> Iterator[tuple[int, list[str]]]:
    """Rows with the line on which each begins. Blank lines between them are none, and are counted."""
    reader = csv.reader(text_lines(path, newline=""), **form.options())
    blank: list[int] = []
    told: list[int] = []
    start, width = 1, 0
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise wrong(path, start, _csv_problem(error)) from None
        if row is None:
            break
        if not row or (width > 1 and len(row) == 1 and not row[0].strip()):
            blank.append(start)
            continue
        if width:  # those before the header and after the last row say nothing
            told += blank
        blank = []
        width = width or len(row)
        yield start, row
    if told:
        lines = listed(map(str, told), 5)
        warn(f"{one_line(path)} has {len(told)} blank lines between its rows, which are no rows: line {lines}.")


@contextlib.contextmanager
def _long_values() -> Iterator[None]:
    """Texts of more than 128 KB, the csv module's limit, which belongs to the whole process."""
    before = csv.field_size_limit(LONGEST_VALUE)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _csv_problem(error: csv.Error) -> str:
    if "unexpected end of data" in str(error):
        return 'a quote (") that is not closed until the end of the file'
    if "expected after" in str(error):
        return 'a quote (") inside a quoted value. Write it twice ("") there'
    if "larger than field limit" in str(error):
        return f'a value of more than {LONGEST_VALUE:,} characters. Is a quote (") not closed'
    return one_line(error)


def _column_names(path: Path, line: int, header: list[str], form: _Form) -> list[str]:
    """The names of the columns; one without a name, as pandas writes for row numbers, is named by its place."""
    names = [name or f"Unnamed: {place}" for place, name in enumerate(header)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise wrong(path, line, f'several columns with the name "{one_line(twice[0])}". Rename or remove them')
    for other, what in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(names) == 1 and other != form.delimiter and other in names[0]:
            raise wrong(
                path,
                line,
                f'one column "{one_line(names[0])}": are its values separated by {what}? Save it with commas as .csv '
                "or with tabs as .tsv",
            )
    return names


def _wrong_count(count: int, names: list[str], form: _Form) -> str:
    separator = {",": "comma", "\t": "tab"}[form.delimiter]
    remedy = f'A text that contains a {separator} has to be in quotes ("...")'
    if not form.quoted:
        remedy = "A text must not contain a tab or a line break there"
    fields = "field" if count == 1 else "fields"
    return f"{count} {fields}, and the header has {len(names)} ({one_line(listed(names))}). {remedy}"


def _form(path: Path) -> _Form:
    if path.suffix.lower() != ".tsv":
        return _Form(",", quoted=True)
    return _Form("\t", quoted=_is_quoted(path))


def _is_quoted(path: Path) -> bool:
    """Whether quotes of a TSV file enclose values. By default they are part of the text.

    They do if each name of the header is in quotes, or if each line with quotes is what a program writes that encloses
    only values with a tab, a line break or a quote: read and written again, it is the same.
    """
    lines: list[str] = []

    def kept() -> Iterator[str]:
        for line in text_lines(path, newline=""):
            lines.append(line)
            yield line

    reader = csv.reader(kept(), **_Form("\t", quoted=True).options())
    found, width = False, 0
    try:
        while True:
            lines.clear()
            row = next(reader, None)
            if row is None:
                return found
            record = "".join(lines).rstrip("\r\n")
            if reader.line_num == len(lines) and all(_encloses(name) for name in record.split("\t")):
                return True
            width = width or len(row)
            if '"' not in record:
                continue
            whole = '""' not in record and all(line.count("\t") == width - 1 for line in lines)
            if len(lines) > 1 and whole:
                return False  # several rows, of which one begins and another ends with a quote
            written = io.StringIO()
            csv.writer(written, delimiter="\t", lineterminator="\r\n").writerow(row)
            if written.getvalue().removesuffix("\r\n") != record:
                return False
            found = True
    except csv.Error:
        return False


def _encloses(name: str) -> bool:
    return len(name) > 1 and name[0] == name[-1] == '"'
